"""Several networks' maps as one: what one misses another may see (Noh et al. 2015, section 4.3).

"mean" is the paper's: the mean of the probability maps. "product" is its released code's: raw scores multiplied, those
of all but the first cut off at zero, before the softmax.
"""

from collections.abc import Iterable
from typing import Any, Optional

import numpy as np

from mindfcn.data.transforms import to_input
from mindfcn.logits import argmax, softmax
from mindfcn.preprocess import Preprocess

RULES = ("mean", "product")
# Below it, a probability's logarithm is no number of float32.
SMALLEST = np.finfo(np.float32).tiny


class Ensemble:
    """Segmenters whose maps are put together; to be used in the place of one.

    Args:
        segmenters: list of Segmenter, InstanceWise or alike, of the same classes; each has its own normalisation.
        rule: one of RULES.
    """

    def __init__(self, segmenters: Iterable[Any], rule: str = "mean") -> None:
        self.segmenters, self.rule = list(segmenters), rule

    @property
    def net(self) -> Any:
        """The first one's network."""
        return self.segmenters[0].net

    @property
    def preprocess(self) -> Preprocess:
        """The Preprocess record that `logits` expects: the first one's."""
        return self.segmenters[0].preprocess

    def __call__(self, image: np.ndarray, probabilities: bool = False) -> tuple[np.ndarray, Optional[np.ndarray]]:
        """Segment one photograph, (H, W, 3) uint8 BGR.

        Returns:
            mask (H, W) uint8; probabilities (C, H, W) float32, or None.
        """
        scores = self.logits(to_input(image, self.preprocess)[None])[0]
        return argmax(scores), softmax(scores) if probabilities else None

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """(N, 3, H, W) float32, normalised -> (N, C, H, W) float32, whose softmax are the ensemble's probabilities."""
        each = [segmenter.logits(renormalised(batch, self.preprocess, segmenter.preprocess))
                for segmenter in self.segmenters]
        return np.stack([combine(maps, self.rule) for maps in zip(*each)])


def combine(maps, rule="mean"):
    """Scores (C, H, W) float32 of several networks -> one, whose softmax are the ensemble's probabilities."""
    first, *others = maps
    if rule == "mean":
        mean = sum(map(softmax, others), softmax(first)) / len(maps)
        return np.log(np.maximum(mean, SMALLEST))
    product = first
    for other in others:
        product = product * np.maximum(other, 0)
    return product


def renormalised(batch, before, after):
    """(N, 3, H, W) float32 normalised by one Preprocess record -> as another one wants it."""
    if before == after:
        return batch
    before_mean, before_std, after_mean, after_std = (
        np.float32(values).reshape(1, 3, 1, 1) for values in (before.mean, before.std, after.mean, after.std))
    pixels = batch * before_std + before_mean
    return ((pixels if before.order == after.order else pixels[:, ::-1]) - after_mean) / after_std
