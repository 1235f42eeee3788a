"""From logits to metrics: MindFCN's evaluation, the course's four metric classes, and the network's forward pass.

    python benchmarks/speed/evaluation/run.py [--runs 9] [--keep]

Both get the same logits and true masks and compute with NumPy in one thread; their metrics must agree before timing.
The masks are PASCAL VOC's in ../shared next to the repository, or drawn ones if those are missing; the logits are right
in most pixels. Takes about a minute on two cores, mostly for the forward passes of fcn8s_vgg16, with which times are
compared.
"""

import pathlib
import statistics
import sys
import time
import tracemalloc

import mindspore as ms
import numpy as np

from mindfcn import runtime
from mindfcn.data.synthetic.shapes import draw_image
from mindfcn.inference.network import Segmenter
from mindfcn.logits import argmax
from mindfcn.metrics import (
    FREQUENCY_WEIGHTED_IOU,
    MEAN_IOU,
    MEAN_PIXEL_ACCURACY,
    PIXEL_ACCURACY,
    ConfusionMatrix,
    ObjectSizes,
    Trimap,
    segmentation_metrics,
)
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE
from mindfcn.storage.images import read_palette_mask

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from rivals import SHARED, median, parser, show, take_turns

MASKS = SHARED / "data/VOCdevkit/VOC2012/SegmentationClass"
CLASSES, CROP, NATIVE = 21, 512, (375, 500)


class CourseMetric:
    """One of the course's four metrics: each takes the argmax of the logits and counts pixels on its own.

    The course's class has the batch shape as a constant; this one uses the shape of the logits.
    """

    def __init__(self, formula):
        self.formula = formula
        self.clear()

    def clear(self):
        """Reset the counts."""
        self.counts = np.zeros((CLASSES, CLASSES))

    def update(self, logits, truth):
        """Count the pixels of a batch."""
        prediction = logits.asnumpy().argmax(axis=1)
        truth = truth.asnumpy().reshape(prediction.shape)
        valid = (truth >= 0) & (truth < CLASSES)
        cells = CLASSES * truth[valid].astype("int") + prediction[valid]
        self.counts += np.bincount(cells, minlength=CLASSES ** 2).reshape(CLASSES, CLASSES)

    def eval(self):
        """The metric."""
        with np.errstate(invalid="ignore"):
            return self.formula(self.counts)


def ious(counts):
    """IoU of each class."""
    return np.diag(counts) / (counts.sum(1) + counts.sum(0) - np.diag(counts))


def frequency_weighted(counts):
    """IoUs weighted by the classes' shares of pixels."""
    frequency = counts.sum(1) / counts.sum()
    return (frequency[frequency > 0] * ious(counts)[frequency > 0]).sum()


def course_metrics():
    """{name: CourseMetric} of all four metrics."""
    formulas = {PIXEL_ACCURACY: lambda counts: np.diag(counts).sum() / counts.sum(),
                MEAN_PIXEL_ACCURACY: lambda counts: np.nanmean(np.diag(counts) / counts.sum(1)),
                MEAN_IOU: lambda counts: np.nanmean(ious(counts)), FREQUENCY_WEIGHTED_IOU: frequency_weighted}
    return {name: CourseMetric(formula) for name, formula in formulas.items()}


class LocalWorker:
    """A function in this process, with the interface of rivals.Worker."""

    def __init__(self, name, run):
        self.name, self.run = name, run

    def ask(self, _):
        """Seconds of one call."""
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start

    def temporaries(self):
        """Peak MiB that one call allocates."""
        tracemalloc.start()
        self.run()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak / 2 ** 20


def truths():
    """Masks (375, 500) uint8, 255 is void: four of VOC, or drawn ones."""
    found = []
    for path in sorted(MASKS.glob("*.png")):
        mask = read_palette_mask(path)
        if mask.shape == NATIVE:
            found.append(mask)
        if len(found) == 4:
            return found
    print(f"no masks of 375x500 in {MASKS}: using drawn masks", flush=True)
    drawn = np.full((4, *NATIVE), 255, np.uint8)
    for number, mask in enumerate(drawn):
        part = draw_image(NATIVE[0], 1, number)[1]
        mask[:part.shape[0], :part.shape[1]] = part
    return list(drawn)


def batch_of(masks):
    """(logits (N, C, H, W) float32, truths (N, H, W) int32) as tensors; the argmax is right in most pixels."""
    masks = np.stack(masks)
    logits = np.random.default_rng(1).standard_normal((len(masks), CLASSES, *masks.shape[1:]), np.float32)
    for number in range(CLASSES):
        logits[:, number] += 4 * (masks == number)
    return ms.Tensor(logits), ms.Tensor(masks.astype(np.int32))


