"""Shared by the workers of several benchmarks: a random batch, and the loop that answers commands."""

import re
import sys
import time

import numpy as np


def batch(size, count):
    """Random images (count, 3, size, size) float32, labels (count, size, size) int32, 5 % of them ignored (255)."""
    random = np.random.default_rng(1)
    labels = random.integers(0, 21, (count, size, size), np.int32)
    labels[random.random(labels.shape) < 0.05] = 255
    return random.standard_normal((count, 3, size, size), np.float32), labels


def seconds(run):
    """Seconds that one call of `run` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def held():
    """Most memory that this process has held, GB. `ru_maxrss` would count what its parent held when it started it."""
    with open("/proc/self/status", encoding="ascii") as file:
        return int(re.search(r"VmHWM:\s+(\d+) kB", file.read()).group(1)) / 2 ** 20


def serve(step, version, **others):
    """Answer commands until the input ends: `step` with seconds, `peak` with GB of memory, `version` with a name.

    Args:
        step: function to time.
        version: name and version of the library.
        others: further commands, or others in place of these, by name; a function that returns None is answered with
            `yes`.
    """
    for command in map(str.strip, sys.stdin):
        answer = "yes"
        if command in others:
            found = others[command]()
            answer = answer if found is None else found
        elif command == "step":
            answer = seconds(step)
        elif command == "peak":
            answer = held()
        elif command == "version":
            answer = version
        print(answer, flush=True)
