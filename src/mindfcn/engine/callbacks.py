"""Callbacks of a training run: non-finite guard, log, checkpoints, evaluation, report, signals."""

import contextlib
import dataclasses
import itertools
import math
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore.train import Callback

from mindfcn import runtime
from mindfcn.config import TrainConfig
from mindfcn.console import SILENT, Console
from mindfcn.data.dataset import SegDataset
from mindfcn.engine.recalibrate import further_images, recalibrate
from mindfcn.engine.run_dir import RunDir
from mindfcn.engine.step import MOVING, TrainStep
from mindfcn.errors import UserError
from mindfcn.evaluation import Evaluation, evaluate_network
from mindfcn.report.page import Page, write_page
from mindfcn.weights.card import Card
from mindfcn.weights.checkpoint import save_checkpoint

# Rows of the log written at once.
LOG_ROWS = 20
# Shortest time between two versions of a run's page.
REPORT_SECONDS = 10


class Signals:
    """Record SIGINT, SIGTERM and a closed terminal's SIGHUP, so that a run can stop between two steps.

    A second SIGINT stops it immediately. A SIGHUP that nohup ignores stays ignored. While a graph runs, MindSpore's
    own handler catches SIGINT and sends SIGTERM instead.

    Attributes:
        received: number of the signal that this process received, or None.
    """

    def __init__(self):
        self.received = None

    def __enter__(self):
        # Python allows signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            # Windows has none.
            if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
                numbers.append(signal.SIGHUP)
            self.before = {number: signal.signal(number, self._receive) for number in numbers}
        else:
            self.before = {}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def agreed(self):
        """Number of the signal that any process has received, or None. All processes must call this together."""
        return int(runtime.gather_over_ranks(np.array([self.received or 0], np.int64)).max()) or None

    def _receive(self, number, _frame):
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


@dataclasses.dataclass
class Run:
    """State shared by the callbacks of a training run.

    Attributes:
        run_dir: its files.
        config: its settings.
        step: TrainStep; it counts the batches.
        segmenter: Segmenter of the network being trained.
        segment: `segmenter` on photographs resized to the card's shorter side, in bounded memory, for evaluation.
        train, val: SegDatasets of training and of validation; `val` may be None.
        card: Card of the checkpoints; its `training` is kept up to date.
        signals: Signals.
        page: Page of the run, without curves and figures.
        console: Console for steps, on every process.
        notes: the same Console on the first process, SILENT on the others.
        writes: whether this process writes files; all processes evaluate.
        best: Evaluation of the best checkpoint, if it was made since this process started.
    """
    run_dir: RunDir
    config: TrainConfig
    step: TrainStep
    segmenter: Any
    segment: Callable
    train: SegDataset
    val: Optional[SegDataset]
    card: Card
    signals: Signals
    page: Page
    console: Console = SILENT
    notes: Console = SILENT
    writes: bool = True
    best: Optional[Evaluation] = None

    def score(self, evaluation):
        """The number that best.ckpt is best by; NaN if nothing was counted for it."""
        name = self.config.best_by
        if name in evaluation.metrics:
            return evaluation.metrics[name]
        return float(evaluation.matrix.class_ious()[self.card.labels.names.index(name)])

    @property
    def improved(self):
        """The last epoch whose evaluation was better than all before; 0 if there is none."""
        best = self.card.training.get("best", {})
        return best.get("since", best.get("epoch", 0))

    def exhausted(self, epoch):
        """Whether the evaluation after this epoch comes `patience` epochs or more after the last improvement."""
        return self.evaluation_due(epoch) and 0 < self.config.patience <= epoch - self.improved

    @property
    def place(self):
        """(complete epochs, steps after them)."""
        return divmod(self.step.batches, self.train.steps_per_epoch)

    def evaluation_due(self, epoch):
        """Whether to evaluate after this epoch."""
        every = self.config.eval_every
        return self.val is not None and (epoch == self.config.optim.epochs or bool(every) and epoch % every == 0)


class RunCallback(Callback):
    """Base class of the callbacks below: it stores the Run."""

    def __init__(self, run):
        super().__init__()
        self.run = run


