"""Networks by name: HEAD_BACKBONE, as in fcn8s_vgg16."""

import inspect
from functools import partial
from typing import Any, Callable, Union

from mindfcn.errors import UserError
from mindfcn.models.backbones.alexnet import AlexNet
from mindfcn.models.backbones.googlenet import GoogLeNet
from mindfcn.models.backbones.mindcv import MindCV
from mindfcn.models.backbones.vgg import VGG16
from mindfcn.models.deconvnet import DeconvNet, Encoder
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
    "fcn32s_fixed": FCN32s,
    # the mirror of VGG16, available with that backbone only
    "deconvnet": DeconvNet}
BACKBONES: dict[str, Callable[..., Any]] = {
    "vgg16": partial(VGG16, batch_norm=False), "vgg16_bn": partial(VGG16, batch_norm=True),
    "alexnet": partial(AlexNet, form="torchvision"), "caffenet": partial(AlexNet, form="caffe"),
    "googlenet": GoogLeNet}
DECONVNET = "deconvnet_vgg16"
MODELS = sorted([DECONVNET, *(f"{head}_{backbone}" for head in HEADS if head != "deconvnet" for backbone in BACKBONES)])
LIBRARY = "mindcv_"
EARLY, LATE = "rgbd", "rgb_hha"


def create_model(name: str = "fcn8s_vgg16_bn", num_classes: int = 21, pretrained: str = "", modality: str = "rgb",
                 **options: Any) -> Union[FCN, DeconvNet]:
    """The network `name` for `num_classes` classes.

    Args:
        name: one of MODELS, or HEAD_mindcv_NAME for a backbone of the mindcv library.
        num_classes: classes.
        pretrained: file of a classifier's weights for the backbone. `load_backbone` does the same, and its report
            gives the normalisation of the images: CAFFE for Caffe's weights.
        modality: input of the network: rgb; rgbd, four channels into one backbone (early fusion); hha; rgb_hha, one
            backbone each, their scores averaged (late fusion).
        options: of the head (`upsampling`, `skip_scales`, `geometric`; DeconvNet `decoder_width`) and of the backbone
            (`padding`, `width`, `fc_width`, `dropout`, `output_stride`; DeconvNet `side`; as it has them).

    Raises:
        UserError: no network has that name, it has no such option, or the weights are of another backbone.
    """
    head, backbone = split_name(name)
    make = Encoder if name == DECONVNET else BACKBONES.get(backbone) or partial(
        MindCV, name=backbone.removeprefix(LIBRARY))
    fixed = getattr(make, "keywords", {})
    of_backbone = [option for option in options_of(make) if option not in fixed]
    of_head = [option for option in options_of(HEADS[head]) if option not in ("n_class", "backbone", "options")]
    if modality not in MODALITIES:
        raise UserError(f"no modality {modality!r}; choose one of {', '.join(MODALITIES)}")
    if modality == EARLY and "in_channels" not in of_backbone:
        raise UserError(f"{name} takes images of three channels; for rgbd choose one of {', '.join(BACKBONES)}")
    if modality == LATE and name == DECONVNET:
        raise UserError(f"{name} sees one stream; for rgb_hha choose one of {', '.join(BACKBONES)}")
    for option in options:
        if option not in (*of_backbone, *of_head):
            raise UserError(f"{name} has no option {option}; it has {', '.join([*of_backbone, *of_head])}")
    head_options = {option: options.pop(option) for option in of_head if option in options}
    try:
        channels = {"in_channels": 4} if modality == EARLY else {}
        backbone = TwoStreams(make(**options), make(**options)) if modality == LATE else make(**options, **channels)
        net = HEADS[head](num_classes, backbone, **head_options)
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
    for head in sorted(HEADS, key=len, reverse=True):
        backbone = name.removeprefix(f"{head}_")
        known = name == DECONVNET if head == "deconvnet" else backbone in BACKBONES or backbone.startswith(LIBRARY)
        if name.startswith(f"{head}_") and known:
            return head, backbone
    raise UserError(f"no network {name!r}; a name is {DECONVNET}, or HEAD_BACKBONE: one of "
                    f"{', '.join(head for head in HEADS if head != 'deconvnet')}, then one of "
                    f"{', '.join(BACKBONES)} or {LIBRARY}NAME, a backbone of the mindcv library")
