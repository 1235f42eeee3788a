"""Layer names of the ResNets and dilated FCNs of torchvision and mmsegmentation, converted to MindFCN's names."""

import os
import re

from mindfcn.errors import UserError
from mindfcn.preprocess import TORCHVISION

_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
# Blocks of the third stage -> depth.
_DEPTHS = {2: 18, 6: 50, 23: 101}
# (pattern of a layer's name, its name here), first match; the last three groups are of mmsegmentation.
_LAYERS = tuple((re.compile(pattern), name) for pattern, name in (
    (r"conv1", "conv1.0"), (r"bn1", "conv1.1"), (r"stem\.(\d)", r"conv1.\1"), (r"(layer[1-4]\..*)", r"\1"),
    (r"(?:classifier|aux_classifier)\.([01])", r"score_convs.\1"), (r"(?:classifier|aux_classifier)\.4", "score"),
    (r"(?:decode_head|auxiliary_head)\.convs\.0\.conv", "score_convs.0"),
    (r"(?:decode_head|auxiliary_head)\.convs\.0\.bn", "score_convs.1"),
    (r"decode_head\.convs\.1\.conv", "score_convs.3"), (r"decode_head\.convs\.1\.bn", "score_convs.4"),
    (r"decode_head\.conv_cat\.conv", "score_concat.0"), (r"decode_head\.conv_cat\.bn", "score_concat.1"),
    (r"(?:decode_head|auxiliary_head)\.conv_seg", "score")))
_FAMILIES = {"classifier.4.weight": "fcn_resnet{depth}", "decode_head.conv_cat.conv.weight": "fcn_r{depth}{stem}_d8"}
# Networks of mmsegmentation that have these weights' names, but compute otherwise: parts of their files' names and of
# the configuration in their `meta`.
_OTHERS = (("_d6_", r"dilation=[2-9]", "a head of dilation 6"),
           ("769x769", r"align_corners=True", "logits resized with aligned corners"),
           ("-d16", r"dilations=\(1, 1, 1, 2\)", "output stride 16"))


def published_resnet_fcn(weights, path="", config=""):
    """Recognise a complete FCN on ResNet: of torchvision, or of mmsegmentation with its head of two convolutions.

    Args:
        weights: dict of name -> array.
        path: the file.
        config: the text of mmsegmentation's configuration, if the file holds it.

    Returns:
        (renamed, model): weights under MindFCN's names and the entry `model` of their card; None for anything else.

    Raises:
        UserError: a ResNet of another depth, layers that these networks lack, or a network that computes otherwise.
    """
    family = next((name for layer, name in _FAMILIES.items() if layer in weights), None)
    if family is None or "backbone.layer1.0.conv1.weight" not in weights:
        return None
    for part, pattern, why in _OTHERS:
        if part in os.path.basename(path) or re.search(pattern, config):
            raise UserError(f"{path} is of a network with {why}, which is not among those here; take "
                            "fcn_r50-d8_512x1024 or another one of 512x512 or 512x1024 without d6")
    renamed, _ = _renamed(weights, "backbone.", path)
    deep = "conv1.3.weight" in renamed
    channels = len(renamed["conv1.6.weight" if deep else "conv1.0.weight"])
    model = {"name": family.format(depth=_depth(renamed, path), stem="" if deep else "b")}
    if channels != 64:
        model["width"] = channels / 64
    if not any(name.startswith("auxiliary.") for name in renamed):
        model["auxiliary"] = 0
    return renamed, model


def resnet_backbone(weights):
    """Rename the weights of an ImageNet classifier of torchvision or mmsegmentation, without its last dense layer.

    Returns:
        (renamed, pairs, preprocess) as `backbone_names` does; None for anything but a ResNet.
    """
    weights = {name: weight for name, weight in weights.items() if not name.startswith("fc.")}
    if "layer4.0.conv1.weight" not in weights:
        return None
    renamed, pairs = _renamed(weights, "", "these weights")
    return renamed, pairs, TORCHVISION


def _renamed(weights, prefix, where):
    """({MindFCN's name: array}, [(source name, MindFCN's name)]); counts of batches are left out."""
    pairs = [(name, _name(name, prefix, weights)) for name in weights if not name.endswith("num_batches_tracked")]
    unknown = next((source for source, target in pairs if target is None), None)
    if unknown:
        raise UserError(f"{where}: no network here has a layer {unknown}; give weights of an FCN of torchvision or "
                        "mmsegmentation, or of a ResNet classifier")
    return {target: weights[source] for source, target in pairs}, pairs


def _name(name, prefix, weights):
    """MindFCN's name of one weight; None for an unknown layer."""
    layer, _, kind = name.rpartition(".")
    kind = _NORM.get(kind) if f"{layer}.running_mean" in weights else kind
    stream = "auxiliary." if layer.startswith("aux") else ""
    for pattern, target in _LAYERS:
        match = pattern.fullmatch(layer.removeprefix(prefix))
        if match and kind:
            return f"{stream}{match.expand(target)}.{kind}"
    return None


def _depth(renamed, where):
    """The depth of a ResNet from the number of its blocks."""
    blocks = len({name.split(".")[1] for name in renamed if name.startswith("layer3.")})
    bottleneck = "layer1.0.conv3.weight" in renamed
    if blocks not in _DEPTHS or bottleneck != (_DEPTHS[blocks] > 18):
        raise UserError(f"{where}: a ResNet with {blocks} blocks in its third stage; the networks here are ResNets of "
                        f"depth {', '.join(map(str, _DEPTHS.values()))}")
    return _DEPTHS[blocks]
