"""Quality of predictions: a confusion matrix, and the four metrics as views of it (Long et al. 2015, section 5).

With n_ij pixels of class i predicted as j and t_i = sum_j n_ij:
    pixel accuracy (PA)               sum_i n_ii / sum_i t_i
    mean pixel accuracy (MPA)         mean over i of n_ii / t_i
    mean IoU                          mean over i of n_ii / (t_i + sum_j n_ji - n_ii)
    frequency weighted IoU (FWIoU)    sum_i t_i IoU_i / sum_k t_k

Absent classes: MPA leaves out classes without true pixels; mean IoU leaves out classes that are neither in the truth
nor predicted; a class that is predicted but not in the truth counts with IoU 0. Without any counted pixel, all four are
NaN. Classes that a data set's protocol excludes are in neither mean, whether predicted or not.

Two more measures show what these averages hide: `Trimap` counts the pixels near the true boundaries, `ObjectSizes`
counts small, medium and large objects separately.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from mindspore.train import Metric

from mindfcn.errors import UserError
from mindfcn.logits import argmax

PIXEL_ACCURACY = "pixel accuracy"
MEAN_PIXEL_ACCURACY = "mean pixel accuracy"
MEAN_IOU = "mean IoU"
FREQUENCY_WEIGHTED_IOU = "frequency weighted IoU"
MEAN_PRECISION, MEAN_RECALL = "mean precision", "mean recall"
# COCO's limits of an object's area, pixels: below 32^2, up to 96^2, and above (Lin et al. 2014; cocodataset.org,
# detection evaluation).
SIZES = {"small": 32 ** 2, "medium": 96 ** 2, "large": np.inf}
# Width of the widest band around boundaries, pixels, as in Kraehenbuehl and Koltun (2011) and DeepLab.
WIDEST = 10


def kept_classes(num_classes, excluded):
    """The class numbers that means take, in order. Raises UserError if an excluded number is no class."""
    if unknown := set(excluded) - set(range(num_classes)):
        raise UserError(f"excluded {sorted(unknown, key=str)}: classes are the numbers 0..{num_classes - 1}")
    return np.setdiff1d(np.arange(num_classes), excluded)


class ConfusionMatrix:
    """Pixel counts, (n, n) int64: rows are true classes, columns are predicted classes.

    Pixels whose true label is not a class, such as the ignore label, do not count.

    Args:
        num_classes: number of classes.
        excluded: numbers of classes that both means leave out.
    """

    def __init__(self, num_classes: int = 21, excluded: Sequence[int] = ()) -> None:
        self.num_classes = num_classes
        self.kept = kept_classes(num_classes, excluded)
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def clear(self) -> None:
        """Set all counts to zero."""
        self.counts[:] = 0

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Count two integer arrays of equal shape, predicted and true class numbers. Returns the counts of these only.

        Raises:
            UserError: the shapes differ, the arrays do not hold whole numbers, or the prediction of a counted pixel is
                not a class.
        """
        prediction, truth = np.asarray(prediction), np.asarray(truth)
        if prediction.shape != truth.shape:
            raise UserError(f"predictions have shape {prediction.shape} but true classes {truth.shape}; shapes must be "
                            "equal")
        for name, array in (("predictions", prediction), ("true classes", truth)):
            if array.dtype.kind not in "iub":
                raise UserError(f"{name} are {array.dtype}; classes are whole numbers")
        prediction, truth = prediction.ravel(), truth.ravel()
        counted = (truth >= 0) & (truth < self.num_classes)
        prediction = prediction[counted]
        if prediction.size and not 0 <= prediction.min() <= prediction.max() < self.num_classes:
            raise UserError(f"predictions range from {prediction.min()} to {prediction.max()}; "
                            f"classes are 0..{self.num_classes - 1}")
        cells = np.multiply(truth[counted], self.num_classes, dtype=np.int64)
        np.add(cells, prediction, out=cells, casting="unsafe")
        counts = np.bincount(cells, minlength=self.num_classes ** 2).reshape(self.num_classes, self.num_classes)
        self.counts += counts
        return counts

    def class_accuracies(self) -> np.ndarray:
        """(n,) float64: share of each class's true pixels that were found; NaN without true pixels."""
        return _ratio(np.diag(self.counts), self.counts.sum(1))

    def class_ious(self) -> np.ndarray:
        """(n,) float64: intersection over union; NaN for a class that is neither in the truth nor predicted."""
        found = np.diag(self.counts)
        return _ratio(found, self.counts.sum(1) + self.counts.sum(0) - found)

    def class_shares(self) -> np.ndarray:
        """(n,) float64: share of each class in the true pixels."""
        return _ratio(self.counts.sum(1), self.counts.sum())

    def pixel_accuracy(self) -> float:
        """Share of correctly predicted pixels."""
        return float(_ratio(np.trace(self.counts), self.counts.sum()))

    def mean_pixel_accuracy(self) -> float:
        """Mean of the class accuracies."""
        return _nanmean(self.class_accuracies()[self.kept])

    def mean_iou(self) -> float:
        """Mean of the class IoUs."""
        return _nanmean(self.class_ious()[self.kept])

    def frequency_weighted_iou(self) -> float:
        """Mean of the class IoUs, weighted by the classes' shares of the true pixels."""
        if not self.counts.any():
            return float("nan")
        return float(np.nansum(self.class_shares() * self.class_ious()))

    def by_class(self) -> dict[str, np.ndarray]:
        """{heading: (n,) float64} of a table of the classes."""
        return {"IoU": self.class_ious(), "accuracy": self.class_accuracies(), "share": self.class_shares()}

    def compute(self) -> dict[str, float]:
        """The four metrics under the course's names."""
        return {PIXEL_ACCURACY: self.pixel_accuracy(), MEAN_PIXEL_ACCURACY: self.mean_pixel_accuracy(),
                MEAN_IOU: self.mean_iou(), FREQUENCY_WEIGHTED_IOU: self.frequency_weighted_iou()}

    def __str__(self):
        return "  ".join(f"{name} {value:.4f}" for name, value in self.compute().items())


