"""The records of a part: one dictionary for each measurement, complete in the JSON file, some columns in the table."""

import contextlib
import json
import pathlib
import statistics
import sys

from mindfcn.storage.files import atomic_path

FAILED = "failed"


def attempt(record, measure, *arguments):
    """A record with what `measure` adds to it, or, if that fails, with the reason: other records are not lost."""
    try:
        return {**record, **measure(*arguments)}
    except (Exception, SystemExit) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{', '.join(map(str, record.values()))}: {reason}", file=sys.stderr, flush=True)
        return {**record, FAILED: reason}


def milliseconds(seconds):
    """List of seconds -> list of milliseconds, to a thousandth."""
    return [round(1000 * each, 3) for each in seconds]


def cell(value):
    """Text of a value in the table: a list as its median with the least and the most."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return f"{statistics.median(value):.3g} ({min(value):.3g}-{max(value):.3g})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(columns, records):
    """Lines of a Markdown table; a record that failed shows its reason in the last column."""
    columns = [*columns, FAILED] if any(FAILED in record for record in records) else list(columns)
    rows = [[cell(record.get(column)) for column in columns] for record in records]
    return ["| " + " | ".join(text.replace("|", "/") for text in row) + " |"
            for row in (columns, ["---"] * len(columns), *rows)]


def write(path, report):
    """Write the report so far; the file is whole or, on the first call, absent until then."""
    with atomic_path(str(path)) as temporary:
        pathlib.Path(temporary).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def ended():
    """Function that takes workers and returns them; they end with the block, also where it fails."""
    with contextlib.ExitStack() as stack:
        def keep(worker):
            stack.callback(_end, worker)
            return worker
        yield keep


def _end(worker):
    # A process that died has closed its input.
    with contextlib.suppress(BrokenPipeError):
        worker.end()
