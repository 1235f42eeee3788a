"""A dense prediction from a coarse network, by running it on shifted images (Long et al. 2015, section 3.2)."""

from collections.abc import Callable

import mindspore as ms
import numpy as np


def shift_and_stitch(net: Callable[[ms.Tensor], ms.Tensor], image: np.ndarray, stride: int, output_stride: int = 1,
                     fill: bool = False) -> np.ndarray:
    """Run a network of output stride f on the image without its first y rows and x columns, and interlace the results.

    Without padding in the network, entry (i, j) of the result is what the network gives for the window whose first
    pixel is (i, j) * output_stride, for every window inside the image: the network slid pixel by pixel. Its centre
    lies half a receptive field further down and right. With padding, entries whose windows reach over the edge of the
    image see the zeros where the shift put them, and not where a slid network would.

    Args:
        net: cell or function from (N, C, H, W) float32 Tensors to (N, D, h, w) Tensors.
        image: (N, C, H, W) float32, array or Tensor.
        stride: f, the network's output stride in pixels; any whole number.
        output_stride: that of the result; shifts are its multiples. A divisor of `stride`.
        fill: add zeros below and at the right first, so that all runs have the image's size: one compilation in graph
            mode, and f h / output_stride entries. Those at the end have windows that reach into the zeros.

    Returns:
        (N, D, H', W') float32 array. H' is the sum of the heights of all shifts: H - k + 1 at output stride 1, for a
        network of receptive field k without padding.

    Raises:
        ValueError: the strides do not divide, the image is too small to be shifted, or the network's maps do not
            interlace: its output stride is another.
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
    """Rows of maps (N, D, h, w), one per shift, -> one map whose every len(maps)-th row and column is each of them.

    Raises:
        ValueError: their sizes do not interlace.
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
