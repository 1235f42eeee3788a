"""The files of one training run.

    settings.yaml       resolved settings; `mindfcn train --config` reads them
    versions.json       versions of the packages and the git revision
    log.csv             step, epoch, loss, learning rate, images per second
    evaluation.csv      step, epoch and the four metrics
    curves.png          both, drawn
    report.html         all of this on one page, written anew after each epoch
    checkpoints/        epoch-NNNN.ckpt of the newest epochs, last.ckpt (the newest), best.ckpt (highest mean IoU)
    tensorboard/        both tables for TensorBoard, on request
    evaluation/         what `eval` says of the best checkpoint
    run.lock            while a process trains here: which one
"""

import contextlib
import csv
import dataclasses
import glob
import io
import json
import os
import shutil

import yaml

from mindfcn.errors import UserError
from mindfcn.metrics import FREQUENCY_WEIGHTED_IOU, MEAN_IOU, MEAN_PIXEL_ACCURACY, PIXEL_ACCURACY
from mindfcn.report.events import Events
from mindfcn.report.page import REPORT
from mindfcn.report.plots import save_curves
from mindfcn.runtime import versions
from mindfcn.storage.files import PARTIAL, append_text, atomic_path, held, read_bytes, remove_leftovers, write_text

LOG = ("step", "epoch", "loss", "learning_rate", "images_per_s")
EVALUATION = ("step", "epoch", PIXEL_ACCURACY, MEAN_PIXEL_ACCURACY, MEAN_IOU, FREQUENCY_WEIGHTED_IOU)


