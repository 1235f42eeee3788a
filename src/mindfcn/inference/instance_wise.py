"""Instance-wise prediction: segment many windows of a photograph and combine their scores.

This finds objects larger or smaller than the network's input window (Noh et al. 2015, section 4.2).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from mindfcn.combinations import PROPOSALS, WINDOW, reason
from mindfcn.data.transforms import to_input
from mindfcn.inference.network import resized
from mindfcn.inference.predictor import Predictor

# Windows per forward pass.
BATCH = 10
# Side of the windows for networks without an attribute `side`, pixels.
SIDE = 224


class InstanceWise(Predictor):
    """A predictor that segments photographs window by window, as given by object proposals.

    Args:
        segmenter: Segmenter of a DeconvNet, or of any other network.
        propose: function (image (H, W, 3) uint8 BGR) -> (n, 4) boxes (left, top, right, bottom), right and bottom
            excluded. If there are none, the whole photograph is one window.
        rule: how the windows' scores are combined, see `aggregate`.
    """

    def __init__(self, segmenter: Any, propose: Callable[[np.ndarray], Any], rule: str = "max") -> None:
        self.segmenter, self.propose, self.rule = segmenter, propose, rule
        self.preprocess = segmenter.preprocess
        self.window_problem = reason(WINDOW, PROPOSALS)

    @property
    def net(self) -> Any:
        """The network."""
        return self.segmenter.net

    def image_logits(self, image: np.ndarray) -> np.ndarray:
        """Aggregated scores (C, H, W) float32 of one photograph, (H, W, 3) uint8 BGR."""
        return self.scores(to_input(image, self.preprocess), self.propose(image))

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """(N, 3, H, W) float32, normalised -> aggregated scores (N, C, H, W) float32."""
        images = (self.preprocess.denormalise(one.transpose(1, 2, 0))[..., ::-1] for one in batch)
        return np.stack([self.scores(one, self.propose(np.ascontiguousarray(image)))
                         for one, image in zip(batch, images)])

    def scores(self, image: np.ndarray, boxes: Any) -> np.ndarray:
        """(3, H, W) float32, normalised, and (n, 4) boxes -> aggregated scores (C, H, W) float32."""
        height, width = image.shape[1:]
        boxes = boxes if len(boxes) else [(0, 0, width, height)]
        side = getattr(self.net, "side", SIDE)
        windows = np.concatenate([resized(image[None, :, top:bottom, left:right], side, side)
                                  for left, top, right, bottom in boxes])
        # Pad the last pass to BATCH windows, so that all passes share one compiled graph.
        extra = -len(windows) % BATCH if len(windows) > BATCH else 0
        passes = np.pad(windows, ((0, extra), (0, 0), (0, 0), (0, 0)))
        found = np.concatenate([self.segmenter.logits(passes[at:at + BATCH]) for at in range(0, len(passes), BATCH)])
        return aggregate(zip(boxes, found), found.shape[1], height, width, self.rule)


def aggregate(found, classes, height, width, rule="max"):
    """Combine the scores of many windows into one map (Noh et al. 2015, equations 1 and 2).

    Args:
        found: iterable of (box, scores (C, h, w) float32); each is resized to its box and is zero outside it.
        classes, height, width: C, H, W of the result.
        rule: "max", the largest score at each pixel, or "sum".

    Returns:
        (C, H, W) float32. Where every window covers a pixel, the maximum can be below zero.
    """
    total = np.full((classes, height, width), -np.inf if rule == "max" else 0, np.float32)
    covering, count = np.zeros((height, width), np.int32), 0
    for (left, top, right, bottom), scores in found:
        here = (slice(None), slice(top, bottom), slice(left, right))
        pasted = resized(scores[None], bottom - top, right - left)[0]
        total[here] = np.maximum(total[here], pasted) if rule == "max" else total[here] + pasted
        covering[here[1:]] += 1
        count += 1
    if rule == "max":
        # Where a window does not cover a pixel, its score there is zero.
        outside = covering < count
        total[:, outside] = np.maximum(total[:, outside], 0)
    return total
