"""The epochs of a run, and the evaluation of its best checkpoint."""

import dataclasses
import gc
import time

import mindspore as ms
from mindspore.train import Model

from mindfcn import runtime
from mindfcn.engine.callbacks import (
    CheckpointSaver,
    Evaluator,
    NonFiniteGuard,
    Recalibrator,
    ReportWriter,
    SignalStopper,
    StepLog,
    evaluate_run,
)
from mindfcn.engine.watch import EVERY, LossWatch
from mindfcn.report.evaluation import write_evaluation
from mindfcn.weights.checkpoint import load_checkpoint
from mindfcn.weights.load import load_weights


def fit(run, rates, tolerance):
    """Train the remaining epochs; two computations of a loss may differ by `tolerance` of it."""
    epochs, first = run.config.optim.epochs, run.train.first_epoch
    log, evaluator = StepLog(run, rates), Evaluator(run)
    started = time.monotonic()
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
    taken = time.monotonic() - started
    if run.config.eval_every and evaluator.seconds > taken / 10:
        run.notes.say(f"evaluation took {evaluator.seconds:.0f} of {taken:.0f} s; --eval_every evaluates less often")


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
