"""The verb explain: feature maps of a network for one photograph, layer by layer, as one picture.

For a DeconvNet, the strongest map after each unpooling and deconvolution (Noh et al. 2015, figure 4); for an FCN, the
strongest maps of pool3, pool4 and fc7, and in the upsampling path the scores of the most frequent class. On a dilated
ResNet these maps are the results of layer2, layer3 and layer4.
"""

import dataclasses
import math

import mindspore as ms
import numpy as np

from mindfcn import runtime
from mindfcn.combinations import check
from mindfcn.config import ExplainConfig
from mindfcn.console import SILENT, Console
from mindfcn.data.transforms import to_input
from mindfcn.errors import UserError
from mindfcn.inference.load import load_network
from mindfcn.inference.network import pad_to_multiple, resized
from mindfcn.logits import argmax
from mindfcn.mindspore_versions import forward_hooks
from mindfcn.models.deconvnet import DeconvNet
from mindfcn.models.dilated_fcn import DilatedFCN
from mindfcn.report.maps import save_maps
from mindfcn.storage.files import read_bytes, refuse_overwriting
from mindfcn.storage.images import decode_photograph

# Longest side of an FCN's photograph, pixels: PyNative mode keeps every map in memory.
LONGEST = 1024


@dataclasses.dataclass
class Explanation:
    """The maps of `explain`.

    Attributes:
        maps: list of (title, (h, w) float32), in the order in which the network computes them.
        out: path of the picture.
        found: name of the class whose scores are shown; "" for DeconvNet.
    """
    maps: list
    out: str
    found: str


def explain(config: ExplainConfig, console: Console = SILENT) -> Explanation:
    """Run a checkpoint's network on one photograph and draw its maps.

    Args:
        config: ExplainConfig.
        console: Console that shows notes and the progress of a download.

    Returns:
        Explanation.

    Raises:
        UserError: checkpoint or photograph cannot be read, or the picture cannot be written.
    """
    if not config.out_file.lower().endswith((".jpg", ".jpeg", ".png")):
        raise UserError(f"--out_file {config.out_file}: choose a name that ends in .jpg or .png")
    refuse_overwriting(config.out_file, config.image)
    image = decode_photograph(read_bytes(config.image), config.image)
    runtime.set_up(config.device, console=console)
    runtime.pynative_mode()
    segmenter, card = load_network(config.checkpoint, config.fallback_model, config.precision, console)
    check("explain", *card.inputs)
    net = segmenter.net.set_train(False)
    batch = to_input(image, card.preprocess)[None]
    if isinstance(net, DeconvNet):
        batch = resized(batch, net.side, net.side)
        maps, mask, found = deconvnet_maps(net, batch)
    else:
        factor = min(1, LONGEST / max(image.shape[:2]), (card.shorter_side or math.inf) / min(image.shape[:2]))
        batch = resized(batch, *(max(1, round(factor * side)) for side in batch.shape[2:]))
        maps, mask, number = (dilated_maps if isinstance(net, DilatedFCN) else fcn_maps)(net, batch)
        found = card.labels.names[number]
        maps = [(title.replace("CLASS", found), values) for title, values in maps]
    shown = card.preprocess.denormalise(batch[0].transpose(1, 2, 0))
    save_maps(config.out_file, shown, maps, card.labels.colorize(mask))
    return Explanation(maps, config.out_file, found)


def deconvnet_maps(net, batch):
    """(maps, mask, "") of a DeconvNet: after fc6's deconvolution, and each later unpooling and deconvolution."""
    head = net.head
    layers = {"deconv6": head.deconv6}
    for number in range(5, 0, -1):
        for name in (f"unpool{number}", f"deconv{number}"):
            layers[name] = getattr(head, name)
    results, logits = outputs(net, layers, batch)
    return [strongest(name, results[name]) for name in layers], argmax(logits), ""


def fcn_maps(net, batch):
    """(maps, mask, number of the class whose scores are shown) of an FCN; titles contain CLASS in place of its name."""
    head = net.head
    layers = {"score_fr": head.score_fr}
    if head.skips >= 1:
        layers |= {"upscore2": head.upscore2, "score_pool4": head.score_pool4}
    if head.skips == 2:
        layers |= {"upscore_pool4": head.upscore_pool4, "score_pool3": head.score_pool3}
    last = ("upscore", "upscore16", "upscore8")[head.skips]
    layers[last] = getattr(head, last)
    height, width = batch.shape[2:]
    results, logits = outputs(net, layers | {"backbone": net.backbone}, pad_to_multiple(batch, net.backbone.multiple))
    # The channels of a second head come after those of the first.
    mask = argmax(logits[:net.n_class])[:height, :width]
    number = most_frequent(mask, net.n_class)
    maps = backbone_maps(results)
    fused = {"upscore2": "score_pool4", "upscore_pool4": "score_pool3"}
    for name in layers:
        maps.append((f"{name}: CLASS", results[name][number]))
        if name in fused.values():
            # The input of the next upsampling layer: the sum of both scores.
            above = {"score_pool4": "upscore_pool4" if head.skips == 2 else last, "score_pool3": last}[name]
            maps.append((f"{name.replace('score', 'fuse')}: CLASS", results[f"into {above}"][number]))
    return maps, mask, number


def dilated_maps(net, batch):
    """The same of a DilatedFCN."""
    results, logits = outputs(net, {"backbone": net.backbone, "score": net.head.score}, batch)
    mask = argmax(logits)
    number = most_frequent(mask, len(logits))
    return [*backbone_maps(results), ("score: CLASS", results["score"][number])], mask, number


def backbone_maps(results):
    """The strongest map of each stage of the backbone."""
    return [strongest(name, array(results["backbone"][name])) for name in ("pool3", "pool4", "fc7")]


def most_frequent(mask, classes):
    """Number of the most frequent class of a mask, background only if there is nothing else."""
    counts = np.bincount(mask.ravel(), minlength=classes)
    return int(counts[1:].argmax()) + 1 if counts[1:].any() else 0


def outputs(net, layers, batch):
    """Run a network and record inputs and outputs of some layers.

    Args:
        net: network with input (1, 3, H, W).
        layers: {name: cell}.
        batch: (1, 3, H, W) float32.

    Returns:
        ({name: output (C, h, w) float32, "into NAME": input (C, h, w) float32}, logits (C, H, W) float32). Outputs that
        are not tensors are recorded unchanged.
    """
    results = {}

    def recorder(name):
        def record(cell, inputs, output):
            results[name] = array(output)
            results[f"into {name}"] = array(inputs[0])
        return record

    with forward_hooks((cell, recorder(name)) for name, cell in layers.items()):
        return results, array(net(ms.Tensor(batch)))


def array(value):
    """A tensor (1, C, h, w) as (C, h, w) float32 array; anything else unchanged."""
    return value.astype(ms.float32).asnumpy()[0] if isinstance(value, ms.Tensor) else value


def strongest(name, maps):
    """(title, (h, w) float32): from maps (C, h, w), the one with the largest sum of activations."""
    number = int(maps.reshape(len(maps), -1).sum(1).argmax())
    return f"{name}, {maps.shape[2]}x{maps.shape[1]}, map {number}", maps[number]
