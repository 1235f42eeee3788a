"""All layers of the networks, built with every argument spelled out.

MindSpore renames layer arguments and defaults between releases; only this file has to change with them.
Feature maps are (N, C, H, W) float32.
"""

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from mindspore.common.initializer import Constant, HeNormal, Normal, Zero

from mindfcn import random_bits
from mindfcn.models import cpu_kernels


def bilinear_kernel(size):
    """The (size, size) float32 kernel of bilinear upsampling by ceil(size / 2) (Long et al. 2015, section 3.3)."""
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    ramp = 1 - np.abs(np.arange(size) - centre) / factor
    return np.outer(ramp, ramp).astype(np.float32)


def bilinear_weight(channels, size):
    """(channels, channels, size, size) float32: each channel upsampled bilinearly, without mixing channels."""
    weight = np.zeros((channels, channels, size, size), np.float32)
    weight[np.arange(channels), np.arange(channels)] = bilinear_kernel(size)
    return weight


def as_pair(value):
    """(vertical, horizontal) of a layer's option that may be one number for both."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def conv(in_channels, out_channels, kernel, bias, weight_init="xavier_uniform", stride=1, padding=None, group=1,
         dilation=1):
    """A convolution; without `padding`, one that keeps the size of the map where its kernel is odd and its stride 1.

    `kernel` is its side, or (height, width), which needs `padding`: one number, or four: above, below, left, right.
    """
    padding = dilation * (kernel // 2) if padding is None else padding
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    arguments = {"stride": stride, "pad_mode": "pad", "padding": padding, "dilation": dilation, "group": group,
                 "has_bias": bias, "weight_init": weight_init, "bias_init": "zeros", "data_format": "NCHW"}
    algorithm = cpu_kernels.convolution(in_channels, out_channels, kernel, stride, padding, group, dilation)
    if algorithm is None:
        return nn.Conv2d(in_channels, out_channels, kernel, **arguments)
    return CpuConv2d(algorithm, in_channels, out_channels, kernel, **arguments)


class CpuLayer:
    """A layer that a cell of models/cpu_kernels.py may compute, in float32; else MindSpore's kernels do.

    Attributes:
        algorithms: (that cell,), or () for MindSpore's kernels. In a tuple, because as a child cell it would be listed
            as a layer of the network.
    """

    algorithms = ()

    def use_mindspore_kernels(self):
        """Compute with MindSpore's kernels only."""
        self.algorithms = ()


class CpuConv2d(CpuLayer, nn.Conv2d):
    """A convolution."""

    def __init__(self, algorithm, *arguments, **options):
        super().__init__(*arguments, **options)
        self.algorithms = (algorithm,)

    def construct(self, x):
        # Not super().construct: in float16 MindSpore would cast the weight's uses in this method alone.
        if x.dtype == ms.float32 and self.algorithms and self.algorithms[0].fits(x.shape):
            y = self.algorithms[0](x, self.weight)
        else:
            y = self.conv2d(x, self.weight)
        return self.bias_add(y, self.bias) if self.has_bias else y


def deconv(channels, kernel, stride, padding, upsampling="bilinear", fixed=False):
    """A transposed convolution without bias from `channels` to as many, about `stride` times larger.

    `upsampling`: "bilinear" starts as bilinear interpolation, "xavier" at random (the course's code); `fixed` layers
    stay as they start.
    """
    init = (ms.Tensor(bilinear_weight(channels, kernel)) if upsampling == "bilinear" else "xavier_uniform")
    arguments = {"stride": stride, "pad_mode": "pad", "padding": padding, "dilation": 1, "group": 1,
                 "has_bias": False, "weight_init": init}
    algorithm = cpu_kernels.transposed_convolution(channels, kernel, stride, padding)
    if algorithm is None:
        cell = nn.Conv2dTranspose(channels, channels, kernel, **arguments)
    else:
        cell = CpuConv2dTranspose(algorithm, channels, channels, kernel, **arguments)
    cell.weight.requires_grad = not fixed
    return cell


