"""Networks that see more than colours, and two heads: each against a forward pass in NumPy, float64."""

import mindspore as ms
import numpy as np
import pytest

from mindfcn.errors import UserError
from mindfcn.losses import CrossEntropy, JointLoss
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE, MODALITIES

TINY = {"width": 0.08, "fc_width": 16}
PLACES = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}

pytestmark = pytest.mark.usefixtures("pynative")


def convolve(x, weights, name, padding):
    """(C, H, W) -> (O, H, W), from the definition."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    side = weight.shape[2]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), (1, 2))
    return np.einsum("ihwyx,oiyx->ohw", windows, weight) + bias[:, None, None]


def pool(x):
    channels, height, width = x.shape
    return x.reshape(channels, height // 2, 2, width // 2, 2).max((2, 4))


def upsample(x, weight, stride):
    """Transposed convolution: every cell adds its kernel, whose rim of (kernel - stride) / 2 is cut off."""
    side, rim = weight.shape[2], (weight.shape[2] - stride) // 2
    channels, height, width = weight.shape[1], *x.shape[1:]
    out = np.zeros((channels, (height - 1) * stride + side, (width - 1) * stride + side))
    for row in range(height):
        for column in range(width):
            out[:, row * stride:row * stride + side, column * stride:column * stride + side] += np.einsum(
                "i,ioyx->oyx", x[:, row, column], weight)
    return out[:, rim:-rim, rim:-rim]


def vgg(x, weights, stream=""):
    maps = {}
    for block, count in PLACES.items():
        for place in range(count):
            x = np.maximum(convolve(x, weights, f"{stream}conv{block}.{2 * place}", 1), 0)
        x = maps[f"pool{block}"] = pool(x)
    x = np.maximum(convolve(x, weights, f"{stream}conv6.0", 3), 0)
    maps["fc7"] = np.maximum(convolve(x, weights, f"{stream}conv7.0", 0), 0)
    return maps


def head(streams, weights, skips, prefix=""):
    """Logits: `streams` are {part of the name: maps}; the scores of two are averaged."""
    def scores(layer, name):
        return np.mean([convolve(maps[name], weights, f"{prefix}{layer}{stream}", 0)
                        for stream, maps in streams.items()], 0)

    x = scores("score_fr", "fc7")
    if skips == 0:
        return upsample(x, weights[f"{prefix}upscore.weight"], 32)
    x = upsample(x, weights[f"{prefix}upscore2.weight"], 2) + scores("score_pool4", "pool4")
    if skips == 1:
        return upsample(x, weights[f"{prefix}upscore16.weight"], 16)
    x = upsample(x, weights[f"{prefix}upscore_pool4.weight"], 2) + scores("score_pool3", "pool3")
    return upsample(x, weights[f"{prefix}upscore8.weight"], 8)


def by_hand(image, weights, modality, skips, geometric):
    if modality == "rgb_hha":
        streams = {".color": vgg(image[:3], weights, "color."), ".hha": vgg(image[3:], weights, "hha.")}
    else:
        streams = {"": vgg(image, weights)}
    heads = ("", "geometric.") if geometric else ("",)
    return np.concatenate([head(streams, weights, skips, prefix) for prefix in heads])


@pytest.mark.parametrize("modality,name,geometric", [
    ("rgbd", "fcn32s_vgg16", 0), ("hha", "fcn16s_vgg16", 0), ("rgb_hha", "fcn32s_vgg16", 0),
    ("rgb_hha", "fcn8s_vgg16", 0), ("rgb", "fcn16s_vgg16", 3), ("rgb_hha", "fcn16s_vgg16", 2)])
def test_a_network_is_its_forward_pass_in_numpy(scramble, modality, name, geometric):
    net = scramble(create_model(name, 4, modality=modality, geometric=geometric, **TINY))
    weights = {parameter.name: parameter.asnumpy().astype(np.float64) for parameter in net.get_parameters()}
    image = np.random.default_rng(3).standard_normal((COURSE.to(modality).channels, 64, 32)).astype(np.float32)
    logits = net(ms.Tensor(image[None])).asnumpy()[0]
    expected = by_hand(image.astype(np.float64), weights, modality, {"32": 0, "16": 1, "8s": 2}[name[3:5]], geometric)
    assert logits.shape == (4 + geometric, 64, 32)
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    # Every channel of the image counts.
    for channel in range(len(image)):
        other = image.copy()
        other[channel] += 3
        assert np.abs(net(ms.Tensor(other[None])).asnumpy()[0] - logits).max() > 1e-3 * np.abs(logits).max()


@pytest.mark.parametrize("backbone", ["vgg16_bn", "alexnet", "caffenet", "googlenet"])
@pytest.mark.parametrize("modality", ["rgbd", "rgb_hha"])
def test_every_backbone_takes_more_channels(tiny, backbone, modality):
    net = tiny(f"fcn32s_{backbone}", modality=modality)
    channels = COURSE.to(modality).channels
    assert net.in_channels == channels
    assert net(ms.Tensor(np.ones((1, channels, 33, 40), np.float32))).shape == (1, 3, 33, 40)


def test_late_fusion_of_one_network_with_itself_is_that_network(scramble):
    one = scramble(create_model("fcn8s_vgg16", 4, **TINY))
    both = create_model("fcn8s_vgg16", 4, modality="rgb_hha", **TINY).set_train(False)
    weights = {parameter.name: parameter for parameter in one.get_parameters()}
    for parameter in both.get_parameters():
        bare = parameter.name.replace("color.", "").replace("hha.", "")
        parameter.set_data(ms.Tensor(weights[bare].asnumpy()))
    image = np.random.default_rng(1).standard_normal((1, 3, 50, 70)).astype(np.float32)
    twice = both(ms.Tensor(np.concatenate([image, image], 1))).asnumpy()
    expected = one(ms.Tensor(image)).asnumpy()
    np.testing.assert_allclose(twice, expected, atol=1e-5 * np.abs(expected).max())


def test_streams_drop_different_activations():
    net = create_model("fcn32s_vgg16", 3, modality="rgb_hha", **TINY)
    assert net.backbone.color.drop6.seed != net.backbone.hha.drop6.seed


def test_only_the_scores_train_in_both_heads_of_a_fixed_network():
    net = create_model("fcn32s_fixed_vgg16", 3, geometric=2, modality="rgb_hha", **TINY)
    assert {parameter.name for parameter in net.trainable_params()} == {
        f"{prefix}score_fr.{stream}.{kind}" for prefix in ("", "geometric.") for stream in ("color", "hha")
        for kind in ("weight", "bias")}


def test_the_joint_loss_is_the_sum_of_both(scramble):
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((2, 7, 5, 6)).astype(np.float32)
    labels = np.stack([rng.choice([0, 1, 2, 3, 255], (2, 5, 6)), rng.choice([0, 1, 2, 255], (2, 5, 6))], 1)
    for reduction in ("sum", "mean"):
        joint = JointLoss(CrossEntropy(reduction=reduction), CrossEntropy(reduction=reduction), 4)
        found = float(joint(ms.Tensor(logits), ms.Tensor(labels.astype(np.int32))).asnumpy())
        expected = 0
        for part, truth in ((logits[:, :4], labels[:, 0]), (logits[:, 4:], labels[:, 1])):
            part = part.astype(np.float64)
            log = part - np.log(np.exp(part).sum(1, keepdims=True))
            counted = truth != 255
            picked = np.take_along_axis(log, np.where(counted, truth, 0)[:, None], 1)[:, 0]
            total = -picked[counted].sum()
            expected += total / counted.sum() if reduction == "mean" else total
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_wrong_modalities_are_reported():
    with pytest.raises(UserError, match="no modality 'depth'; choose one of rgb, rgbd, hha, rgb_hha"):
        create_model("fcn32s_vgg16", 3, modality="depth", **TINY)
    with pytest.raises(UserError, match="rgbd do not go together: its first layer takes three channels"):
        create_model("fcn32s_mindcv_resnet18", 3, modality="rgbd")
    assert set(MODALITIES) == {"rgb", "rgbd", "hha", "rgb_hha", "bands"}
    with pytest.raises(UserError, match="modality bands needs the number of bands"):
        create_model("fcn32s_vgg16", 3, modality="bands")
