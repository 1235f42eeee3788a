"""Colour weights loaded into networks with depth and into both streams of late fusion, and two networks into one."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindfcn.errors import UserError
from mindfcn.models.factory import create_model
from mindfcn.preprocess import CAFFE, COURSE, NYUD, Preprocess
from mindfcn.weights.checkpoint import load_checkpoint
from mindfcn.weights.load import _adjust_epsilon, block_of, load_backbone, load_stage, load_streams, load_weights

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


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("first", ["rgb", "rgbd", "hha", "rgb_hha"])
@pytest.mark.parametrize("second", ["rgb", "rgbd", "hha", "rgb_hha"])
def test_a_record_of_any_modality_becomes_one_of_any_other(first, second, scaled):
    """Planes that both have keep their numbers; a plane has the same numbers whatever the way to it."""
    base = COURSE if scaled else CAFFE
    assert base.to(first).to(second) == base.to(second)
    own = Preprocess("BGR", range(1, 1 + base.to(first).channels), base.to(first).std, first)
    parts = {"image": 3, "depth": 1, "hha": 3}
    at = {plane: own.mean[sum(parts[one] for one in own.planes[:place]):][:parts[plane]]
          for place, plane in enumerate(own.planes)}
    found, start = own.to(second), 0
    for plane in found.planes:
        if plane in at:
            assert found.mean[start:start + parts[plane]] == at[plane]
        start += parts[plane]


def released(vgg, suffix="", channels=3, classes=40):
    """The weights of a narrow FCN-32s as the released .caffemodel names them."""
    dense = {f"fc6{suffix}.weight": (8, 32, 7, 7), f"fc7{suffix}.weight": (8, 8, 1, 1),
             f"score_fr{suffix}.weight": (classes, 8, 1, 1)}
    weights = {f"{layer}{suffix}.{kind}": value for layer, _, kind, value in
               ((*name.rpartition("."), value) for name, value in vgg.items())}
    first = f"conv1_1{suffix}.weight"
    weights[first] = np.concatenate([weights[first], weights[first]], 1)[:, :channels]
    for name, shape in dense.items():
        weights[name] = np.ones(shape, np.float32)
        weights[name.replace("weight", "bias")] = np.ones(shape[0], np.float32)
    return {**weights, "upscore.weight": np.ones((classes, classes, 64, 64), np.float32)}


@pytest.mark.parametrize("name, channels, classes, modality, expected", [
    ("nyud-fcn32s-color-heavy.npz", 3, 40, "rgb", NYUD), ("nyud-fcn32s-hha-heavy.npz", 3, 40, "hha", NYUD),
    ("nyud-fcn32s-color-d-heavy.npz", 4, 40, "rgbd", NYUD), ("renamed.npz", 3, 40, "rgb", NYUD),
    ("fcn32s-heavy-pascal.npz", 3, 21, "rgb", CAFFE)])
def test_released_nets_know_their_modality_and_their_mean(vgg, tmp_path, name, channels, classes, modality, expected):
    np.savez(tmp_path / name, **released(vgg, "", channels, classes))
    weights, card, _ = load_checkpoint(tmp_path / name)
    assert card.preprocess == expected.to(modality) and card.model.get("modality", "rgb") == modality
    net = create_model(card.model["name"], len(card.labels), **card.options())
    assert len(load_weights(net, weights).loaded) == 26 + 4 + 3


def test_the_released_net_of_late_fusion_is_read(vgg, tmp_path):
    both = {**released(vgg, "color"), **released({name: -value for name, value in vgg.items()}, "hha")}
    np.savez(tmp_path / "nyud-fcn32s-color-hha-heavy.npz", **both)
    weights, card, _ = load_checkpoint(tmp_path / "nyud-fcn32s-color-hha-heavy.npz")
    assert (card.model["modality"], len(card.labels), card.preprocess) == ("rgb_hha", 40, NYUD.to("rgb_hha"))
    net = create_model(card.model["name"], 40, **card.options())
    load_weights(net, weights)
    np.testing.assert_array_equal(values(net)["hha.conv1.0.weight"], -vgg["conv1_1.weight"])
    np.testing.assert_array_equal(values(net)["color.conv1.0.weight"], vgg["conv1_1.weight"])


def test_variances_of_layers_that_add_more_are_loaded_as_they_are():
    """mindcv's mnasnet adds 1e-3, with which its weights were trained."""
    net = nn.SequentialCell(nn.BatchNorm2d(2, eps=1e-3))
    net.update_parameters_name("x.")
    before = net[0].moving_variance.asnumpy()
    assert _adjust_epsilon(net, [net[0].moving_variance.name]) == []
    np.testing.assert_array_equal(net[0].moving_variance.asnumpy(), before)


def test_variances_are_loaded_for_the_epsilon_that_the_network_adds():
    """DeconvNet adds 1e-9 where classifiers add 1e-5: both layers must give the same results."""
    random = np.random.default_rng(2)
    source = create_model("fcn32s_vgg16_bn", 3, **TINY)
    for parameter in source.get_parameters():
        if parameter.name.endswith("moving_variance"):
            parameter.set_data(ms.Tensor(random.uniform(0, 1e-5, parameter.shape).astype(np.float32)))
    net = create_model("deconvnet_vgg16", 3, side=32, decoder_width=0.25, **TINY)
    weights = {name: value for name, value in values(source).items() if name.startswith("conv")}
    report = load_backbone(net, weights)
    image = ms.Tensor(random.standard_normal((1, 4, 5, 5)).astype(np.float32))
    pairs = [[cell for _, cell in one.backbone.cells_and_names() if isinstance(cell, nn.BatchNorm2d)][0]
             for one in (source, net)]
    results = [cell.set_train(False)(image).asnumpy() for cell in pairs]
    assert pairs[0].eps != pairs[1].eps
    np.testing.assert_allclose(*results, rtol=1e-4)
    assert any("epsilon" in how for _, how in report.converted)
