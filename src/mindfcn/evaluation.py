"""Evaluate a network on every image of a split: confusion matrix, boundaries, object sizes and times."""

import contextlib
import dataclasses
import time
from typing import Optional, Union

import numpy as np

from mindfcn import runtime
from mindfcn.console import SILENT
from mindfcn.metrics import BinaryCounts, ConfusionMatrix, ObjectSizes, Trimap, counter_of

# Number of first passes that are not timed: they set up kernels and memory.
WARM_UP = 2
# sky, horizontal, vertical
GEOMETRIC_CLASSES = 3


@dataclasses.dataclass
class Evaluation:
    """Result of an evaluation.

    Attributes:
        matrix: ConfusionMatrix of all pixels; BinaryCounts where classes overlap.
        trimap: Trimap of the pixels near boundaries; None where classes overlap.
        sizes: ObjectSizes; None where classes overlap.
        names: file names, in the records' order.
        scores: (images,) float64: mean IoU of each image over the classes in its truth or prediction; NaN without any.
        seconds: median time from a photograph in memory to its mask.
        geometric: ConfusionMatrix of the second head, or None.
    """
    matrix: Union[ConfusionMatrix, BinaryCounts]
    trimap: Optional[Trimap]
    sizes: Optional[ObjectSizes]
    names: list
    scores: np.ndarray
    seconds: float
    geometric: Optional[ConfusionMatrix] = None

    @property
    def metrics(self):
        """{name: value} of the four metrics, or of those of overlapping classes."""
        return self.matrix.compute()


def evaluate_network(segment, dataset, labels, console=SILENT, stop=None, geometric=None):
    """Segment every image of an evaluation data set at native size and count each pixel once.

    If processes share the data set (its `rank_size` is above 1), each evaluates every `rank_size`-th record, and all
    return the counts and scores of the complete data set.

    Args:
        segment: function (image (H, W, 3) uint8 BGR) -> (mask (H, W) uint8, anything), such as a Segmenter; where
            classes overlap, the mask is bands (H, W, C).
        dataset: SegDataset(training=False).
        labels: LabelSet of the masks.
        console: Console that shows progress.
        stop: function called before each image; the evaluation ends when it returns True on any process.
        geometric: function from an image to the second head's mask, if the data set has labels for it.

    Returns:
        Evaluation; None if it was stopped.

    Raises:
        UserError: a damaged record, in this process or in another.
    """
    runtime.pynative_mode()
    shared, excluded = dataset.rank_size > 1, labels.excluded_numbers()
    with runtime.fail_on_all_ranks() if shared else contextlib.nullcontext():
        counters = [counter_of(labels)]
        if not labels.multilabel:
            counters += [Trimap(len(labels), excluded), ObjectSizes(len(labels), labels.background, excluded)]
        second = ConfusionMatrix(GEOMETRIC_CLASSES)
        share, seconds, stopped = _evaluate_share(segment, dataset, counters, console, stop, geometric, second, labels)
    add_up = runtime.sum_over_ranks if shared else np.asarray
    if add_up(np.array(stopped, np.int64)):
        return None
    for counter in (*counters, second):
        counter.counts = add_up(counter.counts)
    scores = np.zeros(dataset.count)
    scores[dataset.rank::dataset.rank_size] = share
    matrix, trimap, sizes = [*counters, None, None][:3]
    return Evaluation(matrix, trimap, sizes, dataset.names(), add_up(scores), median_time(seconds),
                      second if geometric else None)


def _evaluate_share(segment, dataset, counters, console, stop, geometric, second, labels):
    """Count this process's records. Returns (mean IoU of each image, seconds of each image, whether it was stopped)."""
    matrix, *others = counters
    scores, seconds = [], []
    pairs = dataset.photographs()
    for image, truth in console.track(pairs, dataset.steps_per_epoch):
        if stop and stop():
            return scores, seconds, True
        single = counter_of(labels)
        if geometric:
            second.update(geometric(image), truth[..., 1])
            truth = truth[..., 0]
        (mask, _), elapsed = timed(segment, image)
        single.counts = matrix.update(mask, truth)
        for other in others:
            other.update(mask, truth)
        scores.append(single.mean_iou())
        seconds.append(elapsed)
    return scores, seconds, False


def timed(function, argument):
    """Call a function and return (its result, seconds).

    A segmenter returns arrays on the host, so asynchronous work on the device has ended by then.
    """
    started = time.perf_counter()
    return function(argument), time.perf_counter() - started


def median_time(seconds):
    """Median of the times of passes, without the first WARM_UP ones if there are more; NaN if there are none."""
    return float(np.median(seconds[WARM_UP:] or seconds or [np.nan]))
