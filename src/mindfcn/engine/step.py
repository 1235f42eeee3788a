"""One training step: forward, backward, the optimiser's update, and the weights' moving average."""

import contextlib

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindfcn import runtime
from mindfcn.engine.precision import layer_type
from mindfcn.errors import UserError
from mindfcn.losses import Bootstrapped, CrossEntropy, Dice, Focal
from mindfcn.schedules import learning_rates
from mindfcn.weights.surgery import block_of, stream_of

HEADS = ("conv6", "conv7", "score", "upscore", "deconv", "geometric.")
UNDECAYED = (".bias", ".gamma", ".beta")
MOVING = (".moving_mean", ".moving_variance")


def freeze(net, last):
    """Keep the trunk's blocks up to `last` ("conv3", say; "" is none) as they are.

    Returns:
        the normalisation layers whose parameters do not train: they must keep their moving averages, too.

    Raises:
        UserError: the trunk has no such block.
    """
    blocks = net.trunk.blocks
    if last and last not in blocks:
        raise UserError(f"--optim.freeze {last}: the trunk has no such block; it has {', '.join(blocks)}")
    frozen = blocks[:blocks.index(last) + 1] if last else ()
    for parameter in net.trunk.get_parameters():
        if block_of(parameter.name) in frozen:
            parameter.requires_grad = False
    return [cell for _, cell in net.cells_and_names()
            if isinstance(cell, nn.BatchNorm2d) and not cell.gamma.requires_grad]


