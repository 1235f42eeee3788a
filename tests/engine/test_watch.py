"""The watch over the loss: equal to the step's on CPU, without a trace, and a step with stale data ends the run."""

import contextlib

import mindspore as ms
import numpy as np
import pytest
import small_network  # noqa: F401  (its networks are trained)
from helpers import one_line, parameters, read_table, sample_settings

from mindfcn import runtime
from mindfcn.commands.train import train
from mindfcn.config import ModelConfig, OptimConfig
from mindfcn.console import Console
from mindfcn.engine.optimiser import optimiser
from mindfcn.engine.step import TrainStep
from mindfcn.engine.watch import TOLERANCE, LossOnly
from mindfcn.errors import UserError
from mindfcn.losses import CrossEntropy
from mindfcn.mindspore_versions import LAUNCH_BLOCKING
from mindfcn.models import layers
from mindfcn.models.factory import create_model
from mindfcn.models.precision import compute_in


@pytest.fixture(autouse=True)
def own_mode():
    """Training sets graph mode."""
    yield
    runtime.pynative_mode()


@pytest.mark.parametrize("dtype", [ms.float16, pytest.param(ms.float32, marks=pytest.mark.long)])
def test_the_loss_is_that_of_the_step_and_no_state_changes(scramble, dtype):
    """The same masks of dropout, cells and statistics of normalisation, also at the second step."""
    net = create_model("fcn32s_small_bn", 3, width=0.125, fc_width=8)
    net.backbone.drop7 = layers.Dropout(0.5, seed=7)
    scramble(net)
    update, _ = optimiser(net, OptimConfig(lr=1e-3, min_lr=1e-3), 10)
    compute_in(net, dtype)
    scaler = ms.amp.DynamicLossScaler(2 ** 10, 2, 1) if dtype == ms.float16 else None
    step = TrainStep(net, update, CrossEntropy(keep=0.5), scaler)
    runtime.graph_mode()
    step.set_train()
    loss, random, found = LossOnly(step), np.random.default_rng(1), []
    for _ in range(3):
        batch = (ms.Tensor(random.standard_normal((2, 3, 64, 64), np.float32)),
                 ms.Tensor(random.integers(0, 3, (2, 64, 64), np.int32)))
        before = parameters(step)
        found.append([loss(*batch), loss(*batch)])
        assert all(value.tobytes() == before[name].tobytes() for name, value in parameters(step).items())
        found[-1].append(float(step(*batch).asnumpy()))
    assert all(first == again == pytest.approx(taken, rel=1e-6) for first, again, taken in found)
    assert len({taken for *_, taken in found}) == 3


def settings(records, folder, every):
    return sample_settings(records, ModelConfig(name="fcn32s_small", width=0.125, fc_width=8),
                           OptimConfig(epochs=2, lr=0.05, warmup_epochs=0), run_dir=str(folder), watch_every=every)


def other_weights(step, images, labels):
    """Change the weights after the watch has computed its loss."""
    bias = next(weight for weight in step.weights if weight.name == "score_fr.bias")
    bias.set_data(ms.Tensor(np.arange(bias.size, dtype=np.float32)))
    return images, labels


def unwritten_labels(step, images, labels):
    """The labels are those of memory that nothing was copied to."""
    return images, labels * 0


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("fault, every, wrong, found", [
    (other_weights, 1, 3, 3), (unwritten_labels, 5, 2, 2),
    *(pytest.param(*case, marks=pytest.mark.long) for case in (
        (unwritten_labels, 5, 5, 5), (other_weights, 5, 3, None), (unwritten_labels, None, 2, None)))])
def test_a_step_with_stale_data_stops_the_run_if_it_is_checked(
        sample_records, tmp_path, monkeypatch, fault, every, wrong, found):
    take = TrainStep.__call__

    def faulty(step, *batch):
        return take(step, *(fault(step, *batch) if step.batches + 1 == wrong else batch))

    monkeypatch.setattr(TrainStep, "__call__", faulty)
    monkeypatch.setenv(LAUNCH_BLOCKING, "0")
    lines = []
    with pytest.raises(UserError) if found else contextlib.nullcontext() as error:
        train(settings(sample_records, tmp_path, every), Console(lines.append))
    # Without the setting, steps are watched on GPU only.
    assert any(f"every {every} (--watch_every)" in line for line in lines) == bool(every)
    if not found:
        assert len(read_table(tmp_path / "log.csv")) == 6
        return
    # Of the last one, step 4 was checked.
    one_line(error, f"loss of step {found} is", f"since step {found};", f"{LAUNCH_BLOCKING}=1", "(it is 0)")
    assert [int(row["step"]) for row in read_table(tmp_path / "log.csv")] == list(range(1, found))


def test_every_type_of_layers_has_a_tolerance():
    from mindfcn.models.precision import TYPES
    assert TOLERANCE.keys() == set(TYPES.values())
