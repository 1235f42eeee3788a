"""The verb export: a trained network as a file for other runtimes, with its card.

ONNX takes images of any size, in batches of any number. MindIR takes one size: MindSpore 2.8 does not compile padding
and cropping by sizes that are open, and a file of open batches fails at the second one of another size.
"""

import dataclasses
import importlib.util
import math
import os
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import nn

from mindfcn import runtime
from mindfcn.config import ExportConfig
from mindfcn.data.transforms import to_input
from mindfcn.dense.exported import OnnxSegmenter, sealed
from mindfcn.engine.networks import load_segmenter
from mindfcn.engine.predict import decode_photograph, find_images
from mindfcn.errors import UserError
from mindfcn.files import atomic_path, read_bytes, write_text
from mindfcn.hooks import FilePath, Say
from mindfcn.models import layers
from mindfcn.models.deconvnet import DeconvNet
from mindfcn.models.folding import Folded
from mindfcn.models.fusion import AveragedScore, TwoStreams
from mindfcn.models.geometry import padding_of
from mindfcn.weights.card import CARD, Card

OPSET = 18
# Cells that pass their input on in evaluation mode.
PASSING = (nn.Identity, nn.Dropout, layers.Dropout)
# Largest difference between the logits of the two runtimes, in parts of the largest logit.
TOLERANCE = 1e-4
# Of a MindIR file's image; VGG16 takes about 1 kB a pixel.
MOST_PIXELS = 2 ** 24


@dataclasses.dataclass
class ExportResult:
    """What an export wrote.

    Attributes:
        path: the file.
        card: the network's Card, which is in the file, or beside it where `card_path` says so.
        card_path: JSON file of the card; None for ONNX.
        inputs: (N, 3, H, W) of the file's input, letters where any number will do.
        difference: largest difference from MindSpore's logits, in parts of the largest; None where not compared.
        compared: images compared on.
    """
    path: str
    card: Card
    card_path: Optional[str]
    inputs: tuple
    difference: Optional[float]
    compared: int


def export(config: ExportConfig, say: Optional[Say] = None) -> ExportResult:
    """Write a checkpoint's network for another runtime, and compare the file with MindSpore before it gets its name.

    Both compute in float32 on CPU, so that the file does not depend on the device it is written on.

    Args:
        config: ExportConfig.
        say: function (line of text).

    Returns:
        ExportResult.

    Raises:
        UserError: the checkpoint cannot be read, its network has no such form, the file cannot be written, or its
            logits differ by more than TOLERANCE.
    """
    if not config.out.lower().endswith(f".{config.format}"):
        raise UserError(f"--out {config.out}: choose a name that ends in .{config.format}, or another --format")
    if min(config.size) < 1 or math.prod(config.size) > MOST_PIXELS:
        raise UserError(f"--size {list(config.size)}: must be 1 to {MOST_PIXELS} pixels in all")
    photographs = find_images(config.photos) if config.photos else []
    runtime.set_up("CPU")
    runtime.pynative_mode()
    segmenter, card = load_segmenter(config.checkpoint, config.model, "float32")
    net = segmenter.net.set_train(False)
    channels = card.preprocess.channels
    if photographs and card.preprocess.modality != "rgb":
        raise UserError(f"--photos: {config.checkpoint} sees {card.preprocess.modality}, which photographs do not "
                        "hold; leave them out to compare on a random image")
    batches = (to_input(decode_photograph(read_bytes(path), path), card.preprocess)[None] for path in photographs)
    if config.format == "onnx":
        return _export_onnx(config.out, net, card, batches if photographs else [_random_image(channels, 97, 131)],
                            say)
    windows = (_window_of(batch, config.size) for batch in batches)
    return _export_mindir(config.out, net, card, config.size, windows if photographs else [
        _random_image(channels, *config.size)])


def _export_onnx(path, net, card, batches, say):
    with atomic_path(path) as temporary:
        write_onnx(net, temporary, card)
        if importlib.util.find_spec("onnxruntime"):
            found, compared = _difference(path, net, OnnxSegmenter(temporary, "CPU").logits, batches)
        else:
            found, compared = None, 0
            if say:
                say("not compared with MindSpore: the package onnxruntime is not installed")
    return ExportResult(path, card, None, ("N", net.in_channels, "H", "W"), found, compared)


