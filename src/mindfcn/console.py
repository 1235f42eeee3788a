"""Messages and progress of a verb, and the type of paths."""

import os
from collections.abc import Callable
from typing import Any, Optional, Union

FilePath = Union[str, "os.PathLike[str]"]


def printable(text: str) -> str:
    """Text for a terminal: control characters, and bytes of file names that are no UTF-8, as escapes."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


class Console:
    """Receives the messages and the progress of a verb. This class shows nothing except, with `say`, the messages.

    Subclasses draw bars (`mindfcn.cli.console.Terminal`) or curves (`mindfcn.LiveCurve`).

    Args:
        say: function called with each line of text, such as `print`.
    """

    def __init__(self, say: Optional[Callable[[str], Any]] = None) -> None:
        self._say = say

    def say(self, line: str) -> None:
        """Show one line of text."""
        if self._say:
            self._say(line)

    def track(self, iterable: Any = None, total: Optional[int] = None, **options: Any) -> Any:
        """Iterate over items while a progress bar advances.

        Args:
            iterable: any iterable; None gives a bar with `update(n)` and `close()`.
            total: number of items, if the iterable has no length.
            options: further options of tqdm: `unit`, `desc`, `initial`, `unit_scale`.
        """
        return _NoBar() if iterable is None else iterable

    def begin_training(self, steps_per_epoch: int, epochs: int, first_step: int) -> None:
        """Called when a run begins, or continues after `first_step` steps."""

    def step(self, step: int, epoch: int, loss: float, learning_rate: float, images_per_s: float) -> None:
        """Called after each training step; steps and epochs count from 1."""

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """Called after an evaluation at `step` steps, with {metric: value}."""

    def close(self) -> None:
        """Remove the progress bar."""


class _NoBar:
    """A bar that is not drawn."""

    def update(self, count: float = 1) -> None:
        """Advance."""

    def close(self) -> None:
        """Remove the bar."""


SILENT = Console()
