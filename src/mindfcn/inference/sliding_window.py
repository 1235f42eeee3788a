"""Seamless sliding windows, for photographs that do not fit into memory.

An output pixel depends on the input pixels within the network's reach: half the receptive field plus the extent of the
upsampling. Neighbouring windows overlap by twice the reach, and each discards half of the overlap, so every output
pixel comes from a window that contains all pixels it depends on. The outer edges of windows are edges of the
photograph, where the network pads as for the whole photograph, and windows start at multiples of the network's stride,
so its cells have the same positions. The result is therefore that of the whole photograph.
"""

import dataclasses
import math

import numpy as np

from mindfcn.data.transforms import to_input
from mindfcn.errors import UserError
from mindfcn.logits import argmax, softmax


@dataclasses.dataclass(frozen=True)
class Span:
    """A window along one axis, in pixels: it covers `start` to `stop` and gives the result from `first` to `last`."""
    start: int
    stop: int
    first: int
    last: int


class SlidingWindow:
    """A segmenter that processes a photograph window by window.

    Args:
        segmenter: Segmenter or OnnxSegmenter.
        window: side of the windows, pixels; rounded up to a multiple of the network's stride.
        overlap: pixels that neighbouring windows share, rounded up likewise; None: as many as avoid seams.

    Raises:
        UserError: the windows are not larger than their overlap, or the reach of the network is not known.
    """

    def __init__(self, segmenter, window, overlap=None):
        self.segmenter = segmenter
        known = hasattr(getattr(segmenter, "net", None), "reach")
        if overlap is None and not known:
            raise UserError("--window: the receptive field of this network is not known here; give --overlap, at "
                            "least the receptive field (mindfcn describe NAME prints it)")
        self.stride = segmenter.net.stride if known else 32
        self.window = up_to_multiple(window, self.stride)
        self.overlap = up_to_multiple(2 * segmenter.net.reach if overlap is None else overlap, self.stride)
        if overlap is not None and overlap < 0 or self.window <= self.overlap:
            raise UserError(f"--window {window}: must be larger than the overlap, {self.overlap} pixels; take "
                            f"--window {up_to_multiple(2 * self.overlap or 512, 256)}, or a smaller --overlap, which "
                            "may leave seams")

    def __call__(self, image, probabilities=False):
        """Segment one photograph of any size, (H, W, 3) uint8 BGR.

        Without probabilities, this needs the memory of one window and one byte per pixel.

        Returns:
            mask (H, W) uint8; probabilities (C, H, W) float32, or None.
        """
        mask, found = np.empty(image.shape[:2], np.uint8), None
        for rows, columns, logits in self.blocks(image):
            here = slice(rows.first, rows.last), slice(columns.first, columns.last)
            mask[here] = argmax(logits)
            if probabilities:
                if found is None:
                    found = np.empty((len(logits), *image.shape[:2]), np.float32)
                found[(slice(None), *here)] = softmax(logits)
        return mask, found

    def blocks(self, image):
        """Yield (rows, columns, logits (C, h, w) float32): Spans, and the logits between their `first` and `last`."""
        for rows in spans(image.shape[0], self.window, self.overlap, self.stride):
            for columns in spans(image.shape[1], self.window, self.overlap, self.stride):
                crop = image[rows.start:rows.stop, columns.start:columns.stop]
                logits = self.segmenter.logits(to_input(crop, self.segmenter.preprocess)[None])[0]
                yield rows, columns, logits[:, rows.first - rows.start:rows.last - rows.start,
                                            columns.first - columns.start:columns.last - columns.start]


def spans(size, window, overlap, stride):
    """The windows along `size` pixels: list of Span whose results are adjacent and cover everything.

    `window` and `overlap` are multiples of `stride`. The last window also starts at a multiple and may be shorter.
    """
    starts = list(range(0, max(1, size - overlap), window - overlap))
    starts[-1] = min(starts[-1], up_to_multiple(max(0, size - window), stride))
    stops = [min(start + window, size) for start in starts]
    seams = [0, *((stop + start) // 2 for stop, start in zip(stops, starts[1:])), size]
    return [Span(*bounds) for bounds in zip(starts, stops, seams, seams[1:])]


def up_to_multiple(value, of):
    """`value`, rounded up to a multiple."""
    return math.ceil(value / of) * of
