"""ONNX files: every own network computes the same in ONNX Runtime, at any size and in batches."""

import mindspore as ms
import numpy as np
import pytest

from mindfcn.engine.export import onnx_model, write_onnx
from mindfcn.errors import UserError
from mindfcn.models.factory import create_model

pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")

SIZES = [(1, 64, 64), (2, 70, 45), (1, 33, 97), (1, 1, 1)]


@pytest.fixture(autouse=True)
def pynative():
    ms.set_context(mode=ms.PYNATIVE_MODE)


def evaluator(model):
    """Function from images to logits: ONNX Runtime where it is installed, else the standard's own reference."""
    try:
        from onnxruntime import InferenceSession
        session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    except ImportError:
        from onnx.reference import ReferenceEvaluator
        session = ReferenceEvaluator(model)
    return lambda image: session.run(None, {"image": image})[0]


@pytest.mark.parametrize("geometry", ["padded", "paper"])
@pytest.mark.parametrize("name", ["fcn32s_vgg16", "fcn16s_vgg16_bn", "fcn8s_vgg16_bn", "fcn8s_atonce_vgg16",
                                  "fcn8s_alexnet", "fcn32s_caffenet", "fcn8s_googlenet"])
def test_the_file_computes_the_networks_logits_for_images_of_any_size(tiny, name, geometry):
    net = tiny(name, geometry=geometry)
    run = evaluator(onnx_model(net))
    for count, height, width in SIZES:
        # In the range of Caffe's images: normalisation across channels changes small numbers little.
        image = 100 * np.random.default_rng(2).standard_normal((count, 3, height, width)).astype(np.float32)
        expected = net(ms.Tensor(image)).asnumpy()
        logits = run(image)
        assert logits.shape == (count, 3, height, width)
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_normalisation_is_folded_and_no_weight_is_there_twice(tiny, tmp_path):
    import onnx
    net = tiny("fcn8s_vgg16_bn")
    write_onnx(net, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    weights = sum(parameter.size for parameter in net.get_parameters() if parameter.name.endswith("weight"))
    numbers = sum(np.prod(entry.dims) for entry in model.graph.initializer if entry.name.endswith("weight"))
    assert numbers == weights


def test_a_trunk_that_does_not_tell_its_layers_is_refused():
    pytest.importorskip("mindcv", reason="mindcv is not installed: pip install mindcv")
    with pytest.raises(UserError, match="take a network on vgg16"):
        onnx_model(create_model("fcn32s_mindcv_resnet18", 3))


def test_a_layer_that_the_trunks_paths_leave_out_is_told(tiny, monkeypatch):
    net = tiny("fcn8s_alexnet")
    whole = type(net.trunk).paths
    monkeypatch.setattr(type(net.trunk), "paths", lambda trunk: {**whole(trunk), "pool4": (trunk.pool2,)})
    with pytest.raises(UserError, match="leave out its layer trunk.conv2"):
        onnx_model(net)
