"""Convert the layer names of other frameworks and model zoos to MindFCN's names."""

import collections
import os

import numpy as np

from mindfcn.errors import UserError
from mindfcn.preprocess import CAFFE, COURSE, NYUD, SIFTFLOW, TORCHVISION
from mindfcn.weights.resnet_names import resnet_backbone

_NORM = {"gamma": ("gamma", "weight"), "beta": ("beta", "bias"), "moving_mean": ("moving_mean", "running_mean"),
         "moving_variance": ("moving_variance", "running_var")}

# One origin's names of a backbone's convolutions and normalisations, in MindFCN's order; `norms` is empty if it has
# none. `preprocess` is the normalisation that its first convolution expects.
_Naming = collections.namedtuple("_Naming", "preprocess convs norms", defaults=[()])

# A backbone under MindFCN's names; the kernel size of fc6 as a convolution; all known names of its dense layers; its
# known origins.
_Backbone = collections.namedtuple("_Backbone", "title convs norms fc6 dense namings")

# ------------------------------------------------------------------------------------------------------- VGG16

_PLACES = tuple((block, place) for block, count in enumerate((2, 2, 3, 3, 3), 1) for place in range(count))


def _flat_vgg16(prefix, step):
    """_Naming of one flat Sequential: `step` layers per convolution, 3 with normalisation or 2, a pool per block."""
    places = [step * index + block - 1 for index, (block, _) in enumerate(_PLACES)]
    norms = [f"{prefix}.{place + 1}" for place in places] if step == 3 else []
    return _Naming(TORCHVISION, [f"{prefix}.{place}" for place in places], norms)


def _own_vgg16(step):
    norms = [f"conv{block}.{step * place + 1}" for block, place in _PLACES] if step == 3 else []
    return _Naming(COURSE, [f"conv{block}.{step * place}" for block, place in _PLACES], norms)


_VGG16_CAFFE = _Naming(CAFFE, [f"conv{block}_{place + 1}" for block, place in _PLACES])
_VGG16_NAMINGS = (
    _own_vgg16(3), _own_vgg16(2),
    # torchvision, timm and MindCV; the model zoo's classifier.
    *(_flat_vgg16(prefix, step) for prefix in ("features", "layers") for step in (3, 2)),
    # The weights that the model zoo's FCN-8s starts from.
    _Naming(TORCHVISION, [f"vgg16_feature_extractor.conv{block}_{place + 1}.0" for block, place in _PLACES],
            [f"vgg16_feature_extractor.conv{block}_{place + 1}.1" for block, place in _PLACES]),
    _VGG16_CAFFE)
_VGG16_DENSE = {"conv6.0": ("conv6.0", "fc6", "classifier.0", "pre_logits.fc1"),
                "conv7.0": ("conv7.0", "fc7", "classifier.3", "pre_logits.fc2")}
_VGG16_BN, _VGG16 = (_Backbone("a VGG16", own.convs, own.norms, 7, _VGG16_DENSE, _VGG16_NAMINGS)
                     for own in _VGG16_NAMINGS[:2])

# ---------------------------------------------------------------------------------- AlexNet, in both of its forms

_ALEXNET_OWN = _Naming(COURSE, [f"conv{layer}.0" for layer in range(1, 6)])
_ALEXNET_CAFFE = _Naming(CAFFE, [f"conv{layer}" for layer in range(1, 6)])
_ALEXNET = _Backbone("an AlexNet", _ALEXNET_OWN.convs, (), 6,
                  {"conv6.0": ("conv6.0", "fc6", "classifier.1"), "conv7.0": ("conv7.0", "fc7", "classifier.4")},
                  (_ALEXNET_OWN, _Naming(TORCHVISION, [f"features.{place}" for place in (0, 3, 6, 8, 10)]),
                   _ALEXNET_CAFFE))

# --------------------------------------------------------------------------------------------------- GoogLeNet

