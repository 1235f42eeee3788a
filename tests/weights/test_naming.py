"""The names of every known VGG16, AlexNet and GoogLeNet map to MindFCN's."""

import pathlib

import numpy as np
import pytest

from mindfcn.errors import UserError
from mindfcn.preprocess import CAFFE, COURSE, TORCHVISION
from mindfcn.storage.weight_files.read import read_weights
from mindfcn.weights.naming import backbone_names, fold_bias, published_fcn, to_bgr

PLAIN = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
NORMED = (0, 3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
PLACES = "1_1 1_2 2_1 2_2 3_1 3_2 3_3 4_1 4_2 4_3 5_1 5_2 5_3".split()
CONVS = {True: ("conv1.0 conv1.3 conv2.0 conv2.3 conv3.0 conv3.3 conv3.6 conv4.0 conv4.3 conv4.6 conv5.0 conv5.3 "
               "conv5.6").split(),
        False: ("conv1.0 conv1.2 conv2.0 conv2.2 conv3.0 conv3.2 conv3.4 conv4.0 conv4.2 conv4.4 conv5.0 conv5.2 "
                "conv5.4").split()}
NETWORK = {batch_norm: [f"{conv}.weight" for conv in convs] for batch_norm, convs in CONVS.items()}
NORMS = ("conv1.1 conv1.4 conv2.1 conv2.4 conv3.1 conv3.4 conv3.7 conv4.1 conv4.4 conv4.7 conv5.1 conv5.4 "
         "conv5.7").split()
TORCH = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
MINDSPORE = {kind: kind for kind in TORCH.values()}
FEATURES = pathlib.Path(__file__).parents[3] / "shared" / "weights" / "vgg16_imagenet_features.npz"

# title: (what the first layer expects, convolutions, their kinds, normalisations, {their kind: MindFCN's kind})
SOURCES = {
    "torchvision": (TORCHVISION, [f"features.{at}" for at in PLAIN], ("weight", "bias"), [], {}),
    "torchvision bn": (TORCHVISION, [f"features.{at}" for at in NORMED], ("weight", "bias"),
                       [f"features.{at + 1}" for at in NORMED], TORCH),
    "mindcv": (TORCHVISION, [f"features.{at}" for at in PLAIN], ("weight",), [], {}),
    "zoo classifier": (TORCHVISION, [f"layers.{at}" for at in NORMED], ("weight",),
                       [f"layers.{at + 1}" for at in NORMED], MINDSPORE),
    "zoo extractor": (TORCHVISION, [f"vgg16_feature_extractor.conv{place}.0" for place in PLACES], ("weight",),
                      [f"vgg16_feature_extractor.conv{place}.1" for place in PLACES], MINDSPORE),
    "caffe": (CAFFE, [f"conv{place}" for place in PLACES], ("weight", "bias"), [], {}),
    "course": (COURSE, CONVS[True], ("weight",), NORMS, MINDSPORE),
    "paper": (COURSE, CONVS[False], ("weight", "bias"), [], {})}


def source(title, batch_norm):
    """(weights of one source, each array filled with a different number; the names expected for them)."""
    _, convs, kinds, norms, norm_kinds = SOURCES[title]
    expected = {f"{conv}.{kind}": f"{target}.{kind}"
                for conv, target in zip(convs, CONVS[batch_norm]) for kind in kinds}
    expected.update({f"{norm}.{kind}": f"{target}.{norm_kinds[kind]}"
                     for norm, target in zip(norms, NORMS) for kind in norm_kinds})
    return {name: np.full(3, at, np.float32) for at, name in enumerate(expected)}, expected


@pytest.mark.parametrize("batch_norm", (True, False))
@pytest.mark.parametrize("title", SOURCES)
def test_names(title, batch_norm):
    weights, expected = source(title, batch_norm)
    other = {"score_fr.weight": np.zeros(1), "classifier.6.weight": np.zeros(1), "moments.conv1.0.weight": np.zeros(1)}
    if SOURCES[title][3] and not batch_norm:
        with pytest.raises(UserError, match="batch normalisation"):
            backbone_names({**other, **weights}, NETWORK[batch_norm])
        return
    renamed, report, preprocess = backbone_names({**other, **weights}, NETWORK[batch_norm])
    assert preprocess == SOURCES[title][0]
    assert dict(report) == expected and len(report) == len(expected)
    assert set(renamed) == set(expected.values())
    for name, target in expected.items():
        assert renamed[target] is weights[name]


def test_course_checkpoint_keeps_all_of_the_backbone():
    names = [f"{conv}.weight" for conv in (*CONVS[True], "conv6.0", "conv7.0")]
    names += [f"{norm}.{kind}" for norm in (*NORMS, "conv6.1", "conv7.1") for kind in MINDSPORE]
    weights = {name: np.full(1, at) for at, name in enumerate(names)}
    renamed, _, preprocess = backbone_names({**weights, "upscore8.weight": np.zeros(1)}, NETWORK[True])
    assert renamed == weights and preprocess == COURSE


@pytest.mark.parametrize("fc6, fc7", [("classifier.0", "classifier.3"), ("fc6", "fc7"), ("conv6.0", "conv7.0"),
                                      ("pre_logits.fc1", "pre_logits.fc2")])
def test_dense_layers_become_convolutions(fc6, fc7):
    random = np.random.default_rng(1)
    weights, _ = source("torchvision", False)
    weights[f"{fc6}.weight"] = random.standard_normal((8, 5 * 49)).astype(np.float32)
    weights[f"{fc7}.weight"] = random.standard_normal((6, 8)).astype(np.float32)
    weights[f"{fc7}.bias"] = random.standard_normal(6).astype(np.float32)
    renamed, _, _ = backbone_names(weights, NETWORK[False])
    pool5 = random.standard_normal((5, 7, 7)).astype(np.float32)
    assert renamed["conv6.0.weight"].shape == (8, 5, 7, 7) and renamed["conv7.0.weight"].shape == (6, 8, 1, 1)
    np.testing.assert_allclose(np.einsum("ochw,chw->o", renamed["conv6.0.weight"], pool5),
                               weights[f"{fc6}.weight"] @ pool5.ravel(), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(renamed["conv7.0.weight"][:, :, 0, 0], weights[f"{fc7}.weight"])
    np.testing.assert_array_equal(renamed["conv7.0.bias"], weights[f"{fc7}.bias"])


def test_convolutions_keep_their_shape():
    weights, _ = source("caffe", False)
    weights["fc6.weight"] = np.zeros((8, 5, 7, 7), np.float32)
    assert backbone_names(weights, NETWORK[False])[0]["conv6.0.weight"] is weights["fc6.weight"]


# Other backbones: MindFCN's names in order, the normalisation, and the origin's names.
ALEXNET = [f"conv{layer}.0" for layer in range(1, 8)]
MODULES = "3a 3b 4a 4b 4c 4d 4e 5a 5b".split()
GOOGLENET = ["conv1.0", "conv2.0", "conv2.2", *(
    f"inception_{module}.{layer}.0" for module in MODULES
    for layer in "conv1x1 reduce3x3 conv3x3 reduce5x5 conv5x5 pool_proj".split())]
OTHERS = {
    "alexnet": (ALEXNET, COURSE, ALEXNET),
    "torchvision alexnet": (ALEXNET, TORCHVISION, [f"features.{place}" for place in (0, 3, 6, 8, 10)]
                            + ["classifier.1", "classifier.4"]),
    "caffe alexnet": (ALEXNET, CAFFE, "conv1 conv2 conv3 conv4 conv5 fc6 fc7".split()),
    "googlenet": (GOOGLENET, COURSE, GOOGLENET),
    "caffe googlenet": (GOOGLENET, CAFFE, ["conv1/7x7_s2", "conv2/3x3_reduce", "conv2/3x3", *(
        f"inception_{module}/{layer}" for module in MODULES
        for layer in "1x1 3x3_reduce 3x3 5x5_reduce 5x5 pool_proj".split())])}


@pytest.mark.parametrize("title", OTHERS)
def test_names_of_other_backbones(title):
    targets, expected, names = OTHERS[title]
    kinds = ("weight", "bias")
    weights = {f"{name}.{kind}": np.full(3, at) for at, name in enumerate(names) for kind in kinds}
    network = [f"{name}.weight" for name in targets]
    renamed, pairs, preprocess = backbone_names({**weights, "fc8.weight": np.zeros(1)}, network)
    assert preprocess == expected and len(pairs) == len(weights)
    assert dict(pairs) == {f"{name}.{kind}": f"{target}.{kind}"
                           for name, target in zip(names, targets) for kind in kinds}
    for name, target in pairs:
        assert renamed[target] is weights[name]


def test_alexnets_dense_layers_become_convolutions_of_6x6():
    weights = {f"features.{place}.weight": np.zeros(1) for place in (0, 3, 6, 8, 10)}
    weights["classifier.1.weight"] = np.arange(4 * 5 * 36).reshape(4, 5 * 36)
    weights["classifier.4.weight"] = np.arange(12).reshape(3, 4)
    renamed, _, _ = backbone_names(weights, [f"{name}.weight" for name in ALEXNET])
    assert renamed["conv6.0.weight"].shape == (4, 5, 6, 6) and renamed["conv6.0.weight"][3, 4, 5, 1] == 180 * 3 + 175
    assert renamed["conv7.0.weight"].shape == (3, 4, 1, 1)


def test_the_names_of_any_other_backbone_stay():
    """A backbone of mindcv: its parameters have the names of mindcv's weights."""
    names = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.gamma"]
    weights = {name: np.zeros(1) for name in (*names, "classifier.weight")}
    renamed, pairs, preprocess = backbone_names(weights, names)
    assert list(renamed) == names and pairs == [(name, name) for name in names] and preprocess == TORCHVISION
    with pytest.raises(UserError, match="lack layer1.0.bn1.gamma"):
        backbone_names({name: np.zeros(1) for name in names[:2]}, names)


def test_only_whole_networks_of_caffe_are_published_fcns():
    """A classifier, the course's checkpoint and torchvision's names are no published FCN."""
    caffe = {f"{name}.weight": np.zeros((2, 2)) for name in (*(f"conv{place}" for place in PLACES), "fc6", "fc7")}
    head = {"score_fr.weight": np.zeros(1), "upscore.weight": np.zeros(1)}
    assert published_fcn({**caffe, **head})[1]["name"] == "fcn32s_vgg16"
    course = {name: np.zeros((2, 2)) for name in NETWORK[True]}
    for weights in (caffe, {**caffe, "upscore.weight": np.zeros(1)}, {**course, **head},
                    {**source("torchvision", False)[0], **head}, head):
        assert published_fcn(weights) is None


def test_unknown_architecture():
    weights = {f"layer{at}.0.conv.weight": np.zeros(1) for at in range(5)}
    for unknown in (weights, {**weights, "features.0.weight": np.zeros(1)}, {}):
        with pytest.raises(UserError) as caught:
            backbone_names(unknown, NETWORK[True])
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
    renamed, report, preprocess = backbone_names(weights, NETWORK[batch_norm])
    assert preprocess == TORCHVISION and len(report) == len(weights) == 26
    shapes = [renamed[f"{conv}.weight"].shape[:2] for conv in CONVS[batch_norm]]
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    assert shapes == list(zip(widths[1:], widths[:-1]))
    np.testing.assert_array_equal(renamed["conv5.0.bias"], weights["features.24.bias"])
    assert sum(array.size for name, array in renamed.items() if name.endswith("weight")) == 14_710_464
