"""The exponential moving average of a network's weights."""

import contextlib

import mindspore as ms
from mindspore import nn, ops

from mindfcn.engine.step import MOVING


class WeightAverage(nn.Cell):
    """Exponential moving average of a network's weights, and of its normalisation's statistics.

    average += (1 - d) (weight - average) after each update t = 1, 2, ..., with d the smaller of `decay` and
    (1 + t) / (10 + t), so that the first weights are soon forgotten. (Polyak and Juditsky 1992 average all iterates;
    this form is that of TensorFlow's ExponentialMovingAverage.)

    Args:
        net: the network.
        decay: 0..1 (both excluded).

    Attributes:
        weights: the network's parameters that training changes.
        averages: theirs, in the same order; their names begin with `ema.`.
    """

    def __init__(self, net, decay):
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.weights = ms.ParameterTuple([parameter for parameter in net.get_parameters()
                                          if parameter.requires_grad or parameter.name.endswith(MOVING)])
        self.averages = self.weights.clone(prefix="ema", init="same")

    def after(self, updates):
        """Take in the weights as they are after so many updates."""
        self(ms.Tensor(1 - min(self.decay, (1 + updates) / (10 + updates)), ms.float32))

    def construct(self, share):
        done = ()
        for average, weight in zip(self.averages, self.weights):
            done += (ops.assign_add(average, (weight - average) * share),)
        return done

    @contextlib.contextmanager
    def in_place(self):
        """The network has the averages as its weights inside this context."""
        kept = [weight.asnumpy().copy() for weight in self.weights]
        for weight, average in zip(self.weights, self.averages):
            weight.set_data(ms.Tensor(average.asnumpy().copy()))
        try:
            yield
        finally:
            for weight, value in zip(self.weights, kept):
                weight.set_data(ms.Tensor(value))
