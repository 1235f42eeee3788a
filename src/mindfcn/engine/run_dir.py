"""The files of one training run.

    settings.yaml       resolved settings; `mindfcn train --config` reads them. Comments list what a resumed run changed
    versions.json       versions of the packages and the git revision; `until step` has those before a resumed run
    weights.txt         what became of each pretrained weight, where there are any
    log.csv             step, epoch, loss, learning rate, images per second
    evaluation.csv      step, epoch and the four metrics, or those of overlapping classes
    curves.png          both, drawn
    report.html         all of this on one page, rewritten while the run goes on
    checkpoints/        epoch-NNNN.ckpt of the newest epochs, last.ckpt (the newest), best.ckpt (of the best evaluation;
                        without validation, of the last epoch)
    tensorboard/        both tables for TensorBoard, on request
    evaluation/         evaluation of the best checkpoint, as `eval` writes it
    run.lock            present while a process trains here; names the process
"""

import contextlib
import csv
import dataclasses
import glob
import io
import json
import os
import re
import shutil

import yaml

from mindfcn.errors import UserError
from mindfcn.metrics import FREQUENCY_WEIGHTED_IOU, MEAN_IOU, MEAN_PIXEL_ACCURACY, PIXEL_ACCURACY
from mindfcn.report.evaluation import PICTURES
from mindfcn.report.events import Events
from mindfcn.report.page import REPORT
from mindfcn.report.plots import save_curves
from mindfcn.runtime import versions
from mindfcn.storage.files import PARTIAL, append_text, atomic_path, held, read_bytes, remove_leftovers, write_text

LOG = ("step", "epoch", "loss", "learning_rate", "images_per_s")
# Key of versions.json: {step: versions that were in force until then}.
UNTIL = "until step"
EVALUATION = ("step", "epoch", PIXEL_ACCURACY, MEAN_PIXEL_ACCURACY, MEAN_IOU, FREQUENCY_WEIGHTED_IOU)