class CpuConv2dTranspose(CpuLayer, nn.Conv2dTranspose):
    """A transposed convolution."""

    def __init__(self, algorithm, *arguments, **options):
        super().__init__(*arguments, **options)
        self.algorithms = (algorithm,)

    def construct(self, x):
        if x.dtype == ms.float32 and self.algorithms:
            return self.algorithms[0](x, self.weight)
        count, channels, height, width = x.shape
        sides = [(side - 1) * self.stride[0] + self.kernel_size[0] - 2 * self.padding for side in (height, width)]
        return self.conv2d_transpose(x, self.weight, (count, channels, sides[0], sides[1]))


def batch_norm(channels, eps=1e-5, shift=0.0):
    """Batch normalisation, its beta at first `shift`; `momentum` is the share of the old moving average that is kept.
    """
    return nn.BatchNorm2d(channels, eps=eps, momentum=0.9, affine=True, gamma_init="ones", beta_init=Constant(shift),
                          moving_mean_init="zeros", moving_var_init="ones", use_batch_statistics=None)


class MaxPool(CpuLayer, nn.MaxPool2d):
    """Max pooling whose last window may reach over the edge, as Caffe's: ceil((size - kernel) / stride) + 1 cells."""

    ceil_mode = True

    def __init__(self, kernel=2, stride=2):
        super().__init__(kernel_size=kernel, stride=stride, pad_mode="valid")
        self.kernel = kernel
        self.step = stride
        if algorithm := cpu_kernels.max_pooling(kernel, stride):
            self.algorithms = (algorithm,)

    def construct(self, x):
        # MindSpore's own ceil_mode is several times slower on CPU.
        below, right = (-(side - self.kernel) % self.step for side in x.shape[2:])
        # Concatenated, because the backward pass of MindSpore's padding can hang on CPU.
        count, channels, height, width = x.shape
        if below:
            x = ops.Concat(2)((x, ops.full((count, channels, below, width), float("-inf"), dtype=x.dtype)))
        if right:
            x = ops.Concat(3)((x, ops.full((count, channels, height + below, right), float("-inf"), dtype=x.dtype)))
        if x.dtype == ms.float32 and self.algorithms:
            return self.algorithms[0](x)
        return super().construct(x)


def conv_block(in_channels, out_channels, kernels, normalise=False, **first):
    """[convolution, (normalisation,) ReLU] for each kernel size; `first`: stride, padding, group of the first one.

    With normalisation: no biases and Xavier weights (the course). Without: biases and He weights, which keep the
    signal alive through sixteen layers.
    """
    cells = []
    for kernel in kernels:
        init = "xavier_uniform" if normalise else HeNormal(mode="fan_in", nonlinearity="relu")
        cells.append(conv(in_channels, out_channels, kernel, bias=not normalise, weight_init=init, **first))
        if normalise:
            cells.append(batch_norm(out_channels))
        cells.append(nn.ReLU())
        in_channels, first = out_channels, {}
    return nn.SequentialCell(cells)


def conv_bn_relu(in_channels, out_channels, count, weight_init="xavier_uniform", kernel=3, padding=None):
    """`count` times [convolution with bias, normalisation, ReLU], as everywhere in DeconvNet.

    Its deconvolutions are built here, too: with stride 1, a transposed convolution padded by p is the convolution
    padded by kernel - 1 - p with its kernels rotated by 180 degrees and its channels swapped. For weights that are
    random at first and learned, both are the same layer, and a convolution's gradients are faster.
    """
    cells = []
    for _ in range(count):
        cells += [conv(in_channels, out_channels, kernel, bias=True, weight_init=weight_init, padding=padding),
                  batch_norm(out_channels, eps=1e-9, shift=0.001), nn.ReLU()]
        in_channels = out_channels
    return nn.SequentialCell(cells)


