"""The verb train: settings in, a trained network and its run directory out."""

import contextlib
import dataclasses
import importlib.util
import math
import os
from typing import Optional

import mindspore as ms
from mindspore.train import Model

from mindfcn import runtime
from mindfcn.config import TrainConfig, flat
from mindfcn.data.dataset import SegDataset
from mindfcn.data.mindrecord import read_manifest
from mindfcn.dense.whole_image import Segmenter
from mindfcn.engine.callbacks import Keeper, Log, Signals
from mindfcn.engine.evaluate import EvalResult, evaluate_network, write_evaluation
from mindfcn.engine.networks import network_text
from mindfcn.engine.precision import compute_in
from mindfcn.engine.prepare import COURSE_RECORD, prepare, record_paths
from mindfcn.engine.recalibrate import Recalibration
from mindfcn.engine.run_dir import RunDir
from mindfcn.engine.step import TrainStep, WeightAverage, freeze, loss_function, loss_scaler, optimiser
from mindfcn.errors import UserError
from mindfcn.hooks import Progress, Say, Show
from mindfcn.labels import VOC, LabelSet
from mindfcn.losses import CrossEntropy, JointLoss
from mindfcn.models import layers
from mindfcn.models.factory import DECONVNET, create_model, split_name
from mindfcn.preprocess import CONVENTIONS, COURSE, Preprocess
from mindfcn.report.page import Page
from mindfcn.weights.checkpoint import Card, load_checkpoint
from mindfcn.weights.surgery import load_stage, load_streams, load_trunk, load_weights

# Between the seeds of one process and the next: more than there are seeds in a network.
RANK_SEEDS = 1000
# Options of networks and the values that mean the same as not giving them.
DEFAULTS = {"width": 1.0, "fc_width": 4096, "geometry": "padded", "output_stride": 32, "side": 224,
            "decoder_width": 1.0}


@dataclasses.dataclass
class TrainResult:
    """What a run left behind.

    Attributes:
        run_dir: its folder.
        checkpoint: the best checkpoint, or the last where nothing was evaluated.
        evaluation: EvalResult of the best checkpoint; None without validation records or after a signal.
        signal: number of the signal that ended the run early, or None.
        epoch: epochs completed.
    """
    run_dir: str
    checkpoint: str
    evaluation: Optional[EvalResult]
    signal: Optional[int]
    epoch: int


def train(config: TrainConfig, show: Optional[Show] = None, progress: Optional[Progress] = None,
          say: Optional[Say] = None) -> TrainResult:
    """Train as the settings say; make the records first where they are missing.

    Of several processes, each trains on its share of the records and evaluates its share of the images; the first one
    writes.

    Args:
        config: TrainConfig.
        show: function (step, epoch, loss, learning rate, images per second), told of every step; its attribute
            `begin` is called with (steps per epoch, epochs, first step), and `evaluated`, where it has one, with
            (step, {metric: value}). LiveCurve() draws curves in a notebook.
        progress: wraps an iterable and its length.
        say: function (line of text).

    Returns:
        TrainResult.

    Raises:
        UserError: whatever is wrong with settings, data or weights; a loss that is not finite.
    """
    check_settings(config)
    device = runtime.set_up(config.device, config.seed)
    if config.model.geometric and config.optim.loss != "sum" and runtime.rank_size() > 1:
        raise UserError("--model.geometric on several devices needs --optim.loss sum: means of two heads do not add up")
    writes = runtime.rank() == 0
    if not say or not writes:
        say = _silent
    run_dir = RunDir(config.run_dir, config.keep, config.tensorboard and writes)
    with contextlib.ExitStack() as stack:
        with runtime.together():
            if writes:
                for leftover in stack.enter_context(run_dir.hold()):
                    say(f"removed {leftover}, which a killed run had not completed")
            goes_on = config.resume and run_dir.can_resume()
        if config.resume and not goes_on:
            say(f"nothing to resume in {run_dir.path} yet: this begins at the first step")
        return train_in(run_dir, config, goes_on, device, writes, show, progress, say)


