"""The loss of a dense prediction."""

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindfcn import random_bits


class CrossEntropy(nn.Cell):
    """Softmax cross entropy over the pixels that count.

    Args:
        ignore_label: pixels of this label do not count.
        reduction: "mean" over the pixels that count; or "sum", the published training's, where every pixel has the
            same weight whatever the size of its photograph.
        keep: patchwise training as sampling of the loss (Long et al. 2015, sections 3.4 and 4.3): in training mode,
            each cell of the output counts with this probability, 1 is all.
        cell: side of a cell, pixels: the stride of the coarsest scores.
        seed: the draws follow from it and from `step` alone.
        class_weights: (C,) numbers from 0, or None: a pixel counts as much as its class's; the mean is divided by the
            sum of the weights of its pixels.

    Inputs: logits (N, C, H, W) float, labels (N, H, W) int32 of 0..C-1 or the ignore label.
    Outputs: () float32; 0 with zero gradients where no pixel counts, or none has weight.

    Attributes:
        step: where `keep` < 1, a state parameter: (1,) int32, not trained, one up per training pass.

    Raises:
        ValueError: another reduction, `keep` outside 0..1 (0 excluded), or weights below 0 or not finite.
    """

    def __init__(self, ignore_label=255, reduction="mean", keep=1.0, cell=32, seed=1, class_weights=None):
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction {reduction!r}: must be mean or sum")
        if not 0 < keep <= 1:
            raise ValueError(f"keep {keep}: must be in 0..1 (0 excluded)")
        self.ignore_label = ignore_label
        self.reduction = reduction
        self.keep = keep
        self.cell = cell
        self.seed = seed
        if class_weights is not None:
            class_weights = np.asarray(class_weights, np.float32)
            if class_weights.ndim != 1 or not (np.isfinite(class_weights) & (class_weights >= 0)).all():
                raise ValueError(f"class weights {class_weights}: must be one finite number from 0 a class")
            class_weights = ms.Tensor(class_weights)
        self.class_weights = class_weights
        if keep < 1:
            self.step = ms.Parameter(ms.Tensor([0], ms.int32), name="loss.step", requires_grad=False)

    def construct(self, logits, labels):
        valid = labels != self.ignore_label
        picked = ops.where(valid, labels, ops.zeros_like(labels)).reshape(-1, 1)
        # Over the last axis, because across maps MindSpore's log_softmax takes a reference kernel on CPU; turned by a
        # matrix product, because its transpose keeps eight bytes for every number that it has moved.
        images, classes = logits.shape[:2]
        scores = logits.astype(ms.float32).reshape(images, classes, -1)
        identity = ops.broadcast_to(ops.eye(classes, classes, ms.float32), (images, classes, classes))
        scores = ops.BatchMatMul(transpose_a=True)(scores, identity).reshape(-1, classes)
        losses = -ops.gather_d(ops.log_softmax(scores, -1), 1, picked).reshape(labels.shape)
        if self.keep < 1 and self.training:
            valid = ops.logical_and(valid, self.sampled(labels.shape))
        counts = self.weigh(valid, labels)
        total = (losses * counts).sum()
        return total if self.reduction == "sum" else total / self.divisor(counts.sum())

    def count(self, labels):
        """What the pixels of a batch count for together: () float32, their number or the sum of their weights."""
        return self.weigh(labels != self.ignore_label, labels).sum()

    def weigh(self, valid, labels):
        """What each pixel counts for: (N, H, W) bool and labels -> (N, H, W) float32."""
        counts = valid.astype(ms.float32)
        if self.class_weights is None:
            return counts
        picked = ops.where(valid, labels, ops.zeros_like(labels)).reshape(-1)
        return counts * ops.gather(self.class_weights, picked, 0).reshape(labels.shape)

    def divisor(self, count):
        """A count, () float32, or 1 where nothing counts."""
        one = ms.Tensor(1.0, ms.float32)
        # Weights may well sum up to less than 1; numbers of pixels do not.
        return ops.maximum(count, one) if self.class_weights is None else ops.where(count > 0, count, one)

    def sampled(self, shape):
        """(N, H, W) bool: the pixels of the cells that this pass keeps."""
        images, height, width = shape
        side, rows, columns = self.cell, -(-height // self.cell), -(-width // self.cell)
        step = ops.assign_add(self.step, ms.Tensor([1], ms.int32))
        cells = random_bits.keep(images * rows * columns, 1 - self.keep, self.seed, step)
        pixels = ops.broadcast_to(cells.reshape(images, rows, 1, columns, 1), (images, rows, side, columns, side))
        return pixels.reshape(images, rows * side, columns * side)[:, :height, :width]


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
