"""Statistics of batch normalisation, averaged anew behind the training (DeconvNet's recalibration pass).

While a network trains, moving averages follow weights that change. At the end, the weights stay and the mean and
variance of many mini-batches are averaged.
"""

import copy
import dataclasses
import itertools
from collections.abc import Iterable

import mindspore as ms
import numpy as np
from mindspore import nn

from mindfcn import runtime
from mindfcn.console import SILENT


def recalibrate(net: nn.Cell, batches: Iterable[np.ndarray]) -> int:
    """Replace the moving averages of a network's normalisation by the average statistics of mini-batches.

    The network computes as in training, each layer normalised by the batch itself. Of n batches with m numbers a
    channel, the mean becomes the average mean, and the variance the average variance times m / (m - 1), which is
    unbiased (Ioffe and Szegedy 2015, algorithm 2). Layers whose gamma is frozen keep theirs.

    Args:
        net: any network of (N, 3, H, W).
        batches: iterable of (N, 3, H, W) float32 arrays, normalised.

    Returns:
        batches seen; without any, nothing is changed.
    """
    sums = {id(cell): _Sums(cell) for _, cell in net.cells_and_names()
            if isinstance(cell, nn.BatchNorm2d) and cell.gamma.requires_grad}
    frozen = [cell for _, cell in net.cells_and_names() if isinstance(cell, nn.BatchNorm2d) and id(cell) not in sums]
    handles = [entry.cell.register_forward_hook(entry.add) for entry in sums.values()]
    mode, training, count = ms.get_context("mode"), net.training, 0
    ms.set_context(mode=ms.PYNATIVE_MODE)
    net.set_train(True)
    for cell in frozen:
        cell.set_train(False)
    try:
        for batch in batches:
            net(ms.Tensor(batch))
            count += 1
    finally:
        for handle in handles:
            handle.remove()
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
        """A forward hook."""
        x = inputs[0].asnumpy()
        each = x.shape[0] * x.shape[2] * x.shape[3]
        self.mean = self.mean + x.mean((0, 2, 3), dtype=np.float64)
        self.variance = self.variance + x.var((0, 2, 3), dtype=np.float64) * (each / max(1, each - 1))
        self.count += 1

    def assign(self):
        """Give the layer the averages."""
        for parameter, total in ((self.cell.moving_mean, self.mean), (self.cell.moving_variance, self.variance)):
            parameter.set_data(ms.Tensor((total / self.count).astype(np.float32)))


@dataclasses.dataclass
class Recalibration:
    """The recalibration pass of a training run.

    Args:
        net: the network.
        dataset: SegDataset of the training; its crops are drawn as in an epoch of their own.
        batches: mini-batches to average over.
    """
    net: nn.Cell
    dataset: object
    batches: int

    def __call__(self, console=SILENT):
        """Recalibrate; several processes average over their own records, and then together (`Keeper.save`)."""
        console.say(f"averaging the statistics of batch normalisation over {self.batches} mini-batches")
        recalibrate(self.net, itertools.islice(self._images(), self.batches))

    def _images(self):
        """Batches of training images, epoch after epoch, beginning with one that no training has seen."""
        dataset = copy.copy(self.dataset)
        dataset.skip_batches = 0
        with runtime.unwrap_user_errors():
            for dataset.first_epoch in itertools.count(2 ** 20):
                for image, _ in dataset.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True):
                    yield image
