"""The device of a MindSpore worker: how it is set up, waited for, and how much of its memory was used."""

import json
import os

import mindfcn  # noqa: F401  (before MindSpore, for which it loads CUDA's libraries)

# isort: split
import mindspore as ms
from serve import held

from mindfcn import runtime

# What has no environment variable of MindSpore's: arguments of ms.set_context, as JSON; and launch_blocking, if set.
CONTEXT, BLOCKING = "BENCH_CONTEXT", "BENCH_LAUNCH_BLOCKING"


def set_up(device):
    """Choose the device as every command does, with the settings of the two variables."""
    runtime.set_up(device)
    ms.set_context(**json.loads(os.environ.get(CONTEXT, "{}")))
    if os.environ.get(BLOCKING):
        ms.runtime.launch_blocking()


def on_device(array):
    """A tensor that is on the device already, so that no step copies it there."""
    tensor = ms.Tensor(array)
    return tensor if ms.get_context("device_target") == "CPU" else tensor * 1


def wait():
    """Wait until the device is idle; on CPU, results are there when they are read."""
    if ms.get_context("device_target") != "CPU":
        ms.runtime.synchronize()


def peak():
    """Most memory that tensors have taken on the device, GB; on CPU, that the process has held."""
    if ms.get_context("device_target") == "CPU":
        return held()
    return ms.runtime.max_memory_allocated() / 2 ** 30
