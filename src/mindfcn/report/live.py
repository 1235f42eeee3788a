"""The curves of a run, redrawn in a notebook while it trains."""

import io
import time

from mindfcn.errors import UserError
from mindfcn.report.plots import curves

# Of the training's time, what drawing may take.
SHARE = 0.05


class LiveCurve:
    """Loss, learning rate and metrics in a notebook's cell, from the first step on: `train(config, show=LiveCurve())`.

    Args:
        seconds: least time from one drawing to the next.

    Raises:
        UserError: IPython is not installed; a notebook has it.
    """

    def __init__(self, seconds: float = 2.0) -> None:
        try:
            import IPython  # noqa: F401
        except ModuleNotFoundError:
            raise UserError("a live curve needs a notebook; install one with pip install 'mindfcn[notebook]'") from None
        self.seconds = seconds

    def begin(self, steps_per_epoch: int, epochs: int, first: int) -> None:
        """A run begins, or goes on after step `first`: its curves come into a picture of their own."""
        self.steps, self.epochs = steps_per_epoch * epochs, epochs
        self.train: list[tuple[int, float, float]] = []
        self.evals: list[tuple[int, dict[str, float]]] = []
        self.told = ""
        self.picture, self.due = None, 0.0

    def __call__(self, step: int, epoch: int, loss: float, rate: float, speed: float) -> None:
        """Take in a step."""
        self.train.append((step, loss, rate))
        self.told = f"epoch {epoch} of {self.epochs}, step {step:,} of {self.steps:,}, {speed:.1f} images/s"
        if step == self.steps or time.monotonic() >= self.due:
            self.draw()

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Take in {metric: value} of an evaluation."""
        self.evals.append((step, metrics))
        self.draw()

    def draw(self) -> None:
        """Put the picture of this moment in place of the last one."""
        from IPython.display import Image, display
        began = time.monotonic()
        figure = curves(self.train, self.evals)
        figure.suptitle(self.told, fontsize=9)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=80)
        image = Image(drawn.getvalue())
        if self.picture is None:
            self.picture = display(image, display_id=True)
        else:
            self.picture.update(image)
        ended = time.monotonic()
        self.due = ended + max(self.seconds, (ended - began) / SHARE)
