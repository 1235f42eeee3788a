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

from mindfcn.console import SILENT
from mindfcn.data.transforms import to_input
from mindfcn.errors import UserError
from mindfcn.memory import available_memory

# Bytes for a pixel of a whole photograph: VGG16, the widest network, takes 850 as a compiled graph, measured, and more
# in PyNative mode. Share of the free memory for them. Photographs up to the last number of pixels are never cut.
BYTES, SHARE, SMALLEST = 1500, 0.6, 2 ** 20


@dataclasses.dataclass(frozen=True)
class Span:
    """A window along one axis, in pixels: it covers `start` to `stop` and gives the result from `first` to `last`."""
    start: int
    stop: int
    first: int
    last: int

    @property
    def inner(self):
        """The pixels of the window that it gives the result of, as a slice."""
        return slice(self.first - self.start, self.last - self.start)


class SlidingWindow:
    """A segmenter that processes a photograph window by window.

    Args:
        segmenter: Segmenter or OnnxSegmenter.
        window: side of the windows, pixels; rounded up to a multiple of the network's stride.
        overlap: pixels that neighbouring windows share, rounded up likewise; None: as many as avoid seams.

    Raises:
        UserError: the windows are not larger than their overlap, the reach of the network is not known, or windows give
            another result.
    """

    def __init__(self, segmenter, window, overlap=None):
        self.segmenter = segmenter
        if problem := getattr(segmenter, "window_problem", ""):
            raise UserError(f"--window: windows give another result with this network: {problem}")
        reach = getattr(segmenter, "reach", None)
        if overlap is None and reach is None:
            raise UserError("--window: the receptive field of this network is not known here; give --overlap, at "
                            "least the receptive field (mindfcn describe NAME prints it)")
        self.stride = getattr(segmenter, "stride", 32)
        self.window = up_to_multiple(window, self.stride)
        self.overlap = up_to_multiple(2 * reach if overlap is None else overlap, self.stride)
        if overlap is not None and overlap < 0 or self.window <= self.overlap:
            raise UserError(f"--window {window}: must be larger than the overlap, {self.overlap} pixels; take "
                            f"--window {up_to_multiple(2 * self.overlap or 512, 256)}, or a smaller --overlap, which "
                            "may leave seams")

    def __call__(self, image, probabilities=False):
        """Segment one photograph of any size, (H, W, 3) uint8 BGR.

        Without probabilities, this needs the memory of one window and of the mask.

        Returns:
            mask (H, W) uint8, or bands (H, W, C) uint8; probabilities (C, H, W) float32, or None.
        """
        mask = found = None
        for rows, columns, crop in self.crops(image):
            here = slice(rows.first, rows.last), slice(columns.first, columns.last)
            part, part_probabilities = self.segmenter(crop, probabilities)
            if mask is None:
                mask = np.empty((*image.shape[:2], *part.shape[2:]), np.uint8)
            mask[here] = part[rows.inner, columns.inner]
            if probabilities:
                if found is None:
                    found = np.empty((len(part_probabilities), *image.shape[:2]), np.float32)
                found[:, here[0], here[1]] = part_probabilities[:, rows.inner, columns.inner]
        return mask, found

    def blocks(self, image):
        """Yield (rows, columns, logits (C, h, w) float32): Spans, and the logits between their `first` and `last`."""
        for rows, columns, crop in self.crops(image):
            logits = self.segmenter.logits(to_input(crop, self.segmenter.preprocess)[None])[0]
            yield rows, columns, logits[:, rows.inner, columns.inner]

    def crops(self, image):
        """Yield (rows, columns, crop (h, w, 3) uint8 BGR) of each window: its Spans and its pixels."""
        for rows in spans(image.shape[0], self.window, self.overlap, self.stride):
            for columns in spans(image.shape[1], self.window, self.overlap, self.stride):
                yield rows, columns, image[rows.start:rows.stop, columns.start:columns.stop]


class AutomaticWindows:
    """A segmenter that processes photographs too large for the memory window by window.

    Args:
        segmenter: function as `SlidingWindow` is; a Predictor whose reach is known is needed for windows.
        console: Console that shows the first time that windows are used.

    Attributes:
        largest: pixels of the largest photograph that is segmented whole.
    """

    def __init__(self, segmenter, console=SILENT):
        self.segmenter, self.console, self.noted = segmenter, console, False
        self.largest = max(SMALLEST, int(SHARE * available_memory() / BYTES))

    def __call__(self, image, probabilities=False):
        """Segment one photograph. Same values as those of the segmenter."""
        tiled = self.windows(image)
        if tiled is None:
            return self.segmenter(image, probabilities)
        if not self.noted:
            self.noted = True
            self.console.say(f"{image.shape[1]}x{image.shape[0]} pixels may exceed the memory: photographs of more "
                             f"than {self.largest / 1e6:.1f} million pixels are segmented in windows of {tiled.window} "
                             "(--window), with the same result")
        return tiled(image, probabilities)

    def windows(self, image):
        """The SlidingWindow for a photograph; None if it fits whole, or windows give another result or do not fit."""
        reach = getattr(self.segmenter, "reach", None)
        # A photograph of another modality is a dictionary of planes, and windows have one head.
        if reach is None or self.segmenter.window_problem or isinstance(image, dict) or self.segmenter.classes:
            return None
        side = math.isqrt(self.largest) // self.segmenter.stride * self.segmenter.stride
        fits = image.shape[0] * image.shape[1] <= self.largest or side <= 2 * (reach + self.segmenter.stride)
        return None if fits else SlidingWindow(self.segmenter, side)


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
