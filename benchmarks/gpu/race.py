"""Whether each step uses its own batch and weights: several processes at once, each loss compared with the CPU's.

Batches of drawn pictures at a learning rate of 1e-12, so that a loss depends on its batch alone; or one batch, trained.
In the cases without a mode in their name, launches do not block.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from modes import BLOCKING, MODES, PLAIN, variables
from records import attempt
from rivals import environment

HERE = pathlib.Path(__file__).resolve().parent
WORKER = HERE / "worker_race.py"
TOLERANCE = 1e-3
# Seconds after which a process that hangs is ended.
LIMIT = 1800
# Name: (where batches come from and what is computed, see worker_race.py; the last frozen block; mode).
CASES = {
    "data": ("data", "conv4", PLAIN),
    "data, do_copy": ("do_copy", "conv4", PLAIN),
    "data, held": ("held", "conv4", PLAIN),
    "data, placed": ("placed", "conv4", PLAIN),
    "data and weights placed": ("all_placed", "conv4", PLAIN),
    **{f"data, {mode}": ("data", "conv4", mode) for mode in MODES if mode != PLAIN},
    "one batch, frozen": ("one", "conv4", PLAIN),
    f"one batch, frozen, {BLOCKING}": ("one", "conv4", BLOCKING),
    "one batch": ("one", "", PLAIN),
    "inference": ("inference", "", PLAIN),
    f"inference, {BLOCKING}": ("inference", "", BLOCKING),
}


def columns(options):
    """Columns of the table."""
    return ["case", "processes", "right", "first wrong step", "largest difference"]


def measure(options):
    """Yield a record for each case."""
    with tempfile.TemporaryDirectory() as name:
        folder, expected = pathlib.Path(name), {}
        records = prepare(folder)
        for case in options.cases or CASES:
            source, frozen, mode = CASES[case]
            # All sources of data give the same batches.
            kind = (source if source in ("one", "inference") else "data", frozen)

            def run(kind=kind, source=source, frozen=frozen, mode=mode):
                if kind not in expected:
                    expected[kind], = losses(folder, 1, "CPU", kind[0], frozen, BLOCKING, records, options)
                found = losses(folder, options.processes, options.device, source, frozen, mode, records, options)
                return verdict(found, expected[kind])

            yield attempt({"case": case, "processes": options.processes}, run)


def prepare(folder):
    """Draw the sample pictures and write their records. Returns the path of the training records."""
    subprocess.run([sys.executable, "-m", "mindfcn", "prepare", "--source", "sample", "--root", folder / "drawn",
                    "--records", folder / "records", "--samples", "40"], check=True, stdout=subprocess.DEVNULL)
    return folder / "records" / "train.mindrecord"


def losses(folder, processes, device, source, frozen, mode, records, options):
    """[(steps,) float64] of each process; an empty array of one that failed. All run at once."""
    paths = [folder / f"{number}.npy" for number in range(processes)]
    for path in paths:
        path.unlink(missing_ok=True)
    running = [subprocess.Popen(
        [sys.executable, WORKER, source, frozen or "none", device, path, records, str(options.steps), str(options.side),
         str(options.width)], env=environment(**variables(mode))) for path in paths]
    for process in running:
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
    return [np.load(path) if path.exists() else np.empty(0) for path in paths]


def verdict(found, expected):
    """The rest of a record: processes whose losses are all right, and where the others were wrong first."""
    first, largest = [], 0.0
    for one in found:
        if len(one) != len(expected):
            first.append("failed")
            continue
        differences = np.abs(one - expected) / np.abs(expected)
        # NaN is wrong, too.
        wrong = np.flatnonzero(~(differences <= TOLERANCE))
        first.append(int(wrong[0]) + 1 if len(wrong) else None)
        largest = max(largest, float(np.nan_to_num(differences, nan=np.inf).max()))
    return {"right": first.count(None),
            "first wrong step": ", ".join("–" if step is None else str(step) for step in first),
            "largest difference": largest, "first losses": [one[:8].tolist() for one in found],
            "expected": expected[:8].tolist()}
