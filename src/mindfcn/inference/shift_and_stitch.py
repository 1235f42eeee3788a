"""Shift-and-stitch: dense prediction by running a coarse network on shifted images (Long et al. 2015, section 3.2)."""

from collections.abc import Callable

import mindspore as ms
import numpy as np


def shift_and_stitch(net: Callable[[ms.Tensor], ms.Tensor], image: np.ndarray, stride: int, output_stride: int = 1,
                     fill: bool = False) -> np.ndarray:
    """Run a network of output stride f on the image without its first y rows and x columns, and interlace the results.

    For a network without padding, entry (i, j) of the result is the network's output for the window whose first pixel
    is (i, j) * output_stride, for every window inside the image, as if the network were applied at each position. The
    centre of a window is half a receptive field further down and right. With padding, windows that reach over the edge
    of the image differ from this: the zeros move with the shift.

    Args:
        net: cell or function from (N, C, H, W) float32 Tensors to (N, D, h, w) Tensors.
        image: (N, C, H, W) float32, array or Tensor.
        stride: f, the network's output stride in pixels; any positive integer.
        output_stride: output stride of the result, a divisor of `stride`; shifts are its multiples.
        fill: first pad with zeros below and at the right, so that all shifted images have the image's size: graph
            mode compiles once, and the result has f h / output_stride rows. Windows of the last ones include zeros.

    Returns:
        (N, D, H', W') float32 array. H' is the sum of the heights of all shifts: H - k + 1 at output stride 1, for a
        network of receptive field k without padding.

    Raises:
        ValueError: `output_stride` does not divide `stride`, the image is too small to be shifted, or the maps do not
            interlace because the network has another output stride.
    """
    if output_stride < 1 or stride % output_stride:
        raise ValueError(f"output stride {output_stride} must divide the network's, {stride}")
    image = image.asnumpy() if isinstance(image, ms.Tensor) else np.asarray(image, np.float32)
    height, width = image.shape[2:]
    if fill:
        end = stride - output_stride
        image = np.pad(image, ((0, 0), (0, 0), (0, end), (0, end)))
    elif min(height, width) < stride:
        raise ValueError(f"an image of {height}x{width} cannot be shifted by {stride - 1} pixels")
    shifts = range(0, stride, output_stride)
    maps = [[net(ms.Tensor(image[:, :, y:y + height, x:x + width])).asnumpy() for x in shifts] for y in shifts]
    return interlace(maps)


def interlace(maps):
    """Interlace maps[y][x] (N, D, h, w), one for each shift, into one map of which they are every len(maps)-th row and
    column.

    Raises:
        ValueError: the sizes do not interlace.
    """
    factor = len(maps)
    height, width = sum(row[0].shape[2] for row in maps), sum(each.shape[3] for each in maps[0])
    stitched = np.empty((*maps[0][0].shape[:2], height, width), maps[0][0].dtype)
    for y, row in enumerate(maps):
        for x, each in enumerate(row):
            place = stitched[:, :, y::factor, x::factor]
            if place.shape != each.shape:
                raise ValueError(f"the map of shift ({y}, {x}) has shape {each.shape}, not {place.shape}; "
                                 "give the network's output stride")
            place[:] = each
    return stitched
