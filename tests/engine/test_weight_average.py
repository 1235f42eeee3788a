"""The weights' moving average against its recursion in NumPy, with accumulated batches and normalisation."""

import mindspore as ms
import numpy as np
import pytest
import small_network  # noqa: F401  (its network is trained)

from mindfcn.config import OptimConfig
from mindfcn.engine.averaging import WeightAverage
from mindfcn.engine.optimiser import optimiser
from mindfcn.engine.step import TrainStep
from mindfcn.models.factory import create_model


def values(parameters):
    return [parameter.asnumpy().astype(np.float64) for parameter in parameters]


@pytest.mark.usefixtures("pynative")
@pytest.mark.parametrize("accumulate, decay", [pytest.param(1, 0.5, marks=pytest.mark.long), (2, 0.15)])
def test_averages_follow_the_recursion(accumulate, decay):
    """At a decay of 0.15 it is (1 + t) / (10 + t) for none, at 0.5 for all of these updates."""
    net = create_model("fcn8s_small_bn", 3, width=0.125, fc_width=8)
    update, _ = optimiser(net, OptimConfig(lr=0.1, min_lr=0.1, accumulate=accumulate), 10)
    average = WeightAverage(net, decay)
    step = TrainStep(net, update, accumulate=accumulate, average=average)
    step.set_train()
    assert {weight.name for weight in average.weights} == {parameter.name for parameter in net.get_parameters()}
    expected, random, updates = values(average.weights), np.random.default_rng(1), 0
    for batch in range(1, 5):
        step(ms.Tensor(random.standard_normal((2, 3, 32, 32), np.float32)),
             ms.Tensor(random.integers(0, 3, (2, 32, 32), np.int32)))
        if batch % accumulate == 0:
            updates += 1
            keeps = min(decay, (1 + updates) / (10 + updates))
            expected = [keeps * old + (1 - keeps) * new for old, new in zip(expected, values(average.weights))]
        for weight, one, other in zip(average.weights, values(average.averages), expected):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=weight.name)
    moved = [not np.allclose(one, other) for one, other in zip(values(average.weights), expected)]
    assert np.mean(moved) > 0.9

    before = [weight.asnumpy().tobytes() for weight in average.weights]
    with pytest.raises(KeyError), average.applied():
        for weight, other in zip(average.weights, average.averages):
            np.testing.assert_array_equal(weight.asnumpy(), other.asnumpy())
        raise KeyError("whatever happens inside")
    assert [weight.asnumpy().tobytes() for weight in average.weights] == before
