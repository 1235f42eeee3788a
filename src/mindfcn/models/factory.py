"""Networks by name: HEAD_BACKBONE, as in fcn8s_vgg16, or one of PAIRS, as in fcn_resnet50."""

import inspect
from functools import partial
from typing import Any, Callable, Union

import numpy as np

from mindfcn import combinations
from mindfcn.errors import UserError
from mindfcn.models.backbones.alexnet import AlexNet
from mindfcn.models.backbones.googlenet import GoogLeNet
from mindfcn.models.backbones.mindcv import MindCV
from mindfcn.models.backbones.resnet import ResNet
from mindfcn.models.backbones.vgg import VGG16
from mindfcn.models.deconvnet import DeconvNet, Encoder
from mindfcn.models.dilated_fcn import DilatedFCN
from mindfcn.models.fcn import FCN, FCN8s, FCN16s, FCN32s
from mindfcn.models.fusion import TwoStreams
from mindfcn.preprocess import MODALITIES
from mindfcn.weights.load import load_backbone
from mindfcn.weights.naming import AT_ONCE

HEADS: dict[str, Callable[..., Any]] = {
    "fcn32s": FCN32s, "fcn16s": FCN16s, "fcn8s": FCN8s,
    # all streams trained at once, with the paper's factors
    "fcn8s_atonce": partial(FCN8s, skip_scales=AT_ONCE),
    # only the score layer trains
    "fcn32s_fixed": FCN32s}
BACKBONES: dict[str, Callable[..., Any]] = {
    "vgg16": partial(VGG16, batch_norm=False), "vgg16_bn": partial(VGG16, batch_norm=True),
    "alexnet": partial(AlexNet, form="torchvision"), "caffenet": partial(AlexNet, form="caffe"),
    "googlenet": GoogLeNet}
DECONVNET = "deconvnet_vgg16"
# Networks whose head fits only one backbone: (backbone, network).
PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {DECONVNET: (Encoder, DeconvNet)}
for _depth in (50, 101):
    # torchvision's
    PAIRS[f"fcn_resnet{_depth}"] = partial(ResNet, depth=_depth, deep_stem=False), DilatedFCN
for _depth in (18, 50, 101):
    # mmsegmentation's, on ResNetV1c and, with a b, on torchvision's ResNet
    for _stem, _deep in (("", True), ("b", False)):
        PAIRS[f"fcn_r{_depth}{_stem}_d8"] = (partial(ResNet, depth=_depth, deep_stem=_deep),
                                             partial(DilatedFCN, num_convs=2, concat=True, auxiliary=0.4))
MODELS = sorted([*PAIRS, *(f"{head}_{backbone}" for head in HEADS for backbone in BACKBONES)])
LIBRARY = "mindcv_"
EARLY, LATE = "rgbd", "rgb_hha"
# Arguments of the networks that follow from their names.
NOT_OPTIONS = ("n_class", "backbone", "options", "num_convs", "concat")


def create_model(name: str = "fcn8s_vgg16_bn", num_classes: int = 21, pretrained: str = "", modality: str = "rgb",
                 bands: int = 0, **options: Any) -> Union[FCN, DilatedFCN, DeconvNet]:
    """The network `name` for `num_classes` classes.

    Args:
        name: one of MODELS, or HEAD_mindcv_NAME for a backbone of the mindcv library.
        num_classes: classes.
        pretrained: file of a classifier's weights for the backbone. `load_backbone` does the same, and its report
            gives the normalisation of the images: CAFFE for Caffe's weights.
        modality: input of the network: rgb; rgbd, four channels into one backbone (early fusion); hha; rgb_hha, one
            backbone each, their scores averaged (late fusion); bands, multispectral images.
        bands: number of bands of multispectral images.
        options: of the head (`upsampling`, `skip_scales`, `geometric`; DeconvNet `decoder_width`; DilatedFCN
            `auxiliary`, `dropout`) and of the backbone (`padding`, `width`, `fc_width`, `dropout`, `output_stride`;
            DeconvNet `side`; as it has them).

    Raises:
        UserError: no network has that name, it has no such option, or the weights are of another backbone.
    """
    if not isinstance(name, str):
        raise UserError(f"the network's name is {name!r}; give a text, such as 'fcn8s_vgg16'")
    if not isinstance(num_classes, (int, np.integer)) or num_classes < 1:
        raise UserError(f"{num_classes!r} classes: give a whole number from 1")
    if options.get("width", 1) <= 0:
        raise UserError(f"width {options['width']}: give a factor above 0")
    head, backbone = split_name(name)
    make, make_net = PAIRS.get(name) or (
        BACKBONES.get(backbone) or partial(MindCV, name=backbone.removeprefix(LIBRARY)), HEADS[head])
    fixed = getattr(make, "keywords", {})
    of_backbone = [option for option in options_of(make) if option not in fixed]
    of_head = [option for option in options_of(make_net) if option not in NOT_OPTIONS]
    if modality not in MODALITIES:
        raise UserError(f"no modality {modality!r}; choose one of {', '.join(MODALITIES)}")
    combinations.check(combinations.kind(name), *combinations.inputs(modality, bool(options.get("geometric"))))
    if (modality == "bands") != bool(bands):
        raise UserError(f"modality {modality} with {bands} bands: modality bands needs the number of bands, the others "
                        "have none")
    in_channels = {EARLY: 4, "bands": bands}.get(modality)
    for option in options:
        if option not in (*of_backbone, *of_head):
            raise UserError(f"{name} has no option {option}; it has {', '.join([*of_backbone, *of_head])}")
    head_options = {option: options.pop(option) for option in of_head if option in options}
    try:
        channels = {"in_channels": in_channels} if in_channels else {}
        backbone = TwoStreams(make(**options), make(**options)) if modality == LATE else make(**options, **channels)
        net = make_net(num_classes, backbone, **head_options)
    except ValueError as error:
        raise UserError(f"{name}: {error}; take another backbone or output stride") from None
    if head == "fcn32s_fixed":
        for parameter in net.get_parameters():
            parameter.requires_grad = parameter.name.removeprefix("geometric.").startswith("score_fr")
    if pretrained:
        load_backbone(net, pretrained)
    return net


def options_of(make):
    """Names of the arguments of a class, or of the class in a partial.

    Taken from `__init__`: on Python 3.9 the signature of a Cell class itself is (*args, **kwargs).
    """
    made = make.func if isinstance(make, partial) else make
    return list(inspect.signature(made.__init__).parameters)[1:]


def split_name(name):
    """(head, backbone) of a network's name. Raises UserError where there is no such network."""
    if name in PAIRS:
        head, _, backbone = name.partition("_")
        return head, backbone
    for head in sorted(HEADS, key=len, reverse=True):
        backbone = name.removeprefix(f"{head}_")
        if name.startswith(f"{head}_") and (backbone in BACKBONES or backbone.startswith(LIBRARY)):
            return head, backbone
    raise UserError(f"no network {name!r}; a name is one of {', '.join(PAIRS)}, or HEAD_BACKBONE: one of "
                    f"{', '.join(HEADS)}, then one of {', '.join(BACKBONES)} or {LIBRARY}NAME, a backbone of the "
                    "mindcv library")
