"""One training step: forward, backward, the optimiser's update, and the weights' moving average."""

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from mindspore.ops import functional

from mindfcn import runtime
from mindfcn.engine.graph_cache import reused
from mindfcn.engine.optimiser import Momentum
from mindfcn.losses import CrossEntropy

MOVING = (".moving_mean", ".moving_variance")
# Numbers of this size count as overflows: their squares are infinite in float32.
OVERFLOW = 1.8e19

# Functions of one parameter, mapped over all of them by HyperMap. Where a loop or a generator makes a tuple, the time
# and memory of MindSpore's compiler grow with the square of its length: for fcn_resnet50, 125 s in place of 35, and
# 2.8 GB in place of 1.
_after, _add_share, _store, _zero, _squares = map(ops.MultitypeFuncGraph,
                                                   ("after", "add_share", "store", "zero", "squares"))


@_after.register("Tensor", "Tensor")
@_after.register("Tuple", "Tensor")
@_after.register("Bool", "Tensor")
def _after_done(done, parameter):
    return ops.depend(parameter, done)


@_add_share.register("Number", "Tensor", "Tensor")
def _add_share_of_batch(count, total, gradient):
    return total + gradient / count


@_store.register("Tensor", "Tensor")
def _store_value(parameter, value):
    return ops.assign(parameter, value)


@_zero.register("Tensor")
def _zero_like(parameter):
    return ops.zeros_like(parameter)


@_squares.register("Tensor")
def _half_sum_of_squares(values):
    return ops.L2Loss()(values)


