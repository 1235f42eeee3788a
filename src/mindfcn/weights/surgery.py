"""Weights into a network, with an account of every one of them."""

import dataclasses

import mindspore as ms
import numpy as np

from mindfcn.errors import UserError
from mindfcn.preprocess import COURSE
from mindfcn.weights.importers import fold_bias, to_bgr, vgg16_names
from mindfcn.weights.readers import read_weights

# Layers that only a VGG16 of the full width can fill.
DENSE = ("conv6.", "conv7.")


@dataclasses.dataclass
class LoadReport:
    """What became of each weight.

    Attributes:
        source: the file.
        loaded: names in the network that took the file's numbers.
        converted: (name in the network, what was done to it).
        missing: names in the network that the file does not have; they keep their initial numbers.
        unexpected: names in the file that the network does not have.
        clashes: (name in the network, its shape, the file's shape); they keep their initial numbers.
    """
    source: str
    loaded: list = dataclasses.field(default_factory=list)
    converted: list = dataclasses.field(default_factory=list)
    missing: list = dataclasses.field(default_factory=list)
    unexpected: list = dataclasses.field(default_factory=list)
    clashes: list = dataclasses.field(default_factory=list)

    def rows(self):
        """(name, what became of it) of every weight."""
        converted = dict(self.converted)
        return ([(name, f"loaded, {converted[name]}" if name in converted else "loaded") for name in self.loaded]
                + [(name, f"shape clash: {ours} here, {theirs} in the file; initial numbers kept")
                   for name, ours, theirs in self.clashes]
                + [(name, "missing in the file; initial numbers kept") for name in self.missing]
                + [(name, "unexpected: only in the file, left out") for name in self.unexpected])

    def __str__(self):
        width = max((len(name) for name, _ in self.rows()), default=0)
        summary = (f"{self.source}: {len(self.loaded)} loaded ({len(self.converted)} converted), "
                   f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, {len(self.clashes)} shape clashes")
        return "\n".join([summary] + [f"  {name:{width}}  {what}" for name, what in self.rows()])

    def summary(self):
        """The first line of the table."""
        return str(self).splitlines()[0]


def load_vgg16(net, source, order=COURSE.order, where=None):
    """Fill the VGG16 layers of a network from a VGG16 of any known origin (see `vgg16_names`).

    The two dense layers become the convolutions conv6 and conv7 where the network has their full width. Weights
    without normalisation also fill a network with it: a bias moves into the moving mean.

    Args:
        net: a network with VGG16's parameter names.
        source: .ckpt, .pth, .safetensors or .npz file, or the dict read from one.
        order: channel order of the images that the network will be fed; first-layer weights follow it.
        where: name of the file for messages.

    Returns:
        LoadReport.

    Raises:
        UserError: not a VGG16, or a convolution of another shape.
    """
    where = where or ("weights" if isinstance(source, dict) else str(source))
    weights = source if isinstance(source, dict) else read_weights(source)
    parameters = trunk_parameters(net)
    batch_norm = "conv1.1.gamma" in parameters
    try:
        renamed, pairs, weights_order = vgg16_names(weights, batch_norm)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    report = LoadReport(where)
    taken = {theirs for theirs, _ in pairs}
    report.unexpected = [name for name in weights if name not in taken]
    report.converted = [(ours, f"{theirs} {weights[theirs].shape}") for theirs, ours in pairs
                        if weights[theirs].shape != renamed[ours].shape]
    if weights_order != order:
        renamed["conv1.0.weight"] = to_bgr(renamed["conv1.0.weight"])
        report.converted.append(("conv1.0.weight", f"{weights_order} to {order}"))
    if batch_norm:
        renamed = _biases_to_means(renamed, report)
    _assign(parameters, renamed, report)
    wrong = next((clash for clash in report.clashes if not clash[0].startswith(DENSE)), None)
    if wrong:
        raise UserError(f"{where}: {wrong[0]} is {wrong[2]}, the network's is {wrong[1]}; give weights of a VGG16")
    return report


def load_weights(net, source, where=None, partial=False):
    """Fill a whole network from weights under its own names; all must be there and fit.

    Args:
        net: the network.
        source: file, or the dict read from one.
        where: name of the file for messages.
        partial: leave what is missing as it is.

    Returns:
        LoadReport.

    Raises:
        UserError: another architecture, another class count, or weights missing.
    """
    where = where or ("weights" if isinstance(source, dict) else str(source))
    weights = source if isinstance(source, dict) else read_weights(source)
    parameters = {parameter.name: parameter for parameter in net.get_parameters() if not is_state(parameter.name)}
    weights = {name: weight for name, weight in weights.items() if not is_state(name)}
    report = LoadReport(where, missing=[name for name in parameters if name not in weights],
                        unexpected=[name for name in weights if name not in parameters])
    if report.missing and not partial or report.unexpected:
        example = (f"it lacks {report.missing[0]}" if report.missing and not partial
                   else f"it has {report.unexpected[0]}, which the network has not")
        raise UserError(f"{where} is of another architecture: {example} ({len(report.missing)} missing, "
                        f"{len(report.unexpected)} unexpected); "
                        "name its network with --model (train: --model.name)")
    clashes = [name for name in weights if parameters[name].shape != weights[name].shape]
    if clashes:
        raise UserError(_shape_message(where, clashes[0], parameters[clashes[0]].shape, weights[clashes[0]].shape))
    _assign(parameters, weights, report)
    return report


def is_state(name):
    """Whether a parameter belongs to the run and not to the trained network: the step counters of dropout."""
    return name.endswith(".step")


def trunk_parameters(net):
    """{name: Parameter} of the VGG16 layers of a network."""
    return {parameter.name: parameter for parameter in net.get_parameters()
            if parameter.name.startswith("conv") and parameter.name[4:5].isdigit()}


def _shape_message(where, name, ours, theirs):
    if name.startswith(("score", "upscore")) and ours[0] != theirs[0]:
        return (f"{where} was trained for {theirs[0]} classes, the network has {ours[0]}; "
                "use its own labels, or start from it as pretrained weights")
    return f"{where}: {name} is {theirs}, the network's is {ours}; give weights of the same network and width"


def _biases_to_means(renamed, report):
    biases = [name for name in renamed if name.endswith(".bias") and f"{name[:-5]}.weight" in renamed]
    for name in biases:
        mean = f"{name[:-6]}{int(name[-6]) + 1}.moving_mean"
        renamed.setdefault(mean, np.zeros_like(renamed[name]))
        report.converted.append((mean, f"less {name}"))
    return fold_bias(renamed)


def _assign(parameters, weights, report):
    for name, parameter in parameters.items():
        if name not in weights:
            if name not in report.missing and not is_state(name):
                report.missing.append(name)
        elif parameter.shape != weights[name].shape:
            report.clashes.append((name, parameter.shape, weights[name].shape))
        else:
            weight = np.asarray(weights[name])
            if not np.isfinite(weight).all():
                raise UserError(f"{report.source}: {name} holds NaN or infinite numbers; use another checkpoint")
            parameter.set_data(ms.Tensor(weight.astype(np.float32), parameter.dtype))
            report.loaded.append(name)
    report.converted = [pair for pair in report.converted if pair[0] in report.loaded]
