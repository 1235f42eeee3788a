"""The loss of a dense prediction."""

from mindspore import nn, ops
import mindspore as ms


class CrossEntropy(nn.Cell):
    """Softmax cross entropy, averaged over the pixels that count.

    Args:
        ignore_label: pixels of this label count neither in the sum nor in the average.

    Inputs: logits (N, C, H, W) float, labels (N, H, W) int32 of 0..C-1 or the ignore label.
    Outputs: () float32; 0 with zero gradients where no pixel counts.
    """

    def __init__(self, ignore_label=255):
        super().__init__()
        self.ignore_label = ignore_label

    def construct(self, logits, labels):
        valid = labels != self.ignore_label
        picked = ops.where(valid, labels, ops.zeros_like(labels)).expand_dims(1)
        losses = -ops.gather_d(ops.log_softmax(logits.astype(ms.float32), 1), 1, picked).squeeze(1)
        valid = valid.astype(ms.float32)
        return (losses * valid).sum() / ops.maximum(valid.sum(), ms.Tensor(1.0, ms.float32))