def _export_mindir(path, net, card, size, batches):
    with atomic_path(path) as temporary:
        write_mindir(net, temporary, size)
        cell = nn.GraphCell(ms.load(temporary))
        found, compared = _difference(path, net, lambda batch: cell(ms.Tensor(batch)).asnumpy(), batches)
        write_text(path + ".json", card.to_json() + "\n")
    return ExportResult(path, card, path + ".json", (1, net.in_channels, *size), found, compared)


def _random_image(channels, height, width):
    return np.random.default_rng(1).standard_normal((1, channels, height, width)).astype(np.float32)


def _window_of(batch, size):
    """The upper left (H, W) of a photograph, with zeros (the mean colour) where it is smaller."""
    batch = batch[:, :, :size[0], :size[1]]
    return np.pad(batch, ((0, 0), (0, 0), *((0, most - side) for most, side in zip(size, batch.shape[2:]))))


def _difference(path, net, logits, batches):
    """(largest difference from the network's logits, in parts of the largest; batches). Raises UserError beyond."""
    found = []
    for batch in batches:
        expected = net(ms.Tensor(batch)).asnumpy()
        # The logits of a score layer that has not learned yet are all zero.
        difference = np.abs(logits(batch) - expected).max() / (np.abs(expected).max() or 1)
        # Not max(), which passes over NaN.
        if not difference <= TOLERANCE:
            raise UserError(f"{path} was not written: its logits differ from MindSpore's by {difference:.1e} of the "
                            f"largest, more than {TOLERANCE:.0e}; report this with the checkpoint's card")
        found.append(float(difference))
    return max(found), len(found)


def write_mindir(net, path, size):
    """Write a network as MindIR for one image of `size` (height, width): (1, C, H, W) -> logits (1, classes, H, W).

    Args:
        net: FCN32s, FCN16s or FCN8s on any trunk.
        path: file to write; its name ends in .mindir.

    Raises:
        UserError: MindSpore cannot write the network.
    """
    net = Folded(net).net
    for _, cell in net.cells_and_names():
        # MindSpore's own convolutions: ours are laid out for this CPU.
        if isinstance(cell, layers.AlgorithmConv):
            vars(cell)["algorithm"] = None
    image = ms.Tensor(np.zeros((1, net.in_channels, *size), np.float32))
    try:
        ms.export(net, image, file_name=os.fspath(path), file_format="MINDIR")
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"MindSpore cannot write this network as MindIR: {reason}; use --format onnx") from None


def write_onnx(net: nn.Cell, path: FilePath, card: Optional[Card] = None) -> None:
    """Write a network of an own trunk as ONNX, padding to the trunk's multiple and cropping inside.

    Args:
        net: FCN32s, FCN16s or FCN8s on one of the trunks that give their layers by `paths`.
        path: file to write: input `image` (N, C, H, W) float32, normalised, output `logits` (N, classes, H, W)
            float32, N, H and W from 1 up; classes are those of all heads.
        card: Card that travels in the file's metadata; `predict` and `serve` need it.

    Raises:
        UserError: the package onnx is not installed; the network has a layer that has no form here.
    """
    model = onnx_model(net)
    if card:
        model.metadata_props.add(key=CARD, value=card.to_json())
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(sealed(model.SerializeToString()))


