"""Exported files: every own network computes the same in ONNX Runtime, at any size and in batches; cards travel."""

import json
import os

import mindspore as ms
import numpy as np
import pytest
import small_network  # noqa: F401  (its networks are exported)
from mindspore import nn
from PIL import Image

from mindfcn.commands import export as module
from mindfcn.commands.export import export, write_onnx
from mindfcn.config import ExportConfig
from mindfcn.data.synthetic.shapes import draw_image
from mindfcn.errors import UserError
from mindfcn.inference.load import load_network
from mindfcn.labels import LabelSet
from mindfcn.models.backbones import resnet
from mindfcn.models.factory import create_model
from mindfcn.models.onnx_graph import onnx_model
from mindfcn.preprocess import Preprocess
from mindfcn.weights.card import CARD, Card
from mindfcn.weights.checkpoint import load_checkpoint, save_checkpoint

pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")

SIZES = [(1, 64, 64), (2, 70, 45), (1, 33, 97), (1, 1, 1)]

pytestmark = pytest.mark.usefixtures("uncompiled", "pynative")


def evaluator(model):
    """Function from images to logits: ONNX Runtime where it is installed, else the standard's own reference."""
    try:
        from onnxruntime import InferenceSession
        session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except ImportError:
        from onnx.reference import ReferenceEvaluator
        session = ReferenceEvaluator(model)
    return lambda image: session.run(None, {"image": image})[0]


@pytest.mark.parametrize("padding", ["same", "pad100"])
@pytest.mark.parametrize("name", ["fcn32s_vgg16", "fcn16s_vgg16_bn", "fcn8s_vgg16_bn", "fcn8s_atonce_vgg16",
                                  "fcn8s_alexnet", "fcn32s_caffenet", "fcn8s_googlenet"])
def test_the_file_computes_the_networks_logits_for_images_of_any_size(tiny, name, padding):
    net = tiny(name, padding=padding)
    run = evaluator(onnx_model(net))
    for count, height, width in SIZES:
        # In the range of Caffe's images: normalisation across channels changes small numbers little.
        image = 100 * np.random.default_rng(2).standard_normal((count, 3, height, width)).astype(np.float32)
        expected = net(ms.Tensor(image)).asnumpy()
        logits = run(image)
        assert logits.shape == (count, 3, height, width)
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.fixture
def shallow(monkeypatch):
    """ResNet-50 has six of its sixteen blocks, of every kind: with projection, stride and dilation, and without."""
    kernels, expansion, _ = resnet.DEPTHS[50]
    monkeypatch.setitem(resnet.DEPTHS, 50, (kernels, expansion, (1, 2, 1, 2)))


@pytest.mark.parametrize("name", ["fcn_resnet50", "fcn_r18_d8"])
def test_a_dilated_resnet_for_images_of_any_size(scramble, shallow, name):
    net = scramble(create_model(name, 3, width=0.125))
    run = evaluator(onnx_model(net))
    for count, height, width in SIZES:
        image = np.random.default_rng(2).standard_normal((count, 3, height, width)).astype(np.float32)
        expected, logits = net(ms.Tensor(image)).asnumpy(), run(image)
        assert logits.shape == (count, 3, height, width)
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    assert net.auxiliary is not None