class RunDir:
    """Paths, tables and settings of a run.

    Args:
        path: the folder.
        keep: checkpoints kept, the newest ones.
        tensorboard: write the tables' figures for TensorBoard, too.
    """

    def __init__(self, path, keep=2, tensorboard=False):
        self.path = path
        self.keep = max(1, keep)
        self.last = os.path.join(path, "checkpoints", "last.ckpt")
        self.best = os.path.join(path, "checkpoints", "best.ckpt")
        self.log = os.path.join(path, "log.csv")
        self.evaluations = os.path.join(path, "evaluation.csv")
        self.evaluation = os.path.join(path, "evaluation")
        self.settings = os.path.join(path, "settings.yaml")
        self.report = os.path.join(path, REPORT)
        self.tensorboard = os.path.join(path, "tensorboard")
        self.wants_events, self.events = tensorboard, None
        self._forgetting = os.path.join(path, PARTIAL + "forgetting")

    @contextlib.contextmanager
    def hold(self):
        """Keep other processes out of the folder while the block runs; yield the paths of a dead one's leftovers,
        which are gone.

        Raises:
            UserError: another process trains here, or the folder cannot be written.
        """
        with held(os.path.join(self.path, "run.lock"), f"run directory {self.path}"):
            if os.path.isdir(self._forgetting):
                self._forget()
            yield remove_leftovers(self.path)

    def can_resume(self):
        """Whether there is a checkpoint to go on from; none where a run was killed before its first.

        Raises:
            UserError: there must have been one.
        """
        if os.path.exists(self.last):
            return True
        steps = table_rows(self.log) if os.path.exists(self.log) else []
        if os.path.exists(self.settings) and any(int(row["epoch"]) > 1 for row in steps):
            raise UserError(f"{self.last} is gone, but {self.log} tells of {len(steps)} steps; put it back, or begin "
                            "anew with --overwrite and without --resume")
        return False

    def begin(self, config):
        """Make the folder for a new run and save its settings. A run without a checkpoint may be begun again by
        --resume.

        Raises:
            UserError: an earlier run is there, or the folder cannot be written.
        """
        if os.path.exists(self.settings):
            if not (config.overwrite or config.resume):
                raise UserError(f"{self.path} holds an earlier run; go on with --resume true, "
                                "begin anew with --overwrite true, or choose another --run_dir")
            self._forget()
        write_text(self.log, ",".join(LOG) + "\n")
        write_text(self.evaluations, ",".join(EVALUATION) + "\n")
        write_text(os.path.join(self.path, "versions.json"), json.dumps(versions(), indent=2) + "\n")
        write_text(self.settings, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
        self.begin_events()

    def _forget(self):
        """Delete a run. If this is interrupted, the next process that holds the folder ends it."""
        os.makedirs(self._forgetting, exist_ok=True)
        for path in (os.path.dirname(self.last), self.evaluation, self.tensorboard):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.report, self.log, self.evaluations, self.settings):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        os.rmdir(self._forgetting)

    def rewind(self, step):
        """Forget the rows after a step: those of a resumed run take their place."""
        for path in (self.log, self.evaluations):
            rows = [row for row in table_rows(path) if int(row["step"]) <= step]
            text = io.StringIO()
            writer = csv.DictWriter(text, LOG if path == self.log else EVALUATION, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_text(path, text.getvalue())
        self.begin_events()

    def begin_events(self):
        """Write both tables, as they are by now, for TensorBoard, where it is wanted; further rows follow."""
        if self.wants_events:
            self.events = Events(self.tensorboard)
            self._note("train", LOG, [row.values() for row in table_rows(self.log)])
            self._note("evaluation", EVALUATION, [row.values() for row in table_rows(self.evaluations)])

    def _note(self, group, header, rows):
        """Rows of a table whose first two columns are step and epoch -> events."""
        if self.events:
            for step, _, *values in rows:
                self.events.add(group, int(step), dict(zip(header[2:], map(float, values))))
            self.events.flush()

    def close(self):
        """The run ends, for now."""
        if self.events:
            self.events.close()

    def add_steps(self, rows):
        """Append rows of LOG."""
        _append(self.log, rows)
        self._note("train", LOG, rows)

    def add_evaluation(self, step, epoch, metrics):
        """Append one evaluation."""
        row = [step, epoch] + [f"{metrics[name]:.6f}" for name in EVALUATION[2:]]
        _append(self.evaluations, [row])
        self._note("evaluation", EVALUATION, [row])

    def evaluated(self, step):
        """Whether an evaluation at that step is noted."""
        return any(int(row["step"]) == step for row in table_rows(self.evaluations))

    def draw_curves(self):
        """Draw both tables into curves.png. Returns them as `save_curves` takes them."""
        train = [(int(row["step"]), float(row["loss"]), float(row["learning_rate"])) for row in table_rows(self.log)]
        evals = [(int(row["step"]), {name: float(row[name]) for name in EVALUATION[2:]})
                 for row in table_rows(self.evaluations)]
        save_curves(os.path.join(self.path, "curves.png"), train, evals)
        return train, evals

    def checkpoint(self, epoch, step_in_epoch=0):
        """Path of the checkpoint after `epoch` whole epochs and `step_in_epoch` steps more."""
        name = f"epoch-{epoch:04d}" + (f"-step-{step_in_epoch:06d}" if step_in_epoch else "")
        return os.path.join(self.path, "checkpoints", name + ".ckpt")

    def checkpoints(self):
        """Paths of last.ckpt and of the other checkpoints to go on from, the newest first."""
        epochs = sorted(glob.glob(os.path.join(glob.escape(self.path), "checkpoints", "epoch-*.ckpt")), reverse=True)
        return [self.last] + [path for path in epochs if not os.path.samefile(path, self.last)]

    def make_last(self, path):
        """Let last.ckpt be this checkpoint, and delete all but the newest ones."""
        _link(path, self.last)
        for old in sorted(glob.glob(os.path.join(glob.escape(self.path), "checkpoints", "epoch-*.ckpt")))[:-self.keep]:
            os.remove(old)


def _link(source, target):
    """Make `target` another name of `source`, or a copy where the file system has no second names."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def _append(path, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    append_text(path, text.getvalue())


def table_rows(path):
    """The rows of a table as {name: text of a number}, without one that a killed process has not ended.

    Raises:
        UserError: something else stands there.
    """
    text = read_bytes(path).decode("utf-8", "replace")
    reader = csv.DictReader(io.StringIO(text[:text.rfind("\n") + 1]))
    try:
        rows = []
        for row in reader:
            int(row["step"]), int(row["epoch"]), [float(value) for value in row.values()]
            rows.append(row)
        return rows
    except (ValueError, TypeError, KeyError, csv.Error):
        raise UserError(f"{path} is damaged in line {reader.line_num}; take that line out") from None
