"""The verb train: settings in, a trained network and its run directory out."""

import dataclasses
import math
import os
from typing import Optional

import mindspore as ms
from mindspore.train import Model

from mindfcn import runtime
from mindfcn.data.dataset import SegDataset
from mindfcn.data.mindrecord import read_manifest
from mindfcn.dense.whole_image import Segmenter
from mindfcn.engine.callbacks import Keeper, Log, Signals
from mindfcn.engine.evaluate import EvalResult, evaluate_network, write_evaluation
from mindfcn.engine.prepare import COURSE_RECORD, prepare, record_paths
from mindfcn.engine.run_dir import RunDir
from mindfcn.engine.step import TrainStep, freeze, loss_scaler, optimiser
from mindfcn.errors import UserError
from mindfcn.labels import VOC, LabelSet
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE
from mindfcn.weights.checkpoint import Card, load_checkpoint
from mindfcn.weights.readers import read_weights
from mindfcn.weights.surgery import load_vgg16, load_weights


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


def train(config, show=None, progress=None, say=None):
    """Train as the settings say; make the records first where they are missing.

    Args:
        config: TrainConfig.
        show: function (step, epoch, loss, learning rate, images per second), told of every step; its attribute
            `begin` is called with (steps per epoch, epochs, first step).
        progress: wraps an iterable and its length.
        say: function (line of text).

    Returns:
        TrainResult.

    Raises:
        UserError: whatever is wrong with settings, data or weights; a loss that is not finite.
    """
    say = say or (lambda line: None)
    check_settings(config)
    device = runtime.set_up(config.device, config.seed)
    writes = runtime.rank() == 0
    train_path, val_path, labels = find_records(config.data, progress, say if writes else None)
    run_dir = RunDir(config.run_dir, config.keep)
    train_set = training_set(config, train_path, labels)
    val_set = SegDataset(data_file=val_path, training=False, preprocess=COURSE) if val_path else None

    float16, scaler = loss_scaler(config.optim, device)
    net, card = build(config, labels, val_path, say)
    frozen = freeze(net, config.optim.freeze)
    update, rates = optimiser(net, config.optim, train_set.steps_per_epoch)
    if float16:
        ms.amp.auto_mixed_precision(net, "O2")
    step = TrainStep(net, update, labels.ignore_label, scaler, config.optim.accumulate, frozen)
    if config.resume:
        resume(run_dir, net, card, step, train_set, config)
    elif writes:
        run_dir.begin(config)
    say(f"{device}: {card.model['name']}, {sum(p.size for p in update.parameters):,} parameters in training, "
        f"{train_set.count} training records, {val_set.count if val_set else 0} validation records")

    with Signals() as signals:
        log = Log(run_dir if writes else None, train_set, rates, step,
                  config.augment.batch_size * runtime.rank_size(), show)
        keeper = Keeper(run_dir, step, Segmenter(net, card.preprocess), train_set, val_set, card,
                        config.optim.epochs, config.eval_every, log, signals, writes, progress, say)
        fit(config, step, train_set, log, keeper, show)
        if signals.received:
            return TrainResult(run_dir.path, run_dir.last, None, signals.received,
                               step.batches // train_set.steps_per_epoch)
        best = run_dir.best if os.path.exists(run_dir.best) else run_dir.last
        result = final_evaluation(run_dir, keeper, best) if writes and val_set else None
    return TrainResult(run_dir.path, best, result, signals.received, config.optim.epochs)


def check_settings(config):
    """Refuse numbers that no run can have. Raises UserError."""
    augment, optim, model = config.augment, config.optim, config.model
    rules = [("optim.epochs", optim.epochs, optim.epochs >= 1, "at least 1"),
             ("optim.lr", optim.lr, 0 < optim.lr < math.inf, "above 0"),
             ("optim.min_lr", optim.min_lr, 0 <= optim.min_lr <= optim.lr, "between 0 and optim.lr"),
             ("optim.momentum", optim.momentum, 0 <= optim.momentum < 1, "in 0..1 (1 excluded)"),
             ("optim.power", optim.power, optim.power > 0, "above 0"),
             ("optim.loss_scale", optim.loss_scale, optim.loss_scale >= 0, "at least 0"),
             ("optim.weight_decay", optim.weight_decay, optim.weight_decay >= 0, "at least 0"),
             ("optim.warmup_epochs", optim.warmup_epochs, optim.warmup_epochs >= 0, "at least 0"),
             ("optim.accumulate", optim.accumulate, optim.accumulate >= 1, "at least 1"),
             ("optim.head_lr", optim.head_lr, optim.head_lr > 0, "above 0"),
             ("augment.crop_size", augment.crop_size, 1 <= augment.crop_size <= 8192, "in 1..8192"),
             ("augment.min_scale", augment.min_scale, 0 < augment.min_scale <= augment.max_scale,
              "above 0 and at most augment.max_scale"),
             ("augment.max_scale", augment.max_scale, augment.max_scale <= 16, "at most 16"),
             ("augment.batch_size", augment.batch_size, augment.batch_size >= 1, "at least 1"),
             ("augment.workers", augment.workers, augment.workers >= 1, "at least 1"),
             ("model.dropout", model.dropout, 0 <= model.dropout < 1, "in 0..1 (1 excluded)"),
             ("model.width", model.width, 0 < model.width <= 4, "above 0 and at most 4"),
             ("model.fc_width", model.fc_width, model.fc_width >= 1, "at least 1"),
             ("eval_every", config.eval_every, config.eval_every >= 0, "at least 0"),
             ("keep", config.keep, config.keep >= 1, "at least 1")]
    for name, value, fine, bound in rules:
        if not fine:
            raise UserError(f"--{name} {value}: must be {bound}")


def find_records(data, progress, say):
    """(training path, validation path or None, LabelSet) of the records, which are made where they are missing."""
    train_path, val_path = record_paths(data)
    course = os.path.join(data.records, COURSE_RECORD)
    if os.path.isfile(course):
        train_path, val_path = course, None
    elif not (has_records(train_path) and has_records(val_path)):
        made = prepare(data, progress, say)
        return made.train_path, made.val_path, made.labels
    manifest = read_manifest(train_path)
    if manifest:
        return train_path, val_path, LabelSet.from_dict(manifest["labels"], train_path)
    return train_path, val_path, LabelSet.load(data.labels) if data.labels else VOC


def has_records(path):
    """Whether there is something at this path that wants to be MindRecord, in one file or in shards."""
    return os.path.isfile(path) or os.path.isfile(path + ".json")


def training_set(config, path, labels):
    """The SegDataset of the training, on this process's share of the records."""
    augment = config.augment
    return SegDataset(data_file=path, batch_size=augment.batch_size, crop_size=augment.crop_size,
                      max_scale=augment.max_scale, min_scale=augment.min_scale, ignore_label=labels.ignore_label,
                      num_classes=len(labels), num_parallel_calls=augment.workers, seed=config.seed,
                      preprocess=COURSE, rank=runtime.rank(), rank_size=runtime.rank_size())


def build(config, labels, val_path, say):
    """(network with its first weights, Card)."""
    options = {"width": config.model.width, "fc_width": config.model.fc_width,
               "skip_scales": list(config.model.skip_scales)}
    net = create_model(config.model.name, len(labels), upsampling=config.model.upsampling,
                       dropout=config.model.dropout, **options)
    card = Card({"name": config.model.name, **options}, labels, COURSE, val_path or "",
                {"settings": dataclasses.asdict(config)})
    if config.model.pretrained and not config.resume:
        say(str(start_from(net, config.model.pretrained, card)))
    return net, card


def start_from(net, path, card):
    """Fill a network from a VGG16, or from a checkpoint of a whole network, whose score layers fit or stay as they are.

    Returns:
        LoadReport.
    """
    weights = read_weights(path)
    if any(name.startswith("score_fr") for name in weights):
        shapes = {parameter.name: parameter.shape for parameter in net.get_parameters()}
        fitting = {name: weight for name, weight in weights.items()
                   if not name.startswith(("score", "upscore", "training.")) or weight.shape == shapes.get(name)}
        return load_weights(net, fitting, path, partial=True)
    return load_vgg16(net, weights, card.preprocess.order, path)


def resume(run_dir, net, card, step, train_set, config):
    """Put network, optimiser, data and card back to where the last checkpoint was written.

    Raises:
        UserError: there is no checkpoint, or it is of other settings.
    """
    if not os.path.exists(run_dir.last):
        raise UserError(f"nothing to resume: {run_dir.last} is not there; start without --resume "
                        "(with --overwrite if a run failed there)")
    weights, saved, state = load_checkpoint(run_dir.last)
    if saved.model != card.model or saved.labels != card.labels:
        raise UserError(f"{run_dir.last} is of another network or data set ({saved.model['name']}, "
                        f"{len(saved.labels)} classes); resume with the settings in {run_dir.settings}")
    batches = {"steps_per_epoch": train_set.steps_per_epoch, "seed": train_set.seed}
    if any(saved.training.get(name) != value for name, value in batches.items()):
        raise UserError(f"{run_dir.last} saw other batches than these settings give (records, batch size, devices or "
                        f"seed); resume with the settings in {run_dir.settings}")
    load_weights(net, weights, run_dir.last)
    parameters = {parameter.name: parameter for parameter in net.get_parameters()} | step.state()
    restored = weights | state
    for name in sorted(parameters.keys() | restored.keys()):
        if name not in parameters or name not in restored or parameters[name].shape != restored[name].shape:
            raise UserError(f"{run_dir.last}: the state of {name} does not fit these settings; "
                            f"resume with those in {run_dir.settings}")
        parameters[name].set_data(ms.Tensor(restored[name]))
    card.training = {**saved.training, "settings": dataclasses.asdict(config)}
    step.batches = saved.training["step"]
    train_set.first_epoch, train_set.skip_batches = divmod(step.batches, train_set.steps_per_epoch)
    if runtime.rank() == 0:
        run_dir.rewind(step.batches)


def fit(config, step, train_set, log, keeper, show):
    """Train the epochs that are left."""
    epochs, first = config.optim.epochs, train_set.first_epoch
    if show:
        show.begin(train_set.steps_per_epoch, epochs, step.batches)
    if step.batches and not train_set.skip_batches and keeper.due(first) and not keeper.run_dir.evaluated(step.batches):
        keeper.evaluate(first)
    if first < epochs and not keeper.signals.received:
        runtime.graph_mode()
        step.set_train()
        with runtime.user_errors():
            Model(step).train(epochs, train_set.get_dataset(), callbacks=[log, keeper], dataset_sink_mode=False,
                              initial_epoch=first)


def final_evaluation(run_dir, keeper, best):
    """Evaluate the best checkpoint and write its pictures. Returns EvalResult, or None after a signal."""
    load_weights(keeper.segmenter.net, load_checkpoint(best)[0], best)
    runtime.pynative_mode()
    evaluation = keeper.best or evaluate_network(keeper.segmenter, keeper.val, len(keeper.card.labels),
                                                 keeper.progress, lambda: keeper.signals.received)
    if evaluation is None:
        return None
    return write_evaluation(run_dir.evaluation, evaluation, keeper.card.labels, keeper.segmenter, keeper.val, 8)
