"""Maps computed again in the backward pass: the same weights, from less memory."""

import mindspore as ms
import numpy as np
import pytest
import small_network  # noqa: F401 (makes the small networks known)
from helpers import one_line, parameters
from mindspore import nn

from mindfcn.config import OptimConfig
from mindfcn.engine.optimiser import optimiser, recompute
from mindfcn.engine.step import TrainStep
from mindfcn.errors import UserError
from mindfcn.models.factory import create_model


def trained(again):
    """Parameters after three steps."""
    ms.set_seed(1)
    net = create_model("fcn8s_small", 3, width=0.125)
    if again:
        recompute(net)
    step = TrainStep(net, optimiser(net, OptimConfig(lr=0.05), 3)[0])
    step.set_train()
    random = np.random.default_rng(1)
    for _ in range(3):
        step(ms.Tensor(random.standard_normal((2, 3, 32, 32)).astype(np.float32)),
             ms.Tensor(random.integers(0, 3, (2, 32, 32)).astype(np.int32)))
    return parameters(net)


def test_weights_and_dropout_are_the_same_bit_for_bit(mode):
    kept, again = trained(False), trained(True)
    assert kept.keys() == again.keys() and kept["drop7.step"] == 3
    for name, value in kept.items():
        assert value.tobytes() == again[name].tobytes(), name


@pytest.mark.parametrize("name, options", [("fcn8s_vgg16", {}), ("fcn32s_alexnet", {}), ("fcn32s_googlenet", {}),
                                           ("fcn8s_small", {"modality": "rgb_hha"})])
def test_every_convolution_of_the_blocks_is_marked(name, options):
    net = create_model(name, 3, width=0.125, **options)
    recompute(net)
    convolutions = {name: cell for name, cell in net.cells_and_names() if isinstance(cell, nn.Conv2d)}
    marked = {name for name, cell in convolutions.items() if "recompute_" in (cell.get_scope() or "")}
    assert marked == {name for name in convolutions if name.startswith("backbone.")} != set(convolutions)


@pytest.mark.parametrize("name", ["fcn8s_vgg16_bn", "fcn_r18_d8"])
def test_batch_normalisation_is_refused(name):
    with pytest.raises(UserError) as error:
        recompute(create_model(name, 3, width=0.125))
    one_line(error, "--optim.recompute true", "twice", "fcn8s_vgg16")
