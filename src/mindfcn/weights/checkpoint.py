"""Checkpoints: the network's weights, the card that describes them, and the training state to resume from.

A checkpoint is one .ckpt file, which gets its name only when it is complete. The weights have their plain names, the
training state has the prefix `training.`, and the card is JSON text. Programs that need only the weights read it too.
"""

import json
import os
from typing import Optional, Union

import mindspore as ms
import numpy as np
from mindspore import nn

from mindfcn.console import FilePath
from mindfcn.errors import UserError
from mindfcn.labels import VOC, LabelSet
from mindfcn.preprocess import TORCHVISION
from mindfcn.storage.files import atomic_path
from mindfcn.storage.weight_files.read import read_checkpoint
from mindfcn.weights.card import CARD, Card
from mindfcn.weights.catalogue import entry_of, locate
from mindfcn.weights.naming import published_fcn, published_input
from mindfcn.weights.resnet_names import published_resnet_fcn

STATE = "training."


def save_checkpoint(path: FilePath, net: Union[nn.Cell, dict[str, ms.Parameter]], card: Card,
                    state: Optional[dict[str, ms.Parameter]] = None) -> None:
    """Write weights, card and, for resuming, `state`. The file is written atomically.

    Args:
        path: file to write; its name ends in .ckpt.
        net: the network, or its weights by name.
        card: its Card.
        state: dict of name -> Parameter of the training.

    Raises:
        UserError: the file cannot be written, or its name does not end in .ckpt.
    """
    if not os.fspath(path).endswith(".ckpt"):
        raise UserError(f"cannot write a checkpoint to {path}; choose a name that ends in .ckpt")
    weights = net if isinstance(net, dict) else {parameter.name: parameter for parameter in net.get_parameters()}
    entries = [{"name": name, "data": parameter} for name, parameter in weights.items()]
    entries += [{"name": STATE + name, "data": parameter} for name, parameter in (state or {}).items()]
    with atomic_path(path) as temporary:
        try:
            ms.save_checkpoint(entries, temporary, append_dict={CARD: card.to_json()}, crc_check=True)
        except (RuntimeError, ValueError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"cannot write {path}: {reason}; free some space or choose another folder") from None


def load_checkpoint(path: FilePath,
                    default_model: Optional[str] = None) -> tuple[dict[str, np.ndarray], Card, dict[str, np.ndarray]]:
    """Read a checkpoint, or a published FCN of Caffe, torchvision or mmsegmentation, whose weights are renamed.

    Args:
        path: .ckpt, or weights of another format, or the name of published ones (see `mindfcn.weights.catalogue`).
        default_model: name of the network for a file without a card that is not Caffe's, such as the course's; for a
            Caffe net it only decides whether it is FCN-8s at once.

    Returns:
        (weights, card, state): dict of name -> array; Card; dict of name -> array, empty without training state.

    Raises:
        UserError: the file cannot be read, or has no card, is not Caffe's, and `default_model` is not given.
    """
    path = locate(path)
    entries, texts = read_checkpoint(path)
    weights = {name: entry for name, entry in entries.items() if not name.startswith(STATE)}
    state = {name[len(STATE):]: entry for name, entry in entries.items() if name.startswith(STATE)}
    if CARD in texts:
        return weights, Card.from_json(texts[CARD], path), state
    entry = entry_of(path)
    for released, found in ((True, published_fcn(weights, path, default_model or "")),
                            (False, published_resnet_fcn(weights, path, texts.get("meta.config", "")))):
        if found:
            weights, model = found
            convention = published_input(weights, model, path) if released else TORCHVISION
            if convention.modality != "rgb":
                model = {**model, "modality": convention.modality}
            return weights, Card(model, _labels(weights, path, texts), convention,
                                 shorter_side=entry.shorter_side if entry else 0), state
    default_model = default_model or (entry.model if entry and entry.labels else None)
    if default_model is None:
        raise UserError(f"{path} was not written by mindfcn train: it has no card; name its network with "
                        "--fallback_model")
    return weights, _card_from_shapes(weights, default_model), state


def _card_from_shapes(weights, model):
    """The card of an official checkpoint: the course's normalisation, and classes and width from the shapes."""
    dense = weights.get("conv7.0.weight")
    options = {} if dense is None else {"width": 1.0, "fc_width": dense.shape[0]}
    return Card({"name": model, **options}, _labels(weights))


def _labels(weights, path="", texts=None):
    """The classes of a network without a card.

    Those of the catalogue, those that the file names in its `meta`, VOC's for 21 classes; else numbered ones.
    """
    entry, texts = entry_of(path), texts or {}
    classes = next((len(weights[name]) for name in ("score_fr.weight", "score_fr.color.weight", "score.weight")
                    if name in weights), len(VOC))
    if entry and entry.labels and len(entry.labels) == classes:
        return entry.labels
    if "meta.CLASSES" in texts:
        colors = {"colours": json.loads(texts["meta.PALETTE"])} if "meta.PALETTE" in texts else {}
        labels = LabelSet.from_dict({"names": json.loads(texts["meta.CLASSES"]), **colors}, path)
        if len(labels) == classes:
            return labels
    if classes == len(VOC):
        return VOC
    return LabelSet.from_dict({"names": [f"class {number}" for number in range(classes)]}, "checkpoint")
