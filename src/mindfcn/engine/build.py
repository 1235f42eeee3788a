"""Build what a training run needs: the network with its initial weights, its card, the data set and the loss."""

import dataclasses

from mindfcn import runtime
from mindfcn.console import SILENT
from mindfcn.data.bands import statistics
from mindfcn.data.dataset import SegDataset
from mindfcn.data.records.mindrecord import read_manifest
from mindfcn.engine.optimiser import loss_function
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.losses import AuxiliaryLoss, BinaryCrossEntropy, CrossEntropy, JointLoss
from mindfcn.models import layers
from mindfcn.models.factory import create_model
from mindfcn.preprocess import CONVENTIONS, COURSE, Preprocess
from mindfcn.weights.catalogue import entry_of, locate
from mindfcn.weights.checkpoint import Card, load_checkpoint
from mindfcn.weights.load import load_backbone, load_stage, load_streams

# Distances between the seeds of two processes, more than the number of seeds in a network, and of two runs.
RANK_SEEDS, RUN_SEEDS = 1000, 1_000_003


def training_set(config, path, labels, preprocess):
    """The SegDataset for training, on this process's share of the records.

    Raises UserError if the records lack planes or classes that the network needs.
    """
    return SegDataset.for_training(path, config.augment, labels, preprocess, config.seed, config.model.geometric)


def band_preprocess(config, path, labels, console):
    """The Preprocess of multispectral records, from means and deviations of all of them; None for other inputs.

    Raises UserError if the records have no bands, or different numbers of them.
    """
    if config.model.modality != "bands":
        return None
    bands = Preprocess(mean=(0,), std=(1,), modality="bands")
    records = SegDataset(data_file=path, training=False, preprocess=bands, num_classes=len(labels))
    mean, std = statistics(records.bands())
    console.say(f"{len(mean)} bands; means {', '.join(f'{one:.4g}' for one in mean)}; "
                f"deviations {', '.join(f'{one:.4g}' for one in std)}")
    return Preprocess(mean=mean, std=std, modality="bands")


def training_loss(config, train_set, card, console, net):
    """The loss of a run, with a second term for the network's second head, if it has one."""
    optim = config.optim
    weights = class_weights(optim, train_set, card, console)
    loss = (BinaryCrossEntropy(card.labels.ignore_label, optim.loss) if card.labels.multilabel else
            loss_function(optim, card.labels.ignore_label, config.seed, weights))
    if getattr(net, "auxiliary", None) is not None:
        return AuxiliaryLoss(loss, net.auxiliary_weight)
    if not card.geometric:
        return loss
    reduction = "sum" if optim.loss == "sum" else "mean"
    return JointLoss(loss, CrossEntropy(card.geometric.ignore_label, reduction), len(card.labels))


def class_weights(optim, train_set, card, console):
    """A list with the loss weight of each class, also stored in the card; None if all classes count the same."""
    if optim.class_weights == "none":
        return None
    weights = train_set.class_counts().median_frequency().tolist()
    card.training["class_weights"] = weights
    texts = (f"{name} {weight:.3g}" for name, weight in zip(card.labels.names, weights))
    console.say(f"class weights, {optim.class_weights.replace('_', ' ')}: {', '.join(texts)}")
    return weights


def offset_seeds(net, loss, seed=1):
    """Give each run and each process its own seeds for dropout masks, and each process its own for sampled loss cells.

    Seed 1 on rank 0 keeps the layers' own seeds; the loss has the run's seed already.
    """
    for _, cell in [*net.cells_and_names(), *loss.cells_and_names()]:
        if isinstance(cell, (layers.Dropout, CrossEntropy)):
            cell.seed += RANK_SEEDS * runtime.rank()
        if isinstance(cell, layers.Dropout):
            cell.seed += RUN_SEEDS * (seed - 1)


