"""Layers for CPU that are faster or need less memory than MindSpore's kernels; results differ by rounding only.

`convolution`, `transposed_convolution` and `max_pooling` choose them when a layer is built. Every network also runs
without them: set `cpu_kernels.enabled = False` before building it, or the environment variable MINDFCN_CPU_KERNELS=0.
Parameters are the same either way, and so are checkpoints.

A convolution of single channels with a few fixed kernels cuts a map into tiles and transforms them at once; the rest is
a matrix product, the fastest operation on CPUs. The transposed convolution joins the tiles again.
"""

import functools
import os

import mindspore as ms
import numpy as np
from mindspore import nn, ops

# Whether layers that are built for CPU use the convolutions of this module.
enabled = os.environ.get("MINDFCN_CPU_KERNELS", "1") != "0"
# MindSpore's convolutions to more channels than this have gradients that are slow (fc6) or take much memory (fc7).
NARROW = 2048
# From as many channels on, Winograd's convolution saves more time than its transforms cost: backward, and forward.
WINOGRAD_BACKWARD, WINOGRAD = 64, 128
# MindSpore's transposed convolutions of these strides take much memory. {stride: (sides of the blocks that are joined
# first, and of those made of them)}: joining takes the fourth power of a side.
BLOCKS = {**{stride: (1, stride) for stride in range(4, 9)}, 16: (4, 4), 32: (4, 8)}
TILE = 4
# With fewer tiles the kernel's transform costs as much as the products save.
MIN_TILES = 32
# From as many pixels on, the gradients of a batch are computed image by image: all tiles at once would take gigabytes.
LARGE_MAP = 128 * 128
# With the usual points 0, 1, -1, 2, -2 rounding errors are five times larger.
POINTS = (0, 2 / 3, -2 / 3, 3 / 2, -3 / 2)


def convolution(in_channels, out_channels, kernel, stride, padding, group, dilation):
    """The cell that computes a convolution better than MindSpore on this device; None if there is none.

    Args:
        kernel: (height, width).
        padding: one number, or four: above, below, left, right.
    """
    if not enabled or ms.get_context("device_target") != "CPU" or not stride == group == dilation == 1:
        return None
    narrower = min(in_channels, out_channels)
    if kernel == (3, 3) and padding == 1 and narrower >= WINOGRAD_BACKWARD:
        return Winograd(out_channels, direct=narrower < WINOGRAD)
    if kernel != (3, 3) and out_channels > NARROW:
        return WideConv2d(out_channels, kernel, padding)
    return None


def transposed_convolution(channels, kernel, stride, padding):
    """The same for a transposed convolution from `channels` to as many; `kernel` is its side."""
    if enabled and ms.get_context("device_target") == "CPU" and 0 <= 2 * stride - kernel <= 1 and stride in BLOCKS:
        return Upsampling(channels, stride, padding, odd=kernel % 2 == 1)
    return None


def max_pooling(kernel, stride):
    """The same for max pooling without padding."""
    if enabled and ms.get_context("device_target") == "CPU" and kernel == stride:
        return MaxPooling(kernel)
    return None


def transforms():
    """(input (6, 6), kernel (6, 3), output (4, 6)) float64: B^T, G and A^T of the paper for POINTS and infinity.

    A tile and a kernel are polynomials here, and their product is found from its values at six points (Toom and Cook).
    """
    points = np.array(POINTS)
    others = [np.delete(points, place) for place in range(len(points))]
    of_input = np.zeros((6, 6))
    for row, roots in enumerate([*others, points]):
        # The lowest coefficient first.
        of_input[row, :len(roots) + 1] = np.poly(roots)[::-1]
    scale = [np.prod(point - rest) for point, rest in zip(points, others)]
    of_kernel = np.vstack([np.vander(points, 3, increasing=True) / np.array(scale)[:, None], [0, 0, 1]])
    of_output = np.hstack([np.vander(points, TILE, increasing=True).T, np.eye(TILE)[:, -1:]])
    return of_input, of_kernel, of_output


def both_axes(matrix):
    """(rows * rows, 1, columns, columns) float32 Tensor: kernels that apply `matrix` to both axes of a tile."""
    columns = matrix.shape[1]
    return ms.Tensor(np.kron(matrix, matrix).reshape(-1, 1, columns, columns).astype(np.float32))


