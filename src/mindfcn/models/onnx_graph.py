"""Networks as ONNX graphs."""

import math

import numpy as np
from mindspore import nn

from mindfcn.combinations import DECONVNET, MINDCV, ONNX, reason
from mindfcn.errors import UserError
from mindfcn.models import layers
from mindfcn.models.analysis.receptive_field import padding_of
from mindfcn.models.backbones.resnet import Residual
from mindfcn.models.deconvnet import DeconvNet
from mindfcn.models.dilated_fcn import DilatedFCN
from mindfcn.models.fusion import AveragedScore, TwoStreams
from mindfcn.models.surgery.fold_batch_norm import Folded

OPSET = 18
# Cells that return their input unchanged in evaluation mode.
PASSING = (nn.Identity, nn.Dropout, layers.Dropout)


def onnx_model(net):
    """The onnx.ModelProto of a network (see `write_onnx`), with normalisation folded into the convolutions."""
    if isinstance(net, DeconvNet):
        raise UserError(f"{DECONVNET}: {reason(ONNX, DECONVNET)} --size '[{net.side}, {net.side}]'")
    backbone = net.backbone.color if isinstance(net.backbone, TwoStreams) else net.backbone
    if not hasattr(backbone, "paths"):
        raise UserError(f"the backbone {type(backbone).__name__} cannot be exported: {reason(ONNX, MINDCV)}")
    net = Folded(net).net
    graph = Graph()
    if isinstance(net, DilatedFCN):
        net.auxiliary = None
        graph.resize(graph.score_head(net.head, graph.maps("image", net.backbone)["fc7"]), "image", "logits")
        graph.check_complete(net)
        return graph.model(net.in_channels, net.n_class)
    sides = graph.sides("image")
    maps = graph.maps(graph.pad_to_multiple("image", sides, net.backbone.multiple), net.backbone)
    heads = [head for head in (net.head, net.geometric) if head is not None]
    logits = [graph.head(head, maps) for head in heads]
    logits = graph.add("Concat", *logits, axis=1) if len(logits) > 1 else logits[0]
    graph.crop(logits, net.head.offset, sides, "logits")
    graph.check_complete(net)
    return graph.model(net.in_channels, sum(head.score_fr.out_channels for head in heads))


class Graph:
    """The ONNX nodes and weights of a network under construction. Methods return the name of their nodes' output."""

    def __init__(self):
        try:
            import onnx
        except ImportError:
            raise UserError("exporting needs the package onnx, which is not installed; install it with "
                            "pip install onnx") from None
        self.onnx = onnx
        self.nodes, self.weights, self.exported = [], [], set()

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

    def maps(self, image, backbone):
        """{name: map} of a backbone, or of TwoStreams with the maps concatenated."""
        if isinstance(backbone, TwoStreams):
            color = self.maps(self.channels(image, 0, backbone.split), backbone.color)
            hha = self.maps(self.channels(image, backbone.split, backbone.in_channels), backbone.hha)
            return {name: self.add("Concat", color[name], hha[name], axis=1) for name in color}
        found, here = {}, image
        for name, cells in backbone.paths().items():
            here = found[name] = self.run(here, *cells)
        return found

    def channels(self, x, start, end):
        """Some channels of a map."""
        return self.add("Slice", x, [start], [end], [1])

    def run(self, x, *cells):
        """Layers one after another."""
        for cell in cells:
            self.exported.update(id(part) for _, part in cell.cells_and_names())
            if isinstance(cell, nn.SequentialCell):
                x = self.run(x, *cell.cell_list)
            elif isinstance(cell, Residual):
                x = self.add("Relu", self.add("Add", *(self.run(x, *branch) for branch in cell.branches)))
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
        """One layer. Raises UserError if it cannot be exported."""
        if isinstance(cell, nn.Conv2d):
            return self.add("Conv", x, *self.parameters(cell), **_window(cell), dilations=layers.as_pair(cell.dilation),
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

    def score_head(self, head, x):
        """ScoreHead."""
        score = self.run(x, head.score_convs)
        if head.score_concat is not None:
            score = self.run(self.add("Concat", x, score, axis=1), head.score_concat)
        return self.run(score, head.score_drop, head.score)

    def resize(self, x, image, out):
        """A map in the size of the image (see `mindfcn.models.dilated_fcn.resized`)."""
        sizes = self.add("Concat", self.add("Shape", x, end=2), self.sides(image), axis=0)
        return self.add("Resize", x, "", "", sizes, out=out, mode="linear", coordinate_transformation_mode="half_pixel")

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
        # ONNX's Mod has the sign of the divisor, as in Python.
        missing = self.add("Mod", self.add("Neg", sides), [multiple] * 2)
        return self.add("Pad", image, self.add("Concat", [0] * 6, missing, axis=0))

    def check_complete(self, net):
        """Raise UserError if a layer of the network has not been exported."""
        for name, cell in net.cells_and_names():
            if not list(cell.cells()) and id(cell) not in self.exported and not isinstance(cell, PASSING):
                raise UserError(f"the backbone's paths leave out its layer {name}, so it cannot be exported to ONNX; "
                                "take another backbone")

    def model(self, channels, classes):
        """The checked onnx.ModelProto."""
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes, "mindfcn", [helper.make_tensor_value_info("image", kind, ["N", channels, "H", "W"])],
            [helper.make_tensor_value_info("logits", kind, ["N", classes, "H", "W"])], self.weights)
        # The file format version that matches OPSET: runtimes refuse versions newer than they support.
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8,
                                  producer_name="mindfcn")
        self.onnx.checker.check_model(model)
        return model


def _window(cell):
    """Attributes of a convolution's or pooling's window."""
    kernel, stride = layers.as_pair(cell.kernel_size), layers.as_pair(cell.stride)
    if cell.pad_mode.lower() == "same":
        if stride != (1, 1):
            raise UserError(f"{type(cell).__name__} with a stride and padding of the mode \"same\" cannot be exported "
                            "to ONNX; give its padding as numbers")
        above, left = ((side - 1) // 2 for side in kernel)
        below, right = (math.ceil((side - 1) / 2) for side in kernel)
    else:
        above, below, left, right = padding_of(cell)
    return {"kernel_shape": kernel, "strides": stride, "pads": (above, left, below, right)}
