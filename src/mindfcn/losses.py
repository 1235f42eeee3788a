"""Losses of dense prediction: cross entropy, bootstrapped (hardest pixels only), focal, Dice, and binary."""

from collections.abc import Sequence
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindfcn import random_bits


class CrossEntropy(nn.Cell):
    """Softmax cross entropy over the pixels that count.

    Args:
        ignore_label: pixels of this label do not count.
        reduction: "mean" over the pixels that count; or "sum", as in the published training, where every
            pixel has the same weight whatever the size of its photograph.
        keep: patchwise training as sampling of the loss (Long et al. 2015, sections 3.4 and 4.3): in training mode,
            each cell of the output counts with this probability, 1 is all.
        cell: side of a cell in pixels: the stride of the coarsest scores.
        seed: the random draws depend on it and on `step` only.
        class_weights: (C,) numbers from 0, or None: each pixel is weighted by its class; the mean is divided by the
            sum of the weights of its pixels.
        smoothing: label smoothing (Szegedy et al. 2016, section 7): the label is 1 - smoothing for the true class plus
            smoothing / C for every class. Each class's term has its own class's weight, as in PyTorch.

    Inputs: logits (N, C, H, W) float, labels (N, H, W) int32 of 0..C-1 or the ignore label; below 0
        no pixel counts.
    Outputs: () float32; 0 with zero gradients where no pixel counts, or none has weight.

    Attributes:
        step: where `keep` < 1, a state parameter: (1,) int32, not trained, increased by one in each training pass.

    Raises:
        ValueError: another reduction, `keep` outside 0..1 (0 excluded), `smoothing` outside 0..1 (1 excluded), or
            weights below 0 or not finite; when called: labels of another shape than the logits'.
    """

    def __init__(self, ignore_label: int = 255, reduction: str = "mean", keep: float = 1.0, cell: int = 32,
                 seed: int = 1, class_weights: Optional[Sequence[float]] = None, smoothing: float = 0.0) -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction {reduction!r}: must be mean or sum")
        if not 0 < keep <= 1:
            raise ValueError(f"keep {keep}: must be in 0..1 (0 excluded)")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing {smoothing}: must be in 0..1 (1 excluded)")
        self.ignore_label = ignore_label
        self.reduction = reduction
        self.keep = keep
        self.cell = cell
        self.seed = seed
        self.smoothing = smoothing
        self.class_weights = None
        if class_weights is not None:
            weights = np.asarray(class_weights, np.float32)
            if weights.ndim != 1 or not (np.isfinite(weights) & (weights >= 0)).all():
                raise ValueError(f"class weights {weights}: must be one finite number from 0 a class")
            self.class_weights = ms.Tensor(weights)
        if keep < 1:
            self.step = ms.Parameter(ms.Tensor([0], ms.int32), name="loss.step", requires_grad=False)

    def construct(self, logits, labels):
        shape = shape_of_labels(logits.shape, labels.shape)
        valid = self.valid(labels)
        picked = ops.where(valid, labels, ops.zeros_like(labels)).reshape(-1, 1)
        scores = log_probabilities(logits)
        counts = self.weigh(valid, labels)
        losses = self.penalty(ops.gather_d(scores, 1, picked)).reshape(shape) * counts
        if self.smoothing:
            spread = self.of_all_classes(scores).reshape(shape) * valid.astype(ms.float32)
            losses = (1 - self.smoothing) * losses + self.smoothing * spread
        return self.reduce(losses, valid, counts)

    def valid(self, labels):
        """(N, H, W) bool: the pixels that count in this pass."""
        valid = self.labelled(labels)
        if self.keep < 1 and self.training:
            valid = ops.logical_and(valid, self.sampled(labels.shape))
        return valid

    def labelled(self, labels: ms.Tensor) -> ms.Tensor:
        """(N, H, W) bool: the pixels of a class."""
        # Below 0, gathering would take classes from the end.
        return ops.logical_and(labels != self.ignore_label, labels >= 0)

    def penalty(self, log_probability):
        """The loss of a pixel from the log probability of its true class, float32 of any shape."""
        return -log_probability

    def of_all_classes(self, log_probabilities: ms.Tensor) -> ms.Tensor:
        """The weighted loss of a pixel whose label is spread over all classes: (pixels, C) float32 -> (pixels,)."""
        weighted = log_probabilities if self.class_weights is None else log_probabilities * self.class_weights
        return -weighted.mean(1)

    def reduce(self, losses, valid, counts):
        """Reduce the pixels' weighted losses to one number; all arguments are (N, H, W)."""
        total = losses.sum()
        return total if self.reduction == "sum" else total / self.divisor(counts.sum())

    def count(self, labels, _classes):
        """The total weight of a batch's pixels, () float32: their number, or the sum of their class weights."""
        return self.weigh(self.labelled(labels), labels).sum()

    def weigh(self, valid, labels):
        """The weight of each pixel: (N, H, W) bool and labels -> (N, H, W) float32."""
        counts = valid.astype(ms.float32)
        if self.class_weights is None:
            return counts
        picked = ops.where(valid, labels, ops.zeros_like(labels)).reshape(-1)
        return counts * ops.gather(self.class_weights, picked, 0).reshape(labels.shape)

    def divisor(self, count):
        """A count, () float32, or 1 where nothing counts."""
        one = ms.Tensor(1.0, ms.float32)
        # Class weights can sum to less than 1; a number of pixels cannot, unless it is 0.
        return ops.maximum(count, one) if self.class_weights is None else ops.where(count > 0, count, one)

    def sampled(self, shape):
        """(N, H, W) bool: the pixels of the cells that this pass keeps."""
        images, height, width = shape
        side, rows, columns = self.cell, -(-height // self.cell), -(-width // self.cell)
        step = ops.assign_add(self.step, ms.Tensor([1], ms.int32))
        cells = random_bits.keep_mask(images * rows * columns, 1 - self.keep, self.seed, step)
        pixels = ops.broadcast_to(cells.reshape(images, rows, 1, columns, 1), (images, rows, side, columns, side))
        return pixels.reshape(images, rows * side, columns * side)[:, :height, :width]


class Focal(CrossEntropy):
    """Focal loss (Lin et al. 2017, section 3): cross entropy times (1 - p)^gamma, p the true class's probability.

    Args:
        gamma: how strongly well-classified pixels are weighted down; 0 is cross entropy, the paper takes 2.
        options: of CrossEntropy; `class_weights` are the paper's alpha.

    Raises:
        ValueError: `gamma` is neither 0 nor at least 1, where the gradient of a pixel that is right is infinite; or as
            CrossEntropy.
    """

    def __init__(self, gamma=2.0, **options):
        super().__init__(**options)
        if gamma != 0 and not 1 <= gamma < float("inf"):
            raise ValueError(f"gamma {gamma}: must be 0 or at least 1")
        self.gamma = gamma

    def penalty(self, log_probability):
        if self.gamma == 0:
            return -log_probability
        # A log probability rounded to above 0 would give a negative base.
        wrong = ops.relu(1 - ops.exp(log_probability))
        return -ops.pow(wrong, self.gamma) * log_probability


class Bootstrapped(CrossEntropy):
    """Cross entropy of each image's hardest pixels only: online bootstrapping (Wu, Shen and van den Hengel 2016).

    The mean is over the pixels that are kept, whatever their weights. Among equal losses, as at zero scores, any are
    kept.

    Args:
        pixels: how many pixels of an image are kept, those of the greatest (weighted) losses; the paper takes 512.
        options: of CrossEntropy.

    Raises:
        ValueError: `pixels` below 1; or as CrossEntropy.
    """

    def __init__(self, pixels=512, **options):
        super().__init__(**options)
        if pixels < 1:
            raise ValueError(f"pixels {pixels}: must be at least 1")
        self.pixels = pixels

    def reduce(self, losses, valid, counts):
        images = losses.shape[0]
        losses = losses.reshape(images, -1)
        hardest, _ = ops.topk(losses, min(self.pixels, losses.shape[1]))
        total = hardest.sum()
        return total if self.reduction == "sum" else total / self.divisor(self.kept(valid))

    def count(self, labels, _classes):
        """How many pixels of a batch are kept: () float32."""
        return self.kept(self.labelled(labels))

    def kept(self, valid):
        """How many of the pixels that count, (N, H, W) bool, are kept: () float32."""
        of_image = valid.astype(ms.float32).reshape(valid.shape[0], -1).sum(1)
        return ops.minimum(of_image, ms.Tensor(self.pixels, ms.float32)).sum()


class Dice(CrossEntropy):
    """Soft Dice loss: 1 - 2 sum(p g) / (sum(p) + sum(g)) of each class in each image, averaged.

    p is the class's probability and g whether the pixel is of it (Milletari et al. 2016 with squares in the divisor;
    without, Drozdzal et al. 2016). Classes that an image does not contain have no Dice coefficient, and their
    probabilities count in no divisor. The mean over images and classes weights small objects like large ones.

    Args:
        options: of CrossEntropy; `class_weights` weight the classes in that mean.
    """

    def construct(self, logits, labels):
        images, height, width = shape_of_labels(logits.shape, labels.shape)
        classes = logits.shape[1]
        valid = self.valid(labels)
        truth = self.truth(valid, labels, classes)
        probabilities = ops.exp(log_probabilities(logits)).reshape(images, -1, classes)
        probabilities = probabilities * valid.astype(ms.float32).reshape(images, height * width, 1)
        areas = truth.sum(1)
        both = (probabilities * truth).sum(1)
        # Never 0 where the class occurs.
        sums = ops.maximum(probabilities.sum(1) + areas, ms.Tensor(1.0, ms.float32))
        counts = self.weigh_classes(areas)
        total = ((1 - 2 * both / sums) * counts).sum()
        return total if self.reduction == "sum" else total / self.divisor(counts.sum())

    def count(self, labels, classes):
        """The total weight of the classes in the images of a batch: () float32."""
        areas = self.truth(self.labelled(labels), labels, classes).sum(1)
        return self.weigh_classes(areas).sum()

    def truth(self, valid, labels, classes):
        """(N, H W, C) float32: 1 at the class of each pixel that counts."""
        picked = ops.where(valid, labels, ops.full_like(labels, -1)).reshape(labels.shape[0], -1, 1)
        return (picked == ops.arange(classes, dtype=labels.dtype)).astype(ms.float32)

    def weigh_classes(self, areas):
        """Pixels of each class in each image, (N, C) -> weight of each class in it, (N, C) float32."""
        occurs = (areas > 0).astype(ms.float32)
        return occurs if self.class_weights is None else occurs * self.class_weights


@ops.constexpr
def shape_of_labels(logits, labels):
    """(N, H, W), the shape of the labels of logits of shape (N, C, H, W). Raises ValueError if they have another."""
    if len(logits) != 4 or labels != (logits[0], logits[2], logits[3]):
        raise ValueError(f"logits have shape {logits} and labels {labels}; shapes must be (N, C, H, W) and (N, H, W)")
    return labels


def log_probabilities(logits):
    """Logits (N, C, H, W) -> (N H W, C) float32, the logarithm of the softmax.

    Over the last axis, because across maps MindSpore's log_softmax uses a slow reference kernel on CPU; transposed by a
    matrix product, because MindSpore's transpose keeps eight bytes for every number moved.
    """
    images, classes = logits.shape[:2]
    scores = logits.astype(ms.float32).reshape(images, classes, -1)
    identity = ops.broadcast_to(ops.eye(classes, classes, ms.float32), (images, classes, classes))
    scores = ops.BatchMatMul(transpose_a=True)(scores, identity).reshape(-1, classes)
    return ops.LogSoftmax(-1)(scores)


class BinaryCrossEntropy(nn.Cell):
    """Sigmoid cross entropy of overlapping classes, each for itself, over the labels that count.

    Args:
        ignore_label: labels of this number do not count.
        reduction: "mean" over the labels that count, all pixels and classes together; or "sum".

    Inputs: logits (N, C, H, W) float, labels (N, C, H, W) int32: 0, 1 or the ignore label.
    Outputs: () float32; 0 with zero gradients where no label counts.
    """

    def __init__(self, ignore_label: int = 254, reduction: str = "mean") -> None:
        super().__init__()
        self.ignore_label = ignore_label
        self.reduction = reduction

    def construct(self, logits, labels):
        counts = self.labelled(labels)
        logits, truth = logits.astype(ms.float32), labels.astype(ms.float32)
        # log(1 + e^x) - x y, written so that no exponential overflows.
        losses = ops.relu(logits) - logits * truth * counts + ops.log1p(ops.exp(-ops.abs(logits)))
        total = (losses * counts).sum()
        return total if self.reduction == "sum" else total / self.divisor(counts.sum())

    def labelled(self, labels):
        """(N, C, H, W) float32: 1 where a label counts, else 0."""
        return (labels != self.ignore_label).astype(ms.float32)

    def count(self, labels, _classes):
        """How many labels of a batch count: () float32."""
        return self.labelled(labels).sum()

    def divisor(self, count):
        """A count, () float32, or 1 where nothing counts."""
        return ops.maximum(count, ms.Tensor(1.0, ms.float32))


class JointLoss(nn.Cell):
    """The sum of the losses of two heads (SIFT Flow: both with weight 1).

    Args:
        semantic, geometric: CrossEntropy of each head, of the same reduction.
        classes: classes of the first head.

    Inputs: logits (N, classes + geometric classes, H, W) float, labels (N, 2, H, W) int32.
    Outputs: () float32.
    """

    def __init__(self, semantic, geometric, classes):
        super().__init__()
        self.semantic, self.geometric, self.classes = semantic, geometric, classes
        self.reduction = semantic.reduction

    def construct(self, logits, labels):
        return (self.semantic(logits[:, :self.classes], labels[:, 0])
                + self.geometric(logits[:, self.classes:], labels[:, 1]))


class AuxiliaryLoss(nn.Cell):
    """The loss of a network's logits, plus a second head's on the same labels (Zhao et al. 2017, section 3.3).

    Args:
        loss: CrossEntropy or Dice of one head.
        weight: factor on the second head's loss.

    Inputs: logits (N, 2 C, H, W) float, the second head's after the first's; labels (N, H, W) int32.
    Outputs: () float32.
    """

    def __init__(self, loss, weight):
        super().__init__(auto_prefix=False)
        self.loss, self.weight = loss, weight
        self.reduction = loss.reduction

    def construct(self, logits, labels):
        classes = logits.shape[1] // 2
        return self.loss(logits[:, :classes], labels) + self.weight * self.loss(logits[:, classes:], labels)

    def count(self, labels, classes):
        """The total weight of a batch's pixels (see CrossEntropy); `classes` are those of both heads."""
        return self.loss.count(labels, classes // 2)

    def divisor(self, count):
        """A count, () float32, or 1 where nothing counts."""
        return self.loss.divisor(count)
