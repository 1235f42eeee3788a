"""What happens around the steps of a training run: log, guard against NaN, evaluation, checkpoints, signals."""

import contextlib
import dataclasses
import math
import signal
import threading
import time

import mindspore as ms
import numpy as np
from mindspore.train import Callback

from mindfcn import runtime
from mindfcn.engine.step import MOVING
from mindfcn.errors import UserError
from mindfcn.evaluation import evaluate_network
from mindfcn.metrics import MEAN_IOU
from mindfcn.report.page import write_page
from mindfcn.weights.checkpoint import save_checkpoint

# Rows of the log that are written at once.
LOG_ROWS = 20


class Signals:
    """Remembers SIGINT, SIGTERM, and SIGHUP of a terminal that is closed, so that a run can end at a step's border; a
    second SIGINT ends it at once. A SIGHUP that nohup ignores stays ignored.

    While a graph runs, MindSpore's own handler takes SIGINT and sends SIGTERM instead.

    Attributes:
        received: number of the signal that this process got, or None.
    """

    def __init__(self):
        self.received = None

    def __enter__(self):
        # Python takes signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            numbers = [number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
                       if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
            self.before = {number: signal.signal(number, self._receive) for number in numbers}
        else:
            self.before = {}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def agreed(self):
        """Number of the signal that any process got by now, or None: all must ask, and all hear the same."""
        return int(runtime.gather_over_ranks(np.array([self.received or 0], np.int64)).max()) or None

    def _receive(self, number, _frame):
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


