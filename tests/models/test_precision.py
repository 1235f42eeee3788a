"""Precision: what each device takes, which layers stay float32, and how float16 keeps its gradients."""

import mindspore as ms
import numpy as np
import pytest
import small_network  # noqa: F401  (its networks take the steps)
from mindspore import nn

from mindfcn import runtime
from mindfcn.config import OptimConfig
from mindfcn.engine.optimiser import loss_scaler, optimiser
from mindfcn.engine.step import TrainStep
from mindfcn.errors import UserError
from mindfcn.inference.network import Segmenter
from mindfcn.losses import CrossEntropy
from mindfcn.models.factory import create_model
from mindfcn.models.layers import LRN, batch_norm
from mindfcn.models.precision import compute_in, layer_type
from mindfcn.preprocess import COURSE

STATIC, DYNAMIC = ms.amp.StaticLossScaler, ms.amp.DynamicLossScaler


@pytest.fixture(autouse=True)
def pynative_mode():
    runtime.set_up()
    runtime.pynative_mode()


def network(name="fcn8s_vgg16", seed=1, score=0.1):
    """A tiny network without dropout; equal seeds make equal weights. So narrow, it has no layers made for CPU."""
    ms.set_seed(seed)
    widths = {"width": 0.0625, **({} if name.endswith(("googlenet", "_d8")) else {"fc_width": 16})}
    net = create_model(name, 5, **widths, **({} if name.endswith("_bn") else {"dropout": 0.0}))
    random = np.random.default_rng(seed)
    for parameter in net.get_parameters():
        if parameter.name.startswith("score") and parameter.name.endswith("weight"):
            parameter.set_data(ms.Tensor(random.standard_normal(parameter.shape).astype(np.float32) * score))
    return net


def batch(size=64, classes=5, seed=1):
    random = np.random.default_rng(seed)
    return (ms.Tensor(random.standard_normal((1, 3, size, size), np.float32)),
            ms.Tensor(random.integers(0, classes, (1, size, size), np.int32)))


def first_step(dtype, scaler, images, labels, loss="mean", lr=1.0, score=0.1):
    """(weights before, weights after) of one step without momentum or decay."""
    net = network("fcn8s_small", score=score)
    update, _ = optimiser(net, OptimConfig(lr=lr, min_lr=lr, momentum=0.0, weight_decay=0.0), 10)
    before = {parameter.name: parameter.asnumpy().copy() for parameter in update.parameters}
    compute_in(net, dtype)
    step = TrainStep(net, update, CrossEntropy(reduction=loss), scaler)
    step.set_train()
    step(images, labels)
    return before, {parameter.name: parameter.asnumpy().copy() for parameter in update.parameters}


# ------------------------------------------------------------------------------------------------- which device

@pytest.mark.parametrize("device, settings, dtype, scaler", [
    ("CPU", {}, ms.float32, None), ("CPU", {"precision": "float32"}, ms.float32, None),
    ("GPU", {}, ms.float16, DYNAMIC), ("Ascend", {}, ms.float16, DYNAMIC),
    ("GPU", {"loss_scale": 128}, ms.float16, STATIC), ("GPU", {"precision": "float32"}, ms.float32, None),
    ("GPU", {"precision": "float32_strict"}, ms.float32, None),
    ("CPU", {"precision": "float32_strict"}, ms.float32, None),
    ("Ascend", {"precision": "bfloat16"}, ms.bfloat16, None),
    ("Ascend", {"precision": "bfloat16", "loss_scale": 128, "loss": "sum"}, ms.bfloat16, None),
    ("GPU", {"loss": "sum"}, ms.float32, None)])
def test_each_device_has_its_type_and_scale(device, settings, dtype, scaler):
    found, scale = loss_scaler(OptimConfig(**settings), device)
    assert found == dtype and (scale is None if scaler is None else isinstance(scale, scaler))


@pytest.mark.parametrize("device, dtype, precision, words, allowed", [
    ("GPU", ms.float32, "float32", "float32 with TF32 convolutions", True),
    ("GPU", ms.float32, "auto", "float32 with TF32 convolutions", True),
    ("GPU", ms.float32, "float32_strict", "float32", False), ("GPU", ms.float16, "auto", "float16", True),
    ("CPU", ms.float32, "auto", "float32", None), ("Ascend", ms.bfloat16, "bfloat16", "bfloat16", None)])
def test_tf32_is_set_and_named_on_gpu_alone(monkeypatch, device, dtype, precision, words, allowed):
    found = []
    # MindSpore ignores the setting without a GPU.
    monkeypatch.setattr(ms, "get_context", lambda name: device)
    monkeypatch.setattr(ms, "set_context", lambda **options: found.append(options))
    assert compute_in(nn.SequentialCell([nn.ReLU()]), dtype, precision) == words
    assert found == ([] if allowed is None else [{"gpu_config": {"conv_allow_tf32": allowed}}])


