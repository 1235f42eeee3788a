"""The verb train: settings -> a trained network in a run directory."""

import contextlib
import dataclasses
import gc
import importlib.util
import math
import os
from typing import Optional

import mindspore as ms
from mindspore.train import Model

from mindfcn import combinations, runtime
from mindfcn.commands.prepare import find_records
from mindfcn.config import PredictConfig, TrainConfig, check_bounds, flat
from mindfcn.console import SILENT, Console
from mindfcn.data.dataset import SegDataset
from mindfcn.engine.averaging import WeightAverage
from mindfcn.engine.build import band_preprocess, build, offset_seeds, training_loss, training_set
from mindfcn.engine.callbacks import (
    CheckpointSaver,
    Evaluator,
    NonFiniteGuard,
    Recalibrator,
    ReportWriter,
    Run,
    Signals,
    SignalStopper,
    StepLog,
    evaluate_run,
)
from mindfcn.engine.optimiser import freeze, loss_scaler, optimiser
from mindfcn.engine.resume import resume
from mindfcn.engine.run_dir import EVALUATION, RunDir
from mindfcn.engine.step import TrainStep
from mindfcn.engine.watch import EVERY, TOLERANCE, LossWatch
from mindfcn.errors import UserError
from mindfcn.inference.load import network_text, records_text
from mindfcn.inference.network import Segmenter
from mindfcn.inference.pipeline import Inference
from mindfcn.metrics import MEAN_IOU
from mindfcn.models.factory import DECONVNET, split_name
from mindfcn.models.precision import compute_in
from mindfcn.report.evaluation import EvalResult, write_evaluation
from mindfcn.report.page import Page
from mindfcn.storage.files import write_text
from mindfcn.weights.checkpoint import load_checkpoint
from mindfcn.weights.load import load_weights


@dataclasses.dataclass
class TrainResult:
    """Results of a training run.

    Attributes:
        run_dir: its folder.
        checkpoint: the best checkpoint, or that of the last epoch if nothing was evaluated.
        evaluation: EvalResult of the best checkpoint; None without validation records or after a signal.
        signal: number of the signal that stopped the run early, or None.
        epoch: number of completed epochs; fewer than the settings' after a signal or with `patience`.
        best_epoch: epoch of the best checkpoint; None if nothing was evaluated.
    """
    run_dir: str
    checkpoint: str
    evaluation: Optional[EvalResult]
    signal: Optional[int]
    epoch: int
    best_epoch: Optional[int] = None


def train(config: TrainConfig, console: Console = SILENT) -> TrainResult:
    """Train a network; prepare the records first if they are missing.

    With several processes, each trains on its share of the records and evaluates its share of the images; the first
    one writes the files.

    Args:
        config: TrainConfig.
        console: Console that shows progress and notes; LiveCurve() draws curves in a notebook.

    Returns:
        TrainResult.

    Raises:
        UserError: wrong settings, data or weights, or a non-finite loss.
    """
    check_settings(config)
    device = runtime.set_up(config.device, config.seed, console)
    if config.model.geometric and config.optim.loss != "sum" and runtime.rank_size() > 1:
        raise UserError("--model.geometric on several devices needs --optim.loss sum: the means of two heads "
                        "cannot be summed")
    writes = runtime.rank() == 0
    notes = console if writes else SILENT
    run_dir = RunDir(config.run_dir, config.keep, config.tensorboard and writes)
    with contextlib.ExitStack() as stack:
        with runtime.fail_on_all_ranks():
            if writes:
                for leftover in stack.enter_context(run_dir.hold()):
                    notes.say(f"removed {leftover}, which a killed run had not completed")
            resuming = config.resume and run_dir.can_resume()
        if config.resume and not resuming:
            notes.say(f"nothing to resume in {run_dir.path} yet: starting at the first step")
        return train_in(run_dir, config, resuming, device, console)


