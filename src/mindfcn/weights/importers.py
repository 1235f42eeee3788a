"""VGG16 under the names that others gave its layers -> the names of our networks."""

import collections

import numpy as np

from mindfcn.errors import UserError

_CONVS = tuple((block, place) for block, count in enumerate((2, 2, 3, 3, 3), 1) for place in range(count))
_NORM = {"gamma": ("gamma", "weight"), "beta": ("beta", "bias"), "moving_mean": ("moving_mean", "running_mean"),
         "moving_variance": ("moving_variance", "running_var")}
_DENSE = {"conv6.0": ("conv6.0", "fc6", "classifier.0", "pre_logits.fc1"),
          "conv7.0": ("conv7.0", "fc7", "classifier.3", "pre_logits.fc2")}

# layer names of the 13 convolutions and of their normalisations, in order; no norms: the net has none
_Naming = collections.namedtuple("_Naming", "order convs norms")


def _flat(step):
    """Places of the convolutions in one flat Sequential with `step` layers a convolution and one pool a block."""
    return [step * index + block - 1 for index, (block, _) in enumerate(_CONVS)]


def _flat_naming(prefix, step):
    norms = [f"{prefix}.{at + 1}" for at in _flat(step)] if step == 3 else []
    return _Naming("RGB", [f"{prefix}.{at}" for at in _flat(step)], norms)


def _own_naming(step):
    norms = [f"conv{block}.{step * place + 1}" for block, place in _CONVS] if step == 3 else []
    return _Naming("BGR", [f"conv{block}.{step * place}" for block, place in _CONVS], norms)


_OURS = {True: _own_naming(3), False: _own_naming(2)}
_NAMINGS = (
    *_OURS.values(),
    # torchvision, timm and MindCV; the model zoo's classifier
    *(_flat_naming(prefix, step) for prefix in ("features", "layers") for step in (3, 2)),
    # the weights that the model zoo's FCN-8s starts from
    _Naming("RGB", [f"vgg16_feature_extractor.conv{block}_{place + 1}.0" for block, place in _CONVS],
            [f"vgg16_feature_extractor.conv{block}_{place + 1}.1" for block, place in _CONVS]),
    # Caffe's names; its images are BGR
    _Naming("BGR", [f"conv{block}_{place + 1}" for block, place in _CONVS], []))


def vgg16_names(weights, batch_norm):
    """Rename the weights of any known VGG16; everything else in the file is left out.

    The two big dense layers become convolutions: classifier.0, (4096, 25088), is conv6.0, (4096, 512, 7, 7), and
    classifier.3, (4096, 4096), is conv7.0, (4096, 4096, 1, 1). Other shapes are taken as they are.

    Args:
        weights: dict of name -> array, as `read_weights` gives it.
        batch_norm: whether the names shall be those of the net with batch normalisation, conv1.0 1 3 4, or without,
            conv1.0 2. A bias keeps the name of its convolution; see `fold_bias`.

    Returns:
        (renamed, report, order): dict of our name -> array; list of (source name, our name); "RGB" or "BGR", the
        channel order that the first convolution expects, see `to_bgr`.

    Raises:
        UserError: the names are not VGG16's, or the weights need the normalisation that `batch_norm` leaves out.
    """
    naming = _find_naming(weights)
    report = [pair for pair in _pairs(naming, _OURS[batch_norm]) if pair[0] in weights]
    if not batch_norm and any(name.endswith((".gamma", ".moving_mean")) for _, name in report):
        raise UserError("these VGG16 weights need batch normalisation; choose a model whose name ends in _bn")
    return {ours: _as_convolution(ours, weights[theirs]) for theirs, ours in report}, report, naming.order


def _find_naming(weights):
    for naming in _NAMINGS:
        if all(f"{conv}.weight" in weights for conv in naming.convs):
            return naming
    first = ", ".join(map(repr, list(weights)[:3])) or "nothing"
    raise UserError(f"weights of unknown architecture: they begin with {first}; give the weights of a VGG16")


def _pairs(theirs, ours):
    """Yield (source name, our name) of every parameter that the source may hold."""
    for source, target in zip(theirs.convs, ours.convs):
        for kind in ("weight", "bias"):
            yield f"{source}.{kind}", f"{target}.{kind}"
    targets = [f"{conv[:-1]}{int(conv[-1]) + 1}" for conv in ours.convs]
    for source, target in [*zip(theirs.norms, targets), ("conv6.1", "conv6.1"), ("conv7.1", "conv7.1")]:
        for kind, aliases in _NORM.items():
            yield from ((f"{source}.{alias}", f"{target}.{kind}") for alias in aliases)
    for target, aliases in _DENSE.items():
        for kind in ("weight", "bias"):
            yield from ((f"{alias}.{kind}", f"{target}.{kind}") for alias in aliases)


def _as_convolution(name, weight):
    kernel = {"conv6.0.weight": 7, "conv7.0.weight": 1}.get(name)
    if kernel is None or weight.ndim != 2 or weight.shape[1] % kernel ** 2:
        return weight
    return weight.reshape(weight.shape[0], -1, kernel, kernel)


def fold_bias(weights):
    """Move each convolution's bias into the moving mean after it, for a net whose convolutions have none.

    (Wx + b) - mean = Wx - (mean - b), so the normalised map is the same to the last rounding.

    Args:
        weights: dict under our names with batch normalisation. It is not changed.

    Returns:
        A dict without the biases that had a moving mean to go to.
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
        UserError: the weight has not three input channels.
    """
    if weight.ndim != 4 or weight.shape[1] != 3:
        raise UserError(f"the first convolution's weight is {weight.shape}, not (O, 3, k, k); "
                        "give weights for colour images")
    return np.ascontiguousarray(weight[:, ::-1])
