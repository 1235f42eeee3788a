"""Load networks from checkpoints, and add object proposals and a second network as the settings ask."""

from functools import partial
from typing import Optional

import mindspore as ms
from mindspore.nn.utils import no_init_parameters

from mindfcn import combinations
from mindfcn.config import check_bounds
from mindfcn.console import SILENT, Console, FilePath
from mindfcn.data.regions.proposals import check_installed, propose
from mindfcn.errors import UserError
from mindfcn.inference.ensemble import Ensemble
from mindfcn.inference.instance_wise import InstanceWise
from mindfcn.inference.network import Segmenter
from mindfcn.models.factory import create_model
from mindfcn.models.precision import compute_in, layer_type
from mindfcn.weights.card import Card
from mindfcn.weights.catalogue import locate
from mindfcn.weights.checkpoint import load_checkpoint
from mindfcn.weights.load import load_weights


def load_network(checkpoint: FilePath, default_model: Optional[str] = None, precision: str = "auto",
                 console: Console = SILENT) -> tuple[Segmenter, Card]:
    """Open the network of a checkpoint, or a published one by its name, which is fetched once.

    Args:
        checkpoint: a path, or a name that `mindfcn weights` lists, such as fcn_resnet50_coco.
        default_model: see `load_checkpoint`.
        precision: type that the layers compute in; auto is float32 on CPU, else float16.
        console: Console that shows the progress of a download and, on devices with a choice, the precision.

    Returns:
        (Segmenter, Card).

    Raises:
        UserError: as `locate`, `load_checkpoint`, `load_weights` and `layer_type` do.
    """
    checkpoint = locate(checkpoint, console, network=True)
    device = ms.get_context("device_target")
    dtype = layer_type(precision, device)
    weights, card, _ = load_checkpoint(checkpoint, default_model)
    if not any("score" in name for name in weights):
        raise UserError(f"{checkpoint} holds no segmentation network: none of its {len(weights)} weights is of a score "
                        f"layer; train one from it with --model.pretrained {checkpoint}")
    net = network_of(card, weights, checkpoint)
    words = compute_in(net, dtype, precision)
    if device != "CPU":
        console.say(f"{device}, {words}: {checkpoint}")
    return Segmenter(net, card.preprocess, card.labels.multilabel), card


def network_of(card, weights, where):
    """The network of a card with these weights, {name: array}, of the file `where`. Raises UserError."""
    # Random weights, which would be replaced at once, take seconds.
    with no_init_parameters():
        net = create_model(card.model["name"], len(card.labels), **card.options())
    load_weights(net, weights, where)
    return net


def network_text(card):
    """A card's network name and options in one line."""
    return ", ".join([card.model["name"], *(f"{name} {value}" for name, value in card.options().items())])


def records_text(card):
    """The validation records of a card's run, what they were made from and their hash, in one line."""
    data = [f"source {card.data['source']}", f"hash {card.data['identity']}"] if card.data else []
    return ", ".join([card.records, *data])


def combined(segmenter, card, config):
    """Wrap a checkpoint's Segmenter as the settings `proposals` and `ensemble` ask.

    Proposals apply to the network of `checkpoint`; the network of `ensemble` segments whole photographs.

    Args:
        segmenter, card: as `load_network` returns them.
        config: EvalConfig or PredictConfig.

    Returns:
        Segmenter, InstanceWise or Ensemble.

    Raises:
        UserError: OpenCV cannot make proposals, a setting is out of bounds, or the other checkpoint has other
            classes or another input.
    """
    if config.proposals != "none":
        combinations.check(combinations.PROPOSALS, *card.inputs)
        check_bounds(config)
        check_installed()
        segmenter = InstanceWise(segmenter, partial(
            propose, method=config.proposals, max_proposals=config.max_proposals,
            min_side=config.min_side), config.aggregate)
    if config.ensemble:
        combinations.check(combinations.ENSEMBLE, *card.inputs)
        other, other_card = load_network(config.ensemble, config.fallback_model, config.precision)
        modality, other_modality = card.preprocess.modality, other_card.preprocess.modality
        if modality != other_modality:
            raise UserError(f"--ensemble {config.ensemble} takes {other_modality} input, but {config.checkpoint} takes "
                            f"{modality}; give networks of the same input")
        found = other_card.labels.difference(card.labels)
        if found:
            raise UserError(f"--ensemble {config.ensemble} has other classes than {config.checkpoint}: {found}, in the "
                            "checkpoint; give networks of the same classes")
        segmenter = Ensemble([segmenter, other], config.ensemble_rule)
    return segmenter
