"""Predictor: the base class of all segmenters, from logits to masks and probabilities."""

from typing import Any, Optional

import numpy as np

from mindfcn.data.transforms import to_input
from mindfcn.logits import mask_of, probabilities_of
from mindfcn.preprocess import Preprocess


class Predictor:
    """Base class of segmenters; subclasses define `logits` and `preprocess`.

    Attributes:
        preprocess: how its input is normalised.
        classes: number of classes of the first head if the network has a second one, else None.
        multilabel: whether classes overlap; masks are then bands (H, W, C) uint8 of 0 and 1, where a class's
            probability is above 0.5.
        reach: pixels to each side beyond which nothing changes an output pixel; None if it is not known.
        stride: multiple of pixels by which a photograph may be cut without moving the network's cells.
        window_problem: why windows of a photograph give another result than the whole; "" if they do not.
    """

    preprocess: Preprocess
    classes: Optional[int] = None
    multilabel = False
    reach: Optional[int] = None
    stride = 32
    window_problem = ""

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32, normalised -> logits (N, classes of all heads, H, W) float32."""
        raise NotImplementedError

    def image_logits(self, image: Any) -> np.ndarray:
        """Logits (classes of all heads, H, W) float32 of one image, (H, W, 3) uint8 BGR or planes as in `to_input`."""
        return self.logits(to_input(image, self.preprocess)[None])[0]

    def __call__(self, image: Any, probabilities: bool = False) -> tuple[np.ndarray, Optional[np.ndarray]]:
        """Segment one photograph of any size.

        Args:
            image: (H, W, 3) uint8 BGR, or planes, as `to_input` takes them.
            probabilities: also return the softmax, or the sigmoid where classes overlap.

        Returns:
            mask (H, W) uint8, or bands (H, W, C) uint8; probabilities (C, H, W) float32, or None.

        Raises:
            UserError: the image has another shape or dtype.
        """
        if not probabilities:
            return self.image_mask(image), None
        logits, _ = self.split(self.image_logits(image))
        return mask_of(logits, self.multilabel), probabilities_of(logits, self.multilabel)

    def geometric(self, image: Any) -> np.ndarray:
        """(H, W) uint8: the second head's classes of an image."""
        return self.image_mask(image, 1)

    def image_mask(self, image: Any, head: int = 0) -> np.ndarray:
        """Classes (H, W) uint8, or bands (H, W, C) uint8, of an image by its first head, 0, or its second one, 1."""
        return mask_of(self.split(self.image_logits(image))[head], self.multilabel and not head)

    def split(self, logits: np.ndarray) -> tuple[np.ndarray, Optional[np.ndarray]]:
        """Logits (classes of all heads, H, W) -> (logits of the first head, logits of the second head or None)."""
        return (logits, None) if self.classes is None else (logits[:self.classes], logits[self.classes:])