@pytest.mark.parametrize("device, precision, words", [
    ("CPU", "float16", "slower; use float32"), ("CPU", "bfloat16", "use float32"), ("GPU", "bfloat16", "use float16")])
def test_what_brings_nothing_or_does_not_exist_is_refused(device, precision, words):
    with pytest.raises(UserError, match=f"^--precision {precision} on {device}: .*{words}$") as caught:
        layer_type(precision, device)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="^--precision float8: choose one of auto, float32, "):
        layer_type("float8", device)


def test_mindspore_has_no_bfloat16_convolution_on_cpu():
    """If this fails, MindSpore has bfloat16 on CPU, and REFUSED must be measured again."""
    net = network()
    compute_in(net, ms.bfloat16)
    with pytest.raises(TypeError, match=r"Conv2D[\s\S]*BFloat16 BFloat16"):
        net(batch()[0])


# ------------------------------------------------------------------------------------------------- which layers

def test_local_response_normalisation_squares_in_float32():
    """300 squared is beyond float16, which would make the response 0."""
    values = np.random.default_rng(1).uniform(200, 400, (1, 8, 3, 3))
    net = nn.SequentialCell([LRN()])
    compute_in(net, ms.float16)
    squares = np.pad(np.square(values), ((0, 0), (2, 2), (0, 0), (0, 0)))
    total = sum(squares[:, shift:shift + 8] for shift in range(5))
    expected = values / (1 + 1e-4 / 5 * total) ** 0.75
    np.testing.assert_allclose(net(ms.Tensor(values, ms.float32)).asnumpy(), expected, rtol=2e-3)


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16])
def test_batch_normalisation_is_float32(dtype):
    """Its inputs and results are; the map that leaves it for the next layer is in 16 bits."""
    norm, seen = batch_norm(3), []
    norm.register_forward_hook(lambda cell, inputs, output: seen.append(output.dtype))
    net = nn.SequentialCell([norm])
    compute_in(net, dtype)
    net.set_train()
    out = net(ms.Tensor(np.random.default_rng(1).standard_normal((2, 3, 4, 4)), ms.float32))
    assert seen == [ms.float32] and out.dtype == dtype
    assert [parameter.dtype for parameter in net.trainable_params()] == [ms.float32] * 2


def compute_as_on_gpu(monkeypatch, net):
    """Set float16 as on GPU. The kernels stay the CPU's; its normalisation takes float16 maps, too."""
    real = ms.get_context
    with monkeypatch.context() as patch:
        patch.setattr(ms, "get_context", lambda name: "GPU" if name == "device_target" else real(name))
        compute_in(net, ms.float16)
    return net