_MODULES = [f"inception_{module}" for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")]
_GOOGLENET_OWN = _Naming(COURSE, ["conv1.0", "conv2.0", "conv2.2", *(
    f"{module}.{layer}.0" for module in _MODULES
    for layer in ("conv1x1", "reduce3x3", "conv3x3", "reduce5x5", "conv5x5", "pool_proj"))])
_GOOGLENET_CAFFE = _Naming(CAFFE, ["conv1/7x7_s2", "conv2/3x3_reduce", "conv2/3x3", *(
    f"{module}/{layer}" for module in _MODULES
    for layer in ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj"))])
_GOOGLENET = _Backbone("a GoogLeNet", _GOOGLENET_OWN.convs, (), 0, {}, (_GOOGLENET_OWN, _GOOGLENET_CAFFE))

# VGG16 comes before AlexNet, because it has all of AlexNet's names.
_BACKBONES = (_VGG16_BN, _VGG16, _GOOGLENET, _ALEXNET)


def backbone_names(weights, names):
    """Rename the weights of a classifier of any known origin; everything else in the file is left out.

    The large dense layers become convolutions: VGG16's classifier.0, (4096, 25088), is conv6.0, (4096, 512, 7, 7);
    AlexNet's classifier.1, (4096, 9216), is (4096, 256, 6, 6); fc7 is (4096, 4096, 1, 1). Other shapes do not change.

    Args:
        weights: dict of name -> array, as `read_weights` gives it.
        names: names of the backbone's parameters, which identify VGG16 (conv1.0, conv1.3 with normalisation, conv1.0,
            conv1.2 without), AlexNet and GoogLeNet; any other is a backbone of mindcv, whose names do not change. A
            bias keeps the name of its convolution; see `fold_bias`.

    Returns:
        (renamed, pairs, preprocess): dict of MindFCN's name -> array; list of (source name, MindFCN's name); the
        Preprocess that the first convolution expects, see `to_bgr`.

    Raises:
        UserError: weights of another backbone, or weights that need batch normalisation, which the network lacks.
    """
    backbone = next((backbone for backbone in _BACKBONES if _has(names, backbone.convs)), None)
    if backbone is None:
        # MindFCN's ResNets call their first convolution conv1.0, mindcv's conv1.
        renamed = resnet_backbone(weights) if "conv1.0.weight" in names else None
        return renamed or _same_names(weights, names)
    naming = _find_naming(backbone, weights)
    pairs = [pair for pair in _pairs(naming, backbone) if pair[0] in weights]
    if not backbone.norms and any(target.endswith((".gamma", ".moving_mean")) for _, target in pairs):
        raise UserError(f"these weights of {backbone.title} need batch normalisation; "
                        "choose a model whose name ends in _bn")
    renamed = {target: _as_convolution(backbone, target, weights[source]) for source, target in pairs}
    return renamed, pairs, naming.preprocess


def _same_names(weights, names):
    """Return what `backbone_names` does, for a backbone of mindcv, whose weights already have its parameters' names."""
    lacking = next((name for name in names if name not in weights), None)
    if lacking:
        raise UserError(f"these weights lack {lacking}; give mindcv's weights of the network's backbone")
    return {name: weights[name] for name in names}, [(name, name) for name in names], TORCHVISION


def _has(names, convs):
    return all(f"{conv}.weight" in names for conv in convs)


def _find_naming(backbone, weights):
    for naming in backbone.namings:
        if _has(weights, naming.convs):
            return naming
    for other in _BACKBONES:
        if any(_has(weights, naming.convs) for naming in other.namings):
            raise UserError(f"these are weights of {other.title}; the network needs those of {backbone.title}")
    first = ", ".join(map(repr, list(weights)[:3])) or "nothing"
    raise UserError(f"weights of unknown architecture: they begin with {first}; give the weights of {backbone.title}")


def _pairs(naming, backbone):
    """Yield (source name, MindFCN's name) of every parameter that the source may hold."""
    for source, target in zip(naming.convs, backbone.convs):
        for kind in ("weight", "bias"):
            yield f"{source}.{kind}", f"{target}.{kind}"
    targets = [f"{conv[:-1]}{int(conv[-1]) + 1}" for conv in backbone.convs]
    for source, target in [*zip(naming.norms, targets), *((f"{dense[:-1]}1",) * 2 for dense in backbone.dense)]:
        for kind, aliases in _NORM.items():
            yield from ((f"{source}.{alias}", f"{target}.{kind}") for alias in aliases)
    for target, aliases in backbone.dense.items():
        for kind in ("weight", "bias"):
            yield from ((f"{alias}.{kind}", f"{target}.{kind}") for alias in aliases)


def _as_convolution(backbone, name, weight):
    kernel = {"conv6.0.weight": backbone.fc6, "conv7.0.weight": 1}.get(name)
    if kernel is None or weight.ndim != 2 or weight.shape[1] % kernel ** 2:
        return weight
    return weight.reshape(weight.shape[0], -1, kernel, kernel)


def fold_bias(weights):
    """Move each convolution's bias into the moving mean after it, for a network whose convolutions have no biases.

    (Wx + b) - mean = Wx - (mean - b), so the normalised map is the same up to rounding.

    Args:
        weights: dict under MindFCN's names, with batch normalisation. It is not changed.

    Returns:
        A dict without the biases that were moved.
    """
    folded = dict(weights)
    for name in weights:
        layer, _, kind = name.rpartition(".")
        mean = f"{layer[:-1]}{int(layer[-1]) + 1}.moving_mean" if kind == "bias" and layer[-1:].isdigit() else None
        if mean in weights:
            folded[mean] = weights[mean] - folded.pop(name)
    return folded


def to_bgr(weight):
    """Swap the input channels of a first convolution, (O, 3, k, k), between RGB and BGR. Returns a copy.

    Raises:
        UserError: the weight does not have three input channels.
    """
    if weight.ndim != 4 or weight.shape[1] != 3:
        raise UserError(f"the first convolution's weight is {weight.shape}, not (O, 3, k, k); "
                        "give weights for colour images")
    return np.ascontiguousarray(weight[:, ::-1])


# ------------------------------------------------------------------------------------------- the published FCNs

# The last upsampling layer identifies the head: fcn.berkeleyvision.org and its conversions.
_HEADS = {"upscore": "fcn32s", "upscore16": "fcn16s", "upscore8": "fcn8s"}
_PUBLISHED = (("vgg16", _VGG16, _VGG16_CAFFE, 64), ("caffenet", _ALEXNET, _ALEXNET_CAFFE, 96))
# The paper's factors on pool4 and pool3 when all streams are trained at once.
AT_ONCE = (0.01, 0.0001)


def published_fcn(weights, path="", model_name=""):
    """Recognise a complete FCN under Caffe's layer names: the released nets, and their conversions to PyTorch.

    FCN-8s at once has two fixed scales: the layers scale_pool4 and scale_pool3 of the .caffemodel. The conversions lack
    these layers and are recognised by the file's name, fcn8s-atonce_from_caffe.pth, or by `model_name`.

    Args:
        weights: dict of name -> array.
        path: the file.
        model_name: the network's name as the user gave it.

    Returns:
        (renamed, model): weights under MindFCN's names and the entry `model` of their card; None for anything else.

    Raises:
        UserError: the scales differ between channels.
    """
    head = next((head for last, head in _HEADS.items() if f"{last}.weight" in weights), None)
    if head == "fcn32s" and "score_frcolor.weight" in weights:
        return _published_streams(weights, path, model_name)
    for name, backbone, naming, base in _PUBLISHED if head and "score_fr.weight" in weights else ():
        if _has(weights, (*naming.convs, "fc6", "fc7")):
            renamed = {target: _as_convolution(backbone, target, weights[source])
                       for source, target in _pairs(naming, backbone) if source in weights}
            renamed.update({entry: weight for entry, weight in weights.items()
                            if entry.startswith(("score_", "upscore"))})
            model = {"name": f"{head}_{name}", "width": len(renamed["conv1.0.weight"]) / base,
                     "fc_width": len(renamed["conv7.0.weight"]), "geometry": "paper"}
            scales = _skip_scales(weights, path, model_name) if head == "fcn8s" else None
            return renamed, model | ({"name": f"fcn8s_atonce_{name}", "skip_scales": scales} if scales else {})
    return None


def _published_streams(weights, path, model_name):
    """The same of the released net of late fusion, whose layers are called conv1_1color and conv1_1hha."""
    merged, model = {"upscore.weight": weights["upscore.weight"]}, None
    for stream in ("color", "hha"):
        part = {f"{layer.removesuffix(stream)}.{kind}": weight for layer, _, kind, weight in
                ((*name.rpartition("."), weight) for name, weight in weights.items()) if layer.endswith(stream)}
        found = published_fcn({**part, "upscore.weight": weights["upscore.weight"]}, path, model_name)
        if found is None:
            return None
        renamed, model = found
        for name, weight in renamed.items():
            layer, _, kind = name.rpartition(".")
            if layer.startswith("score"):
                merged[f"{layer}.{stream}.{kind}"] = weight
            elif layer != "upscore":
                merged[f"{stream}.{name}"] = weight
    return merged, {**model, "modality": "rgb_hha"}


def published_input(weights, model, path=""):
    """The Preprocess of a published FCN under Caffe's names, by its shapes and the name of its file.

    HHA has three channels, as colours have, so only names tell them apart: nyud-fcn32s-hha-heavy. Released nets for
    NYUDv2 (40 classes, or more channels than colours) and SIFT Flow subtract those data sets' means.
    """
    name = os.path.basename(path).lower()
    modality = model.get("modality", "rgb")
    if modality == "rgb" and "hha" in name:
        modality = "hha"
    elif modality == "rgb" and weights["conv1.0.weight"].shape[1] == 4:
        modality = "rgbd"
    classes = next(len(weights[score]) for score in ("score_fr.weight", "score_fr.color.weight") if score in weights)
    if modality != "rgb" or "nyud" in name or classes == 40:
        return NYUD.to(modality)
    return SIFTFLOW if "siftflow" in name else CAFFE


def _skip_scales(weights, path, model_name):
    blobs = [weights[name] for name in ("scale_pool4.weight", "scale_pool3.weight") if name in weights]
    if len(blobs) < 2:
        names = f"{os.path.basename(path)} {model_name}".replace("-", "").lower()
        return list(AT_ONCE) if "atonce" in names else None
    if any(blob.size == 0 or (blob != blob.flat[0]).any() for blob in blobs):
        raise UserError(f"{path}: the scales of pool3 or pool4 differ between channels; "
                        "use a network with one scale for all channels")
    # The shortest decimals of the float32: 0.01, not 0.009999999776.
    return [float(str(blob.flat[0])) for blob in blobs]
