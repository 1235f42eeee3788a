"""DeconvNet: switches, unpooling, deconvolution against their definitions; its numbers; its use in the package."""

import math

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindfcn.errors import UserError
from mindfcn.losses import CrossEntropy
from mindfcn.models import layers
from mindfcn.models.analysis.trace import trace
from mindfcn.models.deconvnet import Encoder
from mindfcn.models.factory import create_model
from mindfcn.weights.load import load_backbone

NARROW = {"width": 0.125, "fc_width": 16, "side": 32}

pytestmark = pytest.mark.usefixtures("pynative")


def picture(side, count=1, seed=2):
    return np.random.default_rng(seed).standard_normal((count, 3, side, side)).astype(np.float32)


def reference(x, kernel, stride):
    """(maxima, unpooled) of one map (H, W), window by window."""
    height, width = ((side - kernel) // stride + 1 for side in x.shape)
    maxima, unpooled = np.zeros((height, width), x.dtype), np.zeros_like(x)
    for row in range(height):
        for column in range(width):
            window = x[row * stride:row * stride + kernel, column * stride:column * stride + kernel]
            place = np.unravel_index(window.argmax(), window.shape)
            maxima[row, column] = window[place]
            unpooled[row * stride + place[0], column * stride + place[1]] = window[place]
    return maxima, unpooled


@pytest.mark.parametrize("scatter", [False, True], ids=["unpool", "scatter"])
@pytest.mark.parametrize("kernel, stride, shape", [(2, 2, (8, 6)), (2, 2, (7, 9)), (3, 2, (9, 7)), (3, 2, (8, 10)),
                                                   (2, 1, (5, 4))])
def test_unpool_of_pool_keeps_the_maxima_at_their_places_and_zeros_elsewhere(kernel, stride, shape, scatter):
    x = np.random.default_rng(1).standard_normal((2, 3, *shape)).astype(np.float32)
    unpool = layers.MaxUnpool(kernel, stride)
    unpool.scatter = scatter
    maxima, switches = layers.MaxPoolWithIndices(kernel, stride)(ms.Tensor(x))
    unpooled = unpool(maxima, switches, x.shape)
    for image in range(2):
        for channel in range(3):
            expected = reference(x[image, channel], kernel, stride)
            np.testing.assert_array_equal(maxima.asnumpy()[image, channel], expected[0])
            np.testing.assert_array_equal(unpooled.asnumpy()[image, channel], expected[1])


def test_a_narrow_decoder_takes_the_switches_of_the_first_channels():
    x = np.random.default_rng(1).standard_normal((1, 4, 6, 6)).astype(np.float32)
    maxima, switches = layers.MaxPoolWithIndices()(ms.Tensor(x))
    some = layers.MaxUnpool()(maxima[:, :2], switches, x.shape).asnumpy()
    np.testing.assert_array_equal(some, layers.MaxUnpool()(maxima, switches, x.shape).asnumpy()[:, :2])


def test_a_deconvolution_of_stride_1_is_a_convolution_with_kernels_turned_round():
    """And so DeconvNet's deconvolutions are built as convolutions."""
    x = ms.Tensor(np.random.default_rng(1).standard_normal((2, 5, 9, 8)).astype(np.float32))
    plain = layers.conv(5, 7, 3, bias=False)
    deconvolution = nn.Conv2dTranspose(5, 7, 3, stride=1, pad_mode="pad", padding=1, has_bias=False)
    deconvolution.weight.set_data(ms.Tensor(np.ascontiguousarray(
        plain.weight.asnumpy().transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])))
    np.testing.assert_allclose(deconvolution(x).asnumpy(), plain(x).asnumpy(), rtol=1e-4, atol=1e-5)


def test_it_has_the_published_layers_and_numbers():
    """251.8 million numbers, 29 normalisations; counted without memory for them."""
    with nn.no_init_parameters():
        net = create_model("deconvnet_vgg16", 21)
    assert sum(math.prod(parameter.shape) for parameter in net.trainable_params()) == 251_805_653
    cells = [cell for _, cell in net.cells_and_names()]
    assert sum(isinstance(cell, nn.BatchNorm2d) for cell in cells) == 29
    assert all(cell.eps == 1e-9 for cell in cells if isinstance(cell, nn.BatchNorm2d))
    shapes = {parameter.name: parameter.shape for parameter in net.get_parameters()}
    assert shapes["conv6.0.weight"] == (4096, 512, 7, 7) and shapes["deconv6.0.weight"] == (4096, 512, 7, 7)
    assert [shapes[f"deconv{block}.{place}.weight"][0] for block, places in ((5, (0, 3, 6)), (4, (0, 3, 6)),
            (3, (0, 3, 6)), (2, (0, 3)), (1, (0, 3))) for place in places] == [
        512, 512, 512, 512, 512, 256, 256, 256, 128, 128, 64, 64, 64]


def test_maps_have_the_published_sizes():
    """1x1 at fc7, 7x7 after its deconvolution, then twice as large after every unpooling, up to 224."""
    net = create_model("deconvnet_vgg16", 21, width=0.05, fc_width=4)
    found, logits = trace(net, 224)
    sizes = {layer.name: layer.outputs[1:] for layer in found}
    assert sizes["backbone.conv7.0"] == (1, 1) and sizes["head.deconv6.0"] == (7, 7)
    for number, side in zip((5, 4, 3, 2, 1), (14, 28, 56, 112, 224)):
        assert sizes[f"head.unpool{number}"] == sizes[f"head.deconv{number}.0"] == (side, side)
    assert logits.shape == (1, 21, 224, 224)
    after = {layer.name: layer.after for layer in found}
    assert (after["backbone.conv7.0"].field, after["backbone.conv7.0"].stride) == (404, 32)
    assert after["head.unpool5"] is None and after["head.score"] is None


