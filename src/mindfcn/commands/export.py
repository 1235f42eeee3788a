"""The verb export: a trained network as a file for other runtimes or for sharing, with its card.

ONNX files take images of any size and number. MindIR files take one image of one size: MindSpore 2.8 does not compile
padding and cropping with dynamic sizes, and a file with dynamic batch size fails at the second batch size.
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
from mindfcn.config import ExportConfig, check_bounds
from mindfcn.console import SILENT, Console, FilePath
from mindfcn.data.image_paths import find_images
from mindfcn.data.transforms import to_input
from mindfcn.errors import UserError
from mindfcn.inference.load import load_network, network_of
from mindfcn.inference.network import window_problem
from mindfcn.inference.onnx import REACH, OnnxSegmenter, with_checksum
from mindfcn.models import layers
from mindfcn.models.onnx_graph import onnx_model
from mindfcn.models.surgery.fold_batch_norm import Folded
from mindfcn.storage.files import atomic_path, read_bytes, refuse_overwriting, write_text
from mindfcn.storage.images import decode_photograph
from mindfcn.weights.card import CARD, Card
from mindfcn.weights.catalogue import locate
from mindfcn.weights.checkpoint import save_checkpoint
from mindfcn.weights.load import is_state

# Largest difference between the logits of the two runtimes, in parts of the largest logit.
TOLERANCE = 1e-4
# The same for weights in half precision.
HALF_TOLERANCE = 1e-2
# Limit of a MindIR file's image size; VGG16 needs about 1 kB per pixel.
MAX_PIXELS = 2 ** 24


@dataclasses.dataclass
class ExportResult:
    """Files and checks of an export.

    Attributes:
        path: the file.
        card: the network's Card.
        card_path: JSON file of the card; None where it is part of the file.
        inputs: input shape (N, C, H, W) of the file, with letters for dynamic sizes.
        difference: largest difference from MindSpore's logits, relative to the largest logit; None if not compared.
        compared: number of images compared.
    """
    path: str
    card: Card
    card_path: Optional[str]
    inputs: tuple
    difference: Optional[float]
    compared: int


def export(config: ExportConfig, console: Console = SILENT) -> ExportResult:
    """Write a checkpoint's network for another runtime, and compare it with MindSpore before the file gets its name.

    Both compute in float32 on CPU, so that the file does not depend on the exporting device.

    Args:
        config: ExportConfig.
        console: Console that shows progress and notes.

    Returns:
        ExportResult.

    Raises:
        UserError: the checkpoint cannot be read, its network cannot be exported, the file cannot be written, or the
            logits differ by more than TOLERANCE (HALF_TOLERANCE with weights in half precision).
    """
    check_bounds(config)
    if not config.out_file.lower().endswith(f".{config.format}"):
        raise UserError(f"--out_file {config.out_file}: choose a name that ends in .{config.format}, or another "
                        "--format")
    if min(config.size) < 1 or math.prod(config.size) > MAX_PIXELS:
        raise UserError(f"--size {list(config.size)}: must be 1 to {MAX_PIXELS} pixels in all")
    config = dataclasses.replace(config, checkpoint=locate(config.checkpoint, console, network=True))
    refuse_overwriting(config.out_file, config.checkpoint)
    photographs = find_images(config.photos) if config.photos else []
    runtime.set_up("CPU")
    runtime.pynative_mode()
    segmenter, card = load_network(config.checkpoint, config.fallback_model, "float32", console)
    net = segmenter.net.set_train(False)
    if config.shorter_side is not None and config.shorter_side != card.shorter_side:
        # The metrics were measured at the other size.
        card = dataclasses.replace(card, shorter_side=config.shorter_side, metrics={})
    channels = card.preprocess.channels
    if photographs and card.preprocess.modality != "rgb":
        raise UserError(f"--photos: {config.checkpoint} needs {card.preprocess.modality}, which photographs do "
                        "not hold; leave them out to compare on a random image")
    size = config.size if config.format == "mindir" else (97, 131)
    batches = (to_input(decode_photograph(read_bytes(path), path), card.preprocess)[None]
               for path in photographs) if photographs else [_random_image(channels, *size)]
    if config.format == "onnx":
        return _export_onnx(config.out_file, net, card, batches, console)
    if config.format == "ckpt":
        return _export_half(config.out_file, net, card, batches)
    return _export_mindir(config.out_file, net, card, size, (_window_of(batch, size) for batch in batches))


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


def _export_half(path, net, card, batches):
    """A checkpoint with weights in half precision; its card leaves out settings and paths of the training."""
    training = {name: card.training[name] for name in ("epoch", "step", "precision") if name in card.training}
    if bands := card.training.get("settings", {}).get("data", {}).get("bands"):
        # Pictures of the network's images show these.
        training["settings"] = {"data": {"bands": bands}}
    data = {**card.data, "source": card.source_name} if card.data else {}
    card = dataclasses.replace(card, records="", training=training, data=data)
    weights = {parameter.name: parameter.asnumpy().astype(np.float16) for parameter in net.get_parameters()
               if not is_state(parameter.name)}
    rounded = network_of(card, weights, path).set_train(False)
    found, compared = _difference(path, net, lambda batch: rounded(ms.Tensor(batch)).asnumpy(), batches, HALF_TOLERANCE)
    save_checkpoint(path, {name: ms.Parameter(weight, name=name) for name, weight in weights.items()}, card)
    return ExportResult(path, card, None, ("N", net.in_channels, "H", "W"), found, compared)


def _random_image(channels, height, width):
    return np.random.default_rng(1).standard_normal((1, channels, height, width)).astype(np.float32)


def _window_of(batch, size):
    """The upper left (H, W) of a photograph, padded with zeros, the mean colour, if it is smaller."""
    batch = batch[:, :, :size[0], :size[1]]
    return np.pad(batch, ((0, 0), (0, 0), *((0, wanted - side) for wanted, side in zip(size, batch.shape[2:]))))


def _difference(path, net, logits, batches, tolerance=TOLERANCE):
    """(largest difference from the network's logits, relative to the largest logit; number of batches).

    Raises UserError if the difference exceeds `tolerance`.
    """
    found = []
    for batch in batches:
        expected = net(ms.Tensor(batch)).asnumpy()
        # An untrained score layer gives logits of zero.
        difference = np.abs(logits(batch) - expected).max() / (np.abs(expected).max() or 1)
        # `not <=` also catches NaN.
        if not difference <= tolerance:
            raise UserError(f"{path} was not written: its logits differ from MindSpore's by {difference:.1e} of the "
                            f"largest, more than {tolerance:.0e}; report this with the checkpoint's card")
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
        # Custom CPU kernels are compiled for this machine, so use MindSpore's own.
        if isinstance(cell, layers.CpuLayer):
            cell.use_mindspore_kernels()
    image = ms.Tensor(np.zeros((1, net.in_channels, *size), np.float32))
    try:
        ms.export(net, image, file_name=os.fspath(path), file_format="MINDIR")
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"MindSpore cannot write this network as MindIR: {reason}; use --format onnx") from None


def write_onnx(net: nn.Cell, path: FilePath, card: Optional[Card] = None) -> None:
    """Write a network as ONNX, including the padding to the backbone's multiple and the cropping.

    Args:
        net: FCN32s, FCN16s or FCN8s on one of the backbones that list their layers in `paths`.
        path: file to write: input `image` (N, C, H, W) float32, normalised, output `logits` (N, classes, H, W)
            float32, N, H and W at least 1; classes of all heads.
        card: Card that travels in the file's metadata; `predict` and `serve` need it.

    Raises:
        UserError: the package onnx is not installed, or the network has a layer that cannot be exported.
    """
    model = onnx_model(net)
    if card:
        model.metadata_props.add(key=CARD, value=card.to_json())
    if hasattr(net, "reach") and not window_problem(net):
        model.metadata_props.add(key=REACH, value=f"{net.reach} {net.stride}")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(with_checksum(model.SerializeToString()))
