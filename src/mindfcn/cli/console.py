"""Console of the command line: lines of text and progress bars."""

import sys

from tqdm import tqdm

from mindfcn.cli.language import localize, translate
from mindfcn.console import Console, printable


class Terminal(Console):
    """Show lines on stdout and progress on stderr: bars on a terminal, a line every 30 seconds in a log."""

    def __init__(self):
        super().__init__()
        self.training = None
        self.score = ""

    def say(self, line):
        """Write one line above the progress bars, in the chosen language."""
        tqdm.write(printable(localize(line)), file=sys.stdout)
        sys.stdout.flush()

    def track(self, iterable=None, total=None, **options):
        """Iterate with a progress bar that is removed at the end; without a bar if stderr is not a terminal."""
        unit = translate(options.pop("unit", "image"))
        return tqdm(iterable, total=total, leave=False, dynamic_ncols=True, disable=None, unit=unit, **options)

    def begin_training(self, steps_per_epoch, epochs, first_step):
        """Open the progress bar of a training run."""
        self.close()
        pace = {"mininterval": 0.5} if sys.stderr.isatty() else {"mininterval": 30, "maxinterval": 30, "file": _Lines()}
        self.training = tqdm(total=steps_per_epoch * epochs, initial=first_step, unit=translate("step"),
                             dynamic_ncols=True, leave=False, **pace)
        self.score = ""

    def step(self, step, epoch, loss, learning_rate, images_per_s):
        """Advance the bar of the run, and remove it after the last step."""
        bar = self.training
        state = translate("epoch {epoch} loss {loss} lr {rate} {speed} images/s", epoch=epoch, loss=f"{loss:.3f}",
                          rate=f"{learning_rate:.2e}", speed=f"{images_per_s:.1f}")
        bar.set_postfix_str(state + self.score, refresh=False)
        bar.update(step - bar.n)
        if bar.n == bar.total:
            self.close()

    def evaluated(self, step, metrics):
        """Show the latest mean IoU in the bar."""
        from mindfcn.metrics import MEAN_IOU
        self.score = f" mIoU {metrics[MEAN_IOU]:.3f}"

    def close(self):
        """Remove the bar, so that the next line starts at the left margin."""
        if self.training is not None:
            self.training.close()


class _Lines:
    """Standard error for a progress bar in a log: each state is written as a separate line."""

    def write(self, text):
        """Write a state without its leading carriage return."""
        if text.strip():
            print(text.strip(), file=sys.stderr)

    def flush(self):
        """Flush stderr."""
        sys.stderr.flush()
