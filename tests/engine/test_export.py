"""ONNX files: every own network computes the same in ONNX Runtime, at any size and in batches."""

import mindspore as ms
import numpy as np
import pytest

from mindfcn.engine.export import onnx_model, write_onnx
from mindfcn.errors import UserError
from mindfcn.models.factory import create_model

pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")

TINY = {"vgg16": {"fc_width": 8, "width": 0.125}, "vgg16_bn": {"fc_width": 8, "width": 0.125},
        "alexnet": {"fc_width": 8, "width": 0.125}}
SIZES = [(1, 64, 64), (2, 70, 45), (1, 33, 97), (1, 1, 1)]


@pytest.fixture(autouse=True)
def pynative():
    ms.set_context(mode=ms.PYNATIVE_MODE)


def scrambled(name, **options):
    """A tiny network with random numbers in every parameter."""
    net, random = create_model(name, 3, **options), np.random.default_rng(1)
    for parameter in net.get_parameters():
        value = random.standard_normal(parameter.shape) * (2 / max(1, parameter.size // parameter.shape[0])) ** 0.5
        if parameter.name.endswith(("gamma", "moving_variance")):
            value = random.uniform(0.5, 1.5, parameter.shape)
        if not parameter.name.endswith("step"):
            parameter.set_data(ms.Tensor(value.astype(np.float32)))
    return net.set_train(False)


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
                                  "fcn8s_alexnet"])
def test_the_file_computes_the_networks_logits_for_images_of_any_size(name, geometry):
    net = scrambled(name, geometry=geometry, **TINY[name.split("_", 2 if "atonce" in name else 1)[-1]])
    run = evaluator(onnx_model(net))
    for count, height, width in SIZES:
        image = np.random.default_rng(2).standard_normal((count, 3, height, width)).astype(np.float32)
        expected = net(ms.Tensor(image)).asnumpy()
        logits = run(image)
        assert logits.shape == (count, 3, height, width)
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()


def test_normalisation_is_folded_and_no_weight_is_there_twice(tmp_path):
    import onnx
    net = scrambled("fcn8s_vgg16_bn", **TINY["vgg16_bn"])
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


def test_a_layer_that_the_trunks_paths_leave_out_is_told(monkeypatch):
    net = scrambled("fcn8s_alexnet", **TINY["alexnet"])
    whole = type(net.trunk).paths
    monkeypatch.setattr(type(net.trunk), "paths", lambda trunk: {**whole(trunk), "pool4": (trunk.pool2,)})
    with pytest.raises(UserError, match="leave out its layer trunk.conv2"):
        onnx_model(net)


@pytest.mark.parametrize("trunk", ["caffenet", "googlenet"])
def test_no_file_is_made_without_the_normalisation_across_channels(trunk):
    with pytest.raises(UserError, match="leave out its layer trunk.norm"):
        onnx_model(create_model(f"fcn8s_{trunk}", 3, width=0.125))
