"""Colour weights loaded into networks with depth and into both streams of late fusion, and two networks into one."""

import mindspore as ms
import numpy as np
import pytest

from mindfcn.errors import UserError
from mindfcn.models.factory import create_model
from mindfcn.preprocess import CAFFE, COURSE, NYUD, Preprocess
from mindfcn.weights.load import block_of, load_backbone, load_stage, load_streams

TINY = {"width": 0.0625, "fc_width": 8}

pytestmark = pytest.mark.usefixtures("pynative")


def values(net):
    return {parameter.name: parameter.asnumpy() for parameter in net.get_parameters() if "step" not in parameter.name}


@pytest.fixture(scope="module")
def vgg():
    """A narrow VGG16's weights under Caffe's names (BGR, no division)."""
    rng = np.random.default_rng(1)
    shapes = {name.replace(".0", "_1").replace(".2", "_2").replace(".4", "_3"): parameter.shape
              for name, parameter in ((p.name.rpartition(".")[0], p) for p in create_model(
                  "fcn32s_vgg16", 2, **TINY).backbone.get_parameters()) if parameter.ndim == 4}
    weights = {}
    for name, shape in shapes.items():
        if name.startswith("conv") and name[4] in "12345":
            weights[f"{name}.weight"] = rng.standard_normal(shape).astype(np.float32)
            weights[f"{name}.bias"] = rng.standard_normal(shape[0]).astype(np.float32)
    assert len(weights) == 26
    return weights


def torchvision(weights):
    """The same weights under torchvision's names, for RGB."""
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    names = sorted({name.rpartition(".")[0] for name in weights})
    renamed = {f"features.{place}.{kind}": weights[f"{name}.{kind}"] for place, name in zip(places, names)
               for kind in ("weight", "bias")}
    renamed["features.0.weight"] = renamed["features.0.weight"][:, ::-1].copy()
    return renamed