class NonFiniteGuard(RunCallback):
    """Stop a run at the first step after which the loss, a weight or a moving average is not finite.

    Args:
        run: Run.
        log: StepLog, flushed before the error is raised.

    Raises:
        UserError: with the step, the photographs of the batch and the layers.
    """

    def __init__(self, run, log):
        super().__init__(run)
        self.log = log

    def on_train_step_end(self, run_context):
        """Check the step."""
        step = self.run.step
        loss = float(run_context.original_args().net_outputs.asnumpy())
        if math.isfinite(loss) and bool(step.finite.asnumpy()):
            return
        self.log.flush()
        epoch, in_epoch = divmod(step.batches - 1, self.run.train.steps_per_epoch)
        names = ", ".join(self.run.train.batch_names(epoch, in_epoch))
        raise UserError(f"the loss is {loss} at step {step.batches} (epoch {epoch + 1}), batch {names}"
                        f"{self._layers()}; lower --optim.lr, or check these images and masks; "
                        "the last checkpoint is from before this step")

    def _layers(self):
        found = self.run.step.nonfinite_names()
        if not found:
            return ""
        many = f", {len(found)} of {len(self.run.step.checked())} in all" if len(found) > 3 else ""
        return f", and {', '.join(found[:3])} overflowed{many}"


