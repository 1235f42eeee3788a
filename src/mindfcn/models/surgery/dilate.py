"""Filter rarefaction: strides become dilations, so that the same filters see every position (Long et al. 2015,
section 3.2).

A layer of stride s that keeps every position gives the layers after it s times as many; a filter f after it becomes
f'[i, j] = f[i / s, j / s] where s divides i and j, and 0 elsewhere: a dilation by s. The factors multiply from layer to
layer. The result equals shift-and-stitch (`mindfcn.inference.shift_and_stitch`) at a fraction of its cost.
"""

import collections
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindfcn.mindspore_versions import forward_hooks
from mindfcn.models.analysis.receptive_field import padding_of
from mindfcn.models.layers import CpuConv2d, as_pair

# stride, dilation: (down, across); padding: above, below, left, right
Window = collections.namedtuple("Window", "kernel stride dilation padding")


class DilatedPool(nn.Cell):
    """The common part of dilated max and average pooling: the values at each place of the window.

    Args:
        kernel_size, stride, dilation: one number, or (down, across).
        padding: one number, or four: above, below, left, right.
    """

    pad_mode = "pad"
    pad_value = 0.0

    def __init__(self, kernel_size, stride=1, dilation=1, padding=0):
        super().__init__()
        self.kernel_size, self.stride, self.dilation = map(as_pair, (kernel_size, stride, dilation))
        self.padding = padding if isinstance(padding, tuple) else (padding,) * 4
        (high, wide), (down, across) = self.kernel_size, self.dilation
        self.starts = [(row * down, column * across) for row in range(high) for column in range(wide)]

    def places(self, x):
        """Shifted slices of (N, C, H, W), one for each place of the window, row by row."""
        above, below, left, right = self.padding
        if above or below or left or right:
            x = ops.pad(x, (left, right, above, below), value=self.pad_value)
        (down, across), (last_row, last_column) = self.stride, self.starts[-1]
        height, width = x.shape[2] - last_row, x.shape[3] - last_column
        return [x[:, :, row:row + height:down, column:column + width:across] for row, column in self.starts]


class DilatedMaxPool(DilatedPool):
    """Max pooling with `dilation` between the places of its window; padding never wins (see DilatedPool)."""

    pad_value = float("-inf")

    def construct(self, x):
        places = self.places(x)
        largest = places[0]
        for place in places[1:]:
            largest = ops.maximum(largest, place)
        return largest


class DilatedAvgPool(DilatedPool):
    """Average pooling with `dilation` (see DilatedPool); `count_padding`: the zeros of the padding are averaged too."""

    def __init__(self, kernel_size, stride=1, dilation=1, padding=0, count_padding=True):
        super().__init__(kernel_size, stride, dilation, padding)
        self.count_padding = count_padding

    def construct(self, x):
        if self.count_padding:
            return self._sum(x) / float(self.kernel_size[0] * self.kernel_size[1])
        return self._sum(x) / self._sum(ops.ones_like(x[:1, :1]))

    def _sum(self, x):
        places = self.places(x)
        total = places[0]
        for place in places[1:]:
            total = total + place
        return total


# The cells that may have strides and can be dilated.
WINDOWED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, DilatedPool)


def dilate(net: nn.Cell, output_stride: int = 1, image_size: int = 256) -> nn.Cell:
    """Give a network a finer output stride: larger strides become dilations of the layers after them.

    The network is changed in place, and compiled again if it was; parameters keep their names, shapes and values.
    Every (old stride / output_stride)-th row and column of its new map is its old map, unless a layer averages over
    the whole map (squeeze-and-excitation). Works for any graph of nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d and cells
    without strides: the stride at each layer's input is measured by two runs. Padding of the mode "same" becomes
    the padding that the image measured has.

    Args:
        net: cell from images (N, 3, H, W) float32 to maps, without upsampling.
        output_stride: largest stride that stays, pixels.
        image_size: side of the smaller image measured, pixels: a multiple of all strides, large enough for the
            network.

    Returns:
        The network.

    Raises:
        ValueError: the strides cannot be measured at this size, do not divide, or one cell is used at several strides;
            a layer that cannot be dilated.
    """
    changes: dict[str, Any] = {}
    for name, cell, size, before in input_strides(net, image_size):
        own = as_pair(cell.stride)
        steps = [_step(*axis, output_stride, name) for axis in zip(before, own)]
        change = None if steps == [(own[0], 1), (own[1], 1)] else _dilated_window(_window(cell, size, name), steps)
        if changes.setdefault(cell, change) != change:
            raise ValueError(f"{name} is used at several strides; give each use a cell of its own")
    for parent in [cell for _, cell in net.cells_and_names()]:
        for name, cell in list(parent._cells.items()):
            if changes.get(cell) is None:
                continue
            if isinstance(cell, nn.Conv2d):
                _set_window(cell, changes[cell])
            else:
                _replace(parent, name, _dilated_pool(cell, changes[cell]))
    # MindSpore would use the graph that it compiled before the change.
    net.compile_cache.clear()
    return net


