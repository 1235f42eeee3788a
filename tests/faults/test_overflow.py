"""Numbers that overflow stop a run at the step where they arise, before they reach a checkpoint."""

import csv
import os

import mindspore as ms
import numpy as np
import pytest
import small_network  # noqa: F401  (its network is trained)
from mindspore import nn, ops

from mindfcn import runtime
from mindfcn.cli.main import main
from mindfcn.config import OptimConfig
from mindfcn.engine.optimiser import optimiser
from mindfcn.engine.step import TrainStep
from mindfcn.models import layers


class Net(nn.Cell):
    """Two convolutions without a ReLU between them."""

    def __init__(self):
        super().__init__()
        self.conv1 = layers.conv(3, 4, 3, bias=True)
        self.score_fr = layers.conv(4, 3, 1, bias=True)

    def construct(self, image):
        return self.score_fr(self.conv1(image))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_gradients_that_overflow_are_noticed_in_their_own_step(accumulate):
    """The loss is finite: only the next step would show the overflow, perhaps after a checkpoint."""
    runtime.set_up(seed=1)
    runtime.graph_mode()
    net = Net()
    step = TrainStep(net, optimiser(net, OptimConfig(lr=0.1, accumulate=accumulate), 8)[0], accumulate=accumulate)
    step.set_train()
    random = np.random.default_rng(1)
    labels = ms.Tensor(random.integers(0, 3, (2, 16, 16)).astype(np.int32))
    image = random.random((2, 3, 16, 16), np.float32)
    for _ in range(2):
        assert np.isfinite(float(step(ms.Tensor(image), labels)))
        assert step.finite.asnumpy() and step.nonfinite_names() == []
    # Zeros hide the size of the image from the loss, but not from their own gradient.
    net.conv1.weight.set_data(ops.zeros_like(net.conv1.weight))
    net.score_fr.weight.set_data(net.score_fr.weight * 1000)
    assert np.isfinite(float(step(ms.Tensor(image * np.float32(1e38)), labels)))
    assert not step.finite.asnumpy()
    assert any(name.endswith("conv1.weight") for name in step.nonfinite_names())


def test_numbers_too_large_for_the_check_are_noticed_and_named():
    """The check sums squares, which overflow before the numbers do; names are given by the same limit."""
    runtime.set_up(seed=1)
    runtime.graph_mode()
    net = Net()
    step = TrainStep(net, optimiser(net, OptimConfig(lr=0.1), 8)[0])
    step.set_train()
    images, labels = ms.Tensor(np.ones((2, 3, 16, 16), np.float32)), ms.Tensor(np.zeros((2, 16, 16), np.int32))
    for size, named in ((1e15, []), (1e20, ["score_fr.bias"])):
        net.score_fr.bias.set_data(ms.Tensor(np.float32([size, 0, 0])))
        assert np.isfinite(float(step(images, labels)))
        assert step.nonfinite_names() == named and bool(step.finite.asnumpy()) == (not named)


@pytest.mark.usefixtures("uncompiled")
def test_an_update_that_overflows_never_reaches_a_checkpoint(sample_records, tmp_path, capfd):
    """One step an epoch: the checkpoint would follow at once."""
    status = main(["train", "--device", "CPU", "--run_dir", str(tmp_path), "--data.records",
                   str(sample_records / "records"), "--model.name", "fcn32s_small", "--model.width", "0.0625",
                   "--model.fc_width", "16", "--augment.crop_size", "32", "--augment.batch_size", "12",
                   "--optim.epochs", "2", "--optim.lr", "1e39", "--optim.schedule", "constant"])
    error = capfd.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert status == 1
    assert error.startswith("mindfcn train: the loss is 1.9") and "at step 1 (epoch 1)" in error
    assert error.count("sample_0") == 12 and ".weight" in error and "overflowed" in error
    assert not os.path.exists(tmp_path / "checkpoints")
    with open(tmp_path / "log.csv", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == []
