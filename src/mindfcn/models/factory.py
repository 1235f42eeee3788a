"""Networks by name: HEAD_TRUNK, as in fcn8s_vgg16."""

import inspect
from functools import partial
from typing import Any, Callable

from mindfcn.errors import UserError
from mindfcn.models.alexnet import AlexNet
from mindfcn.models.backbone import MindCV
from mindfcn.models.fcn import FCN, FCN8s, FCN16s, FCN32s
from mindfcn.models.fusion import TwoStreams
from mindfcn.models.googlenet import GoogLeNet
from mindfcn.models.vgg import VGG16
from mindfcn.preprocess import MODALITIES
from mindfcn.weights.importers import AT_ONCE
from mindfcn.weights.surgery import load_trunk

HEADS: dict[str, Callable[..., Any]] = {
    "fcn32s": FCN32s, "fcn16s": FCN16s, "fcn8s": FCN8s,
    # all streams trained at once, with the paper's factors
    "fcn8s_atonce": partial(FCN8s, skip_scales=AT_ONCE),
    # only the score layer trains
    "fcn32s_fixed": FCN32s}
TRUNKS: dict[str, Callable[..., Any]] = {
    "vgg16": partial(VGG16, batch_norm=False), "vgg16_bn": partial(VGG16, batch_norm=True),
    "alexnet": partial(AlexNet, form="torchvision"), "caffenet": partial(AlexNet, form="caffe"),
    "googlenet": GoogLeNet}
MODELS = sorted(f"{head}_{trunk}" for head in HEADS for trunk in TRUNKS)
LIBRARY = "mindcv_"
HEAD_OPTIONS = ("upsampling", "skip_scales", "geometric")
EARLY, LATE = "rgbd", "rgb_hha"


def create_model(name: str = "fcn8s_vgg16_bn", num_classes: int = 21, pretrained: str = "", modality: str = "rgb",
                 **options: Any) -> FCN:
    """The network `name` for `num_classes` classes.

    Args:
        name: one of MODELS, or HEAD_mindcv_NAME for a backbone of the mindcv library.
        num_classes: classes.
        pretrained: file of a classifier's weights for the trunk. `load_trunk` does the same, and its report says how
            the images must be normalised: Caffe's weights want CAFFE.
        modality: what the network sees: rgb; rgbd, four channels into one trunk (early fusion); hha; rgb_hha, a trunk
            for each, their scores averaged (late fusion).
        options: of the head (`upsampling`, `skip_scales`, `geometric`) and of the trunk (`geometry`, `width`,
            `fc_width`, `dropout`, `output_stride`, as it has them).

    Raises:
        UserError: no network has that name, it has no such option, or the weights are of another trunk.
    """
    head, trunk = split_name(name)
    head_options = {option: options.pop(option) for option in HEAD_OPTIONS if option in options}
    make = TRUNKS.get(trunk) or partial(MindCV, trunk.removeprefix(LIBRARY))
    if modality not in MODALITIES:
        raise UserError(f"no modality {modality!r}; choose one of {', '.join(MODALITIES)}")
    known = [option for option in inspect.signature(make).parameters if option not in getattr(make, "keywords", {})]
    if modality == EARLY and "in_channels" not in known:
        raise UserError(f"{name} takes images of three channels; for rgbd choose one of {', '.join(TRUNKS)}")
    for option in options:
        if option not in known:
            raise UserError(f"{name} has no option {option}; it has {', '.join([*known, *HEAD_OPTIONS])}")
    try:
        channels = {"in_channels": 4} if modality == EARLY else {}
        trunk = TwoStreams(make(**options), make(**options)) if modality == LATE else make(**options, **channels)
        net = HEADS[head](num_classes, trunk, **head_options)
    except ValueError as error:
        raise UserError(f"{name}: {error}; take another trunk or output stride") from None
    if head == "fcn32s_fixed":
        for parameter in net.get_parameters():
            parameter.requires_grad = parameter.name.removeprefix("geometric.").startswith("score_fr")
    if pretrained:
        load_trunk(net, pretrained)
    return net


def split_name(name):
    """(head, trunk) of a network's name. Raises UserError where there is no such network."""
    for head in sorted(HEADS, key=len, reverse=True):
        trunk = name.removeprefix(f"{head}_")
        if name.startswith(f"{head}_") and (trunk in TRUNKS or trunk.startswith(LIBRARY)):
            return head, trunk
    raise UserError(f"no network {name!r}; a name is HEAD_TRUNK: one of {', '.join(HEADS)}, then one of "
                    f"{', '.join(TRUNKS)} or {LIBRARY}NAME, a backbone of the mindcv library")
