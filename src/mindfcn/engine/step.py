"""One training step: forward, backward, and the optimiser's update."""

import mindspore as ms
from mindspore import nn, ops

from mindfcn import runtime
from mindfcn.engine.precision import layer_type
from mindfcn.errors import UserError
from mindfcn.losses import CrossEntropy
from mindfcn.schedules import learning_rates
from mindfcn.weights.surgery import block_of, stream_of

HEADS = ("conv6", "conv7", "score", "upscore", "geometric.")
UNDECAYED = (".bias", ".gamma", ".beta")


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

    Inputs: images (N, 3, H, W) float32, labels (N, H, W) int32.
    Outputs: () float32, the loss, over the batches of all processes.

    Attributes:
        batches: batches seen so far; a resumed run sets it.
    """

    def __init__(self, net, update, loss=None, scaler=None, accumulate=1, frozen=()):
        super().__init__(auto_prefix=False)
        self.net = net
        self.loss = loss or CrossEntropy()
        self.update = update
        self.scaler = scaler
        self.accumulate = accumulate
        self.frozen = tuple(frozen)
        self.batches = 0
        self.weights = update.parameters
        self.sums = self.weights.clone(prefix="accumulated", init="zeros") if accumulate > 1 else None
        self.gradient = ms.value_and_grad(self.forward, None, self.weights)
        self.ranks = runtime.rank_size()
        self.reduce = nn.DistributedGradReducer(self.weights, mean=False) if self.ranks > 1 else nn.Identity()
        self.total = ops.AllReduce() if self.ranks > 1 else nn.Identity()

    def __call__(self, images, labels):
        self.batches += 1
        # A constant argument makes two graphs, with and without the update, instead of a branch in one.
        return super().__call__(images, labels, self.batches % self.accumulate == 0)

    def set_train(self, mode=True):
        """Training mode, except for frozen cells; `Model.train` calls it too."""
        super().set_train(mode)
        for cell in self.frozen:
            cell.set_train(False)
        return self

    def state(self):
        """{name: Parameter} of what a resumed run needs besides the network: moments, counters, gradient sums."""
        kept = ("moments.", "global_step", "accumulated.", "loss.step")
        found = {parameter.name: parameter for parameter in self.get_parameters() if parameter.name.startswith(kept)}
        # The scaler is no cell, so its scale and its count of good steps are not among the step's parameters.
        scaler = vars(self.scaler).values() if self.scaler else ()
        return found | {entry.name: entry for entry in scaler if isinstance(entry, ms.Parameter)}

    def forward(self, images, labels):
        """The loss, scaled where float16 needs it."""
        loss = self.loss(self.net(images), labels)
        if self.ranks > 1:
            loss = loss * self.share(labels)
        return loss if self.scaler is None else self.scaler.scale(loss)

    def share(self, labels):
        """What this process's loss counts for, so that the sum over all processes is the loss of the joined batch."""
        if self.loss.reduction == "sum":
            return 1.0
        counted = self.loss.count(labels)
        return counted / self.loss.divisor(self.total(counted))

    def construct(self, images, labels, updates):
        loss, gradients = self.gradient(images, labels)
        # Now, before the scale may change.
        loss = self.total(self.unscaled(loss))
        if self.accumulate > 1:
            gradients = self.average(gradients)
        if not updates:
            return ops.depend(loss, self.store(gradients))
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
        return ops.depend(loss, done)

    def unscaled(self, loss):
        """The loss as the network had it."""
        return loss if self.scaler is None else self.scaler.unscale((loss,))[0]

    def average(self, gradients):
        """The sums so far plus this batch's share."""
        return tuple(total + gradient / self.accumulate for total, gradient in zip(self.sums, gradients))

    def store(self, gradients):
        """Keep the sums for the next batch."""
        return tuple(ops.assign(total, gradient) for total, gradient in zip(self.sums, gradients))

    def zeros(self):
        """Sums to begin again with."""
        return tuple(ops.zeros_like(total) for total in self.sums)