class StepLog(RunCallback):
    """Write loss, learning rate and speed of every step to the log and to the console.

    Args:
        run: Run.
        rates: (updates,) the learning rate of each update.
    """

    def __init__(self, run, rates):
        super().__init__(run)
        self.rates = rates
        self.batch_size = run.config.augment.batch_size * runtime.rank_size()
        self.rows = []
        self.started = None

    def on_train_step_begin(self, run_context):
        """Start the clock before the first step; the time of later steps includes waiting for data."""
        self.started = self.started or time.perf_counter()

    def on_train_step_end(self, run_context):
        """Add the step."""
        loss = float(run_context.original_args().net_outputs.asnumpy())
        number = self.run.step.batches
        epoch = (number - 1) // self.run.train.steps_per_epoch + 1
        now = time.perf_counter()
        speed, self.started = self.batch_size / (now - self.started), now
        update = min((number - 1) // self.run.step.accumulate, len(self.rates) - 1)
        rate = float(self.rates[update])
        self.rows.append([number, epoch, f"{loss:.6f}", f"{rate:.8g}", f"{speed:.3f}"])
        if len(self.rows) >= LOG_ROWS:
            self.flush()
        self.run.console.step(number, epoch, loss, rate, speed)

    def on_train_epoch_end(self, run_context):
        """Write the rows and stop the clock, so that evaluation does not count as time of the next step."""
        self.flush()
        self.started = None

    def flush(self):
        """Write the pending rows."""
        if self.run.writes and self.rows:
            self.run.run_dir.add_steps(self.rows)
        self.rows = []


class CheckpointSaver(RunCallback):
    """Save the checkpoint from which a run is resumed: after every epoch, and after a signal.

    Args:
        run: Run.
        log: StepLog, flushed before the checkpoint is written.
    """

    def __init__(self, run, log):
        super().__init__(run)
        self.log = log

    def on_train_step_end(self, run_context):
        """After a signal within an epoch, save and stop."""
        epoch, in_epoch = self.run.place
        # All processes check at every step, so that none starts a step that the others do not take.
        if self.run.signals.agreed() and in_epoch:
            self.log.flush()
            self.save(epoch, in_epoch)
            run_context.request_stop()

    def on_train_epoch_end(self, run_context):
        """Save the checkpoint of a completed epoch."""
        epoch, in_epoch = self.run.place
        if not in_epoch:
            self.save(epoch, 0)

    def save(self, epoch, in_epoch):
        """Write the checkpoint after `epoch` epochs and `in_epoch` further steps."""
        run = self.run
        self._average_statistics()
        run.card.training.update(epoch=epoch, step=run.step.batches, seed=run.train.seed,
                                 steps_per_epoch=run.train.steps_per_epoch)
        if run.writes:
            path = run.run_dir.checkpoint(epoch, in_epoch)
            save_checkpoint(path, run.segmenter.net, run.card, run.step.state())
            run.run_dir.make_last(path)

    def _average_statistics(self):
        """Average the moving averages over all processes, since each process trains on other images."""
        ranks = runtime.rank_size()
        averages = self.run.step.average.averages if self.run.step.average else ()
        for parameter in [*self.run.segmenter.net.get_parameters(), *averages] if ranks > 1 else ():
            if parameter.name.endswith(MOVING):
                mean = runtime.sum_over_ranks(parameter.asnumpy().astype(np.float64)) / ranks
                parameter.set_data(ms.Tensor(mean.astype(np.float32)))


class Evaluator(RunCallback):
    """Evaluate every `eval_every` epochs and after the last one, and keep the best checkpoint.

    Attributes:
        seconds: time taken by evaluations so far.
    """

    def __init__(self, run):
        super().__init__(run)
        self.seconds = 0.0

    def on_train_epoch_end(self, run_context):
        """Evaluate if it is due."""
        run = self.run
        epoch, in_epoch = run.place
        if in_epoch:
            return
        if run.evaluation_due(epoch):
            self.evaluate(epoch)
            if run.exhausted(epoch):
                run.notes.say(f"stopping after epoch {epoch}: {run.config.best_by} has not risen since epoch "
                              f"{run.improved}, {run.config.patience} epochs or more ago")
                run_context.request_stop()
        elif epoch == run.config.optim.epochs and run.writes:
            # Without validation records, the weights of the last epoch, or their averages, are the result.
            with run.step.average.applied() if run.step.average else contextlib.nullcontext():
                save_checkpoint(run.run_dir.best, run.segmenter.net, run.card)

    def evaluate(self, epoch):
        """Evaluate the network, with its averaged weights if there are any."""
        started = time.monotonic()
        with self.run.step.average.applied() if self.run.step.average else contextlib.nullcontext():
            self._evaluate(epoch)
        self.seconds += time.monotonic() - started
        # Training mode makes the segmenter read the weights again.
        self.run.step.set_train()

    def _evaluate(self, epoch):
        run = self.run
        mode = ms.get_context("mode")
        evaluation = evaluate_run(run)
        ms.set_context(mode=mode)
        if evaluation is None:
            return
        metrics = evaluation.metrics
        score = run.score(evaluation)
        run.console.evaluated(run.step.batches, metrics)
        run.notes.say(f"epoch {epoch}: {evaluation.matrix}")
        if evaluation.geometric:
            run.notes.say(f"epoch {epoch}, geometric classes: {evaluation.geometric}")
        name, best = run.config.best_by, run.card.training.get("best", {})
        if score >= best.get(name, -1):
            run.best = evaluation
            # Of equal evaluations the last is kept, but only a higher one counts for `patience`.
            since = epoch if score > best.get(name, -1) else run.improved
            run.card.training["best"] = {"epoch": epoch, "since": since, **metrics, name: score}
            if run.writes:
                save_checkpoint(run.run_dir.best, run.segmenter.net, dataclasses.replace(run.card, metrics=metrics))
        # Written last, so that a run killed before this line evaluates the epoch again.
        if run.writes:
            run.run_dir.add_evaluation(run.step.batches, epoch, metrics)


def evaluate_run(run):
    """Evaluate a run's network on its validation records. Returns Evaluation, or None after a signal."""
    return evaluate_network(run.segment, run.val, run.card.labels, run.notes, lambda: run.signals.received,
                            run.segmenter.geometric if run.card.geometric else None)


class ReportWriter(RunCallback):
    """Draw the curves and write the run's page after an epoch, unless that was done REPORT_SECONDS ago or less.

    The last page is written with the final evaluation where there are validation records.
    """

    def __init__(self, run):
        super().__init__(run)
        self.written = -math.inf

    def on_train_epoch_end(self, run_context):
        """Write the page with the results so far."""
        run = self.run
        epoch, in_epoch = run.place
        ends = run.signals.received or run.val is None and epoch == run.config.optim.epochs
        if in_epoch or not run.writes or not ends and time.monotonic() - self.written < REPORT_SECONDS:
            return
        page = dataclasses.replace(run.page, curves=run.run_dir.draw_curves(), matrix=run.best and run.best.matrix)
        if epoch < run.config.optim.epochs:
            page.notes = [f"Epoch {epoch} of {run.config.optim.epochs}. Images follow after the last epoch, figures of "
                          "the best checkpoint after each evaluation."]
        write_page(page)
        self.written = time.monotonic()


class SignalStopper(RunCallback):
    """Stop the run after an epoch during which a signal arrived."""

    def on_train_epoch_end(self, run_context):
        """Stop if any process has received a signal."""
        if self.run.place[1] == 0 and self.run.signals.agreed():
            run_context.request_stop()


class Recalibrator(RunCallback):
    """Recalibrate batch normalisation after the last epoch, before its checkpoint is saved.

    Each process uses its own records; `CheckpointSaver.save` averages over the processes.
    """

    def on_train_epoch_end(self, run_context):
        """Recalibrate after the last epoch."""
        optim = self.run.config.optim
        if self.run.place == (optim.epochs, 0):
            self.run.notes.say(f"averaging the statistics of batch normalisation over {optim.recalibrate} mini-batches")
            recalibrate(self.run.step.net, itertools.islice(further_images(self.run.train), optim.recalibrate))
