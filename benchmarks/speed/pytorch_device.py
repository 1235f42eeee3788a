"""The device and the precision of a PyTorch worker, as MindFCN's --device and --precision name them."""

import os
import sys

import torch
from serve import held

TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def set_up(name, precision, variant):
    """(torch.device, memory format). Ends the process if this PyTorch has no such device.

    Args:
        name: CPU or GPU.
        precision: float32_strict keeps convolutions from TF32; otherwise they use it, which is PyTorch's default.
        variant: words; `channels-last` and `cudnn.benchmark` are set here.
    """
    torch.set_num_threads(os.cpu_count())
    if name == "GPU" and not torch.cuda.is_available():
        sys.exit(f"PyTorch {torch.__version__} finds no GPU; install its CUDA build in the environment of the rival")
    torch.backends.cudnn.allow_tf32 = precision != "float32_strict"
    torch.backends.cudnn.benchmark = "cudnn.benchmark" in variant
    layout = torch.channels_last if "channels-last" in variant else torch.contiguous_format
    return torch.device("cuda" if name == "GPU" else "cpu"), layout


def autocast(device, precision):
    """Context in which layers compute in half precision if `precision` is one; normalisation and loss in float32."""
    return torch.autocast(device.type, TYPES.get(precision), enabled=precision in TYPES)


def scaler_of(device, precision):
    """The loss scaler; it changes nothing but in float16."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


def peak(device):
    """Most memory that tensors have taken on the device, GB; on CPU, that the process has held."""
    if device.type == "cpu":
        return held()
    return torch.cuda.max_memory_allocated(device) / 2 ** 30
