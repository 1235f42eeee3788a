"""What the workers of several benchmarks share: the batch, and answers to the benchmark's commands."""

import resource
import sys
import time

import numpy as np


def batch(size, count):
    """Images (count, 3, size, size) float32 and labels (count, size, size) int32 with some ignored pixels."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 21, (count, size, size), np.int32)
    labels[random.random(labels.shape) < 0.05] = 255
    return random.standard_normal((count, 3, size, size), np.float32), labels


def seconds(run):
    """Of a function without arguments."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def serve(step, version, **others):
    """Answer `step` with seconds, `peak` with GB of memory, `version` with a name; until the input ends.

    Args:
        step: function that is timed.
        version: name and version of the library.
        others: functions by the name of their command; they return the answer, or nothing for `yes`.
    """
    for command in map(str.strip, sys.stdin):
        answer = "yes"
        if command == "step":
            answer = seconds(step)
        elif command == "peak":
            answer = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 20
        elif command == "version":
            answer = version
        elif command in others:
            found = others[command]()
            answer = answer if found is None else found
        print(answer, flush=True)
