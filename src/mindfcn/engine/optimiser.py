"""The optimiser, its learning rates, the loss and the loss scaler chosen by the settings."""

import mindspore as ms
from mindspore import nn, ops
from mindspore.ops import functional

from mindfcn.errors import UserError
from mindfcn.losses import Bootstrapped, CrossEntropy, Dice, Focal
from mindfcn.models.precision import layer_type
from mindfcn.schedules import learning_rates
from mindfcn.weights.load import block_of, stream_of

HEADS = ("conv6", "conv7", "score", "upscore", "deconv", "geometric.", "auxiliary.")
UNDECAYED = (".bias", ".gamma", ".beta")

# Decay of one weight, mapped over all of them by HyperMap, which compiles quicker than a loop.
_add_to_moment, _add_decay, _shrink, _update = map(ops.MultitypeFuncGraph,
                                                   ("add_to_moment", "add_decay", "shrink", "update"))
_descend = ops.ApplyGradientDescent()


@_add_to_moment.register("Number", "Tensor", "Tensor", "Tensor")
def _add_decay_to_moment(momentum, decay, weight, moment):
    # Divided here, as the compiler rounds it: computed before, it differs in the last bit, and so do resumed runs.
    return _descend(moment, -decay / momentum, weight)


@_add_decay.register("Tensor", "Tensor", "Tensor")
def _add_decay_to_gradient(decay, gradient, weight):
    return gradient + weight * decay


@_shrink.register("Tensor", "Tensor", "Tensor", "Tensor")
def _shrink_weight(decay, gradient, weight, rate):
    return ops.depend(gradient, _descend(weight, rate * decay, weight))


@_update.register("Function", "Tensor", "Tensor", "Tensor", "Tensor", "Tensor")
def _update_weight(apply, momentum, rate, gradient, weight, moment):
    return apply(weight, moment, rate, gradient, momentum)


def freeze(net, last):
    """Freeze the backbone's blocks up to and including `last`, such as "conv3"; "" freezes none.

    Returns:
        the batch normalisation layers that do not train; their moving averages must stay fixed, too.

    Raises:
        UserError: the backbone has no such block, or no weight belongs to it.
    """
    blocks = net.backbone.blocks
    if last and last not in blocks:
        raise UserError(f"--optim.freeze {last}: the backbone has no such block; it has {', '.join(blocks)}")
    frozen = blocks[:blocks.index(last) + 1] if last else ()
    found = [parameter for parameter in net.backbone.get_parameters() if block_of(parameter.name) in frozen]
    if last and not found:
        raise UserError(f"--optim.freeze {last}: no weight of this network's backbone belongs to it; leave it out")
    for parameter in found:
        parameter.requires_grad = False
    return [cell for _, cell in net.cells_and_names()
            if isinstance(cell, nn.BatchNorm2d) and not cell.gamma.requires_grad]


def optimiser(net, config, steps_per_epoch):
    """(optimiser, (updates,) learning rates), in groups that share learning rate and decay.

    OptimConfig describes the settings.
    """
    # Gradients accumulate across epochs, so an update may span two of them.
    updates = max(1, steps_per_epoch * config.epochs // config.accumulate)
    rates = learning_rates(updates, config.lr, config.min_lr, config.schedule, config.power,
                           round(config.warmup_epochs * steps_per_epoch / config.accumulate))
    groups = {}
    for parameter in net.trainable_params():
        bare = parameter.name.removeprefix(stream_of(parameter.name))
        shift = parameter.name.endswith(UNDECAYED)
        factor = (config.head_lr if bare.startswith(HEADS) else 1.0) * (2.0 if config.paper_biases and shift else 1.0)
        decay = 0.0 if shift and (config.paper_biases or config.name != "sgd") else config.weight_decay
        groups.setdefault((factor, decay), []).append(parameter)
    groups = [{"params": members, "lr": ms.Tensor(rates * factor), "weight_decay": decay}
              for (factor, decay), members in groups.items()]
    if config.name == "sgd":
        return Momentum(groups, ms.Tensor(rates), config.momentum), rates
    kind = nn.Adam if config.name == "adam" else AdamW
    return kind(groups, ms.Tensor(rates), config.momentum, config.beta2), rates


class Momentum(nn.Momentum):
    """Momentum SGD with weight decay that needs no additional memory, and that returns the updated weights.

    nn.Momentum computes decay * weight for all parameters at the start of a step and keeps these copies until its end:
    0.5 GB for fcn8s_vgg16.
    """

    def __init__(self, groups, learning_rate, momentum):
        super().__init__(groups, learning_rate, momentum)
        self.momentum_factor = momentum

    def construct(self, gradients, decayed=False):
        """The updated weights, which share the parameters' memory; `decayed`: `decay` was called in this step."""
        if not decayed:
            gradients = ops.depend(gradients, self.decay())
        if not self.momentum_factor:
            gradients = self.hyper_map(_add_decay, self.weight_decay, gradients, self._parameters)
        rates = self.get_lr()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        return self.hyper_map_reverse(functional.partial(_update, self.opt, self.momentum), rates, gradients,
                                      self.params, self.moments)

    def decay(self):
        """With momentum m, add the decay d w to the moments as d / m w, since the update multiplies them by m.

        Before the forward pass, it takes memory that the pass takes later anyway.

        Returns:
            the results to wait for with `ops.depend`; () without momentum, where the decay is added to the gradients.
        """
        if not self.momentum_factor:
            return ()
        add = functional.partial(_add_to_moment, self.momentum_factor)
        return self.hyper_map(add, self.weight_decay, self._parameters, self.moments)


class AdamW(nn.Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019): weight -= learning rate * decay * weight.

    nn.AdamWeightDecay leaves out the correction of the moments' bias, and its first steps are too long.
    """

    def decay_weight(self, gradients):
        """The gradients as they are, after the weights have decayed."""
        return self.hyper_map(_shrink, self.weight_decay, gradients, self._parameters, self.get_lr())


def loss_function(config, ignore_label, seed, class_weights):
    """The loss chosen by the settings."""
    options = {"ignore_label": ignore_label, "keep": config.keep_cells, "seed": seed, "class_weights": class_weights}
    if config.loss == "focal":
        return Focal(config.focal_gamma, **options)
    if config.loss == "dice":
        return Dice(**options)
    options["smoothing"] = config.label_smoothing
    if config.loss == "bootstrapped":
        return Bootstrapped(config.hard_pixels, **options)
    return CrossEntropy(reduction=config.loss, **options)


def loss_scaler(config, device):
    """(dtype of the layers, loss scaler or None) for the chosen precision on this device.

    Only float16 needs a scaler: bfloat16 has the range of float32.

    Raises:
        UserError: the device does not support the precision, or the gradients exceed its range.
    """
    summed = config.loss == "sum"
    precision = "float32" if config.precision == "auto" and summed else config.precision
    dtype = layer_type(precision, device, "--optim.precision")
    if dtype != ms.float16:
        return dtype, None
    if summed:
        # Even at the smallest scale, 1, the summed gradients of a whole photograph overflow.
        raise UserError("--optim.precision float16: gradients of --optim.loss sum are beyond its range; use float32, "
                        "or bfloat16 on Ascend")
    if config.loss_scale > 0:
        return dtype, ms.amp.StaticLossScaler(config.loss_scale)
    return dtype, ms.amp.DynamicLossScaler(scale_value=2 ** 16, scale_factor=2, scale_window=2000)
