"""Recompute batch normalisation statistics after training (DeconvNet's recalibration pass).

During training, the moving averages lag behind changing weights. Afterwards, with fixed weights, the means and
variances of many mini-batches are averaged.
"""

import copy
import itertools
from collections.abc import Iterable

import mindspore as ms
import numpy as np
from mindspore import nn

from mindfcn import runtime
from mindfcn.mindspore_versions import forward_hooks


def recalibrate(net: nn.Cell, batches: Iterable[np.ndarray]) -> int:
    """Replace the moving averages of batch normalisation by the average statistics of mini-batches.

    The network runs in training mode: each layer normalises with the statistics of the batch. The mean becomes the
    average of the batch means, and the variance the average of the batch variances times m / (m - 1), with m numbers
    per channel in a batch, which is unbiased (Ioffe and Szegedy 2015, algorithm 2). Layers whose gamma is frozen keep
    their moving averages.

    Args:
        net: any network with input (N, 3, H, W).
        batches: iterable of (N, 3, H, W) float32 arrays, normalised.

    Returns:
        the number of batches; with 0, nothing is changed.
    """
    sums = {id(cell): _Sums(cell) for _, cell in net.cells_and_names()
            if isinstance(cell, nn.BatchNorm2d) and cell.gamma.requires_grad}
    frozen = [cell for _, cell in net.cells_and_names() if isinstance(cell, nn.BatchNorm2d) and id(cell) not in sums]
    mode, training, count = ms.get_context("mode"), net.training, 0
    ms.set_context(mode=ms.PYNATIVE_MODE)
    net.set_train(True)
    for cell in frozen:
        cell.set_train(False)
    try:
        with forward_hooks((entry.cell, entry.add) for entry in sums.values()):
            for batch in batches:
                net(ms.Tensor(batch))
                count += 1
    finally:
        net.set_train(training)
        ms.set_context(mode=mode)
    for entry in sums.values() if count else ():
        entry.assign()
    return count


class _Sums:
    """Statistics of one layer's inputs, summed over mini-batches."""

    def __init__(self, cell):
        self.cell, self.mean, self.variance, self.count = cell, 0.0, 0.0, 0

    def add(self, cell, inputs, output):
        """Add a batch; registered as a forward hook."""
        x = inputs[0].asnumpy()
        each = x.shape[0] * x.shape[2] * x.shape[3]
        self.mean = self.mean + x.mean((0, 2, 3), dtype=np.float64)
        self.variance = self.variance + x.var((0, 2, 3), dtype=np.float64) * (each / max(1, each - 1))
        self.count += 1

    def assign(self):
        """Store the averages in the layer."""
        for parameter, total in ((self.cell.moving_mean, self.mean), (self.cell.moving_variance, self.variance)):
            parameter.set_data(ms.Tensor((total / self.count).astype(np.float32)))


def further_images(dataset):
    """Yield batches of images of a SegDataset for training, from an epoch number that no training reaches."""
    dataset = copy.copy(dataset)
    dataset.skip_batches = 0
    with runtime.unwrap_user_errors():
        for dataset.first_epoch in itertools.count(2 ** 20):
            for image, _ in dataset.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True):
                yield image
