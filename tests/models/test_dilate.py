"""Filter rarefaction: what a dilated network must equal."""

import mindspore as ms
import numpy as np
import pytest
from helpers import picture, run
from mindspore import nn, ops

from mindfcn.models import cpu_kernels, layers
from mindfcn.models.surgery.dilate import DilatedAvgPool, DilatedMaxPool, dilate, input_strides


def conv(inputs, outputs, kernel, stride=1, padding=0, **options):
    mode = {"pad_mode": "pad", "padding": padding} if padding is not None else {"pad_mode": "same"}
    return nn.Conv2d(inputs, outputs, kernel, stride, has_bias=True, **mode, **options)


class Residual(nn.Cell):
    """A small residual network of output stride 16 with shortcuts that have strides of their own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.SequentialCell(conv(3, 6, 7, 2, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2, "same"))
        self.first, self.second = conv(6, 8, 3, 2, 1), conv(8, 8, 3, padding=1)
        self.down = conv(6, 8, 1, 2)
        self.third, self.fourth = conv(8, 8, 3, padding=1), conv(8, 8, 3, 2, padding=1, group=4)
        self.shortcut = nn.SequentialCell(nn.AvgPool2d(2, 2, "same"), conv(8, 8, 1, padding=None))
        self.gate = conv(8, 8, 1)

    def construct(self, x):
        stem = self.stem(x)
        x = ops.relu(self.second(ops.relu(self.first(stem))) + self.down(stem))
        return self.fourth(ops.relu(self.third(x))) + self.shortcut(x)


class Stack(nn.SequentialCell):
    """Every kind of padding, pooling and stride in one stack of output stride 24."""

    def __init__(self):
        super().__init__(
            conv(3, 6, 5, 2, None), layers.MaxPool(3, 2), nn.AvgPool2d(3, 1, "pad", 1, count_include_pad=False),
            conv(6, 6, 3, 3, (2, 0, 1, 3)), nn.MaxPool2d(3, 2, "pad", 1, ceil_mode=True), nn.AvgPool2d(2, 1, "same"),
            nn.MaxPool2d(2, 1, "pad", padding=1, dilation=2), nn.AvgPool2d(3, 1, "pad", 1),
            conv(6, 5, 3, padding=2, dilation=2))


def windows_of(image, kernel, dilation, padding, value):
    """(kernel * kernel, N, C, h, w) float64: NumPy's own sliding windows."""
    sides = ((0, 0), (0, 0), padding[:2], padding[2:])
    padded = np.pad(image.astype(np.float64), sides, constant_values=value)
    reach = (kernel - 1) * dilation + 1
    view = np.lib.stride_tricks.sliding_window_view(padded, (reach, reach), axis=(2, 3))[..., ::dilation, ::dilation]
    return np.moveaxis(view.reshape(*view.shape[:4], -1), -1, 0)


@pytest.mark.parametrize("kernel,dilation,padding", [(2, 1, (0, 0, 0, 0)), (3, 2, (2, 2, 2, 2)), (3, 4, (1, 0, 3, 4)),
                                                     (2, 5, (0, 4, 0, 4))])
def test_dilated_pools_equal_pooling_over_sliding_windows(kernel, dilation, padding):
    image = picture(17, 19)
    largest = DilatedMaxPool(kernel, 1, dilation, padding)
    np.testing.assert_array_equal(run(largest, image), windows_of(image, kernel, dilation, padding, -np.inf).max(0))
    zeros = windows_of(image, kernel, dilation, padding, 0)
    np.testing.assert_allclose(run(DilatedAvgPool(kernel, 1, dilation, padding), image), zeros.mean(0), atol=1e-6)
    inside = windows_of(np.ones_like(image), kernel, dilation, padding, 0).sum(0)
    np.testing.assert_allclose(run(DilatedAvgPool(kernel, 1, dilation, padding, count_padding=False), image),
                               zeros.sum(0) / inside, atol=1e-6)


@pytest.mark.usefixtures("pynative")
def test_the_gradient_of_dilated_max_pooling_goes_to_the_largest():
    image = picture(9, 11, 1)
    pool = DilatedMaxPool(3, 2, 2, 2)
    found = ms.grad(lambda x: pool(x).sum())(ms.Tensor(image)).asnumpy()
    padded = np.pad(image[0, 0], 2, constant_values=-np.inf)
    expected = np.zeros_like(padded)
    for i in range(0, 9, 2):
        for j in range(0, 11, 2):
            places = [(i + 2 * a, j + 2 * b) for a in range(3) for b in range(3)]
            expected[max(places, key=lambda place: padded[place])] += 1
    np.testing.assert_array_equal(found[0, 0], expected[2:-2, 2:-2])


def rarefied_kernel(weight, stride):
    """The paper's filter f' of a filter (O, I, h, w): (O, I, (h - 1) stride + 1, (w - 1) stride + 1), zeros between."""
    out, inputs, height, width = weight.shape
    rare = np.zeros((out, inputs, (height - 1) * stride + 1, (width - 1) * stride + 1), weight.dtype)
    rare[:, :, ::stride, ::stride] = weight
    return rare


@pytest.mark.parametrize("stride", [2, 3, 5])
def test_a_rarefied_filter_is_a_dilation(stride):
    # Eighths add up without rounding, in whichever order a kernel adds them.
    image, weight = (np.round(8 * numbers) / 8 for numbers in (picture(20, 23, 4), picture(3, 3, 4, seed=2)))
    dilated = nn.Conv2d(4, 1, 3, pad_mode="valid", dilation=stride, weight_init=ms.Tensor(weight))
    rare = nn.Conv2d(4, 1, 2 * stride + 1, pad_mode="valid", weight_init=ms.Tensor(rarefied_kernel(weight, stride)))
    np.testing.assert_array_equal(run(dilated, image), run(rare, image))


