"""Load weights into a network, with a report on each of them."""

import dataclasses
from typing import Optional, Union

import mindspore as ms
import numpy as np
from mindspore import nn

from mindfcn.console import FilePath
from mindfcn.errors import UserError
from mindfcn.preprocess import CONVENTIONS, Preprocess
from mindfcn.storage.weight_files.read import read_weights
from mindfcn.weights.naming import backbone_names, fold_bias, to_bgr

# Dense layers of the classifier, loaded only where the network has their full width.
DENSE = ("conv6.", "conv7.")
HEAD = ("score", "upscore", "geometric.", "auxiliary.")
# What the classifiers that DeconvNet starts from add to variances.
EPSILON = 1e-5
# Prefixes of the layers' names in the two streams of late fusion.
STREAMS = ("color.", "hha.")
# A weights file, or {name: array}.
Weights = Union[FilePath, dict[str, np.ndarray]]


@dataclasses.dataclass
class LoadReport:
    """Which weights were loaded, converted, missing or left out.

    Attributes:
        source: name of the file.
        loaded: names in the network whose values come from the file.
        converted: (name in the network, how its values were converted).
        missing: names in the network that the file lacks; they keep their initial values.
        unexpected: names in the file that the network lacks.
        shape_mismatches: (name in the network, its shape, the file's shape); they keep their initial values.
        reinitialized: names in the network that the file has for other classes; they keep their initial values.
        preprocess: normalisation that the weights require for the network's images; None if they require none.
    """
    source: str
    loaded: list = dataclasses.field(default_factory=list)
    converted: list = dataclasses.field(default_factory=list)
    missing: list = dataclasses.field(default_factory=list)
    unexpected: list = dataclasses.field(default_factory=list)
    shape_mismatches: list = dataclasses.field(default_factory=list)
    reinitialized: list = dataclasses.field(default_factory=list)
    preprocess: Optional[Preprocess] = None

    def rows(self):
        """A list of (name, its result in words) for every weight."""
        converted = dict(self.converted)
        return ([(name, f"loaded, {converted[name]}" if name in converted else "loaded") for name in self.loaded]
                + [(name, f"shape mismatch: {shape} here, {file_shape} in the file; initial values kept")
                   for name, shape, file_shape in self.shape_mismatches]
                + [(name, "reinitialised: the file's is for other classes") for name in self.reinitialized]
                + [(name, "missing in the file; initial values kept") for name in self.missing]
                + [(name, "unexpected: only in the file, left out") for name in self.unexpected])

    def __str__(self):
        width = max((len(name) for name, _ in self.rows()), default=0)
        summary = (f"{self.source}: {len(self.loaded)} loaded ({len(self.converted)} converted), "
                   f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, "
                   f"{len(self.shape_mismatches)} shape mismatches"
                   + (f", {len(self.reinitialized)} reinitialised for other classes" if self.reinitialized else ""))
        return "\n".join([summary] + [f"  {name:{width}}  {what}" for name, what in self.rows()])

    def summary(self):
        """The first line of the report."""
        return str(self).splitlines()[0]


def load_backbone(net: nn.Cell, source: Weights, convention: Union[str, Preprocess] = "auto",
                  where: Optional[FilePath] = None) -> LoadReport:
    """Load a network's backbone from a classifier of the same architecture, of any known origin (see `backbone_names`).

    Known are VGG16, AlexNet in both forms, GoogLeNet, and backbones of mindcv under mindcv's names. Dense layers become
    the convolutions conv6 and conv7 if the network has their full width. A network with batch normalisation can also
    load weights without it: each bias moves into the moving mean. In a network for colour and depth, the first layer's
    filters for depth become the mean of its filters for colours; in one for N bands, each band's become 3 / N of that
    mean; in one for colour and HHA, both streams get the same
    weights.

    Args:
        net: a network with a `backbone`, or a backbone.
        source: .ckpt, .pth, .safetensors, .npz or .caffemodel file, or the dict read from one.
        convention: normalisation that the weights expect: "auto" follows from their names; "course", or Caffe's with
            its mean colour or a data set's, "caffe", "nyud" or "siftflow", overrides that, for files such as
            vgg16_from_caffe.pth, whose names are torchvision's; a Preprocess is the weights' own. The network always
            takes BGR images: the channels of the first layer are swapped if they are RGB.
        where: name of the file for messages.

    Returns:
        LoadReport; its `preprocess` is the normalisation that the network's images need from now on.

    Raises:
        UserError: weights of another architecture, or a convolution of another shape.
    """
    where = str(where or _name(source))
    weights = source if isinstance(source, dict) else read_weights(source)
    streams: dict[str, dict] = {}
    for name, parameter in backbone_parameters(net).items():
        streams.setdefault(stream_of(name), {})[name] = parameter
    report = LoadReport(where)
    for stream, parameters in streams.items():
        _fill_backbone(parameters, weights, convention, stream, report)
    report.converted += _adjust_epsilon(net, report.loaded)
    return report