@ops.constexpr
def reversed_axes_order(first, second, third):
    """(third * second * first,) int32 Tensor: where the rows of `swap` come from."""
    return ms.Tensor(np.arange(first * second * third, dtype=np.int32).reshape(first, second, third).T.flatten())


@ops.constexpr
def place(number):
    """(1,) int32 Tensor: the number."""
    return ms.Tensor([number], ms.int32)


def image(batch, number):
    """(1, C, H, W): one image of a batch, gathered, because MindSpore's slice on CPU takes far longer."""
    return ops.gather(batch, place(number), 0)


def swap(rows, first, second, third):
    """(first, second, third, ...) -> (third * second * first, ...): the first three axes in reverse order.

    Rows are gathered, because MindSpore's transpose on CPU keeps eight bytes for every number that it has moved.
    """
    return ops.gather(rows.reshape(first * second * third, -1), reversed_axes_order(first, second, third), 0)


class Winograd(nn.Cell):
    """The convolution of (N, C, H, W) with (K, C, 3, 3), padded by 1; H and W are multiples of 4.

    Winograd's F(4x4, 3x3) (Lavin and Gray 2016, section 4): a tile of 6x6 pixels gives 4x4 results. Tile and kernel
    are transformed to 6x6 numbers each, and their products, summed over the channels, are transformed back. The sums
    are 36 matrix products, 36 multiplications for 16 results instead of 144.

    Args:
        out_channels: K.
        direct: compute the plain convolution forward, and only the gradients this way; with few channels the
            transforms cost what the products save.
    """

    def __init__(self, out_channels, direct=False):
        super().__init__()
        self.direct = direct
        self.convolution = ops.Conv2D(out_channels, 3, mode=1, pad_mode="pad", pad=1, stride=1, dilation=1, group=1)
        of_input, of_kernel, of_output = transforms()
        # Convolutions of single channels cut the tiles and transform them at once; transposed, they put them together.
        self.input = both_axes(of_input)
        self.kernel = both_axes(of_kernel).reshape(36, 9)
        self.output = both_axes(of_output.T)
        tile = {"mode": 1, "stride": TILE, "dilation": 1, "group": 1, "pad_mode": "pad"}
        self.cut_input = ops.Conv2D(36, 6, pad=1, **tile)
        self.join_input = ops.Conv2DTranspose(36, 6, pad=1, **tile)
        self.cut_output = ops.Conv2D(36, TILE, pad=0, **tile)
        self.join_output = ops.Conv2DTranspose(36, TILE, pad=0, **tile)

    def fits(self, shape):
        """Whether it accepts a map of this shape and is faster on it."""
        tiles = shape[0] * (shape[2] // TILE) * (shape[3] // TILE)
        return shape[2] % TILE == 0 and shape[3] % TILE == 0 and tiles >= MIN_TILES

    def construct(self, x, weight):
        if self.direct:
            return self.convolution(x, weight)
        # Wait for the map: the transformed kernels of all layers at once would take 0.2 GB.
        kernels = self.kernels(ops.depend(weight, x))
        tiles = ops.BatchMatMul()(kernels, self.tiles(self.cut_input, self.input, x))
        return self.join(self.join_output, self.output, tiles, (x.shape[0], weight.shape[0], *x.shape[2:]))

    def kernels(self, weight):
        """(36, K, C) float32: the transformed kernels."""
        kernels = ops.MatMul(transpose_b=True)(self.kernel, weight.reshape(-1, 9))
        return kernels.reshape(36, weight.shape[0], weight.shape[1])

    def tiles(self, cut, transform, x):
        """(36, C, N * H/4 * W/4) float32: transformed tiles of (N, C, H, W)."""
        count, channels, height, width = x.shape
        tiles = cut(x.reshape(count * channels, 1, height, width), transform)
        return swap(tiles, count, channels, 36).reshape(36, channels, -1)

    def join(self, join, transform, tiles, shape):
        """(N, C, H, W) float32 of the given shape, from tiles: the transpose of `tiles`."""
        count, channels, height, width = shape
        tiles = swap(tiles, 36, channels, count).reshape(count * channels, 36, height // TILE, width // TILE)
        return join(tiles, transform, (count * channels, 1, height, width)).reshape(shape)

    def bprop(self, x, weight, result, gradient):
        """Gradients of x and weight, by the transposed transforms."""
        # Kernels and tiles are transformed again, because keeping them would take three times the memory of the maps.
        kernels = self.kernels(ops.depend(weight, gradient))
        if x.shape[0] == 1 or x.shape[2] * x.shape[3] < LARGE_MAP:
            of_x, of_kernels = self.gradients(ops.depend(x, gradient), kernels, gradient)
        else:
            images, of_kernels = (), gradient[0, 0, 0, 0] * 0
            for number in range(x.shape[0]):
                # Wait for the previous image, so that all images use the same memory.
                of_image, more = self.gradients(image(ops.depend(x, of_kernels), number), kernels,
                                                image(ops.depend(gradient, of_kernels), number))
                images, of_kernels = (*images, of_image), of_kernels + more
            of_x = ops.Concat(0)(images)
        return of_x, ops.MatMul(transpose_a=True)(of_kernels, self.kernel).reshape(weight.shape)

    def gradients(self, x, kernels, gradient):
        """Gradients of x and of the transformed kernels, (36, K * C)."""
        gradient = self.tiles(self.cut_output, self.output, gradient)
        of_tiles = ops.BatchMatMul(transpose_a=True)(kernels, gradient)
        of_x = self.join(self.join_input, self.input, of_tiles, x.shape)
        tiles = self.tiles(self.cut_input, self.input, x)
        return of_x, ops.BatchMatMul(transpose_b=True)(gradient, tiles).reshape(36, -1)


class MaxPooling(nn.Cell):
    """Max pooling of windows side by side: `kernel` by `kernel`, of which (N, C, H, W) has a whole number.

    The gradient goes to the first maximum of each window. For it, MindSpore pools again with a reference kernel of
    oneDNN, which takes three times as long as finding the places of the maxima and putting the gradients there.
    """

    def __init__(self, kernel):
        super().__init__()
        self.kernel = kernel
        self.pool = ops.MaxPool(kernel_size=kernel, strides=kernel, pad_mode="valid")

    def construct(self, x):
        return self.pool(x)

    def bprop(self, x, result, gradient):
        """The gradient of x."""
        # Found again, because MindSpore keeps places as int64: twice the memory of the maxima.
        _, places = ops.adaptive_max_pool2d(ops.depend(x, gradient), result.shape[2:], True)
        return (ops.max_unpool2d(gradient, places, self.kernel, self.kernel, 0, output_size=x.shape),)


class WideConv2d(nn.Cell):
    """MindSpore's convolution of (N, C, H, W) with (K, C, *kernel), whose kernel's gradient is one matrix product.

    MindSpore uses a slow reference kernel for the gradient of fc6's kernel.

    Args:
        out_channels: K.
        kernel: (height, width).
        padding: one number, or four: above, below, left, right.
    """

    def __init__(self, out_channels, kernel, padding):
        super().__init__()
        self.convolution = ops.Conv2D(out_channels, kernel, mode=1, stride=1, dilation=1, group=1, pad_mode="pad",
                                      pad=padding)
        self.with_gradient = WithKernelGradient(kernel, padding)

    def fits(self, shape):
        """True: it takes any map."""
        return True

    def construct(self, x, weight):
        return self.with_gradient(self.convolution(x, ops.stop_gradient(weight)), x, weight)


class WithKernelGradient(nn.Cell):
    """The result of a convolution as it is; only its kernel gets a gradient here, as `WideConv2d` describes.

    The kernel takes no part in what is computed here: MindSpore copies a parameter that a cell with its own `bprop`
    computes with, and one that is reshaped: 411 MB for fc6.
    """

    def __init__(self, kernel, padding):
        super().__init__()
        # Kernels of a single 1 copy the pixels below every kernel.
        places = kernel[0] * kernel[1]
        self.pixels = ms.Tensor(np.eye(places, dtype=np.float32).reshape(-1, 1, *kernel))
        self.cut = ops.Conv2D(places, kernel, mode=1, stride=1, dilation=1, group=1, pad_mode="pad", pad=padding)

    def construct(self, result, x, weight):
        return result

    def bprop(self, result, x, weight, _, gradient):
        """Gradients of the result and of the kernel; x gets its own from the convolution."""
        count, channels, height, width = x.shape
        columns = self.cut(ops.depend(x, gradient).reshape(count * channels, 1, height, width), self.pixels)
        rows, out_channels = channels * columns.shape[1], weight.shape[0]
        columns = swap(columns, count, rows, 1).reshape(rows, -1)
        results = swap(gradient, count, out_channels, 1).reshape(out_channels, -1)
        of_weight = ops.MatMul(transpose_b=True)(results, columns)
        return gradient, ops.zeros_like(x), of_weight.reshape(weight.shape)


@ops.constexpr
def block_weight_order(channels, first, second):
    """(channels^2 * first^2 * second^2 * 4,) int32 Tensor: where the weights of `Upsampling`'s convolution lie."""
    return ms.Tensor(_block_weight_order(channels, first, second))


# Operator by operator, each image would compute it again: a fifth of a second for 40 classes.
@functools.lru_cache(maxsize=4)
def _block_weight_order(channels, first, second):
    places = np.arange(channels ** 2 * 4 * (first * second) ** 2, dtype=np.int32)
    places = places.reshape(channels, channels, 2, first, second, 2, first, second)[:, :, ::-1, :, :, ::-1]
    return places.transpose(1, 4, 7, 3, 6, 0, 2, 5).flatten()


class Upsampling(nn.Cell):
    """The transposed convolution of (N, C, H, W) with (C, C, side, side); side is 2 * stride, or one less.

    A block of stride x stride results depends on 2x2 pixels: a convolution gives each pixel of the block a channel, and
    kernels of a single 1 put the blocks together, in two passes where they are large. MindSpore's own keeps, for every
    thread, all products of an image before they are summed, 0.1 GB for 21 classes of 512x512, and as much again for the
    gradient.

    Args:
        channels: C.
        stride: how many times larger the result is.
        padding: pixels cut off on each side.
        odd: whether the side is one less.
    """

    def __init__(self, channels, stride, padding, odd=False):
        super().__init__()
        self.channels, self.stride, self.padding, self.odd = channels, stride, padding, odd
        self.sides = BLOCKS[stride]
        block = stride ** 2
        self.blocks = ops.Conv2D(channels * block, 2, mode=1, pad_mode="pad", pad=1, stride=1, dilation=1, group=1)
        self.pixels = [ms.Tensor(np.eye(side ** 2, dtype=np.float32).reshape(-1, 1, side, side)) for side in self.sides]
        self.join, self.join_again = [ops.Conv2DTranspose(side ** 2, side, mode=1, pad_mode="pad", pad=cut, stride=side,
                                                          dilation=1, group=1)
                                      for side, cut in zip(self.sides, (0, padding))]

    def construct(self, x, weight):
        count, channels, height, width = x.shape
        first, second = self.sides
        if self.odd:
            # A last row and column of zeros changes no result, and adds one below and at the right.
            weight = ops.Concat(2)((weight, ops.zeros_like(weight[:, :, :1])))
            weight = ops.Concat(3)((weight, ops.zeros_like(weight[:, :, :, :1])))
        kernels = ops.gather(weight.reshape(-1), block_weight_order(self.channels, first, second), 0)
        blocks = self.blocks(x, kernels.reshape(-1, channels, 2, 2))
        height, width = height + 1, width + 1
        if first > 1:
            maps = count * channels * second ** 2
            blocks = blocks.reshape(maps, first ** 2, height, width)
            height, width = first * height, first * width
            blocks = self.join(blocks, self.pixels[0], (maps, 1, height, width))
        blocks = blocks.reshape(count * channels, second ** 2, height, width)
        height, width = (second * side - 2 * self.padding for side in (height, width))
        result = self.join_again(blocks, self.pixels[1], (count * channels, 1, height, width))
        result = result.reshape(count, channels, height, width)
        return result[:, :, :height - 1, :width - 1] if self.odd else result