def deconv_bn_relu(in_channels, out_channels, kernel):
    """[transposed convolution, normalisation, ReLU]: each cell becomes a window of `kernel` by `kernel` cells."""
    deconvolution = nn.Conv2dTranspose(in_channels, out_channels, kernel, stride=1, pad_mode="pad", padding=0,
                                       dilation=1, group=1, has_bias=True, weight_init=Normal(0.01), bias_init="zeros")
    return nn.SequentialCell([deconvolution, batch_norm(out_channels, eps=1e-9, shift=0.001), nn.ReLU()])


class MaxPoolWithIndices(nn.MaxPool2d):
    """Max pooling that also returns the place of each maximum; windows that would reach over the edge are left out.

    Outputs: maxima (N, C, h, w); switches (N, C, h, w) int64, their places in the map read row by row.
    """

    def __init__(self, kernel=2, stride=2):
        super().__init__(kernel_size=kernel, stride=stride, pad_mode="pad", padding=0, return_indices=True)


class MaxUnpool(nn.Cell):
    """Put values back where a MaxPoolWithIndices found its maxima; zeros elsewhere (Noh et al. 2015, section 3.2.1).

    Inputs: (N, c, h, w); switches (N, C, h, w) with C >= c, of which the first c count; the shape (N, C, H, W) of the
        map that was pooled.
    Outputs: (N, c, H, W).
    """

    def __init__(self, kernel=2, stride=2):
        super().__init__()
        self.window = (kernel, stride, 0)
        # max_unpool2d exists on CPU and GPU only.
        self.scatter = ms.get_context("device_target") == "Ascend"

    def construct(self, x, switches, shape):
        count, channels = x.shape[:2]
        if switches.shape[1] > channels:
            switches = switches[:, :channels]
        size = (count, channels, shape[2], shape[3])
        if self.scatter:
            return self.scattered(x, switches, size)
        return ops.max_unpool2d(x, switches, *self.window, output_size=size)

    def scattered(self, x, switches, size):
        """The same result by scattering every value to its place."""
        count, channels, height, width = size
        empty = ops.zeros((count, channels, height * width), x.dtype)  # noqa: TID251 (on Ascend alone)
        flat = (count, channels, -1)
        return ops.tensor_scatter_elements(empty, switches.reshape(flat), x.reshape(flat), 2).reshape(size)


class LRN(nn.Cell):
    """Local response normalisation across 5 channels: x / (1 + 1e-4 / 5 * sum of squares) ** 0.75 (Caffe's)."""

    def construct(self, x):
        # MindSpore's own operator fails on CPU where the channels are a multiple of 16.
        channels = x.shape[1]
        # Not ops.zeros, which leaks memory where operators are called one by one.
        edge = ops.zeros_like(x[:, :1])
        squares = ops.Concat(1)((edge, edge, ops.square(x), edge, edge))
        total = squares[:, :channels]
        for shift in range(1, 5):
            total = total + squares[:, shift:shift + channels]
        return x * ops.pow(1 + total * (1e-4 / 5), -0.75)


class Scale(nn.Cell):
    """A map times a fixed factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def construct(self, x):
        return x if self.factor == 1 else x * self.factor


def score(in_channels, classes, bias):
    """The 1x1 convolution to class scores: zero and with bias in the paper, random and without in the course."""
    return conv(in_channels, classes, 1, bias=bias, weight_init=Zero() if bias else "xavier_uniform")


class Dropout(nn.Cell):
    """Dropout whose masks depend on (seed, step) only, so that a resumed run draws the same ones.

    MindSpore's own dropout keeps hidden generator state that no checkpoint can hold.
    `step` is a state parameter: (1,) int32, not trained, increased by one in each training pass.
    """

    def __init__(self, rate, seed=1):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"dropout rate must be in 0..1 (1 excluded), not {rate}")
        self.rate = rate
        self.seed = seed
        self.step = ms.Parameter(ms.Tensor([0], ms.int32), name="step", requires_grad=False)

    def construct(self, x):
        if not self.training or self.rate == 0:
            return x
        step = ops.assign_add(self.step, ms.Tensor([1], ms.int32))
        keep = random_bits.keep_mask(x.size, self.rate, self.seed, step)
        return x * keep.reshape(x.shape).astype(x.dtype) / (1 - self.rate)