@pytest.mark.parametrize("make,stride,size,target", [
    (Residual, 16, 64, 1), (Residual, 16, 64, 2), (Residual, 16, 64, 4), (Residual, 16, 64, 8), (Residual, 16, 64, 16),
    (Stack, 24, 96, 1), (Stack, 24, 96, 2), (Stack, 24, 96, 4), (Stack, 24, 96, 12)])
def test_every_nth_cell_of_the_dilated_map_is_the_old_map(make, stride, size, target):
    net, image = make(), picture(size, 2 * size)
    before, old = {p.name: p.asnumpy() for p in net.get_parameters()}, run(net, image)
    new = run(dilate(net, target, size), image)
    step = stride // target
    assert new.shape[2] > step * (old.shape[2] - 1) and new.shape[3] > step * (old.shape[3] - 1)
    np.testing.assert_allclose(new[:, :, ::step, ::step], old, rtol=0, atol=2e-6)
    after = {p.name: p.asnumpy() for p in net.get_parameters()}
    assert list(before) == list(after)
    for name, weight in before.items():
        np.testing.assert_array_equal(weight, after[name])


def test_strides_of_a_residual_network():
    found = {name: stride for name, _, _, stride in input_strides(Residual(), 64)}
    assert found == {"stem.0": (1, 1), "stem.3": (2, 2), "first": (4, 4), "second": (8, 8), "down": (4, 4),
                     "third": (8, 8), "fourth": (8, 8), "shortcut.0": (8, 8), "shortcut.1": (16, 16)}
    dilated = dilate(Residual(), 4, 64)
    assert [(cell.stride, cell.dilation) for cell in (dilated.first, dilated.second, dilated.fourth, dilated.down)] == [
        ((1, 1), (1, 1)), ((1, 1), (2, 2)), ((1, 1), (2, 2)), ((1, 1), (1, 1))]


def test_dilating_twice_equals_dilating_once():
    net, image = Stack(), picture(96, 100)
    once = Stack()
    ms.load_param_into_net(once, {p.name: p for p in net.get_parameters()})
    expected = run(dilate(once, 2, 96), image)
    np.testing.assert_array_equal(run(dilate(dilate(net, 12, 96), 2, 96), image), expected)


@pytest.mark.parametrize("kernel, limit", [(5, "NARROW"), (3, "WINOGRAD")])
def test_a_convolution_by_another_algorithm_is_dilated_too(monkeypatch, kernel, limit):
    monkeypatch.setattr(cpu_kernels, limit, 2)
    monkeypatch.setattr(cpu_kernels, "WINOGRAD_BACKWARD", 2)
    net = nn.SequentialCell(nn.MaxPool2d(2, 2), layers.conv(3, 6, kernel, bias=True))
    assert isinstance(net[1], layers.CpuConv2d)
    image = picture(16, 24)
    old = run(net, image)
    np.testing.assert_allclose(run(dilate(net, 1, 16), image)[:, :, ::2, ::2], old, atol=1e-5)


def test_a_network_is_compiled_again():
    net, image = Stack(), picture(96, 96)
    try:
        ms.set_context(mode=ms.GRAPH_MODE)
        coarse = run(net, image)
        dense = run(dilate(net, 4, 96), image)
        assert ms.get_context("mode") == ms.GRAPH_MODE and dense.shape > coarse.shape
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    np.testing.assert_array_equal(run(net, image), dense)


def test_a_mindcv_backbone_keeps_its_old_map():
    backbone = pytest.importorskip("mindcv").create_model("resnet18", features_only=True, out_indices=[4])
    image = picture(64, 96)
    old = backbone.set_train(False)(ms.Tensor(image))[0].asnumpy()
    new = dilate(backbone, 8, 64)(ms.Tensor(image))[0].asnumpy()
    assert new.shape == (1, 512, 8, 12)
    np.testing.assert_allclose(new[:, :, ::4, ::4], old, rtol=0, atol=1e-5 * np.abs(old).max())


class Shared(nn.Cell):
    """One pooling cell for two strides."""

    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2, 2)

    def construct(self, x):
        return self.pool(self.pool(x))


class Hidden(nn.Cell):
    """A stride that no cell has."""

    def __init__(self):
        super().__init__()
        self.conv = conv(3, 3, 3)

    def construct(self, x):
        return self.conv(x[:, :, ::2, ::2])


@pytest.mark.parametrize("net,target,size,words", [
    (lambda: nn.SequentialCell(Shared()), 1, 16, "several strides"),
    (Hidden, 1, 16, "every stride that of a"),
    (Residual, 1, 60, "not 60"),
    (Residual, 3, 64, "output stride 3 does not divide"),
    (lambda: nn.SequentialCell(conv(3, 3, 2, 2), nn.Conv2dTranspose(3, 3, 2, 2)), 1, 16, "1 enlarges its map"),
    (lambda: nn.SequentialCell(nn.MaxPool2d(2, 2, "pad", return_indices=True)), 1, 16, "indices"),
    (lambda: nn.SequentialCell(nn.AvgPool2d(2, 2, "pad", divisor_override=3)), 1, 16, "divisor"),
    (lambda: nn.SequentialCell(nn.AvgPool2d(2, 2, "pad", ceil_mode=True)), 1, 16, "ceil_mode"),
])
def test_what_cannot_be_dilated_is_reported(net, target, size, words):
    with pytest.raises(ValueError, match=words):
        dilate(net(), target, size)