def _adjust_epsilon(net, loaded):
    """Adjust loaded variances where a layer adds a smaller epsilon than the classifier did: its results stay the same.

    Only DeconvNet's layers do. Layers of mindcv that add a larger one were trained so.

    Returns a list of (name, how it was converted).
    """
    converted = []
    for _, cell in net.cells_and_names():
        if isinstance(cell, nn.BatchNorm2d) and cell.eps < EPSILON and cell.moving_variance.name in loaded:
            variance = cell.moving_variance.asnumpy() + np.float32(EPSILON - cell.eps)
            cell.moving_variance.set_data(ms.Tensor(variance))
            converted.append((cell.moving_variance.name, f"for the epsilon {cell.eps:g} instead of {EPSILON:g}"))
    return converted


def _fill_backbone(parameters, weights, convention, stream, report):
    """Load one backbone, {name: Parameter}, whose names begin with `stream`, and report its weights."""
    where = report.source
    try:
        renamed, pairs, preprocess = backbone_names(weights, [name.removeprefix(stream) for name in parameters])
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    renamed = {stream + name: weight for name, weight in renamed.items()}
    if isinstance(convention, Preprocess):
        preprocess, convention = convention, "auto"
    report.preprocess = _bgr(preprocess) if convention == "auto" else CONVENTIONS[convention]
    used = {source for source, _ in pairs}
    report.unexpected = [name for name in weights if name not in used]
    report.converted += [(stream + target, f"{source} {weights[source].shape}") for source, target in pairs
                         if weights[source].shape != renamed[stream + target].shape]
    if preprocess.order == "RGB" and convention not in ("caffe", "nyud", "siftflow"):
        first = next(name for name, parameter in parameters.items() if parameter.ndim == 4)
        renamed[first] = to_bgr(renamed[first])
        report.converted.append((first, "RGB to BGR"))
    _widen(renamed, parameters, report)
    if f"{stream}conv1.1.gamma" in parameters and f"{stream}conv1.0.bias" not in parameters:
        renamed = _biases_to_means(renamed, report)
    wrong = next((name for name, parameter in parameters.items() if name in renamed
                  and not name.removeprefix(stream).startswith(DENSE) and parameter.shape != renamed[name].shape), None)
    if wrong:
        raise UserError(f"{where}: {wrong} is {renamed[wrong].shape}, the network's is {parameters[wrong].shape}; "
                        "give weights of the same architecture and width")
    _assign(parameters, renamed, report)


def _widen(weights, parameters, report):
    """If the first layer takes more than three channels, make its filters from those for colours.

    With four channels, the fourth, depth, gets their mean; with any other number N, every band gets 3 / N of it, so
    that the same value in all bands gives the output that it gave in all colours.
    """
    for name, parameter in parameters.items():
        if parameter.ndim == 4 and name in weights:
            shape, file_shape = parameter.shape, weights[name].shape
            if shape[1] > 3 and file_shape == (shape[0], 3, *shape[2:]):
                mean = weights[name].mean(1, keepdims=True)
                if shape[1] == 4:
                    weights[name] = np.concatenate([weights[name], mean], 1)
                    report.converted.append((name, "fourth channel: the mean of the filters for colours"))
                else:
                    weights[name] = np.repeat(mean * np.float32(3 / shape[1]), shape[1], 1)
                    report.converted.append((name, f"{shape[1]} bands: 3/{shape[1]} of the mean of the filters for "
                                             "colours each"))
            return


# Alias from when VGG16 was the only backbone.
load_vgg16 = load_backbone


def load_stage(net: nn.Cell, source: Weights, where: Optional[FilePath] = None,
               same_classes: bool = True) -> LoadReport:
    """Start a network from a complete one on the same backbone: FCN-16s from 32s, 8s from 16s, or other classes.

    Weights of the same name and shape are loaded. A new score layer keeps its zeros, a new upsampling layer its
    bilinear kernel; the last upsampling layer of the earlier stage is left out. (Long et al. 2015, section 4.2)

    Args:
        net: the network.
        source: file, or the dict read from one, under MindFCN's names.
        where: name of the file for messages.
        same_classes: whether the weights were trained for the network's classes; if not, score and upsampling layers
            keep their initial values, even if an equal number of classes gives them the same shapes.

    Returns:
        LoadReport.

    Raises:
        UserError: another backbone, or another width.
    """
    where = str(where or _name(source))
    weights = source if isinstance(source, dict) else read_weights(source)
    parameters = _parameters(net)
    weights = {name: weight for name, weight in weights.items() if not is_state(name)}
    report = LoadReport(where, unexpected=[name for name in weights if name not in parameters])
    _widen(weights, parameters, report)
    foreign = [name for name in sorted(weights.keys() ^ parameters.keys()) if not name.startswith(HEAD)]
    if foreign:
        side = "has" if foreign[0] in weights else "lacks"
        raise UserError(f"{where} is of another architecture: its backbone {side} {foreign[0]}; "
                        "start from a checkpoint of the same backbone")
    for name in weights:
        if not name.startswith(HEAD) and parameters[name].shape != weights[name].shape:
            raise UserError(_shape_message(where, name, parameters[name].shape, weights[name].shape))
    if not same_classes:
        report.reinitialized = [name for name in parameters if name.startswith(HEAD) and name in weights]
    _assign({name: entry for name, entry in parameters.items() if name not in report.reinitialized}, weights, report)
    return report


