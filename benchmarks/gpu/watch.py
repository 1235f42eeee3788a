"""What the check of the loss costs (benchmarks/speed/watch): a training step and a check, in turns, in float32."""

import subprocess
import sys

from contestants import shape_of
from records import attempt
from rivals import HERE, environment

HEADER = ("network", "images", "step, s", "check, s", "check / step")


def columns(options):
    """Columns of the table."""
    return list(HEADER)


def measure(options):
    """Yield a record for each network and size."""
    for model in options.models:
        for shape in options.sizes:
            size, count = shape_of(shape)
            yield attempt({"network": model, "images": f"{count} of {size}x{size}"}, run, model, size, count, options)


def run(model, size, count, options):
    """The row of the benchmark's table, by its header."""
    words = [sys.executable, HERE / "watch" / "run.py", "--models", model, "--size", size, "--batch", count, "--device",
             options.device, "--width", options.width, "--runs", options.runs]
    done = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, text=True, check=True, env=environment())
    header, _, row = ([cell.strip() for cell in line.strip("|").split("|")]
                      for line in done.stdout.splitlines() if line.startswith("|"))
    return dict(zip(header, row))
