"""Stride, receptive field and position of a map's cells on the image, computed from the layers.

The paper's nets crop maps to align them ("crop at 5, 9, 31"); these numbers follow from kernels, strides and paddings.
"""

import collections
import dataclasses
import math
from fractions import Fraction

from mindspore import nn

# kernel (as dilated), stride, padding before and after the map, along one side
Window = collections.namedtuple("Window", "kernel stride before after")


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """A map's place on the image, along one side; without arguments, the place of the image itself.

    Attributes:
        stride: pixels from one cell to the next.
        centre: the pixel in the middle of cell 0's receptive field; below 0 before the image.
        field: side of a cell's receptive field, pixels.
    """
    stride: Fraction = Fraction(1)
    centre: Fraction = Fraction(0)
    field: Fraction = Fraction(1)

    def after(self, *cells, size=None):
        """The ReceptiveField after some layers; a cell with `branches`, tuples of cells, counts as the widest of them.

        Args:
            cells: layers, SequentialCells of them, or cells with `branches`.
            size: cells of the map before, which padding of the mode "same" depends on.
        """
        here = self
        for cell in cells:
            if isinstance(cell, nn.SequentialCell):
                here = here.after(*cell.cell_list)
            elif hasattr(cell, "branches"):
                here = max((here.after(*branch) for branch in cell.branches), key=lambda branch: branch.field)
            else:
                here = here._after_window(window(cell, size))
        return here

    def _after_window(self, win):
        if win is None:
            return self
        return ReceptiveField(self.stride * win.stride,
                        self.centre + self.stride * (Fraction(win.kernel - 1, 2) - win.before),
                        self.field + self.stride * (win.kernel - 1))


def map_receptive_fields(paths):
    """{map: ReceptiveField} from {map: layers from the map before}."""
    here, found = ReceptiveField(), {}
    for name, cells in paths.items():
        here = found[name] = here.after(*cells)
    return found


def window(cell, size=None):
    """The Window of a convolution or pooling; None for a layer that works cell by cell.

    Raises:
        ValueError: padding of the mode "same" without the `size` of the map, or a layer that enlarges the map.
    """
    if isinstance(cell, nn.Conv2dTranspose):
        raise ValueError("a transposed convolution has no window")
    if isinstance(cell, nn.Pad):
        return Window(1, 1, *cell.paddings[2])
    if not hasattr(cell, "kernel_size"):
        return None
    kernel = _side(cell.kernel_size) + (_side(getattr(cell, "dilation", 1)) - 1) * (_side(cell.kernel_size) - 1)
    stride = _side(cell.stride)
    if cell.pad_mode.lower() == "same":
        if size is None and stride > 1:
            raise ValueError("padding of the mode \"same\" depends on the size of the map")
        total = max(0, kernel - stride if stride == 1 else (math.ceil(size / stride) - 1) * stride + kernel - size)
        return Window(kernel, stride, total // 2, total - total // 2)
    above, below, _, _ = padding_of(cell)
    return Window(kernel, stride, above, below)


def padding_of(cell):
    """(above, below, left, right) of a convolution or pooling whose padding is not of the mode "same"."""
    if cell.pad_mode.lower() == "valid":
        return (0,) * 4
    if isinstance(cell, nn.MaxPool2d):
        _, down, across = cell.max_pool.pads
        return (down, down, across, across)
    if isinstance(cell, nn.AvgPool2d):
        return tuple(cell.avg_pool.pad[2:])
    return cell.padding if isinstance(cell.padding, tuple) else (cell.padding,) * 4


def alignment(coarse, fine):
    """How a transposed convolution aligns a map with a finer one.

    Its kernel is 2 factor, or 2 factor - 1 where the coarse cells lie on the middles of fine ones.

    Args:
        coarse, fine: ReceptiveField of both maps.

    Returns:
        (factor, kernel, offset): the first `offset` cells of the upsampled map, computed without padding, lie before
        cell 0 of the finer map; where negative, as many cells of the finer map lie before the upsampled one.

    Raises:
        ValueError: no kernel aligns the cells.
    """
    factor = coarse.stride / fine.stride
    shift = (coarse.centre - fine.centre) / fine.stride
    kernel = 2 * factor - (shift.denominator == 1)
    offset = (kernel - 1) / 2 - shift
    if factor.denominator != 1 or offset.denominator != 1:
        raise ValueError(f"cells {coarse.stride} pixels apart from {coarse.centre} on cannot be aligned with cells "
                         f"{fine.stride} apart from {fine.centre} on")
    return int(factor), int(kernel), int(offset)


def _side(value):
    return value[-1] if isinstance(value, tuple) else value