def test_normalisation_is_folded_and_no_weight_is_there_twice(tiny, tmp_path):
    import onnx
    net = tiny("fcn8s_vgg16_bn")
    write_onnx(net, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    weights = sum(parameter.size for parameter in net.get_parameters() if parameter.name.endswith("weight"))
    numbers = sum(np.prod(entry.dims) for entry in model.graph.initializer if entry.name.endswith("weight"))
    assert numbers == weights


def test_a_backbone_that_does_not_list_its_layers_is_refused():
    pytest.importorskip("mindcv", reason="mindcv is not installed: pip install mindcv")
    with pytest.raises(UserError, match="use --format mindir"):
        onnx_model(create_model("fcn32s_mindcv_resnet18", 3))


def test_a_layer_missing_from_the_backbones_paths_is_reported(tiny, monkeypatch):
    net = tiny("fcn8s_alexnet")
    whole = type(net.backbone).paths
    monkeypatch.setattr(type(net.backbone), "paths", lambda backbone: {**whole(backbone), "pool4": (backbone.pool2,)})
    with pytest.raises(UserError, match="leave out its layer backbone.conv2"):
        onnx_model(net)


# ------------------------------------------------------------------------------------------------- the verb

LABELS = LabelSet(("背景", "leaf", "fruit"), ((0, 0, 0), (60, 180, 75), (230, 25, 75)), 254)
PREPROCESS = Preprocess("RGB", (120, 110, 100), (50, 60, 70))
NARROW = {"fc_width": 8, "width": 0.125}
CARD_OF = {"model": {"name": "fcn8s_vgg16_bn", **NARROW}, "labels": LABELS, "preprocess": PREPROCESS,
           "records": "val.mindrecord", "training": {"epoch": 2, "settings": {"optim": {"lr": 0.05}}},
           "metrics": {"mean IoU": 0.25}, "data": {"identity": "0f", "source": "voc data/voc"}}


@pytest.fixture
def checkpoint(tiny, tmp_path):
    save_checkpoint(tmp_path / "net.ckpt", tiny("fcn8s_vgg16_bn"), Card(**CARD_OF))
    return str(tmp_path / "net.ckpt")


@pytest.fixture
def photographs(tmp_path):
    paths = [str(tmp_path / f"{number}.png") for number in range(2)]
    for number, path in enumerate(paths):
        Image.fromarray(draw_image(80 + number, 1, number)[0]).save(path)
    return paths


def test_the_onnx_file_carries_the_card_and_segments_photographs_as_mindspore(checkpoint, photographs, tmp_path):
    from mindfcn.inference.onnx import OnnxSegmenter
    result = export(ExportConfig(checkpoint, str(tmp_path / "net.onnx"), photos=photographs))
    assert result.compared == 2 and 0 < result.difference <= 1e-5 and result.inputs == ("N", 3, "H", "W")
    mindspore, card = load_network(checkpoint)
    exported = OnnxSegmenter(tmp_path / "net.onnx")
    assert exported.card == card == result.card == Card(**CARD_OF)
    assert (exported.reach, exported.stride) == (mindspore.reach, mindspore.stride)
    image = draw_image(70, 2, 1)[0]
    mask, probabilities = exported(image, True)
    expected, shares = mindspore(image, True)
    assert len(np.unique(expected)) > 1, "the network predicts only one class"
    np.testing.assert_allclose(probabilities, shares, atol=1e-4)
    unsure = np.sort(shares, 0)
    np.testing.assert_array_equal(mask[unsure[-1] - unsure[-2] > 1e-3], expected[unsure[-1] - unsure[-2] > 1e-3])
    assert exported(image)[1] is None


@pytest.mark.parametrize("name, options", [("fcn8s_small_bn", {}), ("fcn16s_vgg16", {"padding": "pad100"}),
                                           ("fcn32s_small", {}), ("fcn32s_googlenet", {}),
                                           ("fcn_resnet50", {}), ("fcn_r18_d8", {}), ("fcn_r50b_d8", {})])
@pytest.mark.usefixtures("shallow", "short_googlenet")
def test_a_mindir_file_computes_the_networks_logits_at_its_size(scramble, name, options, photographs, tmp_path):
    options = {**(NARROW if "vgg16" in name or "small" in name else {"width": 0.25}), **options}
    net = scramble(create_model(name, 3, **options))
    card = Card(**{**CARD_OF, "model": Card.model_entry(name, options)})
    save_checkpoint(tmp_path / "net.ckpt", net, card)
    out = str(tmp_path / "out" / "net.mindir")
    result = export(ExportConfig(str(tmp_path / "net.ckpt"), out, "mindir", photographs, size=(70, 45)))
    assert result.inputs == (1, 3, 70, 45) and result.compared == 2 and result.difference <= 1e-4
    assert sorted(os.listdir(tmp_path / "out")) == ["net.mindir", "net.mindir.json"]
    with open(result.card_path, encoding="utf-8") as file:
        assert Card.from_json(file.read(), "x") == card
    image = np.random.default_rng(5).standard_normal((1, 3, 70, 45)).astype(np.float32)
    expected, logits = net(ms.Tensor(image)).asnumpy(), nn.GraphCell(ms.load(out))(ms.Tensor(image)).asnumpy()
    assert logits.shape == (1, 3, 70, 45) and np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_mindir_file_has_no_layer_that_is_for_this_cpu(tiny, monkeypatch, tmp_path):
    """Neither convolutions nor upsampling: another device loads the file."""
    written = []
    monkeypatch.setattr(module.ms, "export", lambda net, *_, **__: written.append(net))
    module.write_mindir(tiny("fcn8s_vgg16_bn", width=0.25), tmp_path / "net.mindir", (64, 64))
    special = [cell for _, cell in written[0].cells_and_names()
               if isinstance(cell, (module.layers.CpuConv2d, module.layers.CpuConv2dTranspose))]
    assert special and not any(cell.algorithms for cell in special)


def test_a_checkpoint_to_share_has_half_the_size_and_no_settings(checkpoint, photographs, tmp_path):
    result = export(ExportConfig(checkpoint, str(tmp_path / "out.ckpt"), "ckpt", photographs, shorter_side=64))
    assert result.compared == 2 and 0 < result.difference <= 1e-2
    weights, card, state = load_checkpoint(result.path)
    before, old, _ = load_checkpoint(checkpoint)
    assert card == result.card and card.training == {"epoch": 2} and card.records == "" and not card.metrics
    assert (card.model, card.labels, card.preprocess, card.shorter_side) == (old.model, old.labels, old.preprocess, 64)
    assert card.data == {"identity": "0f", "source": "voc"}
    assert weights.keys() == before.keys() and not state
    for name, weight in weights.items():
        assert weight.dtype == np.float16
        np.testing.assert_array_equal(weight, before[name].astype(np.float16))
    assert os.path.getsize(result.path) < 0.55 * os.path.getsize(checkpoint)
    image = draw_image(70, 2, 1)[0]
    close = np.abs(load_network(result.path)[0](image, True)[1] - load_network(checkpoint)[0](image, True)[1])
    assert 0 < close.max() < 0.05


def test_the_card_in_the_file_is_plain_json(checkpoint, tmp_path):
    import onnx
    export(ExportConfig(checkpoint, str(tmp_path / "net.onnx")))
    entry, reach, _ = onnx.load(tmp_path / "net.onnx").metadata_props
    card = json.loads(entry.value)
    assert entry.key == CARD and card["labels"]["names"] == list(LABELS.names)
    assert card["labels"]["colours"][2] == [230, 25, 75] and card["preprocess"]["mean"] == [120, 110, 100]
    assert card["metrics"] == {"mean IoU": 0.25} and card["training"]["settings"] == {"optim": {"lr": 0.05}}


def test_a_file_that_differs_from_mindspore_is_not_written(checkpoint, tmp_path, monkeypatch):
    run = module.OnnxSegmenter.logits
    monkeypatch.setattr(module.OnnxSegmenter, "logits", lambda self, batch: run(self, batch) * 1.001)
    with pytest.raises(UserError, match="net.onnx was not written: its logits differ"):
        export(ExportConfig(checkpoint, str(tmp_path / "net.onnx")))
    assert os.listdir(tmp_path) == ["net.ckpt"]