def train_in(run_dir, config, resuming, device, console):
    """Train in a run directory that is locked already, from its last checkpoint or from the beginning."""
    writes = runtime.rank() == 0
    notes = console if writes else SILENT
    records = find_records(config.data, notes)
    data = dataclasses.replace(config.data, identity=records.identity, overwrite=False)
    config = dataclasses.replace(config, data=data)
    dtype, scaler = loss_scaler(config.optim, device)
    check_best_by(config, records)
    bands = band_preprocess(config, records.train, records.labels, notes)
    net, card, report = build(config, records.labels, records.val, notes, resuming, bands)
    card.data = {"identity": records.identity, "source": records.source} if records.identity else {}
    card.shorter_side = config.augment.shorter_side
    train_set = training_set(config, records.train, records.labels, card.preprocess)
    if train_set.pipeline:
        card.training["pipeline"] = train_set.pipeline.digest
    frozen = freeze(net, config.optim.freeze)
    update, rates = optimiser(net, config.optim, train_set.steps_per_epoch)
    precision = compute_in(net, dtype, config.optim.precision)
    loss = training_loss(config, train_set, card, notes, net)
    offset_seeds(net, loss, config.seed)
    average = WeightAverage(net, config.optim.ema) if config.optim.ema else None
    # Gradients made in graph mode, which an earlier run of this process may have left, are always compiled.
    runtime.pynative_mode()
    step = TrainStep(net, update, loss, scaler, config.optim.accumulate, frozen, average, config.optim.clip_norm)
    with runtime.fail_on_all_ranks():
        if resuming:
            resume(run_dir, net, card, step, train_set, config, rates, notes)
        elif writes:
            run_dir.begin(config)
            if report:
                write_text(run_dir.weights, f"{report}\n")
                notes.say(f"{report.summary()}; listed in {run_dir.weights}")
    card.training["precision"] = precision
    val_set = SegDataset.for_evaluation(records.val, card) if records.val else None
    trained = sum(parameter.size for parameter in update.parameters)
    notes.say(f"{device}, {precision}: {card.model['name']}, {trained:,} parameters in training, "
              f"{train_set.count} training records, {val_set.count if val_set else 0} validation records")
    with Signals() as signals, contextlib.closing(run_dir):
        page = run_page(run_dir, config, device, card, train_set, val_set)
        segmenter = Segmenter(net, card.preprocess)
        segment = Inference(segmenter, PredictConfig(), card.shorter_side, notes)
        run = Run(run_dir, config, step, segmenter, segment, train_set, val_set, card, signals, page, console, notes,
                  writes)
        fit(run, rates, TOLERANCE[dtype])
        # Agree before returning: msrun stops all processes once one has ended, and the first one may still be saving.
        if signal := signals.agreed():
            return TrainResult(run_dir.path, run_dir.last, None, signal, step.batches // train_set.steps_per_epoch)
        best = run_dir.best if os.path.exists(run_dir.best) else run_dir.last
        with runtime.fail_on_all_ranks():
            result = final_evaluation(run, best) if val_set else None
        return TrainResult(run_dir.path, best, result, signals.agreed(), run.place[0],
                           card.training.get("best", {}).get("epoch"))


def check_settings(config):
    """Check the bounds of settings, then combinations of settings. Raises UserError."""
    augment, optim, model = config.augment, config.optim, config.model
    split_name(model.name)
    check_bounds(config)
    check_start(model, optim)
    adam = optim.name != "sgd"
    side = model.side or 224
    # Without padding to larger maps, the coarsest map has a cell for each 32 pixels.
    cells = augment.batch_size * math.ceil(augment.crop_size / 32) ** 2
    normalised = combinations.kind(model.name) != combinations.FCN or model.name.endswith("_bn")
    rules = [("optim.min_lr", optim.min_lr, optim.min_lr <= optim.lr, "between 0 and optim.lr"),
             ("optim.lr", optim.lr, not adam or optim.lr <= 0.01, f"at most 0.01 with --optim.name {optim.name}"),
             ("optim.label_smoothing", optim.label_smoothing, not optim.label_smoothing
              or optim.loss in ("mean", "sum", "bootstrapped"), f"0 with --optim.loss {optim.loss}"),
             ("patience", config.patience, not config.patience or config.eval_every,
              "0 with --eval_every 0, which evaluates only at the end"),
             ("patience", config.patience, not (config.patience and optim.recalibrate),
              "0 with --optim.recalibrate, which follows the last epoch"),
             ("augment.min_scale", augment.min_scale, augment.min_scale <= augment.max_scale,
              "above 0 and at most augment.max_scale"),
             ("augment.batch_size", augment.batch_size, augment.crop_size or augment.batch_size == 1,
              "1 with --augment.crop_size 0: whole photographs differ in size; use --optim.accumulate"),
             ("augment.shorter_side", augment.shorter_side, not augment.shorter_side or augment.crop_size
              and model.modality == "rgb" and not model.geometric,
              "0 with --augment.crop_size 0, for other images than photographs and with --model.geometric"),
             ("optim.recalibrate", optim.recalibrate, not (optim.recalibrate and optim.ema),
              "0 with --optim.ema, which also averages the statistics"),
             ("augment.pipeline", augment.pipeline, not augment.pipeline or augment.crop_size > 0
              and model.modality not in ("hha", "bands"), "left out with --augment.crop_size 0, and with "
              "--model.modality hha or bands"),
             ("model.pretrained_hha", model.pretrained_hha, not model.pretrained_hha or model.modality == "rgb_hha"
              and model.pretrained, "left out except for --model.modality rgb_hha with --model.pretrained"),
             ("optim.keep_cells", optim.keep_cells, optim.keep_cells == 1 or not model.geometric,
              "1 with --model.geometric"),
             ("augment.crop_size", augment.crop_size, model.name != DECONVNET or augment.crop_size >= side,
              f"at least --model.side, {side} pixels"),
             ("augment.batch_size", augment.batch_size, model.name != DECONVNET or augment.batch_size > 1,
              "at least 2: fc6 gives batch normalisation only one value per channel and image"),
             ("augment.crop_size", augment.crop_size, not normalised or cells != 1,
              "above 32 with --augment.batch_size 1: batch normalisation of a single value has no variance")]
    for name, value, fits, bound in rules:
        if not fits:
            raise UserError(f"--{name} {value}: must be {bound}")
    if config.tensorboard and not importlib.util.find_spec("tensorboard"):
        raise UserError("--tensorboard: the package tensorboard is not installed; pip install 'mindfcn[tensorboard]', "
                        "or leave it out")


def check_start(model, optim):
    """Raise UserError if layers that keep their initial weights would keep random ones."""
    if model.pretrained:
        return
    if optim.freeze:
        raise UserError(f"--optim.freeze {optim.freeze}: without --model.pretrained these layers would stay random; "
                        "give weights, or --optim.freeze ''")
    if model.name.startswith("fcn32s_fixed_"):
        raise UserError(f"--model.name {model.name} trains only the score layer, and without --model.pretrained all "
                        "others would stay random; give weights")


def check_best_by(config, records):
    """Raise UserError if the best checkpoint, or the end of the run, depends on something that is not measured."""
    if records.val is None:
        for name, value, default in (("patience", config.patience, 0), ("best_by", config.best_by, MEAN_IOU)):
            if value != default:
                raise UserError(f"--{name} {value}: {os.path.dirname(records.train)} has no validation records, so "
                                "nothing is measured; leave it out, or hold photographs out with --data.val_fraction")
    known = [*EVALUATION[2:], *records.labels.names]
    if config.best_by not in known:
        raise UserError(f"--best_by {config.best_by}: must be one of {', '.join(known)}")


def run_page(run_dir, config, device, card, train_set, val_set):
    """The run's Page, without curves and figures."""
    evaluated = f"{val_set.count:,} images" if val_set else "nothing: no validation, best.ckpt is of the last epoch"
    facts = {"network": network_text(card), "records": records_text(card), "trained on": f"{train_set.count:,} images",
             "evaluated on": evaluated,
             "epochs": config.optim.epochs, "device": device}
    return Page(run_dir.report, f"Training of {os.path.basename(os.path.abspath(run_dir.path))}", card.labels, facts,
                details={"Settings": flat(dataclasses.asdict(config)), "Versions": runtime.versions()})


def fit(run, rates, tolerance):
    """Train the remaining epochs; two computations of a loss may differ by `tolerance` of it."""
    epochs, first = run.config.optim.epochs, run.train.first_epoch
    log, evaluator = StepLog(run, rates), Evaluator(run)
    run.console.begin_training(run.train.steps_per_epoch, epochs, run.step.batches)
    # A run that was killed between a checkpoint and its evaluation evaluates now.
    if run.step.batches and not run.train.skip_batches and run.evaluation_due(first) \
            and not run.run_dir.evaluated(run.step.batches):
        evaluator.evaluate(first)
    if first < epochs and not run.exhausted(first) and not run.signals.agreed():
        if run.config.augment.crop_size:
            runtime.graph_mode()
        else:
            runtime.pynative_mode()
        run.step.set_train()
        # If an earlier network of this process were deleted after the first step, MindSpore would compile again.
        gc.collect()
        recalibrator = [Recalibrator(run)] if run.config.optim.recalibrate else []
        callbacks = [*watch(run, log, tolerance), NonFiniteGuard(run, log), log, *recalibrator,
                     CheckpointSaver(run, log), evaluator, ReportWriter(run), SignalStopper(run)]
        with runtime.unwrap_user_errors():
            Model(run.step).train(epochs, run.train.get_dataset(), callbacks=callbacks, dataset_sink_mode=False,
                                  initial_epoch=first)


def watch(run, log, tolerance):
    """[LossWatch], or [] where the settings or the device ask for none."""
    every = run.config.watch_every
    if every is None:
        every = EVERY.get(ms.get_context("device_target"), 0)
    if not every:
        return []
    run.notes.say(f"the loss is computed a second time at steps 1, 2, 4, 8, ... and every {every} (--watch_every)")
    return [LossWatch(run, log, every, tolerance)]


def final_evaluation(run, best):
    """Evaluate the best checkpoint; the first process writes tables and pictures.

    Returns EvalResult, or None after a signal or on the other processes.
    """
    if run.writes or not run.best:
        load_weights(run.segmenter.net, load_checkpoint(best)[0], best)
    runtime.pynative_mode()
    evaluation = run.best or evaluate_run(run)
    if evaluation is None or not run.writes:
        return None
    page = dataclasses.replace(run.page, curves=run.run_dir.draw_curves())
    return write_evaluation(run.run_dir.evaluation, evaluation, run.segment, run.val, page)
