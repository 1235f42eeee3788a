"""The names of every known VGG16 lead to ours."""

import pathlib

import numpy as np
import pytest

from mindfcn.errors import UserError
from mindfcn.weights.importers import fold_bias, to_bgr, vgg16_names
from mindfcn.weights.readers import read_weights

PLAIN = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
NORMED = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
PLACES = "1_1 1_2 2_1 2_2 3_1 3_2 3_3 4_1 4_2 4_3 5_1 5_2 5_3".split()
OURS = {True: ("conv1.0 conv1.3 conv2.0 conv2.3 conv3.0 conv3.3 conv3.6 conv4.0 conv4.3 conv4.6 conv5.0 conv5.3 "
               "conv5.6").split(),
        False: ("conv1.0 conv1.2 conv2.0 conv2.2 conv3.0 conv3.2 conv3.4 conv4.0 conv4.2 conv4.4 conv5.0 conv5.2 "
                "conv5.4").split()}
NORMS = ("conv1.1 conv1.4 conv2.1 conv2.4 conv3.1 conv3.4 conv3.7 conv4.1 conv4.4 conv4.7 conv5.1 conv5.4 "
         "conv5.7").split()
TORCH = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
MINDSPORE = {kind: kind for kind in TORCH.values()}
FEATURES = pathlib.Path(__file__).parents[3] / "shared" / "weights" / "vgg16_imagenet_features.npz"

# title: (channel order, convolutions, kinds they have, normalisations, kinds: theirs -> ours)
SOURCES = {
    "torchvision": ("RGB", [f"features.{at}" for at in PLAIN], ("weight", "bias"), [], {}),
    "torchvision bn": ("RGB", [f"features.{at}" for at in NORMED], ("weight", "bias"),
                       [f"features.{at + 1}" for at in NORMED], TORCH),
    "mindcv": ("RGB", [f"features.{at}" for at in PLAIN], ("weight",), [], {}),
    "zoo classifier": ("RGB", [f"layers.{at}" for at in NORMED], ("weight",),
                       [f"layers.{at + 1}" for at in NORMED], MINDSPORE),
    "zoo extractor": ("RGB", [f"vgg16_feature_extractor.conv{place}.0" for place in PLACES], ("weight",),
                      [f"vgg16_feature_extractor.conv{place}.1" for place in PLACES], MINDSPORE),
    "caffe": ("BGR", [f"conv{place}" for place in PLACES], ("weight", "bias"), [], {}),
    "course": ("BGR", OURS[True], ("weight",), NORMS, MINDSPORE),
    "paper": ("BGR", OURS[False], ("weight", "bias"), [], {})}


def source(title, batch_norm):
    """(weights of one source, each array a number of its own; the names expected for them)."""
    _, convs, kinds, norms, norm_kinds = SOURCES[title]
    expected = {f"{conv}.{kind}": f"{ours}.{kind}" for conv, ours in zip(convs, OURS[batch_norm]) for kind in kinds}
    expected.update({f"{norm}.{kind}": f"{ours}.{norm_kinds[kind]}"
                     for norm, ours in zip(norms, NORMS) for kind in norm_kinds})
    return {name: np.full(3, at, np.float32) for at, name in enumerate(expected)}, expected


@pytest.mark.parametrize("batch_norm", (True, False))
@pytest.mark.parametrize("title", SOURCES)
def test_names(title, batch_norm):
    weights, expected = source(title, batch_norm)
    other = {"score_fr.weight": np.zeros(1), "classifier.6.weight": np.zeros(1), "moments.conv1.0.weight": np.zeros(1)}
    if SOURCES[title][3] and not batch_norm:
        with pytest.raises(UserError, match="batch normalisation"):
            vgg16_names({**other, **weights}, batch_norm)
        return
    renamed, report, order = vgg16_names({**other, **weights}, batch_norm)
    assert order == SOURCES[title][0]
    assert dict(report) == expected and len(report) == len(expected)
    assert set(renamed) == set(expected.values())
    for theirs, ours in expected.items():
        assert renamed[ours] is weights[theirs]


def test_course_checkpoint_keeps_all_of_the_trunk():
    names = [f"{conv}.weight" for conv in (*OURS[True], "conv6.0", "conv7.0")]
    names += [f"{norm}.{kind}" for norm in (*NORMS, "conv6.1", "conv7.1") for kind in MINDSPORE]
    weights = {name: np.full(1, at) for at, name in enumerate(names)}
    renamed, _, order = vgg16_names({**weights, "upscore8.weight": np.zeros(1)}, True)
    assert renamed == weights and order == "BGR"


