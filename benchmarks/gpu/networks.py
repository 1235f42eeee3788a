"""Every network with the same numbers on the device and on the CPU: logits, loss and gradients.

Differences are shares of the largest number of a tensor; the gradient is the one that differs most.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from records import attempt
from rivals import environment

WORKER = pathlib.Path(__file__).resolve().parent / "worker_networks.py"


def columns(options):
    """Columns of the table."""
    return ["network", "precision", "logits", "pixels of the same class, %", "loss on CPU", "loss", "gradient", "of"]


def measure(options):
    """Yield a record for each network and float32 with and without TF32."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        compute(folder / "CPU", "CPU", "float32_strict", options)
        for precision in ("float32_strict", "float32")[:1 if options.device == "CPU" else 2]:
            compute(folder / precision, options.device, precision, options)
            for path in sorted((folder / "CPU").iterdir()):
                yield attempt({"network": path.stem, "precision": precision}, compare, path,
                              folder / precision / path.name)


def compute(folder, device, precision, options):
    """Let workers write FOLDER/NETWORK.npz of each network; one that fails leaves an empty file.

    A failure may leave the device unusable for its process, so the networks after it are computed in another one.
    """
    folder.mkdir()
    words, before = [sys.executable, WORKER, device, precision, folder, *options.networks], -1
    while subprocess.run(words, check=False, env=environment()).returncode:
        files = len(list(folder.iterdir()))
        if files == before:
            break
        before = files


def compare(path, other):
    """The rest of a record."""
    one, two = read(path), read(other)
    gradients = {name.removeprefix("gradient "): differing(two[name], one[name])
                 for name in one if name.startswith("gradient ")}
    worst = max(gradients, key=gradients.__getitem__)
    same = (one["logits"].argmax(1) == two["logits"].argmax(1)).mean()
    return {"logits": differing(two["logits"], one["logits"]),
            "pixels of the same class, %": round(100 * float(same), 3),
            "loss on CPU": round(float(one["loss"]), 6), "loss": round(float(two["loss"]), 6),
            "gradient": gradients[worst], "of": worst, "gradients": gradients}


def read(path):
    """{name: array} of a worker's file. Raises RuntimeError if the network failed or was not reached."""
    if not path.exists() or not path.stat().st_size:
        raise RuntimeError(f"not computed on {path.parent.name}; its error message is above")
    with np.load(path) as file:
        return dict(file)


def differing(found, expected):
    """Largest difference as a share of the largest number."""
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
