"""Shared by the workers of the accuracy experiment: a JSON line per step, the time limit, names of weight files."""

import json
import os
import time


class StepLog:
    """Writes step, seconds of training and loss of every step to FOLDER/steps.jsonl.

    Args:
        folder: folder of this contestant.
        minutes, steps: limits; training ends with the first step that reaches one of them.
    """

    def __init__(self, folder, minutes, steps):
        os.makedirs(folder, exist_ok=True)
        self.file = open(os.path.join(folder, "steps.jsonl"), "w", encoding="utf-8")
        self.minutes, self.steps = float(minutes), int(steps)
        self.seconds = 0.0
        self.over = False

    def begin(self):
        """Start or continue the clock: after imports and construction, before the first batch is requested."""
        self.started = time.perf_counter() - self.seconds

    def add(self, step, loss):
        """Record a step (from 1). Returns whether a limit is reached."""
        self.seconds = time.perf_counter() - self.started
        self.file.write(json.dumps({"step": step, "seconds": round(self.seconds, 3), "loss": float(loss)}) + "\n")
        self.file.flush()
        self.over = self.seconds >= 60 * self.minutes or step >= self.steps
        return self.over


def snapshot(folder, step, steps_per_epoch, suffix):
    """Path of the weights after a step, named as MindFCN names its checkpoints."""
    epoch, rest = divmod(step, steps_per_epoch)
    return os.path.join(folder, f"epoch-{epoch:04d}" + (f"-step-{rest:06d}" if rest else "") + suffix)
