"""The processes that are compared: the workers of benchmarks/speed, on the chosen device."""

import sys

from modes import LAUNCHES
from rivals import Worker, python_of

# Variants of PyTorch, as its workers take them.
RIVALS = ("eager", "cudnn.benchmark", "cudnn.benchmark+channels-last")
PRECISIONS = ("float16", "float32", "float32_strict")
# Largest difference of two networks' logits, of the largest logit. TF32 rounds to 10 bits, float16 keeps 10.
TOLERANCE = {"float32_strict": 1e-3, "float32": 1e-2, "float16": 5e-2}


def mindfcn(folder, *settings, name="MindFCN", variables=None):
    """Start the MindFCN worker of a benchmark's folder."""
    return Worker(name, sys.executable, folder / "worker_mindfcn.py", *settings, variables=variables)


def pytorch(name, folder, *settings):
    """Start the PyTorch worker of a benchmark's folder; its launches never block."""
    return Worker(name, python_of("torch"), folder / "worker_pytorch.py", *settings, variables={LAUNCHES: None})


def shape_of(text):
    """(side, count) of "512x4"."""
    side, count = map(int, text.split("x"))
    return side, count
