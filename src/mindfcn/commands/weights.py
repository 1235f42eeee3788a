"""The verb weights: the published files by name, and fetching them."""

import dataclasses
import os

from mindfcn.config import WeightsConfig
from mindfcn.console import SILENT, Console
from mindfcn.errors import UserError
from mindfcn.report.tables import text_table
from mindfcn.weights.catalogue import CATALOGUE, fetch, home, path_of

HEADER = ("name", "network", "classes", "MB", "here", "published score", "licence")


@dataclasses.dataclass
class WeightsResult:
    """What `published_weights` found or fetched.

    Attributes:
        table: the catalogue as text, one line per file; "" after fetching.
        folder: where the files are kept.
        fetched: paths of the files that were asked for.
    """
    table: str
    folder: str
    fetched: list


def published_weights(config: WeightsConfig, console: Console = SILENT) -> WeightsResult:
    """List the published weights, or fetch some of them.

    Args:
        config: WeightsConfig.
        console: Console that shows the progress of downloads.

    Returns:
        WeightsResult.

    Raises:
        UserError: an unknown name, or a file that cannot be fetched or is not the published one.
    """
    unknown = [name for name in config.names if name not in CATALOGUE]
    if unknown:
        raise UserError(f"no published weights are called {unknown[0]!r}; `mindfcn weights` lists the names")
    if config.action == "fetch":
        if not config.names:
            raise UserError("weights fetch: give one or more names; `mindfcn weights` lists them")
        return WeightsResult("", home(), [fetch(CATALOGUE[name], console) for name in config.names])
    entries = [CATALOGUE[name] for name in config.names] or CATALOGUE.values()
    return WeightsResult(text_table(HEADER, [_row(entry) for entry in entries]), home(), [])


def _row(entry):
    return (entry.name, entry.model, str(len(entry.labels)) if entry.labels else "backbone",
            f"{entry.megabytes:.0f}" if entry.megabytes else "-", "yes" if os.path.exists(path_of(entry)) else "no",
            entry.score, entry.licence)