@pytest.mark.parametrize("height, width", [(32, 32), (45, 61), (64, 33)])
def test_odd_and_larger_sizes(scramble, height, width):
    net = scramble(create_model("deconvnet_vgg16", 3, **NARROW, decoder_width=0.5))
    image = np.random.default_rng(1).standard_normal((2, 3, height, width)).astype(np.float32)
    logits = net(ms.Tensor(image)).asnumpy()
    assert logits.shape == (2, 3, height, width) and np.isfinite(logits).all()
    np.testing.assert_allclose(net(ms.Tensor(image[1:])).asnumpy(), logits[1:], rtol=1e-3, atol=1e-5)


def test_images_smaller_than_the_window_of_fc6_are_refused():
    with pytest.raises(ValueError, match="224x224"):
        create_model("deconvnet_vgg16", 3, width=0.05, fc_width=4)(ms.Tensor(picture(200)))
    with pytest.raises(UserError, match="multiple of 32"):
        create_model("deconvnet_vgg16", 3, width=0.05, fc_width=4, side=100)
    with pytest.raises(UserError, match="deconvnet_vgg16 has no option upsampling; it has fc_width, width, side"):
        create_model("deconvnet_vgg16", 3, upsampling="fixed")
    with pytest.raises(UserError, match="no network 'deconvnet_alexnet'"):
        create_model("deconvnet_alexnet", 3)


def test_every_trainable_parameter_has_a_gradient_but_the_biases_before_a_normalisation(scramble):
    net = scramble(create_model("deconvnet_vgg16", 3, **NARROW)).set_train(True)
    labels = ms.Tensor(np.random.default_rng(3).integers(0, 3, (4, 32, 32)), ms.int32)
    loss = CrossEntropy()
    gradients = ms.grad(lambda image: loss(net(image), labels), None, net.trainable_params())(
        ms.Tensor(picture(32, 4)))
    largest = {parameter.name: np.abs(gradient.asnumpy()).max()
               for parameter, gradient in zip(net.trainable_params(), gradients)}
    assert all(np.isfinite(list(largest.values())))
    assert not [name for name, value in largest.items() if value == 0 and not name.endswith(".bias")]
    assert largest["score.bias"] > 0


def test_vgg16s_classifier_fills_the_encoder_with_its_biases(scramble):
    """And with statistics of mean 0 and variance 1 it computes what VGG16 does."""
    plain = scramble(create_model("fcn32s_vgg16", 3, width=0.125, fc_width=4))
    weights = {parameter.name: parameter.asnumpy() for parameter in plain.backbone.get_parameters()
               if parameter.name.startswith(("conv1", "conv2", "conv3", "conv4", "conv5"))}
    encoder = Encoder(4, 0.125, 32).set_train(False)
    report = load_backbone(encoder, weights)
    assert len(report.loaded) == len(weights) == 26 and not report.unexpected
    for _, cell in encoder.cells_and_names():
        if isinstance(cell, nn.BatchNorm2d):
            cell.beta.set_data(cell.beta * 0)
    image = ms.Tensor(picture(32))
    pool3 = encoder.pool3(encoder.conv3(encoder.pool2(encoder.conv2(encoder.pool1(encoder.conv1(image))[0]))[0]))[0]
    np.testing.assert_allclose(pool3.asnumpy(), plain.backbone(image)["pool3"].asnumpy(), rtol=1e-4, atol=1e-5)


def torch_logits(torch, parameters, image):
    """The published net in torch's functions, its deconvolutions as such, fed with our parameters."""
    functions = torch.nn.functional

    def block(x, name, count, deconvolution=False, padding=1):
        for at in range(0, 3 * count, 3):
            weight, bias = parameters[f"{name}.{at}.weight"], parameters[f"{name}.{at}.bias"]
            if deconvolution:
                x = functions.conv_transpose2d(x, weight.transpose(0, 1).flip(2, 3), bias, padding=1)
            else:
                x = functions.conv2d(x, weight, bias, padding=padding)
            x = norm(x, f"{name}.{at + 1}")
        return x

    def norm(x, name):
        numbers = [parameters[f"{name}.{kind}"] for kind in ("moving_mean", "moving_variance", "gamma", "beta")]
        return functions.relu(functions.batch_norm(x, *numbers, training=False, eps=1e-9))

    x, switches = image, {}
    for number, count in zip(range(1, 6), (2, 2, 3, 3, 3)):
        x = block(x, f"conv{number}", count)
        size = x.shape
        x, places = functions.max_pool2d(x, 2, return_indices=True)
        switches[number] = (places, size)
    x = block(block(x, "conv6", 1, padding=0), "conv7", 1, padding=0)
    x = norm(functions.conv_transpose2d(x, parameters["deconv6.0.weight"], parameters["deconv6.0.bias"]), "deconv6.1")
    for number, count in zip(range(5, 0, -1), (3, 3, 3, 2, 2)):
        places, size = switches[number]
        x = block(functions.max_unpool2d(x, places, 2, output_size=size), f"deconv{number}", count, True)
    return functions.conv2d(x, parameters["score.weight"], parameters["score.bias"])


def test_logits_equal_pytorchs(scramble):
    torch = pytest.importorskip("torch")
    net = scramble(create_model("deconvnet_vgg16", 3, **{**NARROW, "side": 64}))
    image = picture(64, 2)
    parameters = {parameter.name: torch.tensor(parameter.asnumpy()) for parameter in net.get_parameters()}
    with torch.no_grad():
        expected = torch_logits(torch, parameters, torch.tensor(image)).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(net(ms.Tensor(image)).asnumpy(), expected, rtol=1e-3,
                               atol=1e-4 * np.abs(expected).max())
