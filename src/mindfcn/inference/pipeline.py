"""The complete inference pipeline: sliding windows, then scales and mirroring, then the fully connected CRF."""

from collections.abc import Callable
from typing import Any, Optional

import numpy as np

from mindfcn.combinations import CRF, FLIP, SCALES, SIDE, WINDOW, check
from mindfcn.console import SILENT, Console
from mindfcn.data.transforms import check_image
from mindfcn.errors import UserError
from mindfcn.inference.crf import crf_of, permutohedral
from mindfcn.inference.multi_scale import average_views
from mindfcn.inference.sliding_window import AutomaticWindows, SlidingWindow
from mindfcn.logits import mask_of
from mindfcn.preprocess import COURSE
from mindfcn.weights.card import Card

# Longer side in shorter sides, as in mmsegmentation's scale of 2048x512.
LONGEST = 4


class Inference:
    """A segmenter with sliding windows, multi-scale averaging and CRF around its network; called like a segmenter.

    Args:
        segmenter: function (image (H, W, 3) uint8 BGR, probabilities=False) -> (mask (H, W) uint8, probabilities
            (C, H, W) float32 or None): a Segmenter, OnnxSegmenter, or any other predictor.
        config: EvalConfig, PredictConfig, or any object with `scales`, `flip`, `window`, `overlap` and `crf`; its
            `shorter_side`, if it has one and it is not None, replaces the argument.
        shorter_side: side that photographs are resized to before `scales`, pixels, by at most as much as makes the
            longer side LONGEST times as long; 0 keeps their size.
        console: Console that shows when photographs are too large for the memory and are cut into windows.

    Attributes:
        plain: whether photographs keep their size, and there is one scale, no mirroring and no CRF.
        whole: whether no windows are asked for.

    Raises:
        UserError: invalid settings, or the CRF's package is missing.
    """

    def __init__(self, segmenter: Callable[..., tuple[np.ndarray, Optional[np.ndarray]]], config: Any,
                 shorter_side: int = 0, console: Console = SILENT) -> None:
        if not config.scales or min(config.scales) <= 0 or max(config.scales) > 8:
            raise UserError(f"--scales {' '.join(map(str, config.scales))}: give factors above 0 and at most 8, such "
                            "as --scales 0.75 1 1.25")
        if config.window < 0 or config.overlap is not None and not config.window:
            raise UserError("--overlap: give --window, the side of the windows in pixels, too")
        self.segmenter: Any = (SlidingWindow(segmenter, config.window, config.overlap) if config.window
                               else AutomaticWindows(segmenter, console))
        # A plain function has none, and takes photographs.
        self.preprocess = getattr(segmenter, "preprocess", COURSE)
        self.whole = not config.window
        self.scales, self.flip = tuple(config.scales), config.flip
        self.multilabel = getattr(segmenter, "multilabel", False)
        self.crf = crf_of(config.crf) if config.crf else None
        chosen = getattr(config, "shorter_side", None)
        self.shorter_side = shorter_side if chosen is None else chosen
        self.plain = self.scales == (1.0,) and not self.flip and self.crf is None and not self.shorter_side

    def check(self, card: Optional[Card]) -> None:
        """Raise UserError if a method does not go with the network's input or heads."""
        if card:
            given = {SCALES: self.scales != (1.0,), FLIP: self.flip, WINDOW: not self.whole, CRF: self.crf is not None,
                     SIDE: bool(self.shorter_side)}
            for method, used in given.items():
                if used:
                    check(method, *card.inputs)

    def __call__(self, image: np.ndarray, probabilities: bool = False) -> tuple[np.ndarray, Optional[np.ndarray]]:
        """Segment one photograph, (H, W, 3) uint8 BGR, of any size.

        Returns:
            mask (H, W) uint8, or bands (H, W, C) uint8; probabilities (C, H, W) float32, or None.

        Raises:
            UserError: the image has another shape or dtype.
        """
        check_image(image, self.preprocess)
        if self.plain:
            return self.segmenter(image, probabilities)
        factor = self.factor(image)
        found = average_views(self.segmenter, image, [factor * scale for scale in self.scales], self.flip)
        if self.crf is not None:
            found = permutohedral(image, found, self.crf)
        return mask_of(found, self.multilabel, 0.5), found if probabilities else None

    def factor(self, image: np.ndarray) -> float:
        """By which an image's sides are multiplied to have the shorter side; 1 without one."""
        if not self.shorter_side:
            return 1.0
        return min(self.shorter_side / min(image.shape[:2]), LONGEST * self.shorter_side / max(image.shape[:2]))