class BinaryCounts:
    """Pixel counts of overlapping classes, each for itself: (n, 2, 2) int64 of [class, is it, is predicted].

    They are scikit-learn's `multilabel_confusion_matrix`. Labels other than 0 and 1 do not count.

    Args:
        num_classes: number of classes.
        excluded: numbers of classes that the means leave out.
    """

    def __init__(self, num_classes: int, excluded: Sequence[int] = ()) -> None:
        self.num_classes = num_classes
        self.kept = kept_classes(num_classes, excluded)
        self.counts = np.zeros((num_classes, 2, 2), np.int64)

    def clear(self) -> None:
        """Set all counts to zero."""
        self.counts[:] = 0

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """Count two arrays of equal shape, (..., n), of 0 and 1. Returns the counts of these only.

        Raises:
            UserError: the shapes differ, or are not of n classes.
        """
        if prediction.shape != truth.shape or truth.shape[-1] != self.num_classes:
            raise UserError(f"predictions of shape {prediction.shape} but truth of {truth.shape}; both must have "
                            f"{self.num_classes} bands")
        pixels = tuple(range(truth.ndim - 1))
        counts = np.stack([np.stack([((truth == one) & (prediction == two)).sum(pixels) for two in (0, 1)], -1)
                           for one in (0, 1)], -2)
        self.counts += counts
        return counts

    def class_precisions(self) -> np.ndarray:
        """(n,) float64: share of each class's predicted pixels that are it; NaN where none is predicted."""
        return _ratio(self.counts[:, 1, 1], self.counts[:, :, 1].sum(1))

    def class_recalls(self) -> np.ndarray:
        """(n,) float64: share of each class's true pixels that were found; NaN without true pixels."""
        return _ratio(self.counts[:, 1, 1], self.counts[:, 1].sum(1))

    def class_ious(self) -> np.ndarray:
        """(n,) float64: intersection over union; NaN for a class that is neither in the truth nor predicted."""
        return _ratio(self.counts[:, 1, 1], self.counts.sum((1, 2)) - self.counts[:, 0, 0])

    def class_shares(self) -> np.ndarray:
        """(n,) float64: share of the labelled pixels that are of each class; they may add up to more than 1."""
        return _ratio(self.counts[:, 1].sum(1), self.counts.sum((1, 2)))

    def by_class(self) -> dict[str, np.ndarray]:
        """{heading: (n,) float64} of a table of the classes."""
        return {"IoU": self.class_ious(), "precision": self.class_precisions(), "recall": self.class_recalls(),
                "share": self.class_shares()}

    def compute(self) -> dict[str, float]:
        """The means over classes, by name."""
        return {MEAN_IOU: self.mean_iou(), MEAN_PRECISION: _nanmean(self.class_precisions()[self.kept]),
                MEAN_RECALL: _nanmean(self.class_recalls()[self.kept])}

    def mean_iou(self) -> float:
        """Mean of the class IoUs."""
        return _nanmean(self.class_ious()[self.kept])

    def __str__(self):
        return "  ".join(f"{name} {value:.4f}" for name, value in self.compute().items())