def train_in(run_dir, config, goes_on, device, writes, show, progress, say):
    """Train in a run directory that this process holds, from its last checkpoint or from the beginning."""
    train_path, val_path, labels = find_records(config.data, progress, say)
    dtype, scaler = loss_scaler(config.optim, device)
    net, card = build(config, labels, val_path, say, goes_on)
    train_set = training_set(config, train_path, labels, card.preprocess)
    frozen = freeze(net, config.optim.freeze)
    update, rates = optimiser(net, config.optim, train_set.steps_per_epoch)
    compute_in(net, dtype)
    weights = class_weights(config.optim, train_set, card, say)
    loss = loss_function(config.optim, labels.ignore_label, config.seed, weights)
    if card.geometric:
        reduction = "sum" if config.optim.loss == "sum" else "mean"
        loss = JointLoss(loss, CrossEntropy(card.geometric.ignore_label, reduction), len(labels))
    draw_apart(net, loss)
    average = WeightAverage(net, config.optim.ema) if config.optim.ema else None
    step = TrainStep(net, update, loss, scaler, config.optim.accumulate, frozen, average)
    with runtime.together():
        if goes_on:
            resume(run_dir, net, card, step, train_set, config, say)
        elif writes:
            run_dir.begin(config)
    val_set = SegDataset(data_file=val_path, training=False, preprocess=card.preprocess,
                         num_classes=len(card.labels), ignore_label=card.labels.ignore_label, rank=runtime.rank(),
                         rank_size=runtime.rank_size(), geometric=bool(card.geometric)) if val_path else None
    say(f"{device}: {card.model['name']}, {sum(p.size for p in update.parameters):,} parameters in training, "
        f"{train_set.count} training records, {val_set.count if val_set else 0} validation records")

    recalibration = Recalibration(net, train_set, config.optim.recalibrate) if config.optim.recalibrate else None
    with Signals() as signals, contextlib.closing(run_dir):
        log = Log(run_dir if writes else None, train_set, rates, step,
                  config.augment.batch_size * runtime.rank_size(), show)
        keeper = Keeper(run_dir, step, Segmenter(net, card.preprocess), train_set, val_set, card,
                        config.optim.epochs, config.eval_every, log, signals,
                        run_page(run_dir, config, device, card, train_set, val_set), writes,
                        progress if writes else None, say, recalibration=recalibration)
        fit(config, step, train_set, log, keeper, show)
        # The first process may still be saving; msrun ends all as soon as one has ended after a signal.
        if signal := signals.agreed():
            return TrainResult(run_dir.path, run_dir.last, None, signal, step.batches // train_set.steps_per_epoch)
        best = run_dir.best if os.path.exists(run_dir.best) else run_dir.last
        with runtime.together():
            result = final_evaluation(run_dir, keeper, best) if val_set else None
        return TrainResult(run_dir.path, best, result, signals.agreed(), config.optim.epochs)


def _silent(line):
    """Says nothing."""


def check_settings(config):
    """Refuse numbers that no run can have. Raises UserError."""
    augment, optim, model = config.augment, config.optim, config.model
    split_name(model.name)
    rules = [("optim.epochs", optim.epochs, optim.epochs >= 1, "at least 1"),
             ("optim.lr", optim.lr, 0 < optim.lr < math.inf, "above 0"),
             ("optim.min_lr", optim.min_lr, 0 <= optim.min_lr <= optim.lr, "between 0 and optim.lr"),
             ("optim.momentum", optim.momentum, 0 <= optim.momentum < 1, "in 0..1 (1 excluded)"),
             ("optim.power", optim.power, optim.power > 0, "above 0"),
             ("optim.loss_scale", optim.loss_scale, optim.loss_scale == 0 or optim.loss_scale >= 1, "at least 1, or 0"),
             ("optim.weight_decay", optim.weight_decay, optim.weight_decay >= 0, "at least 0"),
             ("optim.warmup_epochs", optim.warmup_epochs, optim.warmup_epochs >= 0, "at least 0"),
             ("optim.accumulate", optim.accumulate, optim.accumulate >= 1, "at least 1"),
             ("optim.head_lr", optim.head_lr, optim.head_lr > 0, "above 0"),
             ("optim.hard_pixels", optim.hard_pixels, optim.hard_pixels >= 1, "at least 1"),
             ("optim.focal_gamma", optim.focal_gamma, optim.focal_gamma == 0 or 1 <= optim.focal_gamma < math.inf,
              "at least 1, or 0"),
             ("optim.ema", optim.ema, 0 <= optim.ema < 1, "in 0..1 (1 excluded)"),
             ("optim.keep_cells", optim.keep_cells, 0 < optim.keep_cells <= 1, "in 0..1 (0 excluded)"),
             ("augment.crop_size", augment.crop_size, 0 <= augment.crop_size <= 8192, "in 1..8192, or 0"),
             ("augment.min_scale", augment.min_scale, 0 < augment.min_scale <= augment.max_scale,
              "above 0 and at most augment.max_scale"),
             ("augment.max_scale", augment.max_scale, augment.max_scale <= 16, "at most 16"),
             ("augment.batch_size", augment.batch_size, augment.batch_size >= 1, "at least 1"),
             ("augment.batch_size", augment.batch_size, augment.crop_size or augment.batch_size == 1,
              "1 with --augment.crop_size 0: whole photographs differ in size; use --optim.accumulate"),
             ("augment.photometric", augment.photometric, 0 <= augment.photometric <= 1, "in 0..1"),
             ("augment.max_class_share", augment.max_class_share, 0 < augment.max_class_share <= 1,
              "in 0..1 (0 excluded)"),
             ("augment.crop_tries", augment.crop_tries, augment.crop_tries >= 1, "at least 1"),
             ("augment.workers", augment.workers, augment.workers >= 1, "at least 1"),
             ("model.dropout", model.dropout, 0 <= (model.dropout or 0) < 1, "in 0..1 (1 excluded)"),
             ("model.width", model.width, model.width is None or 0 < model.width <= 4, "above 0 and at most 4"),
             ("model.fc_width", model.fc_width, model.fc_width is None or model.fc_width >= 1, "at least 1"),
             ("model.side", model.side, model.side is None or model.side >= 32 and model.side % 32 == 0,
              "a multiple of 32"),
             ("model.decoder_width", model.decoder_width, model.decoder_width is None or 0 < model.decoder_width <= 1,
              "above 0 and at most 1"),
             ("optim.recalibrate", optim.recalibrate, optim.recalibrate >= 0, "at least 0"),
             ("optim.recalibrate", optim.recalibrate, not (optim.recalibrate and optim.ema),
              "0 with --optim.ema, which averages the statistics as well"),
             ("model.pretrained_hha", model.pretrained_hha, not model.pretrained_hha or model.modality == "rgb_hha"
              and model.pretrained, "left out but for --model.modality rgb_hha with --model.pretrained"),
             ("optim.keep_cells", optim.keep_cells, optim.keep_cells == 1 or not model.geometric,
              "1 with --model.geometric"),
             ("eval_every", config.eval_every, config.eval_every >= 0, "at least 0"),
             ("keep", config.keep, config.keep >= 1, "at least 1")]
    if model.name == DECONVNET:
        side = model.side or 224
        rules += [("augment.crop_size", augment.crop_size, augment.crop_size >= side,
                   f"at least --model.side, {side} pixels"),
                  ("augment.batch_size", augment.batch_size, augment.batch_size > 1,
                   "at least 2: fc6's normalisation has one cell of each image")]
    for name, value, fine, bound in rules:
        if not fine:
            raise UserError(f"--{name} {value}: must be {bound}")
    if config.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise UserError("--tensorboard: the package tensorboard is not installed; pip install 'mindfcn[tensorboard]', "
                        "or leave it out")


def find_records(data, progress, say):
    """(training path, validation path or None, LabelSet) of the records; where they are missing, rank 0 makes them."""
    with runtime.together():
        if runtime.rank() == 0 and not have_records(data):
            prepare(data, progress, say)
    with runtime.together():
        if not have_records(data):
            raise UserError(f"no records in {data.records} for process {runtime.rank()}: the first one made them on "
                            "its own machine; share that folder, or run mindfcn prepare on every machine")
    train_path, val_path = record_paths(data)
    course = os.path.join(data.records, COURSE_RECORD)
    if os.path.isfile(course):
        train_path, val_path = course, None
    manifest = read_manifest(train_path)
    if manifest:
        return train_path, val_path, LabelSet.from_dict(manifest["labels"], train_path)
    return train_path, val_path, LabelSet.load(data.labels) if data.labels else VOC


def have_records(data):
    """Whether both splits' records are there, or the course's ready one."""
    course = os.path.join(data.records, COURSE_RECORD)
    return os.path.isfile(course) or all(map(has_records, record_paths(data)))


def has_records(path):
    """Whether there is something at this path that wants to be MindRecord, in one file or in shards."""
    return os.path.isfile(path) or os.path.isfile(path + ".json")


def training_set(config, path, labels, preprocess):
    """The SegDataset of the training, on this process's share of the records.

    Raises UserError where the records lack what the network sees or tells.
    """
    augment = config.augment
    return SegDataset(data_file=path, batch_size=augment.batch_size, crop_size=augment.crop_size,
                      max_scale=augment.max_scale, min_scale=augment.min_scale, flip=augment.flip,
                      photometric=augment.photometric, max_class_share=augment.max_class_share,
                      crop_tries=augment.crop_tries,
                      ignore_label=labels.ignore_label, num_classes=len(labels), num_parallel_calls=augment.workers,
                      seed=config.seed, preprocess=preprocess, rank=runtime.rank(), rank_size=runtime.rank_size(),
                      geometric=config.model.geometric)


def class_weights(optim, train_set, card, say):
    """The loss's weights, a list of a number for each class, noted in the card; None where all count alike."""
    if optim.class_weights == "none":
        return None
    weights = train_set.class_counts().median_frequency().tolist()
    card.training["class_weights"] = weights
    told = (f"{name} {weight:.3g}" for name, weight in zip(card.labels.names, weights))
    say(f"class weights, {optim.class_weights.replace('_', ' ')}: {', '.join(told)}")
    return weights


def draw_apart(net, loss):
    """Let each process draw its own dropout masks and its own cells of the loss; the first one draws as if alone."""
    for _, cell in [*net.cells_and_names(), ("loss", loss)]:
        if isinstance(cell, (layers.Dropout, CrossEntropy)):
            cell.seed += RANK_SEEDS * runtime.rank()


def build(config, labels, val_path, say, goes_on=False):
    """(network with its first weights, Card); without pretrained weights where a checkpoint's will follow."""
    model = config.model
    options = {"geometry": None if model.geometry == "padded" else model.geometry, "width": model.width,
               "fc_width": model.fc_width, "output_stride": model.output_stride,
               "skip_scales": model.skip_scales and list(model.skip_scales), "side": model.side,
               "decoder_width": model.decoder_width,
               "modality": None if model.modality == "rgb" else model.modality}
    geometric = second_labels(val_path) if model.geometric else None
    options |= {"geometric": geometric and len(geometric)}
    options = {name: value for name, value in options.items() if value is not None}
    # These two change nothing in a trained network.
    passing = {"dropout": model.dropout, "upsampling": None if model.upsampling == "bilinear" else model.upsampling}
    net = create_model(model.name, len(labels), **options,
                       **{name: value for name, value in passing.items() if value is not None})
    card = Card({"name": config.model.name, **options}, labels,
                CONVENTIONS.get(model.preprocess, COURSE).to(model.modality), val_path or "",
                {"settings": dataclasses.asdict(config)}, geometric=geometric)
    if config.model.pretrained and not goes_on:
        if model.pretrained_hha:
            report, card.preprocess = start_streams(net, model.pretrained, model.pretrained_hha, card, model.preprocess)
        else:
            report, card.preprocess = start_from(net, config.model.pretrained, card, model.preprocess)
        say(str(report))
    return net, card


def second_labels(path):
    """LabelSet of the records' geometric classes. Raises UserError where they have none."""
    manifest = path and read_manifest(path)
    if not manifest or "geometric" not in manifest:
        raise UserError(f"--model.geometric: {path or 'these records'} hold no geometric classes; prepare records with "
                        "--source siftflow")
    return LabelSet.from_dict(manifest["geometric"], path)


def start_streams(net, color, hha, card, convention="auto"):
    """Fill a network of late fusion from two trained ones, of colour and of HHA (see `load_streams`).

    Returns and raises as `start_from` does.
    """
    (weights, saved, _), (others, second, _) = (load_checkpoint(path, card.model["name"]) for path in (color, hha))
    for path, found, modality in ((color, saved, "rgb"), (hha, second, "hha")):
        if "score_fr.weight" not in (weights if path == color else others) or found.preprocess.modality != modality:
            raise UserError(f"{path} is no checkpoint of a network of {modality}; train one with --model.modality "
                            f"{modality}, or give --model.pretrained alone to fill both streams alike")
    same = saved.labels.names == second.labels.names == card.labels.names
    report = load_streams(net, weights, others, (color, hha), same)
    if convention != "auto":
        return report, CONVENTIONS[convention].to("rgb_hha")
    parts = (saved.preprocess, second.preprocess)
    return report, Preprocess(saved.preprocess.order, sum((part.mean for part in parts), ()),
                              sum((part.std for part in parts), ()), "rgb_hha")


def start_from(net, path, card, convention="auto"):
    """Fill a network from a classifier of its trunk (see `load_trunk`), or from a whole one, whose score and upsampling
    layers come along where the classes are the same (see `load_stage`).

    Returns:
        (LoadReport, Preprocess): what became of the weights, and how they want their images normalised.

    Raises:
        UserError: weights of another trunk, or skip layers that were trained behind other factors.
    """
    weights, saved, _ = load_checkpoint(path, card.model["name"])
    modality = card.preprocess.modality
    if not any(name.startswith("score") for name in weights):
        report = load_trunk(net, weights, convention, path)
        return report, report.preprocess.to(modality)
    report = load_stage(net, weights, path, saved.labels.names == card.labels.names)
    if saved.skip_scales != card.skip_scales and any(name.startswith("score_pool") for name in report.loaded):
        raise UserError(f"{path}: its skip layers were trained behind the factors {saved.skip_scales}, here they are "
                        f"{card.skip_scales}; give --model.skip_scales '{list(saved.skip_scales)}'")
    if convention != "auto":
        return report, CONVENTIONS[convention].to(modality)
    # Weights of colours may begin a network that sees depth.
    return report, saved.preprocess if saved.preprocess.modality == modality else saved.preprocess.to(modality)


def resume(run_dir, net, card, step, train_set, config, say):
    """Put network, optimiser, data and card back to where the last checkpoint was written.

    Raises:
        UserError: no checkpoint can be read, or it is of other settings.
    """
    weights, saved, state = newest_checkpoint(run_dir, say)
    if network(saved) != network(card) or saved.labels != card.labels:
        raise UserError(f"{run_dir.last} is of another network or data set ({saved.model['name']}, "
                        f"{len(saved.labels)} classes); resume with the settings in {run_dir.settings}")
    batches = {"steps_per_epoch": train_set.steps_per_epoch, "seed": train_set.seed}
    if any(saved.training.get(name) != value for name, value in batches.items()):
        raise UserError(f"{run_dir.last} saw other batches than these settings give (records, batch size, devices or "
                        f"seed); resume with the settings in {run_dir.settings}")
    if saved.training.get("class_weights") != card.training.get("class_weights"):
        raise UserError(f"{run_dir.last} was trained with other class weights than these settings and records give; "
                        f"resume with the settings in {run_dir.settings}")
    load_weights(net, weights, run_dir.last)
    card.preprocess = train_set.preprocess = saved.preprocess
    parameters = {parameter.name: parameter for parameter in net.get_parameters()} | step.state()
    restored = weights | state
    for name in sorted(parameters.keys() | restored.keys()):
        if name not in parameters or name not in restored or parameters[name].shape != restored[name].shape:
            raise UserError(f"{run_dir.last}: the state of {name} does not fit these settings; "
                            f"resume with those in {run_dir.settings}")
        parameters[name].set_data(ms.Tensor(restored[name]))
    step.batches = saved.training["step"]
    say(f"going on after step {step.batches} of {run_dir.path}")
    card.training = {**saved.training, "best": best_so_far(run_dir.best, step.batches, say),
                     "settings": dataclasses.asdict(config)}
    train_set.first_epoch, train_set.skip_batches = divmod(step.batches, train_set.steps_per_epoch)
    if runtime.rank() == 0:
        run_dir.rewind(step.batches)


def newest_checkpoint(run_dir, say):
    """What `load_checkpoint` says of the newest checkpoint that is whole. Raises UserError where none is."""
    first = None
    for path in run_dir.checkpoints():
        try:
            return load_checkpoint(path)
        except UserError as error:
            first = first or error
            say(f"{error}; looking for an older checkpoint")
    raise first


def network(card):
    """A card's model without defaults, which older releases wrote out."""
    given = {name: value for name, value in card.model.items() if value != DEFAULTS.get(name)}
    return {**given, "skip_scales": card.skip_scales}


def best_so_far(path, step, say):
    """Epoch and metrics of best.ckpt by its own card, since last.ckpt is written before its epoch is evaluated.

    Empty where there is none, where it is damaged, or where it is of a later step, which a resumed run forgets.
    """
    if not os.path.exists(path):
        return {}
    try:
        training = load_checkpoint(path)[1].training
    except UserError as error:
        say(f"{error}; the next evaluation writes it anew")
        return {}
    return training.get("best", {}) if training.get("step", math.inf) <= step else {}


def run_page(run_dir, config, device, card, train_set, val_set):
    """The run's Page, without what is not known before its end."""
    facts = {"network": network_text(card), "trained on": f"{train_set.count:,} images",
             "evaluated on": f"{val_set.count:,} images" if val_set else "nothing",
             "epochs": config.optim.epochs, "device": device}
    return Page(run_dir.report, f"Training of {os.path.basename(os.path.abspath(run_dir.path))}", card.labels, facts,
                details={"Settings": flat(dataclasses.asdict(config)), "Versions": runtime.versions()})


def fit(config, step, train_set, log, keeper, show):
    """Train the epochs that are left."""
    epochs, first = config.optim.epochs, train_set.first_epoch
    if show:
        show.begin(train_set.steps_per_epoch, epochs, step.batches)
    if step.batches and not train_set.skip_batches and keeper.due(first) and not keeper.run_dir.evaluated(step.batches):
        keeper.evaluate(first)
    if first < epochs and not keeper.signals.agreed():
        if config.augment.crop_size:
            runtime.graph_mode()
        else:
            runtime.pynative_mode()
        step.set_train()
        with runtime.user_errors():
            Model(step).train(epochs, train_set.get_dataset(), callbacks=[log, keeper], dataset_sink_mode=False,
                              initial_epoch=first)


def final_evaluation(run_dir, keeper, best):
    """Evaluate the best checkpoint and write its pictures, on rank 0. Returns EvalResult, or None after a signal."""
    if keeper.writes or not keeper.best:
        load_weights(keeper.segmenter.net, load_checkpoint(best)[0], best)
    runtime.pynative_mode()
    evaluation = keeper.best or evaluate_network(keeper.segmenter, keeper.val, len(keeper.card.labels),
                                                 keeper.progress, lambda: keeper.signals.received,
                                                 keeper.card.labels.background,
                                                 keeper.card.labels.excluded_numbers(),
                                                 keeper.segmenter.geometric if keeper.card.geometric else None)
    if evaluation is None or not keeper.writes:
        return None
    page = dataclasses.replace(keeper.page, curves=run_dir.draw_curves())
    return write_evaluation(run_dir.evaluation, evaluation, keeper.segmenter, keeper.val, page)
