"""Count every image of a split: confusion matrix, boundaries, object sizes and times."""

import contextlib
import dataclasses
import time
from typing import Optional

import numpy as np

from mindfcn import runtime
from mindfcn.console import SILENT
from mindfcn.metrics import ConfusionMatrix, ObjectSizes, Trimap

# The first passes of a process set up kernels and memory; their times do not count.
WARM_UP = 2
# sky, horizontal, vertical
GEOMETRIC_CLASSES = 3


@dataclasses.dataclass
class Evaluation:
    """What an evaluation found.

    Attributes:
        matrix: ConfusionMatrix of all pixels.
        trimap: Trimap, of the pixels near boundaries.
        sizes: ObjectSizes.
        names: file names, in the records' order.
        scores: (images,) float64 mean IoU of each image over the classes in its truth or prediction; NaN without any.
        seconds: median time from a photograph in memory to its mask.
        geometric: ConfusionMatrix of the second head, or None.
    """
    matrix: ConfusionMatrix
    trimap: Trimap
    sizes: ObjectSizes
    names: list
    scores: np.ndarray
    seconds: float
    geometric: Optional[ConfusionMatrix] = None

    @property
    def metrics(self):
        """The four metrics."""
        return self.matrix.compute()


def evaluate_network(segment, dataset, num_classes, console=SILENT, stop=None, background=None, excluded=(),
                     geometric=None):
    """Every image of an evaluation data set at native size, each pixel counted once.

    Where processes share the data set (its `rank_size` says so), each sees every `rank_size`-th record, and all return
    the counts and scores of the whole.

    Args:
        segment: function (image (H, W, 3) uint8 BGR) -> (mask (H, W) uint8, anything): a Segmenter, an Inference.
        dataset: SegDataset(training=False).
        num_classes: classes.
        console: Console that shows progress and notes.
        stop: function, asked before each image; None is returned when it says true to any process.
        background: a class that has no objects (see ObjectSizes).
        excluded: numbers of classes that means leave out.
        geometric: function from an image to the second head's mask, where the data set has labels for it.

    Returns:
        Evaluation, or None.

    Raises:
        UserError: a damaged record, here or where another process reads.
    """
    runtime.pynative_mode()
    shared = dataset.rank_size > 1
    with runtime.fail_on_all_ranks() if shared else contextlib.nullcontext():
        counters = ConfusionMatrix(num_classes, excluded), Trimap(num_classes), ObjectSizes(num_classes, background)
        second = ConfusionMatrix(GEOMETRIC_CLASSES)
        share, seconds, stopped = _evaluate_share(segment, dataset, counters, console, stop, geometric, second)
    add_up = runtime.sum_over_ranks if shared else np.asarray
    if add_up(np.array(stopped, np.int64)):
        return None
    for counter in (*counters, second):
        counter.counts = add_up(counter.counts)
    scores = np.zeros(dataset.count)
    scores[dataset.rank::dataset.rank_size] = share
    return Evaluation(*counters, dataset.names(), add_up(scores), typical(seconds), second if geometric else None)


def _evaluate_share(segment, dataset, counters, console, stop, geometric, second):
    """Count this process's records. Returns (their mean IoUs, seconds, whether it was stopped)."""
    matrix, *others = counters
    scores, seconds = [], []
    pairs = dataset.photographs()
    for image, truth in console.track(pairs, dataset.steps_per_epoch):
        if stop and stop():
            return scores, seconds, True
        single = ConfusionMatrix(matrix.num_classes)
        if geometric:
            second.update(geometric(image), truth[..., 1])
            truth = truth[..., 0]
        (mask, _), taken = timed(segment, image)
        single.counts = matrix.update(mask, truth)
        for other in others:
            other.update(mask, truth)
        scores.append(single.mean_iou())
        seconds.append(taken)
    return scores, seconds, False


def timed(function, argument):
    """(what a function gives, seconds until it was there).

    A segmenter's results are arrays on the host, so a device that computes behind our back has ended.
    """
    started = time.perf_counter()
    return function(argument), time.perf_counter() - started


def typical(seconds):
    """Median of the times of passes, without those of WARM_UP where there are more; NaN where there are none."""
    return float(np.median(seconds[WARM_UP:] or seconds or [np.nan]))
