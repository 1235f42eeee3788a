"""The loss of a dense prediction."""

import mindspore as ms
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

    Inputs: logits (N, C, H, W) float, labels (N, H, W) int32 of 0..C-1 or the ignore label.
    Outputs: () float32; 0 with zero gradients where no pixel counts.

    Attributes:
        step: where `keep` < 1, a state parameter: (1,) int32, not trained, one up per training pass.

    Raises:
        ValueError: another reduction, or `keep` outside 0..1 (0 excluded).
    """

    def __init__(self, ignore_label=255, reduction="mean", keep=1.0, cell=32, seed=1):
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
        valid = valid.astype(ms.float32)
        total = (losses * valid).sum()
        return total if self.reduction == "sum" else total / ops.maximum(valid.sum(), ms.Tensor(1.0, ms.float32))

    def sampled(self, shape):
        """(N, H, W) bool: the pixels of the cells that this pass keeps."""
        images, height, width = shape
        side, rows, columns = self.cell, -(-height // self.cell), -(-width // self.cell)
        step = ops.assign_add(self.step, ms.Tensor([1], ms.int32))
        cells = random_bits.keep(images * rows * columns, 1 - self.keep, self.seed, step)
        pixels = ops.broadcast_to(cells.reshape(images, rows, 1, columns, 1), (images, rows, side, columns, side))
        return pixels.reshape(images, rows * side, columns * side)[:, :height, :width]
