"""The layers: bilinear upsampling, the sliced convolution, and dropout that follows from seed and step."""

import itertools
import os
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn, ops

from mindfcn.models import cpu_kernels, layers
from mindfcn.models.factory import create_model


class Towards(nn.Cell):
    """The scalar whose gradient at a cell's output is `direction`."""

    def __init__(self, cell, direction):
        super().__init__()
        self.cell, self.direction = cell, ms.Tensor(direction)

    def construct(self, x):
        return (self.cell(x) * self.direction).sum()


def output_and_gradients(net, x, direction, mode="PYNATIVE"):
    """[output, gradient by x, gradients by the parameters], in the mode of that name; PyNative is set again after."""
    ms.set_context(mode=getattr(ms, f"{mode}_MODE"))
    try:
        by_input, by_weights = ms.grad(Towards(net, direction), 0, net.trainable_params())(x)
        return [part.asnumpy() for part in (net(x), by_input, *by_weights)]
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


def test_bilinear_kernel_values():
    """Caffe's filler in 4x4 and 3x3, by hand."""
    np.testing.assert_array_equal(layers.bilinear_kernel(4)[1], np.float32([0.1875, 0.5625, 0.5625, 0.1875]))
    np.testing.assert_array_equal(layers.bilinear_kernel(4)[0], np.float32([0.0625, 0.1875, 0.1875, 0.0625]))
    np.testing.assert_array_equal(layers.bilinear_kernel(3), np.outer([0.5, 1, 0.5], [0.5, 1, 0.5]))


def test_bilinear_weight_mixes_no_classes():
    weight = layers.bilinear_weight(5, 4)
    assert weight.dtype == np.float32 and weight.shape == (5, 5, 4, 4)
    assert (weight[~np.eye(5, dtype=bool)] == 0).all() and (weight[np.eye(5, dtype=bool)] > 0).all()


def test_xavier_deconvolution_is_random_of_the_same_shape():
    bilinear, xavier = layers.deconv(3, 4, 2, 1).weight, layers.deconv(3, 4, 2, 1, "xavier").weight
    assert xavier.shape == bilinear.shape
    assert (xavier.asnumpy() != 0).all() and len(np.unique(xavier.asnumpy())) > 100


WIDE = (7, 12, (6, 5), True)
WINOGRAD = (3, 5, (8, 12), False)


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("mode, kernel, channels, size, bias", [
    ("PYNATIVE", *WIDE), ("PYNATIVE", 1, 6, (3, 4), False), ("PYNATIVE", *WINOGRAD), ("PYNATIVE", 3, 4, (4, 4), True),
    ("PYNATIVE", 3, 4, (6, 8), True), ("PYNATIVE", (5, 2), 6, (6, 7), True), ("GRAPH", *WIDE),
    ("GRAPH", *WINOGRAD)])
@pytest.mark.parametrize("direct, large_map", [(True, 1), (False, 1), (False, 10 ** 6)])
def test_a_convolution_by_another_algorithm_equals_the_plain_one(monkeypatch, mode, kernel, channels, size, bias,
                                                                 direct, large_map):
    """Output and all gradients. A side of 6 is not a multiple of Winograd's tile side and takes the plain kernel."""
    monkeypatch.setattr(cpu_kernels, "NARROW", 4)
    monkeypatch.setattr(cpu_kernels, "WINOGRAD_BACKWARD", 3)
    monkeypatch.setattr(cpu_kernels, "WINOGRAD", 4 if direct else 3)
    monkeypatch.setattr(cpu_kernels, "MIN_TILES", 1)
    monkeypatch.setattr(cpu_kernels, "LARGE_MAP", large_map)
    padding = 2 if isinstance(kernel, tuple) else kernel // 2
    special = layers.conv(3, channels, kernel, bias, padding=padding)
    if ms.get_context("device_target") == "CPU":
        assert isinstance(special, layers.CpuConv2d)
    plain = nn.Conv2d(3, channels, kernel, stride=1, pad_mode="pad", padding=padding, has_bias=bias)
    random = np.random.default_rng(1)
    for ours, theirs in zip(special.get_parameters(), plain.get_parameters()):
        assert (ours.name, ours.shape) == (theirs.name, theirs.shape)
        value = random.standard_normal(ours.shape).astype(np.float32)
        ours.set_data(ms.Tensor(value))
        theirs.set_data(ms.Tensor(value))
    x = ms.Tensor(random.standard_normal((2, 3, *size)).astype(np.float32))
    direction = random.standard_normal(plain(x).shape).astype(np.float32)
    found = output_and_gradients(special, x, direction, mode)
    expected = output_and_gradients(plain, x, direction)
    assert len(found) == len(expected) == 3 + bias
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