def test_on_gpu_batch_normalisation_takes_float16_maps_and_keeps_float32_statistics(monkeypatch, mode):
    """Outputs, moving averages and gradients are those of float64, to the rounding of the maps."""
    random = np.random.default_rng(1)
    x = (3 * random.standard_normal((2, 3, 8, 7)) + 1).astype(np.float16).astype(np.float64)
    norm = batch_norm(3)
    # Gamma lies between two numbers of float16, of which the lower one is nearer.
    gamma, beta, old = np.float32([1, 2, 0.5]) * 1.00048, np.float32([0.1, 0.2, -0.3]), np.float32([0.3, 0.6, 0.7])
    for parameter, value in ((norm.gamma, gamma), (norm.beta, beta), (norm.moving_mean, old)):
        parameter.set_data(ms.Tensor(value))
    net = compute_as_on_gpu(monkeypatch, nn.SequentialCell([nn.SequentialCell([nn.Identity(), norm]), nn.ReLU()]))
    net.set_train()
    weights = ms.ParameterTuple(net.trainable_params())

    def loss(images):
        out = net(images)
        return out.astype(ms.float32).sum(), out

    (_, out), gradients = ms.value_and_grad(loss, None, weights, has_aux=True)(ms.Tensor(x.astype(np.float32)))
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    normal = (x - mean[:, None, None]) / np.sqrt(variance + norm.eps)[:, None, None]
    expected = np.maximum(gamma[:, None, None] * normal + beta[:, None, None], 0)
    assert out.dtype == ms.float16
    np.testing.assert_allclose(out.asnumpy(), expected, rtol=2e-3, atol=2e-3)
    # Float16 would differ by 5e-4 of these; the maps' own rounding cancels out in their sums.
    np.testing.assert_allclose(out.asnumpy().astype(np.float64).sum((0, 2, 3)), expected.sum((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(norm.moving_mean.asnumpy(), 0.9 * old + 0.1 * mean, rtol=1e-5)
    active = expected > 0
    for gradient, values in zip(gradients, (normal * active, active)):
        assert gradient.dtype == ms.float32
        np.testing.assert_allclose(gradient.asnumpy(), values.sum((0, 2, 3)), rtol=3e-3)


def test_on_gpu_the_other_layers_have_their_types(monkeypatch):
    norm, seen = batch_norm(8), []
    net = compute_as_on_gpu(monkeypatch, nn.SequentialCell([LRN(), norm, nn.Conv2d(8, 4, 1, has_bias=False)]))
    norm.register_forward_hook(lambda cell, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    net.set_train(False)
    values = np.random.default_rng(1).uniform(200, 400, (1, 8, 3, 3)).astype(np.float32)
    out = net(ms.Tensor(values))
    assert seen == [(ms.float16, ms.float16)] and out.dtype == ms.float16
    assert np.isfinite(out.asnumpy()).all() and np.abs(out.asnumpy()).max() > 1
    assert [type(cell).__name__ for cell in net.cell_list][1:] == ["BatchNorm2d", "Conv2d"]


def test_on_gpu_a_network_with_normalisation_segments_as_float32_does(monkeypatch):
    monkeypatch.setenv("MINDFCN_COMPILE", "0")
    images, _ = batch()
    for name in ("fcn8s_vgg16_bn", "fcn_r18b_d8"):
        net = network(name)
        names = [parameter.name for parameter in net.get_parameters()]
        exact = Segmenter(net, COURSE).logits(images.asnumpy())
        net = compute_as_on_gpu(monkeypatch, network(name))
        half = Segmenter(net, COURSE).logits(images.asnumpy())
        assert 0 < np.abs(half - exact).max() < 2e-2 * np.abs(exact).max() and half.dtype == np.float32
        assert [parameter.name for parameter in net.get_parameters()] == names


@pytest.mark.parametrize("name, compiled", [("fcn8s_small_bn", True), ("fcn8s_vgg16_bn", False),
                                           ("fcn8s_vgg16", False), ("fcn32s_googlenet", False)])
def test_float16_segments_as_float32_does(name, compiled, monkeypatch):
    """And leaves float32 weights under their names, so that its checkpoints are those of float32."""
    monkeypatch.setenv("MINDFCN_COMPILE", str(int(compiled)))
    net = network(name)
    names = [parameter.name for parameter in net.get_parameters()]
    images, _ = batch()
    exact = Segmenter(net, COURSE).logits(images.asnumpy())
    net = network(name)
    compute_in(net, ms.float16)
    half = Segmenter(net, COURSE).logits(images.asnumpy())
    assert 0 < np.abs(half - exact).max() < 2e-2 * np.abs(exact).max() and half.dtype == np.float32
    assert [parameter.name for parameter in net.get_parameters()] == names
    assert all(parameter.dtype == ms.float32 for parameter in net.trainable_params())


# ------------------------------------------------------------------------------------------------- which gradients

def test_the_scale_brings_small_gradients_through_float16():
    """Behind score layers of small weights, the backbone's gradients are too small for float16; scaled, it learns."""
    def moved(dtype, scaler=None):
        before, after = first_step(dtype, scaler, *batch(), lr=1e4, score=1e-5)
        return np.concatenate([(after[name] - before[name]).ravel() for name in after if name.startswith("conv1")])
    exact = moved(ms.float32)
    scaled, lost = (moved(ms.float16, DYNAMIC(scale, 2, 100)) for scale in (2 ** 16, 1))
    assert np.linalg.norm(scaled - exact) < 0.1 * np.linalg.norm(exact)
    assert np.linalg.norm(lost - exact) > 0.5 * np.linalg.norm(exact)


def test_a_step_whose_gradients_overflow_changes_nothing_but_the_scale():
    scaler = DYNAMIC(2.0 ** 40, 2, 100)
    before, after = first_step(ms.float16, scaler, *batch())
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert float(scaler.scale_value.asnumpy()) == 2.0 ** 39


def test_the_summed_loss_of_a_photograph_overflows_at_every_scale():
    """Which is why float16 is refused for it: even at a scale of 1, the least, no step would ever be taken."""
    images, _ = batch(320)
    labels = ms.Tensor(np.ones((1, 320, 320), np.int32))
    scaler = DYNAMIC(1.0, 2, 100)
    before, after = first_step(ms.float16, scaler, images, labels, "sum")
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert float(scaler.scale_value.asnumpy()) == 1
    with pytest.raises(UserError, match="--optim.loss sum.*use float32, or bfloat16 on Ascend$"):
        loss_scaler(OptimConfig(precision="float16", loss="sum"), "GPU")
