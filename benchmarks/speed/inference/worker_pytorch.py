"""FCN-8s in PyTorch, timed by run.py: worker_pytorch.py FOLDER MODEL VARIANT [DEVICE PRECISION WIDTH]

VARIANT is eager, channels-last, compile, or cudnn.benchmark, or several of them joined by +.
"""

import os
import sys

import torch
from answers import serve
from pytorch_device import autocast, peak, set_up
from pytorch_net import rival

folder, variant = sys.argv[1], sys.argv[3].split("+")
name, precision = sys.argv[4:6] or ("CPU", "float32")
device, layout = set_up(name, precision, variant)
net = rival(os.path.join(folder, "weights.npz")).eval().to(device, memory_format=layout)
run = torch.compile(net, dynamic=True) if "compile" in variant else net


def on_device(batch):
    """(N, 3, H, W) NumPy float32 -> logits (N, C, H, W), a tensor on the device."""
    with autocast(device, precision):
        return run(torch.from_numpy(batch).to(device, memory_format=layout))


def logits(batch):
    """(N, 3, H, W) -> (N, C, H, W), both NumPy float32."""
    with torch.inference_mode():
        return on_device(batch).float().cpu().numpy()


def masks(batch):
    """(N, 3, H, W) float32 -> classes (N, H, W) uint8, both NumPy; only the classes are copied from the device."""
    with torch.inference_mode():
        return on_device(batch).argmax(1).byte().cpu().numpy()


serve(folder, logits, f"PyTorch {torch.__version__}", masks, lambda: peak(device))
