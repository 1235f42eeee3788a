"""How good a prediction is: one confusion matrix, and the four metrics as views of it (Long et al. 2015, section 5).

With n_ij pixels of class i predicted as j and t_i = sum_j n_ij:
    pixel accuracy (PA)               sum_i n_ii / sum_i t_i
    mean pixel accuracy (MPA)         mean over i of n_ii / t_i
    mean IoU                          mean over i of n_ii / (t_i + sum_j n_ji - n_ii)
    frequency weighted IoU (FWIoU)    sum_i t_i IoU_i / sum_k t_k

Absent classes: MPA leaves out classes without true pixels, mean IoU leaves out classes that are neither in the truth
nor predicted; a class that is predicted but not in the truth counts with IoU 0. With no pixel at all, all four are NaN.
Classes that a data set's protocol excludes are in neither mean, predicted or not.
"""

import numpy as np
from mindspore.train import Metric

from mindfcn.errors import UserError
from mindfcn.logits import argmax

PIXEL_ACCURACY = "pixel accuracy"
MEAN_PIXEL_ACCURACY = "mean pixel accuracy"
MEAN_IOU = "mean IoU"
FREQUENCY_WEIGHTED_IOU = "frequency weighted IoU"


class ConfusionMatrix:
    """Pixel counts, (n, n) int64: rows are true classes, columns predicted ones.

    Pixels whose true label is not a class (the ignore label among them) do not count.

    Args:
        num_classes: classes.
        excluded: numbers of classes that both means leave out.
    """

    def __init__(self, num_classes=21, excluded=()):
        self.num_classes = num_classes
        self.kept = np.setdiff1d(np.arange(num_classes), excluded)
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def clear(self):
        """Forget everything counted so far."""
        self.counts[:] = 0

    def update(self, prediction, truth):
        """Count two integer arrays of equal size: predicted and true class numbers. Returns the new counts alone.

        Raises:
            UserError: sizes differ, or a counted pixel's prediction is not a class.
        """
        prediction, truth = np.asarray(prediction).ravel(), np.asarray(truth).ravel()
        if prediction.size != truth.size:
            raise UserError(f"{prediction.size} predicted pixels but {truth.size} true ones; sizes must be equal")
        counted = (truth >= 0) & (truth < self.num_classes)
        prediction = prediction[counted]
        if prediction.size and not 0 <= prediction.min() <= prediction.max() < self.num_classes:
            raise UserError(f"predictions range from {prediction.min()} to {prediction.max()}; "
                            f"classes are 0..{self.num_classes - 1}")
        cells = np.multiply(truth[counted], self.num_classes, dtype=np.int64)
        cells += prediction
        counts = np.bincount(cells, minlength=self.num_classes ** 2).reshape(self.num_classes, self.num_classes)
        self.counts += counts
        return counts

    def class_accuracies(self):
        """(n,) float64: share of each class's pixels found; NaN without true pixels."""
        return _ratio(np.diag(self.counts), self.counts.sum(1))

    def class_ious(self):
        """(n,) float64: intersection over union; NaN for a class neither in the truth nor predicted."""
        found = np.diag(self.counts)
        return _ratio(found, self.counts.sum(1) + self.counts.sum(0) - found)

    def class_shares(self):
        """(n,) float64: share of each class in the true pixels."""
        return _ratio(self.counts.sum(1), self.counts.sum())

    def pixel_accuracy(self):
        """Share of pixels predicted right."""
        return float(_ratio(np.trace(self.counts), self.counts.sum()))

    def mean_pixel_accuracy(self):
        """Mean of the class accuracies."""
        return _nanmean(self.class_accuracies()[self.kept])

    def mean_iou(self):
        """Mean of the class IoUs."""
        return _nanmean(self.class_ious()[self.kept])

    def frequency_weighted_iou(self):
        """Class IoUs weighted by the classes' shares of true pixels."""
        if not self.counts.any():
            return float("nan")
        return float(np.nansum(self.class_shares() * self.class_ious()))

    def compute(self):
        """The four metrics under the course's names."""
        return {PIXEL_ACCURACY: self.pixel_accuracy(), MEAN_PIXEL_ACCURACY: self.mean_pixel_accuracy(),
                MEAN_IOU: self.mean_iou(), FREQUENCY_WEIGHTED_IOU: self.frequency_weighted_iou()}

    def __str__(self):
        return "  ".join(f"{name} {value:.4f}" for name, value in self.compute().items())


def _ratio(part, whole):
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def _nanmean(values):
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


class _View(Metric):
    """A number read from a confusion matrix, as `mindspore.train.Model` wants its metrics.

    Args:
        num_class: classes.
        matrix: another view's ConfusionMatrix to read instead of counting again.
    """

    def __init__(self, num_class=21, matrix=None):
        super().__init__()
        self.counts_itself = matrix is None
        self.matrix = ConfusionMatrix(num_class) if matrix is None else matrix

    def clear(self):
        """Forget everything counted so far."""
        if self.counts_itself:
            self.matrix.clear()

    def update(self, *inputs):
        """Count logits (N, C, H, W), or predicted classes (N, H, W), against true classes (N, H, W)."""
        if self.counts_itself:
            prediction, truth = (self._convert_data(data) for data in inputs)
            if prediction.ndim == truth.ndim + 1:
                prediction = argmax(prediction, 1)
            self.matrix.update(prediction, truth)


class PixelAccuracy(_View):
    """Share of pixels predicted right."""

    def eval(self):
        """() float."""
        return self.matrix.pixel_accuracy()


class PixelAccuracyClass(_View):
    """Mean over classes of the share of pixels predicted right."""

    def eval(self):
        """() float."""
        return self.matrix.mean_pixel_accuracy()


class MeanIntersectionOverUnion(_View):
    """Mean over classes of intersection over union."""

    def eval(self):
        """() float."""
        return self.matrix.mean_iou()


class FrequencyWeightedIntersectionOverUnion(_View):
    """Intersection over union, classes weighted by their share of pixels."""

    def eval(self):
        """() float."""
        return self.matrix.frequency_weighted_iou()


def segmentation_metrics(num_classes=21):
    """The course's four metrics under its names, for `Model(metrics=...)`; pixels are counted once for all four."""
    first = PixelAccuracy(num_classes)
    return {PIXEL_ACCURACY: first,
            MEAN_PIXEL_ACCURACY: PixelAccuracyClass(num_classes, first.matrix),
            MEAN_IOU: MeanIntersectionOverUnion(num_classes, first.matrix),
            FREQUENCY_WEIGHTED_IOU: FrequencyWeightedIntersectionOverUnion(num_classes, first.matrix)}