class TrainStep(nn.Cell):
    """Forward, backward and update in one compiled graph; several processes make one step on their joint batch.

    Args:
        net: the network.
        update: optimiser.
        loss: CrossEntropy or JointLoss; default: mean cross-entropy over all labelled pixels.
        scaler: loss scaler for float16, or None. Updates whose gradients overflow are skipped.
        accumulate: number of batches whose gradients are averaged into one update.
        frozen: cells kept out of training mode, so that their moving averages do not change.
        average: WeightAverage to update after each update of the weights, or None.
        clip_norm: largest norm of an update's gradients, all parameters together (Pascanu et al. 2013); larger ones are
            scaled down to it. 0 scales none.

    Inputs: images (N, 3, H, W) float32, labels (N, H, W) int32.
    Outputs: () float32, the loss of the joint batch of all processes.

    Attributes:
        batches: number of batches so far; a resumed run sets it.
        graph_key: see `graph_cache.graph_key`; "" keeps no compiled graph between runs.
        finite: () bool Parameter; whether weights and moving averages were finite, and below OVERFLOW, after the last
            step.
    """

    def __init__(self, net, update, loss=None, scaler=None, accumulate=1, frozen=(), average=None,
                 clip_norm=0.0):
        super().__init__(auto_prefix=False)
        self.net = net
        self.loss = loss or CrossEntropy()
        self.update = update
        self.scaler = scaler
        self.accumulate = accumulate
        self.frozen = tuple(frozen)
        self.average = average
        self.clip_norm = clip_norm
        self.batches = 0
        self.graph_key = ""
        # In a tuple, because a cell's attributes take part in its compilation.
        self.sizes = (runtime.OneSize(),)
        self.each = ops.HyperMap()
        self.weights = update.parameters
        self.sums = self.weights.clone(prefix="accumulated", init="zeros") if accumulate > 1 else None
        self.moving = ms.ParameterTuple([parameter for parameter in net.get_parameters()
                                         if parameter.name.endswith(MOVING)])
        # Without a scaler, no update is skipped.
        self.plain_momentum = isinstance(update, Momentum) and scaler is None
        # Where numbers that overflow become the largest instead of infinite, only MindSpore's own check finds them.
        self.ascend = ms.get_context("device_target") == "Ascend"
        self.finite = ms.Parameter(ms.Tensor(True), name="finite", requires_grad=False)
        self.gradient = ms.value_and_grad(self.forward, None, self.weights)
        self.ranks = runtime.rank_size()
        self.reduce = nn.DistributedGradReducer(self.weights, mean=False) if self.ranks > 1 else nn.Identity()
        self.total = ops.AllReduce() if self.ranks > 1 else nn.Identity()

    def __call__(self, images, labels):
        self.batches += 1
        self.sizes[0].before(images.shape)
        # A constant argument compiles two graphs, with and without the update, instead of one with a branch.
        updates = self.batches % self.accumulate == 0
        with reused(self.graph_key, images.shape, images.dtype, labels.shape, labels.dtype, updates):
            loss = super().__call__(images, labels, updates)
        if self.average and updates:
            self.average.update(self.batches // self.accumulate)
        return loss

    def set_train(self, mode=True):
        """Training mode, except for frozen cells; `Model.train` calls it too."""
        super().set_train(mode)
        for cell in self.frozen:
            cell.set_train(False)
        return self

    def state(self):
        """{name: Parameter} that a resumed run needs besides the network: moments, counters, sums, averages."""
        kept = ("moments.", "moment1.", "moment2.", "beta1_power", "beta2_power", "global_step", "accumulated.",
                "loss.step", "ema.")
        found = {parameter.name: parameter for parameter in self.get_parameters() if parameter.name.startswith(kept)}
        # The scaler is not a cell, so its scale and counter are not among this cell's parameters.
        scaler = vars(self.scaler).values() if self.scaler else ()
        return found | {entry.name: entry for entry in scaler if isinstance(entry, ms.Parameter)}

    def forward(self, images, labels):
        """The loss, scaled for float16."""
        logits = self.net(images)
        loss = self.loss(logits, labels)
        if self.ranks > 1:
            loss = loss * self.rank_weight(labels, logits.shape[1])
        return loss if self.scaler is None else self.scaler.scale(loss)

    def rank_weight(self, labels, classes):
        """The weight of this process's loss: the weighted losses add up to the loss of the joint batch."""
        if self.loss.reduction == "sum":
            return 1.0
        counted = self.loss.count(labels, classes)
        return counted / self.loss.divisor(self.total(counted))

    def construct(self, images, labels, updates):
        if self.plain_momentum and updates:
            images = ops.depend(images, self.update.decay())
        loss, gradients = self.gradient(images, labels)
        # Unscale before the scaler adjusts its scale.
        loss = self.total(self.unscaled(loss))
        if self.accumulate > 1:
            gradients = self.mean(gradients)
        if not updates:
            return ops.depend(loss, self.check(self.store(gradients)))
        gradients = self.reduce(gradients)
        if self.plain_momentum:
            done = self.update(self.clipped(gradients), True)
        elif self.scaler is None:
            done = self.update(self.clipped(gradients))
        else:
            gradients = self.scaler.unscale(gradients)
            finite = ms.amp.all_finite(gradients)
            if finite:
                self.update(self.clipped(gradients))
            done = self.scaler.adjust(finite)
        if self.accumulate > 1:
            done = ops.depend(done, self.store(ops.depend(self.zeros(), done)))
        # Reading parameters after an update copies them; Momentum returns them.
        weights = done if self.plain_momentum else self.each(functional.partial(_after, done), self.weights)
        return ops.depend(loss, self.check(weights))

    def clipped(self, gradients):
        """The gradients, scaled down to `clip_norm` where their norm exceeds it."""
        return ops.clip_by_global_norm(gradients, self.clip_norm) if self.clip_norm else gradients

    def check(self, values):
        """Store whether these values and the moving averages, after them, are finite."""
        values = values + self.each(functional.partial(_after, values), self.moving)
        if self.ascend:
            finite = ms.amp.all_finite(values)
        else:
            # IsFinite and ReduceAll take ten times as long on CPU.
            finite = ops.isfinite(ops.addn(self.each(_squares, values)))
        return ops.assign(self.finite, finite)

    def checked(self):
        """The parameters that must stay finite: weights, moving averages and gradient sums."""
        return [*self.weights, *self.moving, *(self.sums or ())]

    def nonfinite_names(self):
        """Names of the parameters with numbers that are not finite or above OVERFLOW, in the network's order."""
        return [parameter.name for parameter in self.checked() if not (np.abs(parameter.asnumpy()) < OVERFLOW).all()]

    def unscaled(self, loss):
        """The loss without the scale for float16."""
        return loss if self.scaler is None else self.scaler.unscale((loss,))[0]

    def mean(self, gradients):
        """The gradient sums so far plus this batch's share."""
        return self.each(functional.partial(_add_share, self.accumulate), self.sums, gradients)

    def store(self, gradients):
        """Store the gradient sums for the next batch."""
        return self.each(_store, self.sums, gradients)

    def zeros(self):
        """Gradient sums of zero."""
        return self.each(_zero, self.sums)
