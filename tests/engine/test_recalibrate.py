"""Statistics of normalisation averaged over mini-batches, against their definition in NumPy."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindfcn.engine.recalibrate import recalibrate


class Two(nn.Cell):
    """Two normalisations, the second after the first one's batch statistics."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def construct(self, x):
        y = self.first(x)
        return self.second(y * y)


@pytest.fixture
def batches():
    random = np.random.default_rng(1)
    return [(2 * random.standard_normal((count, 3, 4, 5)) + np.arange(3).reshape(1, 3, 1, 1)).astype(np.float32)
            for count in (2, 3, 2)]


def statistics(batches):
    """(average mean, average unbiased variance) in float64."""
    batches = np.array([(batch.mean((0, 2, 3)), batch.transpose(1, 0, 2, 3).reshape(3, -1).var(1, ddof=1))
                        for batch in map(np.float64, batches)])
    return batches.mean(0)


def test_means_and_unbiased_variances_are_averaged(batches):
    net = Two()
    assert recalibrate(net, iter(batches)) == 3
    mean, variance = statistics(batches)
    np.testing.assert_allclose(net.first.moving_mean.asnumpy(), mean, rtol=1e-5)
    np.testing.assert_allclose(net.first.moving_variance.asnumpy(), variance, rtol=1e-5)
    # The inputs of the second layer were normalised by the statistics of their own batch.
    normalised = [(batch - batch.mean((0, 2, 3), keepdims=True)) ** 2 / (batch.var((0, 2, 3), keepdims=True) + 1e-5)
                  for batch in map(np.float64, batches)]
    mean, variance = statistics(normalised)
    np.testing.assert_allclose(net.second.moving_mean.asnumpy(), mean, rtol=1e-4)
    np.testing.assert_allclose(net.second.moving_variance.asnumpy(), variance, rtol=1e-4)
    assert not net.training


def test_frozen_layers_keep_their_statistics(batches):
    net = Two()
    net.first.gamma.requires_grad = False
    net.first.moving_mean.set_data(ms.Tensor([1.0, 2.0, 3.0]))
    recalibrate(net, batches)
    np.testing.assert_array_equal(net.first.moving_mean.asnumpy(), [1, 2, 3])
    squares = [(np.float64(batch) - np.array([1, 2, 3]).reshape(1, 3, 1, 1)) ** 2 for batch in batches]
    np.testing.assert_allclose(net.second.moving_mean.asnumpy(), statistics(squares)[0], rtol=1e-3)


def test_without_batches_nothing_changes():
    net = Two().set_train(True)
    before = [parameter.asnumpy().copy() for parameter in net.get_parameters()]
    assert recalibrate(net, []) == 0
    for parameter, value in zip(net.get_parameters(), before):
        np.testing.assert_array_equal(parameter.asnumpy(), value)
    assert net.training
