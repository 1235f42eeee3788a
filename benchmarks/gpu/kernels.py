"""Where a training step's time goes on the card, by kernel, from NVIDIA's Nsight Systems (nsys).

The first network, size and precision of the settings. The sums include the first step and the pass whose logits are
compared elsewhere; the milliseconds are divided by the number of steps.
"""

import csv
import shutil
import subprocess
import sys
import tempfile

from contestants import shape_of
from rivals import environment
from step import FOLDER

STEPS, SHOWN = 20, 25


def columns(options):
    """Columns of the table."""
    return ["kernel", "ms a step", "launches a step", "% of all"]


def measure(options):
    """Yield a record for each of the kernels that take most time, or a line that nsys is missing."""
    if not shutil.which("nsys"):
        yield {"kernel": "nsys is missing: install Nsight Systems, which comes with the CUDA toolkit"}
        return
    size, count = shape_of(options.sizes[0])
    with tempfile.TemporaryDirectory() as folder:
        worker = [sys.executable, FOLDER / "worker_mindfcn.py", folder, options.models[0], size, count, options.device,
                  options.precisions[0], options.width]
        profile = ["nsys", "profile", "--trace=cuda", "--sample=none", "--force-overwrite=true", "--output",
                   f"{folder}/step", *map(str, worker)]
        subprocess.run(profile, input="step\n" * STEPS, text=True, check=True, env=environment(),
                       stdout=subprocess.DEVNULL)
        found = subprocess.run(["nsys", "stats", "--report", "cuda_gpu_kern_sum", "--format", "csv", "--output", "-",
                                f"{folder}/step.nsys-rep"], capture_output=True, text=True, check=True).stdout
    yield from kernels(found, STEPS)


def kernels(text, steps):
    """Records of the kernels that take most time, from the CSV that nsys prints, some lines of text before it."""
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("Time (%)"))
    rows = list(csv.DictReader(lines[first:]))
    total = sum(float(row["Total Time (ns)"]) for row in rows)
    for row in sorted(rows, key=lambda row: -float(row["Total Time (ns)"]))[:SHOWN]:
        time = float(row["Total Time (ns)"])
        yield {"kernel": row["Name"][:80], "ms a step": time / 1e6 / steps,
               "launches a step": int(row["Instances"]) / steps, "% of all": 100 * time / total}
