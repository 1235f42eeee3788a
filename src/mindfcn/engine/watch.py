"""Check at some steps that a training step used its own batch and weights: its loss is computed twice."""

import math
import os

import mindspore as ms
from mindspore import nn

from mindfcn.engine.callbacks import RunCallback
from mindfcn.engine.step import MOVING
from mindfcn.errors import UserError
from mindfcn.mindspore_versions import LAUNCH_BLOCKING
from mindfcn.weights.load import is_state

# Steps between two checks on each device, if the settings give none. MindSpore is known to use stale data on GPU only.
EVERY = {"GPU": 50}
# Relative difference of two losses by the type of the layers; convolutions of float32 may use TF32.
TOLERANCE = {ms.float32: 1e-3, ms.float16: 1e-2, ms.bfloat16: 1e-2}


class LossOnly(nn.Cell):
    """The loss that a TrainStep would report, without gradients and update; the network's state stays as it is.

    Args:
        step: TrainStep in training mode.

    Inputs: images (N, 3, H, W) float32, labels (N, H, W) int32; other tensors than the step gets.
    Outputs: () float32.
    """

    def __init__(self, step):
        super().__init__(auto_prefix=False)
        self.step = step
        # What a forward pass in training mode changes: statistics of normalisation, counters of dropout and of cells.
        self.changed = [parameter for cell in (step.net, step.loss) for parameter in cell.get_parameters()
                        if parameter.name.endswith(MOVING) or is_state(parameter.name)]

    def __call__(self, images, labels):
        # Copied on the device, so that no copy to the device is left for the pass itself or for the next step.
        images, labels = images * 1, labels * 1
        before = [parameter.value().copy() for parameter in self.changed]
        ms.runtime.synchronize()
        loss = float(super().__call__(images, labels).asnumpy())
        for parameter, value in zip(self.changed, before):
            ms.ops.assign(parameter, value)
        ms.runtime.synchronize()
        return loss

    def construct(self, images, labels):
        return self.step.total(self.step.unscaled(self.step.forward(images, labels)))


class LossWatch(RunCallback):
    """Stop a run whose loss differs from the same loss computed apart from the step.

    Before a checked step, the loss of a copy of its batch is computed with the current weights; the device is idle
    before and after. The steps 1, 2, 4, 8, ... of a process and the steps whose number is a multiple of `every` are
    checked. Errors in the backward pass alone are not found, nor a wrong batch as long as all scores are zero.

    Args:
        run: Run.
        log: StepLog, flushed before the error is raised.
        every: steps between two checks.
        tolerance: largest relative difference of the two losses, an entry of TOLERANCE.

    Raises:
        UserError: with the step and both losses.
    """

    def __init__(self, run, log, every, tolerance):
        super().__init__(run)
        self.log, self.every, self.tolerance = log, every, tolerance
        self.loss = LossOnly(run.step)
        self.first, self.last_equal = run.step.batches, run.step.batches
        self.expected = None

    def on_train_step_begin(self, run_context):
        """Compute the loss of the step that follows."""
        number = self.run.step.batches + 1
        count = number - self.first
        # A power of two has one bit.
        if number % self.every and count & (count - 1):
            return
        # The step copies its own tensors to the device, as at every other step.
        batch = [ms.Tensor(tensor.asnumpy()) for tensor in run_context.original_args().train_dataset_element]
        if count == 1:
            # Compiles, and places the weights on the device.
            self.loss(*batch)
        self.expected = self.loss(*batch)

    def on_train_step_end(self, run_context):
        """Compare the loss of the step with the one computed before it."""
        expected, self.expected = self.expected, None
        if expected is None:
            return
        number, loss = self.run.step.batches, float(run_context.original_args().net_outputs.asnumpy())
        if not self.differs(loss, expected):
            self.last_equal = number
            return
        self.log.flush()
        raise UserError(f"the loss of step {number} is {loss:.6g}, but {expected:.6g} when it is computed apart from "
                        "the step with the same batch and weights: the device used stale data, perhaps since step "
                        f"{self.last_equal + 1}; start again with {LAUNCH_BLOCKING}=1 in the environment (it is "
                        f"{os.environ.get(LAUNCH_BLOCKING)})")

    def differs(self, loss, expected):
        """Whether two losses differ by more than the precision allows; two that are not finite do not."""
        if not math.isfinite(loss) and not math.isfinite(expected):
            return False
        return not math.isclose(loss, expected, rel_tol=self.tolerance, abs_tol=self.tolerance / 10)