def counter_of(labels):
    """An empty ConfusionMatrix of these classes, or BinaryCounts where they overlap."""
    return (BinaryCounts if labels.multilabel else ConfusionMatrix)(len(labels), labels.excluded_numbers())


def metric_names(labels):
    """Names of the metrics of these classes, in their order."""
    return list(counter_of(labels).compute())


class Trimap:
    """Confusion matrices of the pixels near true boundaries, in bands of 1 to WIDEST pixels (Kohli et al. 2009).

    A boundary pixel has an upper, lower, left or right neighbour with another number in the truth, the ignore label
    included, because VOC's masks draw it along boundaries. The band of width w holds the pixels whose distance to the
    nearest boundary pixel is at most w - 1: w pixels on either side. Pixels of the ignore label do not count.

    Attributes:
        counts: (WIDEST, n, n) int64: row w - 1 counts the pixels of band w that are in no narrower band.

    Args:
        num_classes: number of classes.
        excluded: numbers of classes that means leave out.
    """

    def __init__(self, num_classes=21, excluded=()):
        self.num_classes, self.excluded = num_classes, excluded
        self.counts = np.zeros((WIDEST, num_classes, num_classes), np.int64)

    def update(self, prediction, truth):
        """Count the predicted and true class numbers of one image, two (H, W) integer arrays."""
        distance = boundary_distance(truth)
        near = (distance <= WIDEST - 1) & (truth >= 0) & (truth < self.num_classes)
        rings = np.ceil(distance[near]).astype(np.int64)
        cells = (rings * self.num_classes + truth[near]) * self.num_classes + prediction[near]
        self.counts += np.bincount(cells, minlength=self.counts.size).reshape(self.counts.shape)

    def matrices(self):
        """A list of the ConfusionMatrix of each band, the narrowest first."""
        bands = []
        for counts in np.cumsum(self.counts, 0):
            bands.append(ConfusionMatrix(self.num_classes, self.excluded))
            bands[-1].counts = counts
        return bands

    def mean_ious(self):
        """(WIDEST,) float64: mean IoU of each band; NaN without boundaries."""
        return np.array([band.mean_iou() for band in self.matrices()])


