"""Sizes, receptive field, parameters and multiply-adds of each layer of a network on one image."""

import contextlib
import dataclasses
import math
from functools import partial
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import nn

from mindfcn.mindspore_versions import forward_hooks
from mindfcn.models import layers
from mindfcn.models.analysis.receptive_field import ReceptiveField


@dataclasses.dataclass
class Layer:
    """One layer that ran.

    Attributes:
        name: its name in the network.
        cell: the layer.
        inputs, outputs: (C, H, W) of the map before and after it.
        before, after: ReceptiveField of both maps; `after` is None after a layer that enlarges its map, and both from
            there on.
    """
    name: str
    cell: nn.Cell
    inputs: tuple
    outputs: tuple
    before: Optional[ReceptiveField]
    after: Optional[ReceptiveField]

    @property
    def parameters(self):
        """Numbers in its weights and biases."""
        return sum(math.prod(parameter.shape) for parameter in self.cell.get_parameters()
                   if not parameter.name.endswith((".step", ".moving_mean", ".moving_variance")))

    @property
    def multiply_adds(self):
        """Of a convolution on this image; 0 of other layers."""
        if isinstance(self.cell, nn.Conv2dTranspose):
            return math.prod(self.cell.weight.shape) * self.inputs[1] * self.inputs[2]
        if isinstance(self.cell, nn.Conv2d):
            return math.prod(self.cell.weight.shape) * self.outputs[1] * self.outputs[2]
        return 0


def trace(net, height, width=None):
    """Run a network on a black image, and list its layers in the order they ran in.

    Each layer's receptive field follows from its input map. Sums and concatenations are not layers: their result
    counts as the earlier map of the same size with the widest receptive field.

    Args:
        net: any network of (1, 3, H, W).
        height, width: the image's sides, pixels.

    Returns:
        (layers, output): list of Layer; what the network returned.
    """
    record = _Record()
    leaves = [(name, cell) for name, cell in net.cells_and_names() if not list(cell.cells())]
    mode, training = ms.get_context("mode"), net.training
    ms.set_context(mode=ms.PYNATIVE_MODE)
    net.set_train(False)
    try:
        with forward_hooks((cell, partial(record.add, name)) for name, cell in leaves):
            output = net(ms.Tensor(np.zeros((1, 3, height, width or height), np.float32)))
    finally:
        net.set_train(training)
        ms.set_context(mode=mode)
    return record.layers, output


class _Record:
    """The layers so far, and the places of their input and output maps."""

    def __init__(self):
        self.layers = []
        # The maps are kept, so that no other gets the identity of one.
        self.places, self.maps = {}, []

    def add(self, name, cell, inputs, output):
        """A forward hook: record a layer with its input and output map; of several results the first is the map."""
        output = output[0] if isinstance(output, tuple) else output
        if not isinstance(output, ms.Tensor) or output.ndim != 4 or inputs[0].ndim != 4:
            return
        before = self.place(inputs[0])
        after = None
        if before is not None and not isinstance(cell, (nn.Conv2dTranspose, layers.MaxUnpool)):
            with contextlib.suppress(ValueError):
                after = before.after(cell, size=inputs[0].shape[-1])
        self.layers.append(Layer(name, cell, inputs[0].shape[1:], output.shape[1:], before, after))
        self.keep(output, after)

    def keep(self, image, place):
        """Record the ReceptiveField of a map. Returns it."""
        self.maps.append(image)
        return self.places.setdefault(id(image), place)

    def place(self, image):
        """ReceptiveField of a map: as recorded, else the widest among maps of its size, else the image's; or None."""
        if id(image) in self.places:
            return self.places[id(image)]
        alike = [layer.after for layer in self.layers if layer.outputs[1:] == image.shape[2:]]
        if None in alike or not alike and self.layers:
            return self.keep(image, None)
        return self.keep(image, max(alike, key=lambda place: place.field, default=ReceptiveField()))
