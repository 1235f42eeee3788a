"""The verb train: settings -> a trained network in a run directory."""

import contextlib
import dataclasses
import os
from typing import Optional

from mindfcn import runtime
from mindfcn.combinations import MULTILABEL
from mindfcn.commands.prepare import find_records
from mindfcn.config import PredictConfig, TrainConfig, flat
from mindfcn.console import SILENT, Console
from mindfcn.data.dataset import SegDataset
from mindfcn.engine.averaging import WeightAverage
from mindfcn.engine.build import band_preprocess, build, offset_seeds, training_loss, training_set
from mindfcn.engine.callbacks import Run, Signals
from mindfcn.engine.fit import final_evaluation, fit
from mindfcn.engine.graph_cache import graph_key
from mindfcn.engine.optimiser import freeze, loss_scaler, optimiser
from mindfcn.engine.resume import resume
from mindfcn.engine.run_dir import EVALUATION, RunDir
from mindfcn.engine.settings import check_best_by, check_settings, check_training
from mindfcn.engine.step import TrainStep
from mindfcn.engine.watch import TOLERANCE
from mindfcn.errors import UserError
from mindfcn.inference.load import network_text, records_text
from mindfcn.inference.network import Segmenter
from mindfcn.inference.pipeline import Inference
from mindfcn.metrics import metric_names
from mindfcn.models.precision import compute_in
from mindfcn.report.evaluation import EvalResult
from mindfcn.report.page import Page
from mindfcn.storage.files import write_text


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
    if records.labels.multilabel:
        check_training(config, MULTILABEL)
    run_dir.columns = (*EVALUATION[:2], *metric_names(records.labels))
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
    step.graph_key = graph_key(config, card, train_set.steps_per_epoch, step)
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
        segmenter = Segmenter(net, card.preprocess, records.labels.multilabel)
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


def run_page(run_dir, config, device, card, train_set, val_set):
    """The run's Page, without curves and figures."""
    evaluated = f"{val_set.count:,} images" if val_set else "nothing: no validation, best.ckpt is of the last epoch"
    facts = {"network": network_text(card), "records": records_text(card), "trained on": f"{train_set.count:,} images",
             "evaluated on": evaluated,
             "epochs": config.optim.epochs, "device": device}
    return Page(run_dir.report, f"Training of {os.path.basename(os.path.abspath(run_dir.path))}", card.labels, facts,
                details={"Settings": flat(dataclasses.asdict(config)), "Versions": runtime.versions()})
