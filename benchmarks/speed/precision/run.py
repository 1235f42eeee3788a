"""Training and inference in float32, float16 and bfloat16 on CPU, MindFCN and PyTorch.

    python benchmarks/speed/precision/run.py [--runs 5] [--size 256] [--keep]

fcn8s_vgg16_bn at a quarter of its width and at full width, from the same weights; float32 logits must agree to 1e-3
before timing. Needs no data, PyTorch's environment (created on the first run), and 12 GB of memory.
"""

import os
import pathlib
import statistics
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import rivals

HERE = pathlib.Path(__file__).resolve().parent
NETWORKS = (("width 0.25, batch 4", 0.25, 128, 4), ("full width, batch 1", 1.0, 4096, 1))
# The first is the reference of the others and writes the weights.
WORKERS = (("MindFCN float32", "mindfcn"), ("MindFCN plain", "mindfcn"), ("MindFCN float16", "mindfcn"),
           ("MindFCN bfloat16", "mindfcn"), ("PyTorch float32", "pytorch"), ("PyTorch bfloat16", "pytorch"))


def start(folder, *settings):
    """Start the workers: (workers that support their precision, {name: reason} of the others)."""
    workers, missing = [], {}
    for name, library in WORKERS:
        python = sys.executable if library == "mindfcn" else rivals.python_of("torch")
        worker = rivals.Worker(name, python, HERE / f"worker_{library}.py", folder, name.split()[1], *settings)
        answer = worker.ask("check")
        if answer == "yes":
            workers.append(worker)
        else:
            missing[name] = answer.removeprefix("no: ")
            worker.end()
    return workers, missing


def differences(folder):
    """{name: largest difference from MindFCN's float32 logits, as a fraction of the largest logit}."""
    exact = np.load(os.path.join(folder, "mindfcn-float32.npy"))
    paths = {name: os.path.join(folder, f"{library}-{name.split()[1]}.npy") for name, library in WORKERS}
    return {name: np.abs(np.load(path) - exact).max() / np.abs(exact).max()
            for name, path in paths.items() if os.path.exists(path)}


def measure(label, width, fc_width, count, size, runs):
    """(rows, notes) of one network."""
    with tempfile.TemporaryDirectory() as folder:
        workers, missing = start(folder, width, fc_width, size, count)
        errors = differences(folder)
        if errors["PyTorch float32"] > 1e-3:
            sys.exit(f"the networks differ by {errors['PyTorch float32']:.1e} of the largest logit; nothing was timed")
        seconds = {command: rivals.take_turns(workers, runs, 2, command) for command in ("infer", "train")}
        rows = []
        for worker in workers:
            times = [seconds[command][worker.name] for command in ("train", "infer")]
            exact = [seconds[command][worker.name.split()[0] + " float32"] for command in ("train", "infer")]
            ratios = [statistics.median(own) / statistics.median(other) for own, other in zip(times, exact)]
            rows.append((f"{label}: {worker.name}", rivals.median(times[0]), f"{ratios[0]:.2f}",
                         rivals.median(times[1]), f"{ratios[1]:.2f}", f"{float(worker.ask('peak')):.2f}",
                         f"{errors[worker.name]:.1e}"))
            worker.end()
    return rows, [f"{label}: {name} is skipped. MindSpore's error: {why}" for name, why in missing.items()]


def main():
    """Print the table."""
    parser = rivals.parser(__doc__)
    parser.add_argument("--size", type=int, default=256, help="side of the square images, pixels")
    options = parser.parse_args()
    os.environ.setdefault("GLOG_v", "4")
    rows, notes = [], []
    for network in NETWORKS:
        new_rows, new_notes = measure(*network, options.size, options.runs)
        rows, notes = rows + new_rows, notes + new_notes
    notes.append("MindFCN plain: float32 with MindSpore's own 3x3 convolutions, as float16 uses.")
    rivals.show("precision", ("fcn8s_vgg16_bn", "s/step", "of float32", "s/inference", "of float32", "peak GB",
                              "logits' error"), rows, notes, options.keep)


if __name__ == "__main__":
    main()