def onnx_model(net):
    """The onnx.ModelProto of a network (see `write_onnx`), with normalisation folded into the convolutions."""
    if isinstance(net, DeconvNet):
        raise UserError(f"DeconvNet's unpooling has no form for ONNX here; use --format mindir --size '[{net.side}, "
                        f"{net.side}]'")
    trunk = net.trunk.color if isinstance(net.trunk, TwoStreams) else net.trunk
    if not hasattr(trunk, "paths"):
        raise UserError(f"the trunk {type(trunk).__name__} does not tell its layers, so it cannot be exported; "
                        "use --format mindir, or a network on another trunk")
    net = Folded(net).net
    graph = Graph()
    sides = graph.sides("image")
    maps = graph.maps(graph.pad_to_multiple("image", sides, net.trunk.multiple), net.trunk)
    heads = [head for head in (net.head, net.geometric) if head is not None]
    logits = [graph.head(head, maps) for head in heads]
    logits = graph.add("Concat", *logits, axis=1) if len(logits) > 1 else logits[0]
    graph.crop(logits, net.head.offset, sides, "logits")
    graph.check_complete(net)
    return graph.model(net.in_channels, sum(head.score_fr.out_channels for head in heads))


class Graph:
    """ONNX nodes and weights as they are put together. A method returns the name of what its nodes compute."""

    def __init__(self):
        try:
            import onnx
        except ImportError:
            raise UserError("exporting needs the package onnx, which is not installed; install it with "
                            "pip install onnx") from None
        self.onnx = onnx
        self.nodes, self.weights, self.seen = [], [], set()

    def add(self, kind, *inputs, out=None, **attributes):
        """One node; arrays among its inputs become weights."""
        names = [given if isinstance(given, str) else self.weight(given) for given in inputs]
        out = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, names, [out], name=out, **attributes))
        return out

    def weight(self, array, name=None):
        """A constant: numbers become int64."""
        array = array if isinstance(array, np.ndarray) else np.array(array, np.int64)
        name = name or f"constant_{len(self.weights)}"
        self.weights.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def maps(self, image, trunk):
        """{name: map} of a trunk, or of two side by side."""
        if isinstance(trunk, TwoStreams):
            color = self.maps(self.channels(image, 0, trunk.split), trunk.color)
            hha = self.maps(self.channels(image, trunk.split, trunk.in_channels), trunk.hha)
            return {name: self.add("Concat", color[name], hha[name], axis=1) for name in color}
        found, here = {}, image
        for name, cells in trunk.paths().items():
            here = found[name] = self.run(here, *cells)
        return found

    def channels(self, x, start, end):
        """Some channels of a map."""
        return self.add("Slice", x, [start], [end], [1])

    def run(self, x, *cells):
        """Layers one after another."""
        for cell in cells:
            self.seen.update(id(part) for _, part in cell.cells_and_names())
            if isinstance(cell, nn.SequentialCell):
                x = self.run(x, *cell.cell_list)
            elif hasattr(cell, "branches"):
                x = self.add("Concat", *(self.run(x, *branch) for branch in cell.branches), axis=1)
            elif isinstance(cell, AveragedScore):
                scores = [self.layer(self.channels(x, start, start + cell.half), layer)
                          for start, layer in ((0, cell.color), (cell.half, cell.hha))]
                x = self.add("Mean", *scores)
            elif not isinstance(cell, PASSING):
                x = self.layer(x, cell)
        return x

    def layer(self, x, cell):
        """One layer. Raises UserError where it has no form here."""
        if isinstance(cell, nn.Conv2d):
            return self.add("Conv", x, *self.parameters(cell), **_window(cell), dilations=_pair(cell.dilation),
                            group=cell.group)
        if isinstance(cell, nn.Conv2dTranspose):
            return self.add("ConvTranspose", x, *self.parameters(cell), **_window(cell), group=cell.group)
        if isinstance(cell, nn.MaxPool2d):
            return self.add("MaxPool", x, **_window(cell), ceil_mode=int(getattr(cell, "ceil_mode", False)))
        if isinstance(cell, nn.BatchNorm2d):
            numbers = (cell.gamma, cell.beta, cell.moving_mean, cell.moving_variance)
            return self.add("BatchNormalization", x, *(self.parameter(number) for number in numbers), epsilon=cell.eps)
        if isinstance(cell, nn.ReLU):
            return self.add("Relu", x)
        if isinstance(cell, layers.LRN):
            return self.add("LRN", x, size=5, alpha=1e-4, beta=0.75, bias=1.0)
        if isinstance(cell, layers.Scale):
            return x if cell.factor == 1 else self.add("Mul", x, np.float32(cell.factor).reshape(1))
        raise UserError(f"{type(cell).__name__} cannot be exported to ONNX; take a network without it")

    def parameters(self, conv):
        """Weight, and bias where there is one."""
        return [self.parameter(parameter) for parameter in (conv.weight, conv.bias if conv.has_bias else None)
                if parameter is not None]

    def parameter(self, parameter):
        """A weight under its name in the network."""
        return self.weight(parameter.asnumpy(), parameter.name)

    def head(self, head, maps):
        """FCNHead."""
        score = self.run(maps["fc7"], head.score_fr)
        if head.skips >= 1:
            pool4 = self.run(maps["pool4"], head.scale_pool4, head.score_pool4)
            score = self.add_aligned(self.run(score, head.upscore2), pool4, head.offset2)
        if head.skips == 2:
            pool3 = self.run(maps["pool3"], head.scale_pool3, head.score_pool3)
            score = self.add_aligned(self.run(score, head.upscore_pool4), pool3, head.offset4)
        return self.run(score, getattr(head, ("upscore", "upscore16", "upscore8")[head.skips]))

    def add_aligned(self, upscore, score, offset):
        """The sum of two maps where they overlap (see `mindfcn.models.fcn.add_aligned`)."""
        upscore, score = self.cut(upscore, max(0, offset)), self.cut(score, max(0, -offset))
        sides = self.add("Min", self.sides(upscore), self.sides(score))
        return self.add("Add", self.crop(upscore, 0, sides), self.crop(score, 0, sides))

    def sides(self, x):
        """(height, width) of a map, int64."""
        return self.add("Shape", x, start=2)

    def cut(self, x, start):
        """Without the first `start` rows and columns."""
        return self.add("Slice", x, [start] * 2, [np.iinfo(np.int64).max] * 2, [2, 3]) if start else x

    def crop(self, x, top, sides, out=None):
        """`sides` rows and columns from `top` on."""
        if top < 0:
            raise UserError("the cells of this network begin inside the image, which cannot be exported to ONNX; take "
                            "one with output stride 32")
        return self.add("Slice", x, [top] * 2, self.add("Add", sides, [top] * 2), [2, 3], out=out)

    def pad_to_multiple(self, image, sides, multiple):
        """Zeros below and at the right, up to the next multiples."""
        if multiple == 1:
            return image
        # Of ONNX, Mod has the sign of the divisor, as in Python.
        missing = self.add("Mod", self.add("Neg", sides), [multiple] * 2)
        return self.add("Pad", image, self.add("Concat", [0] * 6, missing, axis=0))

    def check_complete(self, net):
        """Raises UserError where a layer of the network was not visited."""
        for name, cell in net.cells_and_names():
            if not list(cell.cells()) and id(cell) not in self.seen and not isinstance(cell, PASSING):
                raise UserError(f"the trunk's paths leave out its layer {name}, so it cannot be exported to ONNX; take "
                                "another trunk")

    def model(self, channels, classes):
        """The checked onnx.ModelProto."""
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes, "mindfcn", [helper.make_tensor_value_info("image", kind, ["N", channels, "H", "W"])],
            [helper.make_tensor_value_info("logits", kind, ["N", classes, "H", "W"])], self.weights)
        # The file format's version that goes with the operators': runtimes refuse newer ones than they know.
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8,
                                  producer_name="mindfcn")
        self.onnx.checker.check_model(model)
        return model


def _window(cell):
    """Attributes of a convolution's or pooling's window."""
    kernel, stride = _pair(cell.kernel_size), _pair(cell.stride)
    if cell.pad_mode.lower() == "same":
        if stride != (1, 1):
            raise UserError(f"{type(cell).__name__} with a stride and padding of the mode \"same\" cannot be exported "
                            "to ONNX; give its padding as numbers")
        above, left = ((side - 1) // 2 for side in kernel)
        below, right = (math.ceil((side - 1) / 2) for side in kernel)
    else:
        above, below, left, right = padding_of(cell)
    return {"kernel_shape": kernel, "strides": stride, "pads": (above, left, below, right)}


def _pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)