def boundary_distance(truth):
    """Distance of each pixel to the nearest boundary pixel (see Trimap): (H, W) class numbers -> (H, W) float32.

    inf everywhere if there is no boundary.
    """
    inner = np.ones(truth.shape, np.uint8)
    down, across = truth[1:] != truth[:-1], truth[:, 1:] != truth[:, :-1]
    for place, differs in ((np.s_[1:], down), (np.s_[:-1], down), (np.s_[:, 1:], across), (np.s_[:, :-1], across)):
        inner[place][differs] = 0
    if inner.all():
        return np.full(truth.shape, np.inf, np.float32)
    distance = cv2.distanceTransform(inner, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Squared distances are integers; OpenCV's rounding error would move pixels into the next band.
    return np.sqrt(np.rint(distance * distance))


class ObjectSizes:
    """Intersection over union of small, medium and large objects.

    An object is a connected component of one class in the truth, 8-connected: pixels join by sides or corners. Its area
    gives its size (SIZES). For each class and size:

        IoU = found pixels of the objects / (pixels of the objects + false pixels)

    False pixels are predicted as the class where another class is true. Those of one predicted component count for the
    size of the object that it overlaps most, or, if it overlaps none, for the size of its own area. So the counts of
    the three sizes add up to those of the confusion matrix. Pixels of the ignore label do not count, but a predicted
    component stays connected across them.

    Args:
        num_classes: number of classes.
        background: number of the class without objects, which is left out; None if there is none.
        excluded: numbers of further classes that are left out.

    Attributes:
        counts: (4, 3, n) int64: `true` pixels, `found` pixels, `false` pixels and `objects`, by size and class.
    """

    def __init__(self, num_classes=21, background=0, excluded=()):
        self.classes = [number for number in kept_classes(num_classes, excluded).tolist() if number != background]
        self.counts = np.zeros((4, len(SIZES), num_classes), np.int64)

    @property
    def true(self):
        """(3, n) int64: pixels of the true objects."""
        return self.counts[0]

    @property
    def found(self):
        """(3, n) int64: correctly predicted pixels of the true objects."""
        return self.counts[1]

    @property
    def false(self):
        """(3, n) int64: pixels predicted as a class where another class is true."""
        return self.counts[2]

    @property
    def objects(self):
        """(3, n) int64: number of true objects."""
        return self.counts[3]

    def update(self, prediction, truth):
        """Count the predicted and true class numbers of one image, two (H, W) integer arrays."""
        labelled = (truth >= 0) & (truth < self.true.shape[1])
        present = sum(np.bincount(numbers[labelled], minlength=256) for numbers in (truth, prediction))
        for number in self.classes:
            if present[number]:
                self._count(number, prediction == number, truth == number, labelled)

    def _count(self, number, predicted, true, labelled):
        objects = _components(true)
        areas = np.bincount(objects.ravel())[1:]
        hits = np.bincount(objects[predicted], minlength=len(areas) + 1)[1:]
        sizes = _sizes(areas)
        for row, values in ((self.true, areas), (self.found, hits), (self.objects, np.ones_like(areas))):
            np.add.at(row[:, number], sizes, values)
        wrong = predicted & labelled & ~true
        if wrong.any():
            blobs = _components(predicted)
            false = np.bincount(blobs[wrong], minlength=blobs.max() + 1)[1:]
            own = np.bincount(blobs[labelled], minlength=len(false) + 1)[1:]
            np.add.at(self.false[:, number], self._owners(blobs, objects, _sizes(own), sizes), false)

    @staticmethod
    def _owners(blobs, objects, own, sizes):
        """(components,) index in SIZES that each predicted component's false pixels count for."""
        both = (blobs > 0) & (objects > 0)
        pairs, counts = np.unique(blobs[both] * np.int64(len(sizes) + 1) + objects[both], return_counts=True)
        # Assigned in ascending order of overlap, so the largest overlap is kept; of equal ones, the first.
        blob, item = np.divmod(pairs[np.argsort(-counts, kind="stable")[::-1]], len(sizes) + 1)
        own[blob - 1] = sizes[item - 1]
        return own

    def class_ious(self):
        """(3, n) float64: intersection over union; NaN for a class without objects of that size."""
        return np.where(self.objects > 0, _ratio(self.found, self.true + self.false), np.nan)

    def class_accuracies(self):
        """(3, n) float64: share of the objects' pixels found; NaN for a class without objects of that size."""
        return _ratio(self.found, self.true)

    def compute(self):
        """{size: {"mean IoU", "mean pixel accuracy", "objects"}}, the means over the classes with such objects."""
        return {size: {MEAN_IOU: _nanmean(ious), MEAN_PIXEL_ACCURACY: _nanmean(accuracies), "objects": int(count)}
                for size, ious, accuracies, count in zip(SIZES, self.class_ious(), self.class_accuracies(),
                                                         self.objects.sum(1))}


def _components(mask):
    """Label 8-connected components: (H, W) bool -> (H, W) int32, 0 outside, then 1, 2, ..."""
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]