def optimiser(net, config, steps_per_epoch):
    """Momentum SGD with the whole schedule, in groups that share learning rate and decay (see OptimConfig)."""
    # Batches wait for their update across the borders of epochs.
    updates = max(1, steps_per_epoch * config.epochs // config.accumulate)
    rates = learning_rates(updates, config.lr, config.min_lr, config.schedule, config.power,
                           round(config.warmup_epochs * steps_per_epoch / config.accumulate))
    groups = {}
    for parameter in net.trainable_params():
        bare = parameter.name.removeprefix(stream_of(parameter.name))
        paper = config.paper_biases and parameter.name.endswith(UNDECAYED)
        factor = (config.head_lr if bare.startswith(HEADS) else 1.0) * (2.0 if paper else 1.0)
        decay = 0.0 if paper else config.weight_decay
        groups.setdefault((factor, decay), []).append(parameter)
    return Momentum([{"params": members, "lr": ms.Tensor(rates * factor), "weight_decay": decay}
                     for (factor, decay), members in groups.items()],
                    learning_rate=ms.Tensor(rates), momentum=config.momentum), rates


class Momentum(nn.Momentum):
    """Momentum SGD with weight decay that needs no memory of its own.

    MindSpore's computes all weights times their decay at the beginning of a step and keeps them to its end.
    """

    def __init__(self, groups, learning_rate, momentum):
        super().__init__(groups, learning_rate, momentum)
        self.raise_moment = ops.ApplyGradientDescent()
        self.keeps = momentum

    def decay_weight(self, gradients):
        """Gradients, or gradients plus decay times weights where there is no momentum.

        With momentum m, the decay d w is added as d / m w to the moments, which are multiplied by m next.
        """
        decayed = ()
        for gradient, weight, moment, decay in zip(gradients, self._parameters, self.moments, self.weight_decay):
            if self.keeps:
                decayed += (ops.depend(gradient, self.raise_moment(moment, -decay / self.keeps, weight)),)
            else:
                decayed += (gradient + weight * decay,)
        return decayed


def loss_function(config, ignore_label, seed, class_weights):
    """The loss that the settings ask for."""
    options = {"ignore_label": ignore_label, "keep": config.keep_cells, "seed": seed, "class_weights": class_weights}
    if config.loss == "bootstrapped":
        return Bootstrapped(config.hard_pixels, **options)
    if config.loss == "focal":
        return Focal(config.focal_gamma, **options)
    if config.loss == "dice":
        return Dice(**options)
    return CrossEntropy(reduction=config.loss, **options)


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


def loss_scaler(config, device):
    """(type of the layers, scaler or None) of the chosen precision on this device.

    Only float16 needs a scaler: bfloat16 has the range of float32.

    Raises:
        UserError: the device has no such layers, or the gradients no such range.
    """
    summed = config.loss == "sum"
    precision = "float32" if config.precision == "auto" and summed else config.precision
    dtype = layer_type(precision, device, "--optim.precision")
    if dtype != ms.float16:
        return dtype, None
    if summed:
        # At a scale of 1, the least there is, the gradients of a whole photograph's pixels are infinite.
        raise UserError("--optim.precision float16: gradients of --optim.loss sum are beyond its range; use float32, "
                        "or bfloat16 on Ascend")
    if config.loss_scale > 0:
        return dtype, ms.amp.StaticLossScaler(config.loss_scale)
    return dtype, ms.amp.DynamicLossScaler(scale_value=2 ** 16, scale_factor=2, scale_window=2000)


class TrainStep(nn.Cell):
    """Forward, backward and update in one compiled graph; several processes take the step of their joined batch.

    Args:
        net: the network.
        update: optimiser.
        loss: CrossEntropy or JointLoss; the mean over all labelled pixels if not given.
        scaler: loss scaler for float16, or None. Steps whose gradients overflow are skipped.
        accumulate: batches whose gradients are averaged into one update.
        frozen: cells that stay out of training mode, so that their normalisation keeps its moving averages.
        average: WeightAverage that follows the updates, or None.

    Inputs: images (N, 3, H, W) float32, labels (N, H, W) int32.
    Outputs: () float32, the loss, over the batches of all processes.

    Attributes:
        batches: batches seen so far; a resumed run sets it.
        spoilt: () float32 Parameter; 0 after a step that left numbers in every weight and moving average, else NaN.
    """

    def __init__(self, net, update, loss=None, scaler=None, accumulate=1, frozen=(), average=None):
        super().__init__(auto_prefix=False)
        self.net = net
        self.loss = loss or CrossEntropy()
        self.update = update
        self.scaler = scaler
        self.accumulate = accumulate
        self.frozen = tuple(frozen)
        self.average = average
        self.batches = 0
        self.weights = update.parameters
        self.sums = self.weights.clone(prefix="accumulated", init="zeros") if accumulate > 1 else None
        moving = [parameter for parameter in net.get_parameters() if parameter.name.endswith(MOVING)]
        self.watched = ms.ParameterTuple([*self.weights, *moving])
        self.gathered = ms.ParameterTuple([*(self.sums or ()), *moving])
        self.spoilt = ms.Parameter(ms.Tensor(0.0, ms.float32), name="spoilt", requires_grad=False)
        self.gradient = ms.value_and_grad(self.forward, None, self.weights)
        self.ranks = runtime.rank_size()
        self.reduce = nn.DistributedGradReducer(self.weights, mean=False) if self.ranks > 1 else nn.Identity()
        self.total = ops.AllReduce() if self.ranks > 1 else nn.Identity()

    def __call__(self, images, labels):
        self.batches += 1
        # A constant argument makes two graphs, with and without the update, instead of a branch in one.
        loss = super().__call__(images, labels, self.batches % self.accumulate == 0)
        if self.average and self.batches % self.accumulate == 0:
            self.average.after(self.batches // self.accumulate)
        return loss

    def set_train(self, mode=True):
        """Training mode, except for frozen cells; `Model.train` calls it too."""
        super().set_train(mode)
        for cell in self.frozen:
            cell.set_train(False)
        return self

    def state(self):
        """{name: Parameter} of what a resumed run needs besides the network: moments, counters, sums, averages."""
        kept = ("moments.", "global_step", "accumulated.", "loss.step", "ema.")
        found = {parameter.name: parameter for parameter in self.get_parameters() if parameter.name.startswith(kept)}
        # The scaler is no cell, so its scale and its count of good steps are not among the step's parameters.
        scaler = vars(self.scaler).values() if self.scaler else ()
        return found | {entry.name: entry for entry in scaler if isinstance(entry, ms.Parameter)}

    def forward(self, images, labels):
        """The loss, scaled where float16 needs it."""
        logits = self.net(images)
        loss = self.loss(logits, labels)
        if self.ranks > 1:
            loss = loss * self.share(labels, logits.shape[1])
        return loss if self.scaler is None else self.scaler.scale(loss)

    def share(self, labels, classes):
        """What this process's loss counts for, so that the sum over all processes is the loss of the joined batch."""
        if self.loss.reduction == "sum":
            return 1.0
        counted = self.loss.count(labels, classes)
        return counted / self.loss.divisor(self.total(counted))

    def construct(self, images, labels, updates):
        loss, gradients = self.gradient(images, labels)
        # Now, before the scale may change.
        loss = self.total(self.unscaled(loss))
        if self.accumulate > 1:
            gradients = self.mean(gradients)
        if not updates:
            return ops.depend(loss, ops.assign(self.spoilt, self.overflow(self.gathered, self.store(gradients))))
        gradients = self.reduce(gradients)
        if self.scaler is None:
            done = self.update(gradients)
        else:
            gradients = self.scaler.unscale(gradients)
            finite = ms.amp.all_finite(gradients)
            if finite:
                self.update(gradients)
            done = self.scaler.adjust(finite)
        if self.accumulate > 1:
            done = ops.depend(done, self.store(ops.depend(self.zeros(), done)))
        return ops.depend(loss, ops.assign(self.spoilt, self.overflow(self.watched, done)))

    def overflow(self, parameters, done):
        """0 where all are finite once `done` is, else NaN: infinity and NaN survive a sum, and times 0 are NaN."""
        total = 0.0
        for parameter in parameters:
            # Row by row: MindSpore's sum over all axes takes six times as long on CPU.
            total += 0.0 * ops.depend(parameter, done).reshape(parameter.shape[0], -1).sum(-1).sum()
        return total

    def unfinite(self):
        """Names of the weights and moving averages that are not finite, in the network's order."""
        return [parameter.name for parameter in [*self.watched, *(self.sums or ())]
                if not np.isfinite(parameter.asnumpy().sum())]

    def unscaled(self, loss):
        """The loss as the network had it."""
        return loss if self.scaler is None else self.scaler.unscale((loss,))[0]

    def mean(self, gradients):
        """The sums so far plus this batch's share."""
        return tuple(total + gradient / self.accumulate for total, gradient in zip(self.sums, gradients))

    def store(self, gradients):
        """Keep the sums for the next batch."""
        return tuple(ops.assign(total, gradient) for total, gradient in zip(self.sums, gradients))

    def zeros(self):
        """Sums to begin again with."""
        return tuple(ops.zeros_like(total) for total in self.sums)