class RunDir:
    """Paths, tables and settings of a run.

    Args:
        path: the folder.
        keep: number of newest checkpoints to keep.
        tensorboard: also write both tables for TensorBoard.

    Attributes:
        columns: columns of evaluation.csv; a run with other metrics sets them before it begins.
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
        self.weights = os.path.join(path, "weights.txt")
        self.versions = os.path.join(path, "versions.json")
        self.report = os.path.join(path, REPORT)
        self.tensorboard = os.path.join(path, "tensorboard")
        self.writes_events, self.events = tensorboard, None
        self.columns = EVALUATION
        self._deleting = os.path.join(path, PARTIAL + "deleting")

    @contextlib.contextmanager
    def hold(self):
        """Lock the folder while the block runs; yield the paths of a killed process's temporary files, already deleted.

        Raises:
            UserError: another process trains here, or the folder cannot be written.
        """
        with held(os.path.join(self.path, "run.lock"), f"run directory {self.path}"):
            if os.path.isdir(self._deleting):
                self._delete()
            pictures = (os.path.join("evaluation", name) for name in PICTURES)
            yield remove_leftovers(self.path, ("checkpoints", "evaluation", *pictures))

    def can_resume(self):
        """Whether there is a checkpoint to resume from. A run killed before its first checkpoint has none.

        Raises:
            UserError: the log shows that there was one, but it is gone.
        """
        if os.path.exists(self.last):
            return True
        steps = table_rows(self.log) if os.path.exists(self.log) else []
        if os.path.exists(self.settings) and any(int(row["epoch"]) > 1 for row in steps):
            raise UserError(f"{self.last} is gone, but {self.log} records {len(steps)} steps; put it back, or start "
                            "again with --overwrite and without --resume")
        return False

    def begin(self, config):
        """Create the folder of a new run and save its settings. With --resume, a run without a checkpoint starts again.

        Raises:
            UserError: the folder holds an earlier run, or cannot be written.
        """
        if os.path.exists(self.settings):
            if not (config.overwrite or config.resume):
                raise UserError(f"{self.path} holds an earlier run; continue it with --resume true, "
                                "start again with --overwrite true, or choose another --run_dir")
            self._delete()
        write_text(self.log, ",".join(LOG) + "\n")
        write_text(self.evaluations, ",".join(self.columns) + "\n")
        write_text(self.versions, json.dumps(versions(), indent=2) + "\n")
        self._write_settings(config, [])
        self.begin_events()

    def _write_settings(self, config, comments):
        """Write settings.yaml, after lines of comments, without the options that resume or delete a run."""
        config = dataclasses.replace(config, resume=False, overwrite=False)
        write_text(self.settings, "".join(comments) + yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))

    def continue_with(self, config, step, changes):
        """Write the settings and versions of a resumed run, and until which step others were in force.

        Args:
            config: TrainConfig.
            step: last step before the run is resumed.
            changes: {name: (value until this step, value from now on)}.
        """
        comments = []
        if os.path.exists(self.settings):
            lines = read_bytes(self.settings).decode("utf-8", "replace").splitlines(keepends=True)
            comments = [line for line in lines if line.startswith("#")]
        if changes:
            values = ", ".join(f"{name} {before}" for name, (before, _) in changes.items())
            comments.append(f"# until step {step}: {values}\n")
        self._write_settings(config, comments)
        there, here = self._versions(), versions()
        earlier = there.pop(UNTIL, {})
        changed = {name: value for name, value in there.items() if here.get(name) != value}
        if changed:
            earlier[str(step)] = changed
        write_text(self.versions, json.dumps({**here, **({UNTIL: earlier} if earlier else {})}, indent=2) + "\n")

    def _versions(self):
        """Contents of versions.json; empty if it is missing or damaged."""
        try:
            found = json.loads(read_bytes(self.versions))
        except (UserError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) and isinstance(found.get(UNTIL, {}), dict) else {}

    def rates(self):
        """{step: logged learning rate}."""
        return {int(row["step"]): float(row["learning_rate"]) for row in table_rows(self.log)}

    def _delete(self):
        """Delete a run. If this is interrupted, the next process that locks the folder completes it."""
        os.makedirs(self._deleting, exist_ok=True)
        for path in (os.path.dirname(self.last), self.evaluation, self.tensorboard):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.report, self.weights, self.log, self.evaluations, self.settings):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        os.rmdir(self._deleting)

    def rewind(self, step):
        """Delete the rows after a step; the resumed run writes them again."""
        for path in (self.log, self.evaluations):
            rows = [row for row in table_rows(path) if int(row["step"]) <= step]
            text = io.StringIO()
            writer = csv.DictWriter(text, LOG if path == self.log else self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_text(path, text.getvalue())
        self.begin_events()

    def begin_events(self):
        """Start the event files with the rows so far, if TensorBoard is enabled."""
        if self.writes_events:
            self.events = Events(self.tensorboard)
            self._add_events("train", LOG, [row.values() for row in table_rows(self.log)])
            self._add_events("evaluation", self.columns, [row.values() for row in table_rows(self.evaluations)])

    def _add_events(self, group, header, rows):
        """Add rows of a table, whose first two columns are step and epoch, to the event files."""
        if self.events:
            for step, _, *values in rows:
                self.events.add(group, int(step), dict(zip(header[2:], map(float, values))))
            self.events.flush()

    def close(self):
        """Close the event files."""
        if self.events:
            self.events.close()

    def add_steps(self, rows):
        """Append rows of LOG."""
        _append(self.log, rows)
        self._add_events("train", LOG, rows)

    def add_evaluation(self, step, epoch, metrics):
        """Append one evaluation."""
        row = [step, epoch] + [f"{metrics[name]:.6f}" for name in self.columns[2:]]
        _append(self.evaluations, [row])
        self._add_events("evaluation", self.columns, [row])

    def evaluated(self, step):
        """Whether evaluation.csv has a row for this step."""
        return any(int(row["step"]) == step for row in table_rows(self.evaluations))

    def draw_curves(self):
        """Draw both tables into curves.png. Returns its path."""
        train = [(int(row["step"]), float(row["loss"]), float(row["learning_rate"])) for row in table_rows(self.log)]
        evals = [(int(row["step"]), {name: float(row[name]) for name in self.columns[2:]})
                 for row in table_rows(self.evaluations)]
        path = os.path.join(self.path, "curves.png")
        save_curves(path, train, evals)
        return path

    def checkpoint(self, epoch, step_in_epoch=0):
        """Path of the checkpoint after `epoch` complete epochs and `step_in_epoch` further steps."""
        name = f"epoch-{epoch:04d}" + (f"-step-{step_in_epoch:06d}" if step_in_epoch else "")
        return os.path.join(self.path, "checkpoints", name + ".ckpt")

    def checkpoints(self):
        """Paths of last.ckpt and of the other checkpoints to resume from, the newest first."""
        return [self.last] + [path for path in self._epochs()[::-1] if not os.path.samefile(path, self.last)]

    def _epochs(self):
        """Paths of the checkpoints of epochs, the oldest first: by their numbers, of any number of digits."""
        found = glob.glob(os.path.join(glob.escape(self.path), "checkpoints", "epoch-*.ckpt"))
        return sorted(found, key=lambda path: [int(number) for number in re.findall(r"\d+", os.path.basename(path))])

    def make_last(self, path):
        """Make last.ckpt this checkpoint, and delete all but the newest checkpoints."""
        _link(path, self.last)
        for old in self._epochs()[:-self.keep]:
            os.remove(old)


def _link(source, target):
    """Hard-link `target` to `source`, or copy it where the file system has no hard links."""
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
    """The rows of a table as {name: text of a number}, without a last row that a killed process left incomplete.

    Raises:
        UserError: a row is damaged.
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
        raise UserError(f"{path} is damaged in line {reader.line_num}; delete that line") from None