def build(config, labels, val_path, console=SILENT, resuming=False, bands=None):
    """(network with its initial weights, Card, LoadReport of its pretrained weights or None).

    They are not loaded when `resuming`. `bands` is the Preprocess of multispectral images.
    """
    model = config.model
    options = {"padding": None if model.padding == "same" else model.padding, "width": model.width,
               "fc_width": model.fc_width, "output_stride": model.output_stride,
               "skip_scales": model.skip_scales and list(model.skip_scales), "side": model.side,
               "decoder_width": model.decoder_width, "auxiliary": model.auxiliary,
               "modality": None if model.modality == "rgb" else model.modality,
               "bands": bands and bands.channels}
    geometric = second_labels(val_path) if model.geometric else None
    options |= {"geometric": geometric and len(geometric)}
    options = {name: value for name, value in options.items() if value is not None}
    # These two do not affect a trained network, so they are not stored in its card.
    passing = {"dropout": model.dropout, "upsampling": None if model.upsampling == "bilinear" else model.upsampling}
    net = create_model(model.name, len(labels), **options,
                       **{name: value for name, value in passing.items() if value is not None})
    card = Card(Card.model_entry(config.model.name, options), labels,
                bands or CONVENTIONS.get(model.preprocess, COURSE).to(model.modality), val_path or "",
                {"settings": dataclasses.asdict(config)}, geometric=geometric)
    report = None
    if config.model.pretrained and not resuming:
        # Fetched and verified once, here, where the console shows the progress.
        path = locate(model.pretrained, console)
        if model.pretrained_hha:
            report, card.preprocess = start_streams(net, path, model.pretrained_hha, card, model.preprocess)
        else:
            report, card.preprocess = start_from(net, path, card, model.preprocess, console)
    return net, card, report


def second_labels(path):
    """LabelSet of the records' geometric classes. Raises UserError if they have none."""
    manifest = path and read_manifest(path)
    if not manifest or "geometric" not in manifest:
        raise UserError(f"--model.geometric: {path or 'these records'} hold no geometric classes; prepare records with "
                        "--source siftflow")
    return LabelSet.from_dict(manifest["geometric"], path)


def start_streams(net, color, hha, card, convention="auto"):
    """Load a late fusion network from two trained networks, of colour and of HHA (see `load_streams`).

    Same return values and errors as `start_from`.
    """
    (weights, saved, _), (others, second, _) = (load_checkpoint(path, card.model["name"]) for path in (color, hha))
    for path, found, modality in ((color, saved, "rgb"), (hha, second, "hha")):
        if "score_fr.weight" not in (weights if path == color else others) or found.preprocess.modality != modality:
            raise UserError(f"{path} is not a checkpoint of a network for {modality}; train one with --model.modality "
                            f"{modality}, or give --model.pretrained alone to load it into both streams")
    same = saved.labels.names == second.labels.names == card.labels.names
    report = load_streams(net, weights, others, (color, hha), same)
    if convention != "auto":
        return report, CONVENTIONS[convention].to("rgb_hha")
    parts = (saved.preprocess, second.preprocess)
    return report, Preprocess(saved.preprocess.order, sum((part.mean for part in parts), ()),
                              sum((part.std for part in parts), ()), "rgb_hha")


def start_from(net, path, card, convention="auto", console=SILENT):
    """Load a network from a classifier of its backbone (`load_backbone`) or from a complete network (`load_stage`).

    The score and upsampling layers of a complete network are loaded only if its classes are the same.

    Returns:
        (LoadReport, Preprocess): how each weight was loaded, and the image normalisation that the weights need.

    Raises:
        UserError: weights of another backbone, or skip layers trained with other scale factors.
    """
    path = locate(path)
    weights, saved, _ = load_checkpoint(path, card.model["name"])
    modality = card.preprocess.modality
    if not any(name.startswith("score") for name in weights):
        entry = entry_of(path)
        report = load_backbone(net, weights, entry.preprocess if entry and convention == "auto" else convention, path)
        return report, card.preprocess if modality == "bands" else report.preprocess.to(modality)
    same = saved.labels.names == card.labels.names
    report = load_stage(net, weights, path, same)
    if same and saved.labels.colors != card.labels.colors:
        console.say(f"{path}: its classes have these names in other colours: {saved.labels.difference(card.labels)}; "
                    "check that they mean the same")
    if saved.skip_scales != card.skip_scales and any(name.startswith("score_pool") for name in report.loaded):
        raise UserError(f"{path}: its skip layers were trained with scale factors {saved.skip_scales}, not "
                        f"{card.skip_scales}; give --model.skip_scales '{list(saved.skip_scales)}'")
    if modality == "bands":
        return report, (saved if saved.preprocess.modality == "bands" else card).preprocess
    # Weights trained on colour may initialise a network for depth.
    return report, (saved.preprocess if convention == "auto" else CONVENTIONS[convention]).to(modality)
