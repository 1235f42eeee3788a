"""The verb train: settings in, a trained network and its run directory out."""

import contextlib
import dataclasses
import importlib.util
import math
import os
from typing import Optional

from mindspore.train import Model

from mindfcn import runtime
from mindfcn.commands.prepare import find_records
from mindfcn.config import TrainConfig, flat
from mindfcn.console import Progress, Say, Show
from mindfcn.data.dataset import SegDataset
from mindfcn.engine.averaging import WeightAverage
from mindfcn.engine.build import build, class_weights, offset_seeds_by_rank, training_set
from mindfcn.engine.callbacks import Keeper, Log, Signals
from mindfcn.engine.optimiser import freeze, loss_function, loss_scaler, optimiser
from mindfcn.engine.recalibrate import Recalibration
from mindfcn.engine.resume import resume
from mindfcn.engine.run_dir import RunDir
from mindfcn.engine.step import TrainStep
from mindfcn.errors import UserError
from mindfcn.evaluation import evaluate_network
from mindfcn.inference.load import network_text
from mindfcn.inference.network import Segmenter
from mindfcn.losses import CrossEntropy, JointLoss
from mindfcn.models.factory import DECONVNET, split_name
from mindfcn.models.precision import compute_in
from mindfcn.report.evaluation import EvalResult, write_evaluation
from mindfcn.report.page import Page
from mindfcn.weights.checkpoint import load_checkpoint
from mindfcn.weights.load import load_weights


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
        with runtime.fail_on_all_ranks():
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
    offset_seeds_by_rank(net, loss)
    average = WeightAverage(net, config.optim.ema) if config.optim.ema else None
    step = TrainStep(net, update, loss, scaler, config.optim.accumulate, frozen, average)
    with runtime.fail_on_all_ranks():
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
        with runtime.fail_on_all_ranks():
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
        with runtime.unwrap_user_errors():
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
