"""The exponential moving average of a network's weights."""

import contextlib

import mindspore as ms
from mindspore import nn, ops
from mindspore.ops import functional

from mindfcn.engine.step import MOVING

# One weight's average; HyperMap compiles it quicker than a loop (see step.py).
_move = ops.MultitypeFuncGraph("move")


@_move.register("Tensor", "Tensor", "Tensor")
def _move_average(share, average, weight):
    return ops.assign_add(average, (weight - average) * share)


class WeightAverage(nn.Cell):
    """Exponential moving average of a network's weights and of its batch normalisation statistics.

    average += (1 - d) (weight - average) after each update t = 1, 2, ..., with d the smaller of `decay` and
    (1 + t) / (10 + t), so that the initial weights soon lose their influence. (The formula of TensorFlow's
    ExponentialMovingAverage; Polyak and Juditsky 1992 average all iterates.)

    Args:
        net: the network.
        decay: 0..1 (both excluded).

    Attributes:
        weights: the network's parameters that training changes.
        averages: their moving averages, in the same order; names begin with `ema.`.
    """

    def __init__(self, net, decay):
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.each = ops.HyperMap()
        self.weights = ms.ParameterTuple([parameter for parameter in net.get_parameters()
                                          if parameter.requires_grad or parameter.name.endswith(MOVING)])
        self.averages = self.weights.clone(prefix="ema", init="same")

    def update(self, updates):
        """Move the average towards the current weights, those after `updates` updates."""
        self(ms.Tensor(1 - min(self.decay, (1 + updates) / (10 + updates)), ms.float32))

    def construct(self, share):
        return self.each(functional.partial(_move, share), self.averages, self.weights)

    @contextlib.contextmanager
    def applied(self):
        """A context in which the network has the averages as its weights."""
        originals = [weight.asnumpy().copy() for weight in self.weights]
        for weight, average in zip(self.weights, self.averages):
            weight.set_data(ms.Tensor(average.asnumpy().copy()))
        try:
            yield
        finally:
            for weight, value in zip(self.weights, originals):
                weight.set_data(ms.Tensor(value))