MEMORY = """
import re
import mindspore as ms
import numpy as np
from mindfcn import runtime
from mindfcn.models import layers

def held(name):
    with open("/proc/self/status") as file:
        return int(re.search(name + r":\\s+(\\d+) kB", file.read()).group(1)) * 1024

runtime.set_up("CPU")
ms.set_context(mode=ms.GRAPH_MODE)
small, wide = layers.conv(128, 128, 7, bias=False), layers.conv(512, 2304, 7, bias=False)
x = ms.Tensor(np.ones((1, 512, 8, 8), np.float32))
small(x[:, :128]).asnumpy()
before = held("VmRSS")
wide(x).asnumpy()
print((held("VmHWM") - before) / wide.weight.nbytes)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
def test_a_wide_convolution_does_not_copy_its_kernel():
    """fc6's is 411 MB. Here it is 231 MB."""
    environment = os.environ | {"DEVICE_TARGET": "CPU", "MINDFCN_CPU_KERNELS": "1"}
    share = subprocess.run([sys.executable, "-c", MEMORY], env=environment, capture_output=True, text=True,
                           check=True).stdout
    assert float(share) < 0.3


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("mode", ["GRAPH", "PYNATIVE"])
@pytest.mark.parametrize("stride, padding, size, kernel", [
    (8, 4, (3, 5), 16), (4, 0, (2, 1), 8), (6, 1, (1, 4), 12), (16, 8, (3, 2), 32), (32, 16, (1, 3), 64),
    (32, 0, (2, 1), 64), (32, 12, (2, 1), 63), (16, 1, (1, 2), 31), (8, 1, (2, 3), 15)])
def test_upsampling_by_blocks_equals_the_transposed_convolution(mode, stride, padding, size, kernel):
    """Output and gradients, with weights that are no longer bilinear."""
    ours = layers.deconv(3, kernel, stride, padding)
    if ms.get_context("device_target") == "CPU":
        assert isinstance(ours, layers.CpuConv2dTranspose)
    plain = nn.Conv2dTranspose(3, 3, kernel, stride=stride, pad_mode="pad", padding=padding)
    random = np.random.default_rng(1)
    weight = ms.Tensor(random.standard_normal(plain.weight.shape).astype(np.float32))
    x = ms.Tensor(random.standard_normal((2, 3, *size)).astype(np.float32))
    plain.weight.set_data(weight)
    ours.weight.set_data(weight)
    direction = random.standard_normal(plain(x).shape).astype(np.float32)
    found = output_and_gradients(ours, x, direction, mode)
    expected = output_and_gradients(plain, x, direction)
    assert len(found) == len(expected) == 3
    for mine, theirs in zip(found, expected):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_winograd_leaves_few_tiles_to_the_plain_kernel():
    """A tile is 4x4 pixels; 32 of them are the fewest that it takes."""
    fits = cpu_kernels.Winograd(4).fits
    assert fits((1, 3, 16, 32)) and fits((2, 3, 16, 16)) and not fits((1, 3, 16, 28)) and not fits((9, 3, 18, 16))


@pytest.mark.skipif(ms.get_context("device_target") != "CPU", reason="the kernels are for CPU")
@pytest.mark.parametrize("name", ["fcn8s_vgg16", "fcn8s_vgg16_bn", "fcn8s_caffenet", "fcn8s_alexnet", "fcn8s_googlenet",
                                  "deconvnet_vgg16"])
