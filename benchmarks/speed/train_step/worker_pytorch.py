"""The same network and step in PyTorch: worker_pytorch.py FOLDER MODEL SIZE COUNT VARIANT [DEVICE PRECISION WIDTH]

VARIANT is eager, channels-last, compiled, or cudnn.benchmark, or several of them joined by +.
"""

import os
import sys

import numpy as np
import torch
from pytorch_device import autocast, peak, scaler_of, set_up
from pytorch_net import loss_of, rival
from serve import batch, serve

folder, size, count, variant = sys.argv[1], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5].split("+")
name, precision = sys.argv[6:8] or ("CPU", "float32")
device, layout = set_up(name, precision, variant)
net = rival(os.path.join(folder, "weights.npz")).to(device, memory_format=layout)
images, labels = map(torch.from_numpy, batch(size, count))
images, labels = images.to(device, memory_format=layout), labels.long().to(device)
net.eval()
with torch.no_grad(), autocast(device, precision):
    np.save(os.path.join(folder, "pytorch.npy"), net(images).float().contiguous().cpu().numpy())
net.train()
update = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
forward = torch.compile(net) if "compiled" in variant else net
scaler = scaler_of(device, precision)


def step():
    """Forward, backward, update."""
    update.zero_grad()
    with autocast(device, precision):
        loss = loss_of(forward(images), labels)
    scaler.scale(loss).backward()
    scaler.step(update)
    scaler.update()
    return loss.item()


serve(step, f"PyTorch {torch.__version__}", peak=lambda: peak(device))
