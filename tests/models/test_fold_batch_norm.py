"""Normalisation folded into convolutions: equal logits, the network untouched, parameters shared."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindfcn.errors import UserError
from mindfcn.models.factory import create_model
from mindfcn.models.surgery.fold_batch_norm import Folded, folded

pytestmark = pytest.mark.usefixtures("pynative")


def logits(net, height=70, width=45):
    image = np.random.default_rng(2).standard_normal((2, 3, height, width)).astype(np.float32)
    return net(ms.Tensor(image)).asnumpy()


def assert_equal(result, expected):
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()


def normalisations(net):
    return [cell for _, cell in net.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]


@pytest.mark.parametrize("backbone", ["vgg16", "vgg16_bn", "alexnet", "caffenet", "googlenet"])
@pytest.mark.parametrize("head", ["fcn32s", "fcn16s", "fcn8s"])
def test_the_folded_network_has_the_same_logits_and_no_normalisation(tiny, head, backbone):
    net = tiny(f"{head}_{backbone}")
    expected = logits(net)
    result = Folded(net)
    assert not normalisations(result.net)
    assert_equal(logits(result.net), expected)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2_100"])
def test_backbones_of_the_library_fold_too(scramble, name):
    pytest.importorskip("mindcv", reason="mindcv is not installed: pip install mindcv")
    net = scramble(create_model(f"fcn8s_mindcv_{name}", 3))
    expected = logits(net)
    result = Folded(net)
    assert len(result.pairs) == len(normalisations(net)) > 10
    assert_equal(logits(result.net), expected)


def test_deconvnet_that_takes_no_small_images(scramble):
    net = scramble(create_model("deconvnet_vgg16", 3, side=96, fc_width=8, width=0.125, decoder_width=0.5))
    expected, result = logits(net, 96, 128), Folded(net)
    # deconv6 is a matrix product, not a convolution.
    assert [cell.gamma.name for cell in normalisations(result.net)] == ["deconv6.1.gamma"]
    assert_equal(logits(result.net, 96, 128), expected)


def test_in_a_graph_too(tiny):
    net = tiny("fcn32s_vgg16_bn")
    expected, result = logits(net), Folded(net).net
    ms.set_context(mode=ms.GRAPH_MODE)
    assert_equal(logits(result), expected)


def test_the_network_itself_stays_as_it_is_and_lends_all_other_parameters(tiny):
    net = tiny("fcn8s_vgg16_bn")
    before = {parameter.name: parameter.asnumpy().copy() for parameter in net.get_parameters()}
    expected = logits(net)
    shared = {id(parameter) for parameter in Folded(net).net.get_parameters()}
    assert {parameter.name for parameter in net.get_parameters()} == set(before)
    for parameter in net.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])
        # The backbone's convolutions are scaled copies, its normalisation is gone; the head is lent.
        assert (id(parameter) in shared) == parameter.name.startswith(("score", "upscore")), parameter.name
    np.testing.assert_array_equal(logits(net), expected)


def test_a_network_without_normalisation_lends_everything(tiny):
    net = tiny("fcn8s_vgg16")
    assert [id(parameter) for parameter in Folded(net).net.get_parameters()] == [
        id(parameter) for parameter in net.get_parameters()]


def test_refreshing_follows_the_network_after_training(tiny, scramble):
    net = tiny("fcn16s_vgg16_bn")
    result = Folded(net)
    old = logits(result.net)
    expected = logits(scramble(net, seed=3))
    # The lent parameters have changed, the folded ones have not.
    assert np.abs(logits(result.net) - expected).max() > 1e-2 * np.abs(expected).max()
    result.refresh()
    assert_equal(logits(result.net), expected)
    assert np.abs(old - expected).max() > 1e-2 * np.abs(expected).max()


def test_large_convolutions_can_keep_their_normalisation_and_lend_their_weights(tiny):
    net = tiny("fcn8s_vgg16_bn", fc_width=128)
    expected = logits(net)
    result = Folded(net, largest=net.backbone.conv6[0].weight.size - 1)
    assert len(normalisations(result.net)) == 1
    assert result.net.backbone.conv6[0].weight is net.backbone.conv6[0].weight
    assert result.net.backbone.conv7[0].weight is not net.backbone.conv7[0].weight
    assert_equal(logits(result.net), expected)


def test_a_convolution_with_a_bias_and_its_normalisation_by_the_papers_formula(scramble):
    random = np.random.default_rng(4)
    conv, norm = nn.Conv2d(2, 3, 1, has_bias=True), nn.BatchNorm2d(3, eps=0.1)
    net = scramble(nn.SequentialCell(conv, norm))
    weight, bias = (value.asnumpy() for value in folded(*net))
    pixel = random.standard_normal(2)
    gamma, beta, mean, variance = (parameter.asnumpy().astype(np.float64) for parameter in
                                   (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance))
    response = conv.weight.asnumpy()[..., 0, 0] @ pixel + conv.bias.asnumpy()
    np.testing.assert_allclose(weight[..., 0, 0] @ pixel + bias,
                               gamma * (response - mean) / np.sqrt(variance + 0.1) + beta, rtol=1e-5)


class Twice(nn.Cell):
    """A network that uses a convolution's result with and without normalisation."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)

    def construct(self, x):
        x = self.conv(x)
        return self.norm(x) + x


def test_a_convolution_whose_result_is_used_twice_is_refused(scramble):
    with pytest.raises(UserError, match="use the network as it is"):
        Folded(scramble(Twice()))


def test_weights_that_are_not_finite_are_named_as_the_cause(scramble):
    net = scramble(nn.SequentialCell(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)))
    net[0].weight.set_data(ms.Tensor(np.full((2, 3, 1, 1), np.nan, np.float32)))
    with pytest.raises(UserError, match="not finite"):
        Folded(net)