def test_networks_give_the_same_logits_without_the_cpu_kernels(monkeypatch, name):
    """To 1e-5 of the largest logit, with every kernel that can be used in use; the parameters are the same, too."""
    for limit in ("NARROW", "WINOGRAD_BACKWARD", "WINOGRAD", "MIN_TILES"):
        monkeypatch.setattr(cpu_kernels, limit, 1)
    options = {"fcn8s_googlenet": {"width": 0.1}, "deconvnet_vgg16": {"width": 0.1, "fc_width": 8, "side": 32}}
    options = options.get(name, {"width": 0.1, "fc_width": 8})
    special = create_model(name, 3, **options).set_train(False)
    monkeypatch.setattr(cpu_kernels, "enabled", False)
    plain = create_model(name, 3, **options).set_train(False)
    kinds = (layers.CpuConv2d, layers.CpuConv2dTranspose)
    used = [any(isinstance(cell, kinds) for _, cell in net.cells_and_names()) for net in (special, plain)]
    assert used == [True, False]
    random = np.random.default_rng(1)
    for one, other in zip(special.get_parameters(), plain.get_parameters()):
        assert (one.name, one.shape) == (other.name, other.shape)
        if one.requires_grad:
            value = random.standard_normal(one.shape) / np.sqrt(one.size / one.shape[0])
            one.set_data(ms.Tensor(value.astype(np.float32)))
            other.set_data(ms.Tensor(value.astype(np.float32)))
    image = ms.Tensor(random.standard_normal((1, 3, 64, 64)).astype(np.float32))
    expected = plain(image).asnumpy()
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(special(image).asnumpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def masks(steps, size=(1, 4, 50, 50), rate=0.5, seed=1, start=0):
    """(steps, *size) bool: what dropout keeps in consecutive training passes."""
    drop = layers.Dropout(rate, seed).set_train(True)
    drop.step.set_data(ms.Tensor([start], ms.int32))
    return np.stack([drop(ops.ones(size, ms.float32)).asnumpy() for _ in range(steps)]) != 0


def test_dropout_keeps_the_mean_and_drops_the_rate(mode):
    for rate in (0.1, 0.5, 0.9) if mode == "PYNATIVE" else (0.25,):
        drop = layers.Dropout(rate).set_train(True)
        x = ms.Tensor(np.random.default_rng(2).uniform(1, 2, (1, 8, 50, 50)).astype(np.float32))
        out = drop(x).asnumpy()
        kept = out != 0
        np.testing.assert_allclose(out[kept], x.asnumpy()[kept] / (1 - rate), rtol=1e-6)
        assert abs(kept.mean() - (1 - rate)) < 4 * np.sqrt(rate * (1 - rate) / kept.size)
        assert drop.step.asnumpy() == 1


def test_dropout_gradient_passes_through_what_is_kept(mode):
    drop = layers.Dropout(0.5, seed=3).set_train(True)
    x = ops.ones((1, 2, 9, 9), ms.float32)
    gradient = ms.grad(Towards(drop, np.ones((1, 2, 9, 9), np.float32)))(x).asnumpy()
    np.testing.assert_array_equal(gradient, masks(1, (1, 2, 9, 9), seed=3)[0] * np.float32(2))


def test_dropout_is_the_identity_in_evaluation_and_at_rate_0(mode):
    x = ms.Tensor(np.random.default_rng(3).standard_normal((1, 2, 3, 3)).astype(np.float32))
    for drop in (layers.Dropout(0.5).set_train(False), layers.Dropout(0.0).set_train(True)):
        np.testing.assert_array_equal(drop(x).asnumpy(), x.asnumpy())
        assert drop.step.asnumpy() == 0
    for rate in (-0.1, 1.0):
        with pytest.raises(ValueError, match="dropout rate"):
            layers.Dropout(rate)


def test_dropout_masks_follow_from_seed_and_step_in_both_modes():
    try:
        ms.set_context(mode=ms.GRAPH_MODE)
        compiled = masks(4, (1, 4, 11, 13), seed=6)
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    native = masks(4, (1, 4, 11, 13), seed=6)
    np.testing.assert_array_equal(compiled, native)
    np.testing.assert_array_equal(masks(2, (1, 4, 11, 13), seed=6, start=2), native[2:])
    assert all((one != other).any() for at, one in enumerate(native) for other in native[:at])
    assert (masks(4, (1, 4, 11, 13), seed=7) != native).any(axis=(1, 2, 3, 4)).all()


@pytest.mark.parametrize("rate", [0.5, 0.25])
def test_dropout_masks_look_independent(rate):
    """Each step's share, each channel's share, and the correlation between steps, seeds and neighbouring pixels."""
    kept = masks(12, rate=rate).reshape(12, -1).astype(np.float64)
    count = kept.shape[1]
    spread = np.sqrt(rate * (1 - rate) / count)
    assert (abs(kept.mean(1) - (1 - rate)) < 4 * spread).all()
    assert kept.mean(1).std() > spread / 4, "the kept shares must vary as random ones do"
    channels = kept.reshape(48, -1).mean(1)
    assert (abs(channels - (1 - rate)) < 4.5 * 2 * spread).all()
    limit = 4.5 / np.sqrt(count)
    other = masks(1, rate=rate, seed=2).reshape(1, -1)
    together = np.corrcoef(np.concatenate([kept, other]))
    assert abs(together[~np.eye(13, dtype=bool)]).max() < limit
    for shift in (1, 2, 50, 2500):
        pairs = [np.corrcoef(mask[:-shift], mask[shift:])[0, 1] for mask in kept]
        assert np.abs(pairs).max() < limit * np.sqrt(count / (count - shift))


@pytest.mark.parametrize("channels", [1, 3, 16, 96])
def test_response_normalisation_is_caffes(channels):
    """x / (1 + alpha / 5 * sum over five neighbouring channels of squares) ** 0.75, summed channel by channel."""
    maps = np.random.default_rng(channels).standard_normal((2, channels, 3, 4)) * 100
    expected = np.empty_like(maps)
    for channel in range(channels):
        near = maps[:, max(0, channel - 2):channel + 3]
        expected[:, channel] = maps[:, channel] / (1 + 1e-4 / 5 * (near ** 2).sum(1)) ** 0.75
    np.testing.assert_allclose(layers.LRN()(ms.Tensor(maps.astype(np.float32))).asnumpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("kernel, stride, size, cells", [(2, 2, 7, 4), (2, 2, 8, 4), (3, 2, 8, 4), (3, 2, 7, 3)])
def test_pooling_reaches_over_the_edge_as_caffes(mode, kernel, stride, size, cells):
    """ceil((size - kernel) / stride) + 1 windows; the last one takes what there is, here of negative numbers only."""
    line = -1 - np.random.default_rng(size).random(size).astype(np.float32)
    image = ms.Tensor(np.broadcast_to(line, (1, 1, size, size)).copy())
    pooled = layers.MaxPool(kernel, stride)(image).asnumpy()
    assert pooled.shape == (1, 1, cells, cells)
    windows = [line[at * stride:at * stride + kernel] for at in range(cells)]
    np.testing.assert_array_equal(pooled[0, 0, 0], [window.max() for window in windows])


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("mode", ["PYNATIVE", "GRAPH"])
@pytest.mark.parametrize("kernel, stride, shape", [(2, 2, (8, 6)), (2, 2, (7, 9)), (3, 3, (9, 7)), (3, 2, (9, 8))])
def test_poolings_gradient_goes_to_the_first_maximum(mode, kernel, stride, shape):
    """Training or not, with equal maxima, as they are in flat parts of drawn images."""
    random = np.random.default_rng(1)
    x = random.integers(-2, 2, (2, 3, *shape)).astype(np.float32)
    cells = [-(-(side - kernel) // stride) + 1 for side in shape]
    direction = random.standard_normal((2, 3, *cells)).astype(np.float32)
    maxima, gradient = np.empty_like(direction), np.zeros_like(x)
    for place in np.ndindex(direction.shape):
        top, left = place[2] * stride, place[3] * stride
        window = x[place[0], place[1], top:top + kernel, left:left + kernel]
        row, column = np.unravel_index(window.argmax(), window.shape)
        maxima[place] = window.max()
        gradient[place[0], place[1], top + row, left + column] += direction[place]
    for training in (False, True):
        pool = layers.MaxPool(kernel, stride).set_train(training)
        pooled, by_input = output_and_gradients(pool, ms.Tensor(x), direction, mode)
        np.testing.assert_array_equal(pooled, maxima)
        np.testing.assert_allclose(by_input, gradient, rtol=1e-6)


def test_runs_layers_and_processes_have_masks_of_their_own(monkeypatch):
    """Seed 1 of the first process keeps the layers' own seeds, as in every checkpoint so far."""
    from mindfcn.engine import build
    shape, found = ops.ones((1, 1, 40, 50), ms.float32), {}
    for rank in (0, 1):
        monkeypatch.setattr(build.runtime, "rank", lambda rank=rank: rank)
        for seed in (1, 2, 3, 2 ** 31 - 1):
            net = nn.SequentialCell(layers.Dropout(0.5, 1), layers.Dropout(0.5, 2)).set_train(True)
            build.offset_seeds(net, nn.SequentialCell(), seed)
            for place in (0, 1):
                found[rank, seed, place] = net[place](shape).asnumpy() != 0
    for first, second in itertools.combinations(found, 2):
        assert abs((found[first] == found[second]).mean() - 0.5) < 0.06, (first, second)
    for place in (0, 1):
        np.testing.assert_array_equal(found[0, 1, place], masks(1, (1, 1, 40, 50), seed=place + 1)[0])
