"""Combine the score maps of several networks (Noh et al. 2015, section 4.3).

The rule "mean" is that of the paper: the mean of the probability maps. "product" is that of the released code: raw
scores are multiplied before the softmax, with those of all networks but the first clipped at zero.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from mindfcn.inference.predictor import Predictor
from mindfcn.logits import softmax

# Lower bound of probabilities, so that their logarithms are finite.
SMALLEST = np.finfo(np.float32).tiny


class Ensemble(Predictor):
    """Several predictors whose score maps are combined.

    Args:
        segmenters: list of Predictors with the same classes; each has its own normalisation.
        rule: "mean" or "product".
    """

    def __init__(self, segmenters: Iterable[Any], rule: str = "mean") -> None:
        self.segmenters, self.rule = list(segmenters), rule
        # The input of `logits` is normalised for the first network.
        self.preprocess = self.segmenters[0].preprocess
        reaches = [segmenter.reach for segmenter in self.segmenters]
        # Unknown if that of one network is.
        self.reach = None if None in reaches else max(reaches)
        self.stride = math.lcm(*(segmenter.stride for segmenter in self.segmenters))
        self.window_problem = next(filter(None, (segmenter.window_problem for segmenter in self.segmenters)), "")

    @property
    def net(self) -> Any:
        """The first network."""
        return self.segmenters[0].net

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """(N, 3, H, W) float32, normalised -> (N, C, H, W) float32, whose softmax is the ensemble's probabilities."""
        each = [segmenter.logits(renormalise(batch, self.preprocess, segmenter.preprocess))
                for segmenter in self.segmenters]
        return np.stack([combine(maps, self.rule) for maps in zip(*each)])


def combine(maps, rule="mean"):
    """Scores (C, H, W) float32 of several networks -> one, whose softmax is the ensemble's probabilities."""
    first, *others = maps
    if rule == "mean":
        mean = sum(map(softmax, others), softmax(first)) / len(maps)
        return np.log(np.maximum(mean, SMALLEST))
    product = first
    for other in others:
        product = product * np.maximum(other, 0)
    return product


def renormalise(batch, before, after):
    """(N, 3, H, W) float32, normalised by the Preprocess record `before` -> normalised by `after`."""
    if before == after:
        return batch
    before_mean, before_std, after_mean, after_std = (
        np.float32(values).reshape(1, 3, 1, 1) for values in (before.mean, before.std, after.mean, after.std))
    pixels = batch * before_std + before_mean
    return ((pixels if before.order == after.order else pixels[:, ::-1]) - after_mean) / after_std