def updates(metrics, logits, truth):
    """A function that updates each metric with a batch, as Model.eval does."""
    return lambda: [metric.update(logits, truth) for metric in metrics.values()]


def image_by_image(matrix, logits, truth):
    """A function that counts each image and computes its mean IoU, as the verb eval does after the network."""
    def run():
        for scores, mask in zip(logits.asnumpy(), truth.asnumpy()):
            single = ConfusionMatrix(CLASSES)
            single.counts = matrix.update(argmax(scores), mask)
            single.mean_iou()
    return run


def weaknesses(logits, truth):
    """A function that counts an image's pixels near boundaries and in objects of each size, as the verb eval does."""
    mask, prediction = truth.asnumpy()[0], argmax(logits.asnumpy()[0])
    counters = Trimap(CLASSES), ObjectSizes(CLASSES)
    return lambda: [counter.update(prediction, mask) for counter in counters]


def compare(logits, truth, others, runs):
    """{name: (seconds of each run, MiB of temporaries)} of MindFCN's two ways, the course and `others`, in turn.

    Exits if their metrics differ.
    """
    views, matrix, course = segmentation_metrics(CLASSES), ConfusionMatrix(CLASSES), course_metrics()
    workers = [LocalWorker("views", updates(views, logits, truth)),
               LocalWorker("verb", image_by_image(matrix, logits, truth)),
               LocalWorker("course", updates(course, logits, truth))]
    for worker in workers:
        worker.run()
    for name, metric in course.items():
        if not np.allclose([views[name].eval(), matrix.compute()[name]], metric.eval(), rtol=1e-12, atol=0):
            sys.exit(f"{name} differs: {views[name].eval()}, {matrix.compute()[name]}, course {metric.eval()}")
    memory = {worker.name: worker.temporaries() for worker in workers}
    seconds = take_turns([*workers, *others], runs, 2)
    return {name: (taken, memory.get(name)) for name, taken in seconds.items()}


def rows_of(words, images, found):
    """Two rows: MindFCN's two ways, compared with the course."""
    course, forward = statistics.median(found["course"][0]), found.get("forward")
    rows = []
    for name, way in (("views", "`segmentation_metrics`"), ("verb", "`mindfcn eval`")):
        seconds, memory = found[name]
        mindfcn = statistics.median(seconds)
        share = f"{100 * mindfcn / statistics.median(forward[0]):.2f} %" if forward else ""
        rows.append([f"{words}, {way}", median([1000 * taken / images for taken in seconds]), f"{images / mindfcn:.0f}",
                     f"{images / course:.0f}", f"{course / mindfcn:.1f}", f"{memory:.1f}", f"{found['course'][1]:.1f}",
                     share])
    return rows


def main():
    """Print the table."""
    options = parser(__doc__, runs=9).parse_args()
    runtime.set_up("CPU")
    runtime.pynative_mode()
    masks = truths()
    segmenter = Segmenter(create_model("fcn8s_vgg16", CLASSES), COURSE)
    photograph = np.random.default_rng(2).standard_normal((1, 3, *NATIVE), np.float32)
    batch = batch_of(masks[:1])
    weak = LocalWorker("weaknesses", weaknesses(*batch))
    native = compare(*batch, [LocalWorker("forward", lambda: segmenter.logits(photograph)), weak], options.runs)
    taken = [1000 * seconds for seconds in native["weaknesses"][0]]
    share = statistics.median(native["weaknesses"][0]) / statistics.median(native["forward"][0])
    padded = [np.pad(mask, [(0, CROP - side) for side in NATIVE], constant_values=255) for mask in masks]
    crops = compare(*batch_of(padded), [], options.runs)
    show("evaluation", ["logits of 21 classes", "ms/image (min-max)", "images/s", "course, images/s", "ratio",
                        "temporaries, MiB", "course, MiB", "share of the forward"],
         [*rows_of("one image 500x375", 1, native),
          ["one image 500x375, boundaries and object sizes", median(taken), f"{1000 / statistics.median(taken):.0f}",
           "", "", f"{weak.temporaries():.1f}", "", f"{100 * share:.2f} %"],
          *rows_of("the course's batch, 4 of 512x512", 4, crops)],
         [f"Forward: one pass of fcn8s_vgg16, 500x375: {median(native['forward'][0])} s. "
          f"Medians of {options.runs} runs in turn."], options.keep)


if __name__ == "__main__":
    main()
