"""Types of what verbs take besides their settings: `say`, `progress` and `show`, told while they work, and paths."""

import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol, Union

FilePath = Union[str, "os.PathLike[str]"]
# Told a line of text at each step.
Say = Callable[[str], None]
# tqdm, or what else takes an iterable and its length.
Progress = Callable[..., Iterable[Any]]


class Show(Protocol):
    """Told how a training goes on."""

    def begin(self, steps_per_epoch: int, epochs: int, first: int) -> None:
        """The run begins, or goes on, at step `first`."""

    def __call__(self, step: int, epoch: int, loss: float, rate: float, speed: float) -> None:
        """A step is done; `speed` in images per second."""
