"""What launches that block cost: the same training step in each mode, in turns with launches that do not block.

The first network, size and precision of the settings are measured, each mode in a process of its own.
"""

import statistics
import tempfile

from contestants import mindfcn, shape_of
from modes import MODES, PLAIN, variables
from records import attempt, ended, milliseconds
from rivals import take_turns
from step import FOLDER


def columns(options):
    """Columns of the table."""
    return ["mode", "ms", f"{PLAIN} ms", "ratio", "GB"]


def measure(options):
    """Yield a record for each mode."""
    model, precision, (size, count) = options.models[0], options.precisions[0], shape_of(options.sizes[0])
    record = {"network": model, "images": f"{count} of {size}x{size}", "precision": precision}
    for mode in options.modes or MODES:
        yield attempt({"mode": mode, **record}, compare, mode, (model, size, count, options.device, precision,
                                                                options.width), options)


def compare(mode, settings, options):
    """The rest of a record."""
    with tempfile.TemporaryDirectory() as folder, ended() as keep:
        plain, other = (keep(mindfcn(FOLDER, folder, *settings, name=name, variables=variables(each)))
                        for name, each in (("plain", PLAIN), ("other", mode)))
        seconds = take_turns((plain, other), options.runs, options.warm_up)
        medians = {name: statistics.median(taken) for name, taken in seconds.items()}
        return {"ms": milliseconds(seconds["other"]), f"{PLAIN} ms": milliseconds(seconds["plain"]),
                "ratio": medians["other"] / medians["plain"], "GB": float(other.ask("peak"))}
