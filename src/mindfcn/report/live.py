"""The curves of a run, redrawn in a notebook while it trains."""

import io
import time
from collections.abc import Callable
from typing import Any, Optional

from mindfcn.console import Console
from mindfcn.errors import UserError
from mindfcn.report.plots import curves

# Largest share of the training time spent on drawing.
SHARE = 0.05


class LiveCurve(Console):
    """Loss, learning rate and metrics in a notebook's cell, from the first step on: `train(config, LiveCurve())`.

    Args:
        seconds: shortest time between two drawings.
        say: function called with each line of text, such as `print`.

    Raises:
        UserError: IPython is not installed; a notebook has it.
    """

    def __init__(self, seconds: float = 2.0, say: Optional[Callable[[str], Any]] = None) -> None:
        super().__init__(say)
        try:
            import IPython  # noqa: F401
        except ModuleNotFoundError:
            raise UserError("a live curve needs a notebook; install one with pip install 'mindfcn[notebook]'") from None
        self.seconds = seconds

    def begin_training(self, steps_per_epoch: int, epochs: int, first_step: int) -> None:
        """Start a new picture for this run."""
        self.steps, self.epochs = steps_per_epoch * epochs, epochs
        self.train: list[tuple[int, float, float]] = []
        self.evals: list[tuple[int, dict[str, float]]] = []
        self.title = ""
        self.picture, self.due = None, 0.0

    def step(self, step: int, epoch: int, loss: float, learning_rate: float, images_per_s: float) -> None:
        """Add a step to the curves."""
        self.train.append((step, loss, learning_rate))
        self.title = f"epoch {epoch} of {self.epochs}, step {step:,} of {self.steps:,}, {images_per_s:.1f} images/s"
        if step == self.steps or time.monotonic() >= self.due:
            self.draw()

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Add {metric: value} of an evaluation to the curves."""
        self.evals.append((step, metrics))
        self.draw()

    def draw(self) -> None:
        """Replace the picture by one of the curves so far."""
        from IPython.display import Image, display
        began = time.monotonic()
        figure = curves(self.train, self.evals)
        figure.set_size_inches(10, figure.get_figheight())
        figure.suptitle(self.title, fontsize=10)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=100)
        image = Image(drawn.getvalue())
        if self.picture is None:
            self.picture = display(image, display_id=True)
        else:
            self.picture.update(image)
        ended = time.monotonic()
        self.due = ended + max(self.seconds, (ended - began) / SHARE)
