"""The terminal: lines, progress bars and the bar of a training run."""

import sys

from tqdm import tqdm

from mindfcn.console import Console


class Terminal(Console):
    """Shows lines on stdout and progress on stderr: bars on a terminal, a line every 30 seconds in a log."""

    def __init__(self):
        super().__init__()
        self.training = None
        self.score = ""

    def say(self, line):
        """Write one line above the progress bars."""
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def track(self, iterable=None, total=None, **options):
        """A bar that is removed at its end; none where stderr is no terminal."""
        return tqdm(iterable, total=total, leave=False, dynamic_ncols=True, disable=None,
                    **{"unit": "image", **options})

    def begin_training(self, steps_per_epoch, epochs, first_step):
        """Open the bar of a run."""
        self.close()
        pace = {"mininterval": 0.5} if sys.stderr.isatty() else {"mininterval": 30, "maxinterval": 30, "file": _Lines()}
        self.training = tqdm(total=steps_per_epoch * epochs, initial=first_step, unit="step", dynamic_ncols=True,
                             leave=False, **pace)
        self.score = ""

    def step(self, step, epoch, loss, learning_rate, images_per_s):
        """Advance the bar of the run; it is removed after the last step."""
        bar = self.training
        bar.set_postfix_str(f"epoch {epoch} loss {loss:.3f} lr {learning_rate:.2e} {images_per_s:.1f} images/s"
                            f"{self.score}", refresh=False)
        bar.update(step - bar.n)
        if bar.n == bar.total:
            self.close()

    def evaluated(self, step, metrics):
        """Keep the last mean IoU visible."""
        from mindfcn.metrics import MEAN_IOU
        self.score = f" mIoU {metrics[MEAN_IOU]:.3f}"

    def close(self):
        """Remove the bar, so that the next line starts on its own."""
        if self.training is not None:
            self.training.close()


class _Lines:
    """stderr for a progress bar in a log: each state becomes a line of its own."""

    def write(self, text):
        """Write a state without the carriage return that precedes it."""
        if text.strip():
            print(text.strip(), file=sys.stderr)

    def flush(self):
        """Flush stderr."""
        sys.stderr.flush()