def _sizes(areas):
    """Index in SIZES of each area. An area equal to either limit is medium."""
    small, medium, _ = SIZES.values()
    return (areas >= small).astype(int) + (areas > medium)


def _ratio(part, whole):
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def _nanmean(values):
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


class _View(Metric):
    """A number read from a confusion matrix, as a metric for `mindspore.train.Model`.

    Args:
        num_class: number of classes.
        matrix: another view's ConfusionMatrix to read instead of counting again.

    Attributes:
        read: function (ConfusionMatrix) -> float.
    """
    read: Callable[[ConfusionMatrix], float]

    def __init__(self, num_class=21, matrix=None):
        super().__init__()
        self.owns_matrix = matrix is None
        self.matrix = ConfusionMatrix(num_class) if matrix is None else matrix

    def clear(self):
        """Set all counts to zero."""
        if self.owns_matrix:
            self.matrix.clear()

    def update(self, *inputs):
        """Count logits (N, C, H, W), or predicted classes (N, H, W), against true classes (N, H, W)."""
        if self.owns_matrix:
            prediction, truth = (self._convert_data(data) for data in inputs)
            if prediction.ndim == truth.ndim + 1:
                if prediction.shape[1] != self.matrix.num_classes:
                    raise UserError(f"logits have shape {prediction.shape}, but there are {self.matrix.num_classes} "
                                    "classes; shapes are (N, C, H, W) and (N, H, W)")
                prediction = argmax(prediction, 1)
            self.matrix.update(prediction, truth)

    def eval(self) -> float:
        """() float."""
        return self.read(self.matrix)


class PixelAccuracy(_View):
    """Share of correctly predicted pixels."""
    read = staticmethod(ConfusionMatrix.pixel_accuracy)


class PixelAccuracyClass(_View):
    """Mean over classes of the share of correctly predicted pixels."""
    read = staticmethod(ConfusionMatrix.mean_pixel_accuracy)


class MeanIntersectionOverUnion(_View):
    """Mean over classes of intersection over union."""
    read = staticmethod(ConfusionMatrix.mean_iou)


class FrequencyWeightedIntersectionOverUnion(_View):
    """Mean of the classes' intersection over union, weighted by their shares of the pixels."""
    read = staticmethod(ConfusionMatrix.frequency_weighted_iou)


def segmentation_metrics(num_classes: int = 21, excluded: Sequence[int] = ()) -> dict[str, Metric]:
    """The course's four metrics under its names, for `Model(metrics=...)`; pixels are counted once for all four.

    Args:
        num_classes: number of classes.
        excluded: numbers of classes that both means leave out.
    """
    first = PixelAccuracy(num_classes)
    first.matrix = ConfusionMatrix(num_classes, excluded)
    return {PIXEL_ACCURACY: first,
            MEAN_PIXEL_ACCURACY: PixelAccuracyClass(num_classes, first.matrix),
            MEAN_IOU: MeanIntersectionOverUnion(num_classes, first.matrix),
            FREQUENCY_WEIGHTED_IOU: FrequencyWeightedIntersectionOverUnion(num_classes, first.matrix)}
