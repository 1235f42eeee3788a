"""FCN-8s in PyTorch, timed by run.py: `eager`, `channels-last` or `compile`."""

import os
import sys

import torch
from answers import serve
from pytorch_net import rival

folder, way = sys.argv[1], sys.argv[3]
torch.set_num_threads(os.cpu_count())
net = rival(os.path.join(folder, "weights.npz")).eval()
layout = torch.channels_last if way == "channels-last" else torch.contiguous_format
net = net.to(memory_format=layout)
run = torch.compile(net, dynamic=True) if way == "compile" else net


def logits(batch):
    """(N, 3, H, W) -> (N, C, H, W), both NumPy float32."""
    with torch.inference_mode():
        return run(torch.from_numpy(batch).to(memory_format=layout)).numpy()


serve(folder, logits, f"PyTorch {torch.__version__}")