def load_streams(net, color, hha, where, same_classes=True):
    """Start a late-fusion network from two trained ones, for colour and for HHA, on the same backbone.

    Backbones and score layers of both are loaded, and the upsampling layers of the network for colour.

    Args:
        net: the network, on TwoStreams.
        color, hha: dicts under MindFCN's names.
        where: (file name of `color`, file name of `hha`) for messages.
        same_classes: as for `load_stage`.

    Returns:
        LoadReport.

    Raises:
        UserError: another backbone, or another width.
    """
    merged, left = {}, []
    for stream, weights in zip(STREAMS, (color, hha)):
        for name, weight in weights.items():
            if name.startswith("score"):
                layer, _, kind = name.rpartition(".")
                merged[f"{layer}.{stream}{kind}"] = weight
            elif not name.startswith(HEAD):
                merged[stream + name] = weight
            elif stream == STREAMS[0]:
                merged[name] = weight
            else:
                left.append(f"{where[1]}: {name}")
    report = load_stage(net, merged, " + ".join(where), same_classes)
    report.unexpected += left
    return report


def load_weights(net: nn.Cell, source: Weights, where: Optional[FilePath] = None) -> LoadReport:
    """Load a complete network from weights under its own names; all must be there and have its shapes.

    Args:
        net: the network.
        source: file, or the dict read from one.
        where: name of the file for messages.

    Returns:
        LoadReport.

    Raises:
        UserError: another architecture, another number of classes, or missing weights.
    """
    where = str(where or _name(source))
    weights = source if isinstance(source, dict) else read_weights(source)
    parameters = _parameters(net)
    weights = {name: weight for name, weight in weights.items() if not is_state(name)}
    report = LoadReport(where, missing=[name for name in parameters if name not in weights],
                        unexpected=[name for name in weights if name not in parameters])
    if report.missing or report.unexpected:
        example = (f"it lacks {report.missing[0]}" if report.missing
                   else f"it has {report.unexpected[0]}, which the network lacks")
        raise UserError(f"{where} is of another architecture: {example} ({len(report.missing)} missing, "
                        f"{len(report.unexpected)} unexpected); "
                        "name its network with --fallback_model (train: --model.name)")
    mismatches = [name for name in weights if parameters[name].shape != weights[name].shape]
    if mismatches:
        first = mismatches[0]
        raise UserError(_shape_message(where, first, parameters[first].shape, weights[first].shape))
    _assign(parameters, weights, report)
    return report


def is_state(name):
    """Whether a parameter is state of the run, not of the trained network: the step counters of dropout."""
    return name.endswith(".step")


def backbone_parameters(net):
    """{name: Parameter} of a network's backbone; `net` may also be the backbone itself."""
    blocks = getattr(net, "backbone", net).blocks
    return {name: parameter for name, parameter in _parameters(net).items() if block_of(name) in blocks}


def stream_of(name):
    """The prefix of a parameter's name that names its stream; empty in networks with one stream."""
    return next((stream for stream in STREAMS if name.startswith(stream)), "")


def block_of(name):
    """Name of the backbone's block that a parameter belongs to, read from the parameter's name."""
    return name.removeprefix(stream_of(name)).split(".")[0]


def _parameters(net):
    return {parameter.name: parameter for parameter in net.get_parameters() if not is_state(parameter.name)}


def _name(source):
    return "weights" if isinstance(source, dict) else str(source)


def _bgr(preprocess):
    """Convert a normalisation to OpenCV's channel order, BGR."""
    if preprocess.order == "BGR":
        return preprocess
    return Preprocess("BGR", preprocess.mean[::-1], preprocess.std[::-1])


def _shape_message(where, name, shape, file_shape):
    if name.startswith(HEAD) and shape[0] != file_shape[0]:
        return (f"{where} was trained for {file_shape[0]} classes, the network has {shape[0]}; "
                "use its own labels, or start from it as pretrained weights")
    return (f"{where}: {name} is {file_shape}, the network's is {shape}; give weights of the same network and width, "
            "or make its width and fc_width those of the weights")


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
            report.shape_mismatches.append((name, parameter.shape, weights[name].shape))
        else:
            weight = np.asarray(weights[name])
            if not np.isfinite(weight).all():
                raise UserError(f"{report.source}: {name} holds NaN or infinite numbers; use another checkpoint")
            parameter.set_data(ms.Tensor(weight.astype(np.float32), parameter.dtype))
            report.loaded.append(name)
    report.converted = [pair for pair in report.converted if pair[0] in report.loaded]
