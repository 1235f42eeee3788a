"""The verb describe: the layers of a network, for an image of a given size."""

import dataclasses
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from mindfcn import runtime
from mindfcn.config import DescribeConfig, check_bounds
from mindfcn.console import SILENT, Console
from mindfcn.errors import UserError
from mindfcn.models.analysis.receptive_field import window
from mindfcn.models.analysis.trace import trace
from mindfcn.models.backbones.googlenet import GoogLeNet
from mindfcn.models.factory import create_model
from mindfcn.models.layers import MaxUnpool
from mindfcn.report.published import published
from mindfcn.report.tables import text_table
from mindfcn.weights.catalogue import CATALOGUE

HEADER = ("layer", "kind", "output", "kernel", "stride", "receptive field", "parameters", "multiply-adds")


@dataclasses.dataclass
class Description:
    """The layers and sizes of a network.

    Attributes:
        table: one line per layer, as text.
        parameters: number of weights and biases, without the upsampling layers, like published counts.
        upsampling: number of weights in the upsampling layers.
        multiply_adds: of all convolutions on the image.
        receptive_field, stride: pixels, of the coarsest map.
        notes: lines of text about them.
    """
    table: str
    parameters: int
    upsampling: int
    multiply_adds: int
    receptive_field: int
    stride: int
    notes: list


def describe(config: DescribeConfig, console: Console = SILENT) -> Description:
    """Run the network once on an empty image and describe its layers.

    Args:
        config: DescribeConfig.
        console: Console; unused so far.

    Returns:
        Description.

    Raises:
        UserError: no such network, size, number of classes or option.
    """
    width, fc_width = config.width, config.fc_width
    check_bounds(config)
    if (entry := CATALOGUE.get(config.name)) and entry.labels:
        raise UserError(f"{config.name} is a file of weights; describe its network, {entry.model}")
    runtime.set_up("CPU")
    options: dict[str, Any] = {"padding": None if config.padding == "same" else config.padding, "width": width,
               "fc_width": fc_width, "output_stride": config.output_stride}
    with no_init_parameters():
        net = create_model(config.name, config.classes,
                           **{name: value for name, value in options.items() if value is not None})
    # The weights' values do not matter, and random ones take seconds.
    for parameter in net.get_parameters():
        if parameter.has_init:
            parameter.set_data(ms.Tensor(np.zeros(parameter.shape, np.float32)))
    layers, _ = trace(net, config.size)
    upsampling = [layer for layer in layers if ".upscore" in layer.name]
    last = net.backbone.receptive_fields()["fc7"]
    found = Description(text_table(HEADER, [_row(layer) for layer in layers if _counts(layer)]),
                        sum(layer.parameters for layer in layers if layer not in upsampling),
                        sum(layer.parameters for layer in upsampling), sum(layer.multiply_adds for layer in layers),
                        int(last.field), int(last.stride), [])
    found.notes += _notes(config, net, found, last)
    return found


def _counts(layer):
    """Whether a layer has parameters or a kernel, and so a line in the table."""
    return layer.parameters > 0 or hasattr(layer.cell, "kernel_size")


def _row(layer):
    kernel, stride = "-", "-"
    if isinstance(layer.cell, nn.Conv2dTranspose):
        kernel, stride = layer.cell.kernel_size[0], f"1/{layer.cell.stride[0]}"
    elif isinstance(layer.cell, MaxUnpool):
        kernel, stride = 2, "1/2"
    elif win := window(layer.cell, layer.inputs[-1]):
        kernel, stride = win.kernel, win.stride
    field = int(layer.after.field) if layer.after else "-"
    return (layer.name.removeprefix("backbone.").removeprefix("head.").removeprefix("backbone.net."), _kind(layer.cell),
            "x".join(map(str, layer.outputs)), kernel, stride, field, f"{layer.parameters:,}",
            f"{layer.multiply_adds:,}")


def _kind(cell):
    for kind, words in ((nn.Conv2dTranspose, "upsampling"), (nn.Conv2d, "convolution"),
                        (nn.BatchNorm2d, "normalisation"), (nn.MaxPool2d, "max pooling")):
        if isinstance(cell, kind):
            return words
    return type(cell).__name__


def _notes(config, net, found, last):
    yield f"parameters       {found.parameters:,} and {found.upsampling:,} of upsampling"
    yield f"multiply-adds    {found.multiply_adds:,} for {config.size}x{config.size} pixels"
    yield f"receptive field  {found.receptive_field} at stride {found.stride}"
    for row in published(config.name):
        if row.parameters:
            yield f"published        {row.parameters} million parameters, {row.source}"
    if isinstance(net.backbone, GoogLeNet):
        pooled = last.after(nn.AvgPool2d(7, 1))
        yield (f"                 {pooled.field} after the average pooling of 7x7 cells, which is in the paper's "
               "table 1 but not in its text")
