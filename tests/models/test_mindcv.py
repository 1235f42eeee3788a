"""FCN heads on backbones of the mindcv library."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindfcn.errors import UserError
from mindfcn.losses import CrossEntropy
from mindfcn.models.backbones.mindcv import NAMES, STRIDES, MindCV
from mindfcn.models.factory import create_model
from mindfcn.weights.load import load_backbone

mindcv = pytest.importorskip("mindcv", reason="mindcv is not installed: pip install mindcv")

pytestmark = pytest.mark.usefixtures("pynative")


def picture(height, width):
    return ms.Tensor(np.random.default_rng(1).standard_normal((1, 3, height, width)).astype(np.float32))


@pytest.mark.parametrize("head, name, output_stride", [
    ("fcn32s", "resnet18", 32), ("fcn8s", "resnet50", 8), ("fcn16s", "resnet18", 16), ("fcn8s", "resnet18", 32)])
def test_heads_on_resnets_dilated_or_not(head, name, output_stride):
    net = create_model(f"{head}_mindcv_{name}", 3, output_stride=output_stride).set_train(False)
    assert net.backbone.receptive_fields()["fc7"].stride == output_stride
    for sides in ((1, 1), (33, 70)):
        logits = net(picture(*sides)).asnumpy()
        assert logits.shape == (1, 3, *sides) and np.isfinite(logits).all()


def test_the_dilated_resnet_computes_the_plain_one_at_every_eighth_pixel():
    """Of its cells, each fourth in both directions is one of the plain network's, away from the borders."""
    plain, dilated = (MindCV("resnet18", stride).set_train(False) for stride in (32, 8))
    ms.load_param_into_net(dilated, {parameter.name: parameter for parameter in plain.get_parameters()})
    image = picture(512, 512)
    coarse, fine = (backbone(image)["fc7"].asnumpy() for backbone in (plain, dilated))
    assert coarse.shape[2:] == (16, 16) and fine.shape[2:] == (64, 64)
    inside = slice(7, 9)
    np.testing.assert_allclose(fine[:, :, ::4, ::4][:, :, inside, inside], coarse[:, :, inside, inside],
                               rtol=1e-3, atol=1e-4 * np.abs(coarse).max())


# They are listed ones with more of the same blocks.
DEEPER = ("resnet34", "resnet101")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in DEEPER)) for name in NAMES])
def test_every_listed_backbone_has_maps_at_its_strides_and_computes_as_in_mindcv(name):
    backbone = MindCV(name).set_train(False)
    image = picture(64, 96)
    maps = backbone(image)
    for pool, stride in STRIDES.items():
        assert maps[pool].shape == (1, backbone.channels[pool], 64 // stride, 96 // stride)
        assert backbone.receptive_fields()[pool].stride == stride
    with nn.no_init_parameters():
        network = mindcv.create_model(name).set_train(False)
    missing, _ = ms.load_param_into_net(network, {parameter.name: parameter for parameter in backbone.get_parameters()})
    # The classifier stays without numbers, which nothing reads.
    assert all(name.startswith(("classifier", "head")) for name in missing), missing
    np.testing.assert_allclose(maps["fc7"].asnumpy(), network.forward_features(image).asnumpy(), rtol=1e-4, atol=1e-5)


def test_it_learns_with_its_backbone():
    net = create_model("fcn16s_mindcv_resnet18", 3).set_train(True)
    labels = ms.Tensor(np.random.default_rng(2).integers(0, 3, (1, 64, 64)), ms.int32)
    loss = CrossEntropy()
    for parameter in net.head.get_parameters():
        parameter.set_data(parameter + 0.1)
    gradients = ms.grad(lambda image: loss(net(image), labels), None, net.trainable_params())(picture(64, 64))
    moved = {parameter.name for parameter, gradient in zip(net.trainable_params(), gradients)
             if np.abs(gradient.asnumpy()).max() > 0}
    assert {"conv1.weight", "layer4.1.conv2.weight", "score_fr.weight", "score_pool4.weight",
            "upscore16.weight"} <= moved


def test_compiled_equals_operator_by_operator():
    net = create_model("fcn8s_mindcv_resnet18", 3, output_stride=8).set_train(False)
    image = picture(33, 40)
    plain = net(image).asnumpy()
    ms.set_context(mode=ms.GRAPH_MODE)
    np.testing.assert_allclose(net(image).asnumpy(), plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet5", "xception", "hrnet_w32"])
def test_other_backbones_are_refused_with_the_list(name):
    with pytest.raises(UserError, match=f"mindcv_{name} is not among the tested backbones; .*resnet50, .*densenet121"):
        create_model(f"fcn8s_mindcv_{name}", 2)


@pytest.mark.parametrize("name, output_stride", [("densenet121", 16), ("mobilenet_v3_small_100", 8)])
def test_dilated_cells_that_begin_inside_the_image_still_cover_it(name, output_stride):
    """Even kernels and one-sided padding shift the cells of such backbones. FCN-8s has the maps of the other heads."""
    net = create_model(f"fcn8s_mindcv_{name}", 2, output_stride=output_stride).set_train(False)
    for parameter in net.head.get_parameters():
        parameter.set_data(parameter + 0.1)
    for sides in ((1, 1), (65, 90)):
        logits = net(picture(*sides)).asnumpy()
        assert logits.shape == (1, 2, *sides) and np.isfinite(logits).all()
        assert len(np.unique(logits)) > 1 or sides == (1, 1)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2_100"])
def test_the_librarys_own_weights_fit(name):
    weights = {parameter.name: parameter.asnumpy() for parameter in mindcv.create_model(name).get_parameters()}
    net = create_model(f"fcn32s_mindcv_{name}", 2)
    report = load_backbone(net, weights)
    backbone = {parameter.name: parameter.asnumpy() for parameter in net.backbone.get_parameters()}
    assert set(report.loaded) == set(backbone) and not report.missing
    first = next(key for key, weight in backbone.items() if weight.ndim == 4)
    np.testing.assert_array_equal(backbone[first], weights[first][:, ::-1])


def test_options_that_follow_from_the_name_are_refused():
    with pytest.raises(UserError, match="fcn8s_vgg16 has no option batch_norm"):
        create_model("fcn8s_vgg16", batch_norm=True)