class Log(Callback):
    """Loss, learning rate and speed of every step: into the log, and to the progress bar.

    Args:
        run_dir: RunDir, or None on the processes that do not write.
        dataset: SegDataset of the training.
        rates: (updates,) learning rates.
        step: TrainStep.
        batch_size: images per step, over all devices.
        show: as in `train`, or None.

    Raises:
        UserError: the loss, a weight or a moving average is not finite; names the step, the batch and the layers.
    """

    def __init__(self, run_dir, dataset, rates, step, batch_size, show=None):
        super().__init__()
        self.run_dir, self.dataset, self.rates, self.step = run_dir, dataset, rates, step
        self.batch_size = batch_size
        self.show = show
        self.rows = []
        self.started = None

    def on_train_step_begin(self, run_context):
        """The data are there; the step begins."""
        self.started = self.started or time.perf_counter()

    def on_train_step_end(self, run_context):
        """Note the step, or stop at a loss that is not finite."""
        loss = float(run_context.original_args().net_outputs.asnumpy())
        number = self.step.batches
        epoch, in_epoch = divmod(number - 1, self.dataset.steps_per_epoch)
        if not math.isfinite(loss) or not math.isfinite(self.step.nonfinite.asnumpy()):
            self.flush()
            names = ", ".join(self.dataset.batch_names(epoch, in_epoch))
            raise UserError(f"the loss is {loss} at step {number} (epoch {epoch + 1}), batch {names}"
                            f"{self.nonfinite_layers()}; lower --optim.lr, or look at these images and masks; "
                            "the last checkpoint is of before")
        now = time.perf_counter()
        # Time from the end of one step to the end of the next: waiting for data counts.
        speed, self.started = self.batch_size / (now - self.started), now
        update = min((number - 1) // self.step.accumulate, len(self.rates) - 1)
        rate = float(self.rates[update])
        self.rows.append([number, epoch + 1, f"{loss:.6f}", f"{rate:.8g}", f"{speed:.3f}"])
        if len(self.rows) >= LOG_ROWS:
            self.flush()
        if self.show:
            self.show(number, epoch + 1, loss, rate, speed)

    def nonfinite_layers(self):
        """The layers whose numbers a step nonfinite, in words."""
        found = self.step.nonfinite_names()
        if not found:
            return ""
        many = f", {len(found)} of {len(self.step.watched)} in all" if len(found) > 3 else ""
        return f", and {', '.join(found[:3])} overflowed{many}"

    def on_train_epoch_end(self, run_context):
        """Write the rows; what follows the epoch is not the next step's time."""
        self.flush()
        self.started = None

    def flush(self):
        """Write the rows that wait."""
        if self.run_dir and self.rows:
            self.run_dir.add_steps(self.rows)
        self.rows = []


@dataclasses.dataclass
class Keeper(Callback):
    """Evaluates and saves at the end of epochs, and saves and stops at a signal.

    Args:
        run_dir: RunDir.
        step: TrainStep.
        segmenter: Segmenter of the network in training.
        train: SegDataset of the training.
        val: SegDataset of the evaluation, or None.
        card: Card, whose `training` is kept up to date.
        epochs, eval_every: as in the settings.
        log: Log.
        signals: Signals.
        page: Page of the run, its curves and figures still to fill in.
        writes: whether this process writes; all evaluate.
        progress: wraps an iterable of evaluation batches and its length.
        say: function (line of text).
        recalibration: Recalibration to run behind the last epoch, or None.

    Attributes:
        best: Evaluation of the best checkpoint, where this run made it.
    """
    run_dir: object
    step: object
    segmenter: object
    train: object
    val: object
    card: object
    epochs: int
    eval_every: int
    log: Log
    signals: Signals
    page: object
    writes: bool = True
    progress: object = None
    say: object = None
    best: object = None
    recalibration: object = None

    def on_train_step_end(self, run_context):
        """At a signal inside an epoch: save and stop."""
        epoch, in_epoch = divmod(self.step.batches, self.train.steps_per_epoch)
        # Asked at every step, so that none goes on to a step in which it would wait for the others.
        if self.signals.agreed() and in_epoch:
            self.log.flush()
            self.save(epoch, in_epoch)
            run_context.request_stop()

    def on_train_epoch_end(self, run_context):
        """Save, evaluate where it is due, and stop at a signal."""
        if self.step.batches % self.train.steps_per_epoch:
            return
        epoch = self.step.batches // self.train.steps_per_epoch
        self.log.flush()
        if self.recalibration and epoch == self.epochs:
            self.recalibration(self.say)
        self.save(epoch, 0)
        if self.due(epoch):
            self.evaluate(epoch)
        elif self.step.average and epoch == self.epochs and self.writes:
            # Nothing to be measured on: the averages of the last epoch are the run's result.
            with self.step.average.in_place():
                save_checkpoint(self.run_dir.best, self.segmenter.net, self.card)
        if self.writes:
            self.report(epoch)
        if self.signals.agreed():
            run_context.request_stop()

    def due(self, epoch):
        """Whether an evaluation follows this epoch."""
        return self.val is not None and (epoch == self.epochs or bool(self.eval_every)
                                         and epoch % self.eval_every == 0)

    def evaluate(self, epoch):
        """Evaluate, note the metrics, and keep the best checkpoint, with the averaged weights where there are some."""
        with self.step.average.in_place() if self.step.average else contextlib.nullcontext():
            self._evaluate(epoch)
        # Also tells the segmenter that the weights are others from here on.
        self.step.set_train()

    def _evaluate(self, epoch):
        mode = ms.get_context("mode")
        evaluation = evaluate_network(self.segmenter, self.val, len(self.card.labels), self.progress,
                                      lambda: self.signals.received, self.card.labels.background,
                                      self.card.labels.excluded_numbers(),
                                      self.segmenter.geometric if self.card.geometric else None)
        ms.set_context(mode=mode)
        if evaluation is None:
            return
        metrics = evaluation.metrics
        if hasattr(self.log.show, "evaluated"):
            self.log.show.evaluated(self.step.batches, metrics)
        if self.say and self.writes:
            self.say(f"epoch {epoch}: {evaluation.matrix}")
            if evaluation.geometric:
                self.say(f"epoch {epoch}, geometric classes: {evaluation.geometric}")
        if metrics[MEAN_IOU] >= self.card.training.get("best", {}).get(MEAN_IOU, -1):
            self.best = evaluation
            self.card.training["best"] = {"epoch": epoch, **metrics}
            if self.writes:
                save_checkpoint(self.run_dir.best, self.segmenter.net, dataclasses.replace(self.card, metrics=metrics))
        # Noted last: a run that is killed before evaluates this epoch again.
        if self.writes:
            self.run_dir.add_evaluation(self.step.batches, epoch, metrics)

    def report(self, epoch):
        """Draw the curves, and write what is known by now on the run's page."""
        page = dataclasses.replace(self.page, curves=self.run_dir.draw_curves(), matrix=self.best and self.best.matrix)
        if epoch < self.epochs:
            page.notes = [f"Epoch {epoch} of {self.epochs}. Images follow at the end, figures of the best checkpoint "
                          "after each evaluation."]
        write_page(page)

    def save(self, epoch, in_epoch):
        """Write the checkpoint that a resumed run goes on from."""
        self.join_moving_averages()
        self.card.training.update(epoch=epoch, step=self.step.batches, seed=self.train.seed,
                                  steps_per_epoch=self.train.steps_per_epoch)
        if self.writes:
            path = self.run_dir.checkpoint(epoch, in_epoch)
            save_checkpoint(path, self.segmenter.net, self.card, self.step.state())
            self.run_dir.make_last(path)

    def join_moving_averages(self):
        """Give all processes the mean of their normalisation's moving averages: each has seen its own images."""
        ranks = runtime.rank_size()
        averages = self.step.average.averages if self.step.average else ()
        for parameter in [*self.segmenter.net.get_parameters(), *averages] if ranks > 1 else ():
            if parameter.name.endswith(MOVING):
                mean = runtime.sum_over_ranks(parameter.asnumpy().astype(np.float64)) / ranks
                parameter.set_data(ms.Tensor(mean.astype(np.float32)))
