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
from mindfcn.console import SILENT, Console, FilePath
from mindfcn.data.image_paths import find_images
from mindfcn.data.transforms import to_input
from mindfcn.errors import UserError
from mindfcn.inference.load import load_segmenter
from mindfcn.inference.onnx import OnnxSegmenter, sealed
from mindfcn.models import layers
from mindfcn.models.onnx_graph import onnx_model
from mindfcn.models.surgery.fold_batch_norm import Folded
from mindfcn.storage.files import atomic_path, read_bytes, write_text
from mindfcn.storage.images import decode_photograph
from mindfcn.weights.card import CARD, Card

# Largest difference between the logits of the two runtimes, in parts of the largest logit.
TOLERANCE = 1e-4
# Of a MindIR file's image; VGG16 takes about 1 kB a pixel.
MAX_PIXELS = 2 ** 24


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


def export(config: ExportConfig, console: Console = SILENT) -> ExportResult:
    """Write a checkpoint's network for another runtime, and compare the file with MindSpore before it gets its name.

    Both compute in float32 on CPU, so that the file does not depend on the device it is written on.

    Args:
        config: ExportConfig.
        console: Console that shows progress and notes.

    Returns:
        ExportResult.

    Raises:
        UserError: the checkpoint cannot be read, its network has no such form, the file cannot be written, or its
            logits differ by more than TOLERANCE.
    """
    if not config.out_file.lower().endswith(f".{config.format}"):
        raise UserError(f"--out_file {config.out_file}: choose a name that ends in .{config.format}, or another "
                        "--format")
    if min(config.size) < 1 or math.prod(config.size) > MAX_PIXELS:
        raise UserError(f"--size {list(config.size)}: must be 1 to {MAX_PIXELS} pixels in all")
    photographs = find_images(config.photos) if config.photos else []
    runtime.set_up("CPU")
    runtime.pynative_mode()
    segmenter, card = load_segmenter(config.checkpoint, config.fallback_model, "float32")
    net = segmenter.net.set_train(False)
    channels = card.preprocess.channels
    if photographs and card.preprocess.modality != "rgb":
        raise UserError(f"--photos: {config.checkpoint} sees {card.preprocess.modality}, which photographs do not "
                        "hold; leave them out to compare on a random image")
    batches = (to_input(decode_photograph(read_bytes(path), path), card.preprocess)[None] for path in photographs)
    if config.format == "onnx":
        return _export_onnx(config.out_file, net, card, batches if photographs else [_random_image(channels, 97, 131)],
                            console)
    windows = (_window_of(batch, config.size) for batch in batches)
    return _export_mindir(config.out_file, net, card, config.size, windows if photographs else [
        _random_image(channels, *config.size)])


def _export_onnx(path, net, card, batches, console):
    with atomic_path(path) as temporary:
        write_onnx(net, temporary, card)
        if importlib.util.find_spec("onnxruntime"):
            found, compared = _difference(path, net, OnnxSegmenter(temporary, "CPU").logits, batches)
        else:
            found, compared = None, 0
            console.say("not compared with MindSpore: the package onnxruntime is not installed")
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
        net: FCN32s, FCN16s or FCN8s on any backbone.
        path: file to write; its name ends in .mindir.

    Raises:
        UserError: MindSpore cannot write the network.
    """
    net = Folded(net).net
    for _, cell in net.cells_and_names():
        # MindSpore's own convolutions: ours are laid out for this CPU.
        if isinstance(cell, layers.CpuConv2d):
            cell.use_mindspore_kernels()
    image = ms.Tensor(np.zeros((1, net.in_channels, *size), np.float32))
    try:
        ms.export(net, image, file_name=os.fspath(path), file_format="MINDIR")
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"MindSpore cannot write this network as MindIR: {reason}; use --format onnx") from None


def write_onnx(net: nn.Cell, path: FilePath, card: Optional[Card] = None) -> None:
    """Write a network of an own backbone as ONNX, padding to the backbone's multiple and cropping inside.

    Args:
        net: FCN32s, FCN16s or FCN8s on one of the backbones that give their layers by `paths`.
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