@pytest.mark.parametrize("form", ["caffe", "torchvision"])
def test_depth_filters_begin_as_the_mean_of_the_colors(vgg, form):
    net = create_model("fcn32s_vgg16", 3, modality="rgbd", **TINY)
    report = load_backbone(net, vgg if form == "caffe" else torchvision(vgg))
    first = values(net)["conv1.0.weight"]
    np.testing.assert_array_equal(first[:, :3], vgg["conv1_1.weight"])
    np.testing.assert_allclose(first[:, 3], (vgg["conv1_1.weight"][:, 0] + vgg["conv1_1.weight"][:, 1]
                                             + vgg["conv1_1.weight"][:, 2]) / 3, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(values(net)["conv1.0.bias"], vgg["conv1_1.bias"])
    assert ("conv1.0.weight", "fourth channel: the mean of the filters for colours") in report.converted
    assert "fourth channel: the mean of the filters for colours" in str(report)
    assert len(report.loaded) == 26 and not report.shape_mismatches
    assert report.preprocess.to("rgbd").channels == 4


def test_hha_takes_vgg_s_weights_as_they_are(vgg):
    net = create_model("fcn32s_vgg16", 3, modality="hha", **TINY)
    report = load_backbone(net, vgg)
    # Caffe's blue filters are applied to the first channel, disparity.
    np.testing.assert_array_equal(values(net)["conv1.0.weight"], vgg["conv1_1.weight"])
    assert report.converted == [] and report.preprocess == CAFFE


def test_both_streams_are_filled_and_reported(vgg):
    net = create_model("fcn16s_vgg16", 3, modality="rgb_hha", **TINY)
    report = load_backbone(net, vgg)
    found = values(net)
    for stream in ("color.", "hha."):
        for name in ("conv1.0", "conv5.4"):
            place = {"conv1.0": "conv1_1", "conv5.4": "conv5_3"}[name]
            np.testing.assert_array_equal(found[f"{stream}{name}.weight"], vgg[f"{place}.weight"])
    assert len(report.loaded) == 52 and {name.split(".")[0] for name in report.loaded} == {"color", "hha"}
    assert set(report.missing) == {f"{stream}{name}.0.{kind}" for stream in ("color.", "hha.")
                                   for name in ("conv6", "conv7") for kind in ("weight", "bias")}
    assert block_of("hha.conv3.2.weight") == block_of("conv3.2.weight") == "conv3"


@pytest.mark.parametrize("name", ["fcn32s_vgg16", "fcn8s_vgg16"])
def test_two_trained_networks_fuse_to_the_mean_of_their_logits(scramble, name):
    """Exact where both have the same upsampling, since every layer after the scores is linear."""
    color, hha = (scramble(create_model(name, 4, modality=kind, **TINY), seed)
                  for kind, seed in (("rgb", 1), ("hha", 2)))
    for parameter, other in zip(hha.get_parameters(), color.get_parameters()):
        if "upscore" in parameter.name:
            parameter.set_data(ms.Tensor(other.asnumpy()))
    both = create_model(name, 4, modality="rgb_hha", **TINY).set_train(False)
    report = load_streams(both, values(color), values(hha), ("color.ckpt", "hha.ckpt"))
    assert not report.missing and not report.shape_mismatches
    assert all(entry.startswith("hha.ckpt: upscore") for entry in report.unexpected) and report.unexpected
    assert str(report).startswith("color.ckpt + hha.ckpt: ")
    image = np.random.default_rng(5).standard_normal((1, 6, 40, 50)).astype(np.float32)
    mean = (color(ms.Tensor(image[:, :3])).asnumpy() + hha(ms.Tensor(image[:, 3:])).asnumpy()) / 2
    np.testing.assert_allclose(both(ms.Tensor(image)).asnumpy(), mean, atol=1e-5 * np.abs(mean).max())


def test_for_other_classes_the_heads_keep_their_initial_values(scramble):
    color, hha = (scramble(create_model("fcn32s_vgg16", 4, modality=kind, **TINY)) for kind in ("rgb", "hha"))
    both = create_model("fcn32s_vgg16", 4, modality="rgb_hha", **TINY)
    report = load_streams(both, values(color), values(hha), ("a", "b"), same_classes=False)
    assert set(report.reinitialized) == {"score_fr.color.weight", "score_fr.color.bias", "score_fr.hha.weight",
                                "score_fr.hha.bias", "upscore.weight"}
    assert (values(both)["score_fr.hha.weight"] == 0).all()


def test_a_network_of_colors_initialises_one_with_depth(scramble):
    color = scramble(create_model("fcn32s_vgg16", 4, **TINY))
    net = create_model("fcn32s_vgg16", 4, modality="rgbd", **TINY)
    report = load_stage(net, values(color), "rgb.ckpt")
    first = values(net)["conv1.0.weight"]
    np.testing.assert_allclose(first[:, 3], values(color)["conv1.0.weight"].mean(1), rtol=1e-6)
    assert [name for name, _ in report.converted] == ["conv1.0.weight"]
    with pytest.raises(UserError, match="another architecture"):
        load_stage(create_model("fcn32s_vgg16", 4, modality="rgb_hha", **TINY), values(color), "rgb.ckpt")


def test_a_second_head_joins_a_network_without_one(scramble):
    one = scramble(create_model("fcn32s_vgg16", 4, **TINY))
    net = create_model("fcn16s_vgg16", 4, geometric=3, **TINY)
    report = load_stage(net, values(one), "siftflow_32s.ckpt")
    assert {name for name in report.missing if name.startswith("geometric.")} == {
        "geometric.score_fr.weight", "geometric.score_fr.bias", "geometric.upscore2.weight",
        "geometric.score_pool4.weight", "geometric.score_pool4.bias", "geometric.upscore16.weight"}
    np.testing.assert_array_equal(values(net)["score_fr.weight"], values(one)["score_fr.weight"])


def test_normalisation_of_other_modalities_keeps_the_colors():
    assert NYUD.to("rgb") == NYUD and COURSE.to("rgb") == COURSE
    assert NYUD.to("rgb_hha") == Preprocess("BGR", (116.190, 97.203, 92.318, 132.431, 94.076, 118.477), (1,) * 6,
                                            "rgb_hha")
    assert NYUD.to("rgbd").mean == (116.190, 97.203, 92.318, 7.844) and NYUD.to("rgbd").std == (1, 1, 1, 1)
    assert NYUD.to("hha").mean == (132.431, 94.076, 118.477)
    divided = COURSE.to("rgbd")
    assert divided.mean[:3] == COURSE.mean and divided.std[:3] == COURSE.std and divided.std[3] < 1
    with pytest.raises(ValueError, match="modality"):
        Preprocess(modality="ir")
    # As in older checkpoints, written before modalities existed.
    assert set(COURSE.to_dict()) == {"order", "mean", "std"} and Preprocess(**COURSE.to_dict()) == COURSE
    assert Preprocess(**divided.to_dict()) == divided