def input_strides(net, image_size=256):
    """Measure how many pixels of the image lie between neighbours on the input map of each windowed layer.

    A network gives image_size / stride more rows for an image twice as high, whatever its padding.

    Returns:
        list of (name, cell, (height, width) of its map, (stride down, across)), in the order of the computation; layers
        on maps of fixed size, such as 1x1, are left out.

    Raises:
        ValueError: a stride is not an integer, comes from none of the known layers, or the network enlarges maps.
    """
    found, known = [], {(1, 1)}
    for (name, cell, size), (_, _, twice) in zip(*(_inputs(net, side) for side in (image_size, 2 * image_size))):
        more = [two - one for one, two in zip(size, twice)]
        if not all(more):
            continue
        before = tuple(image_size // rows for rows in more)
        if any(image_size % rows for rows in more) or before not in known:
            raise ValueError(f"the stride at {name} is not the product of those of the layers before it; measure with "
                             f"a multiple of all strides, not {image_size}, and make every stride that of a "
                             "convolution or pooling cell")
        found.append((name, cell, size, before))
        known.add(tuple(at * own for at, own in zip(before, as_pair(cell.stride))))
    return found


def _inputs(net, side):
    """(name, cell, (height, width) of its input) of each layer with a window, as they run on an empty image."""
    found, hooks = [], []
    for name, cell in net.cells_and_names():
        if isinstance(cell, nn.Conv2dTranspose):
            raise ValueError(f"{name} enlarges its map; dilate the network before it")
        if isinstance(cell, WINDOWED):
            hooks.append((cell, lambda cell, inputs, output, name=name: found.append(
                (name, cell, inputs[0].shape[2:]))))
    mode, training = ms.get_context("mode"), [(cell, cell.training) for _, cell in net.cells_and_names()]
    ms.set_context(mode=ms.PYNATIVE_MODE)
    net.set_train(False)
    try:
        with forward_hooks(hooks):
            net(ms.Tensor(np.zeros((1, 3, side, side), np.float32)))
    finally:
        ms.set_context(mode=mode)
        for cell, flag in training:
            cell.set_train(flag)
    return found


def _step(before, own, target, name):
    """(stride, further dilation) of a layer from stride `before` to before * own, where `target` is the largest."""
    now, then = min(before, target), min(before * own, target)
    if before % now or then % now or before * own % then:
        raise ValueError(f"output stride {target} does not divide the strides at {name}, {before} and {before * own}")
    return then // now, before // now


def _dilated_window(old, steps):
    return old._replace(stride=tuple(stride for stride, _ in steps),
                        dilation=tuple(own * factor for own, (_, factor) in zip(old.dilation, steps)),
                        padding=tuple(side * steps[at // 2][1] for at, side in enumerate(old.padding)))


def _window(cell, size, name):
    """The Window of a layer on a map of `size`, with its padding as numbers."""
    kernel, stride, dilation = as_pair(cell.kernel_size), as_pair(cell.stride), as_pair(getattr(cell, "dilation", 1))
    ceil = getattr(cell, "ceil_mode", False)
    if cell.pad_mode.lower() == "same":
        padding = sum((_same_padding(*side) for side in zip(size, kernel, stride, dilation)), ())
    else:
        padding = padding_of(cell)
    if isinstance(cell, nn.MaxPool2d) and cell.use_pad:
        dilation, ceil = cell.max_pool.dilation[1:], cell.max_pool.ceil_mode
        if cell.return_indices:
            raise ValueError(f"{name} returns indices, which mean nothing on a map of another size")
    elif isinstance(cell, nn.AvgPool2d) and cell.pad_mode.lower() == "pad":
        ceil = cell.avg_pool.ceil_mode
        if cell.avg_pool.divisor_override:
            raise ValueError(f"{name} has a divisor of its own; leave it out")
    if ceil:
        padding = _ceil_mode_padding(padding, kernel, stride, dilation, cell, name)
    return Window(kernel, stride, dilation, padding)


def _same_padding(size, kernel, stride, dilation):
    """Padding of the mode "same" before the map, and after it as much as stride 1 needs to keep the size."""
    reach = (kernel - 1) * dilation
    before = max(0, (-(-size // stride) - 1) * stride + reach + 1 - size) // 2
    return before, reach - before


def _ceil_mode_padding(padding, kernel, stride, dilation, cell, name):
    """Padding that replaces `ceil_mode`: it ends where the last window ends that reaches over the edge."""
    above, below, left, right = padding
    if isinstance(cell, nn.AvgPool2d) or any(start + own > high for start, own, high
                                             in zip((above, left), stride, kernel)) or dilation != (1, 1):
        raise ValueError(f"{name} reaches over the edge (ceil_mode); use max pooling with kernel >= stride + padding")
    return above, below + stride[0] - 1, left, right + stride[1] - 1


def _set_window(conv, window):
    """Change a convolution in place: its attributes, and the operators that compute it."""
    conv.stride, conv.dilation, conv.padding, conv.pad_mode = window.stride, window.dilation, window.padding, "pad"
    if isinstance(conv, CpuConv2d):
        conv.use_mindspore_kernels()
    for name, operator in list(vars(conv).items()):
        if isinstance(operator, ops.Conv2D):
            setattr(conv, name, ops.Conv2D(operator.out_channel, conv.kernel_size, mode=1, pad_mode="pad",
                                           pad=window.padding, stride=window.stride, dilation=window.dilation,
                                           group=operator.group))


def _dilated_pool(pool, window):
    if isinstance(pool, (nn.MaxPool2d, DilatedMaxPool)):
        return DilatedMaxPool(*window)
    if isinstance(pool, DilatedAvgPool):
        return DilatedAvgPool(*window, pool.count_padding)
    mode = pool.pad_mode.lower()
    return DilatedAvgPool(*window, mode == "valid" or mode == "pad" and pool.avg_pool.count_include_pad)


def _replace(parent, name, cell):
    if isinstance(parent, (nn.SequentialCell, nn.CellList)):
        parent[list(parent._cells).index(name)] = cell
    else:
        setattr(parent, name, cell)