@pytest.mark.parametrize("fc6, fc7", [("classifier.0", "classifier.3"), ("fc6", "fc7"), ("conv6.0", "conv7.0"),
                                      ("pre_logits.fc1", "pre_logits.fc2")])
def test_dense_layers_become_convolutions(fc6, fc7):
    random = np.random.default_rng(1)
    weights, _ = source("torchvision", False)
    weights[f"{fc6}.weight"] = random.standard_normal((8, 5 * 49)).astype(np.float32)
    weights[f"{fc7}.weight"] = random.standard_normal((6, 8)).astype(np.float32)
    weights[f"{fc7}.bias"] = random.standard_normal(6).astype(np.float32)
    renamed, _, _ = vgg16_names(weights, False)
    pool5 = random.standard_normal((5, 7, 7)).astype(np.float32)
    assert renamed["conv6.0.weight"].shape == (8, 5, 7, 7) and renamed["conv7.0.weight"].shape == (6, 8, 1, 1)
    np.testing.assert_allclose(np.einsum("ochw,chw->o", renamed["conv6.0.weight"], pool5),
                               weights[f"{fc6}.weight"] @ pool5.ravel(), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(renamed["conv7.0.weight"][:, :, 0, 0], weights[f"{fc7}.weight"])
    np.testing.assert_array_equal(renamed["conv7.0.bias"], weights[f"{fc7}.bias"])


def test_convolutions_keep_their_shape():
    weights, _ = source("caffe", False)
    weights["fc6.weight"] = np.zeros((8, 5, 7, 7), np.float32)
    assert vgg16_names(weights, False)[0]["conv6.0.weight"] is weights["fc6.weight"]


def test_unknown_architecture():
    weights = {f"layer{at}.0.conv.weight": np.zeros(1) for at in range(5)}
    for unknown in (weights, {**weights, "features.0.weight": np.zeros(1)}, {}):
        with pytest.raises(UserError) as caught:
            vgg16_names(unknown, True)
        assert "\n" not in str(caught.value) and all(name in str(caught.value) for name in list(unknown)[:2])


def test_fold_bias_changes_no_output():
    random = np.random.default_rng(2)
    names = ("conv3.6.bias", "conv3.7.moving_mean", "conv3.7.moving_variance", "conv3.7.gamma", "conv3.7.beta")
    weights = {name: random.uniform(0.5, 2, 4) for name in names}
    weights["conv6.0.bias"] = random.uniform(0.5, 2, 4)
    folded = fold_bias(weights)
    assert set(weights) - set(folded) == {"conv3.6.bias"}
    assert "conv6.0.bias" in folded, "no moving mean to go to"
    product = random.standard_normal((10, 4))

    def normed(entries):
        centred = product + entries.get("conv3.6.bias", 0) - entries["conv3.7.moving_mean"]
        scaled = centred / np.sqrt(entries["conv3.7.moving_variance"] + 1e-5)
        return scaled * entries["conv3.7.gamma"] + entries["conv3.7.beta"]
    np.testing.assert_allclose(normed(folded), normed(weights), rtol=1e-12)
    assert not np.allclose(normed({**weights, "conv3.6.bias": 0}), normed(weights))


def test_to_bgr():
    weight = np.random.default_rng(3).standard_normal((4, 3, 3, 3)).astype(np.float32)
    image = np.random.default_rng(4).standard_normal((3, 3, 3)).astype(np.float32)
    flipped = to_bgr(weight)
    assert flipped.flags.c_contiguous and not np.shares_memory(flipped, weight)
    np.testing.assert_allclose(np.einsum("ochw,chw->o", flipped, image[::-1]), np.einsum("ochw,chw->o", weight, image),
                               rtol=1e-4)
    np.testing.assert_array_equal(to_bgr(flipped), weight)
    for shape in ((4, 1, 3, 3), (4, 3)):
        with pytest.raises(UserError, match="O, 3, k, k"):
            to_bgr(np.zeros(shape))


@pytest.mark.skipif(not FEATURES.exists(), reason="no ../shared/weights/vgg16_imagenet_features.npz")
@pytest.mark.parametrize("batch_norm", (True, False))
def test_real_features(batch_norm):
    weights = read_weights(FEATURES)
    renamed, report, order = vgg16_names(weights, batch_norm)
    assert order == "RGB" and len(report) == len(weights) == 26
    shapes = [renamed[f"{conv}.weight"].shape[:2] for conv in OURS[batch_norm]]
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    assert shapes == list(zip(widths[1:], widths[:-1]))
    np.testing.assert_array_equal(renamed["conv5.0.bias"], weights["features.24.bias"])
    assert sum(array.size for name, array in renamed.items() if name.endswith("weight")) == 14_710_464
