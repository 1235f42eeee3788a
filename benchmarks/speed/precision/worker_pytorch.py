"""PyTorch's counterpart of worker_mindfcn.py, with autocast, from the weights written by MindFCN's float32."""

import contextlib
import os
import sys

import torch
from answers import answer
from pytorch_net import rival
from serve import batch
from torch.nn import functional

folder, precision = sys.argv[1:3]
size, count = map(int, sys.argv[5:])
torch.set_num_threads(os.cpu_count())
net = rival(os.path.join(folder, "weights.npz"))
images, labels = map(torch.from_numpy, batch(size, count))
labels = labels.long()
update = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)


def autocast():
    """Context of the precision; normalisation and loss stay float32."""
    return contextlib.nullcontext() if precision == "float32" else torch.autocast("cpu", torch.bfloat16)


def train():
    """One eager step."""
    net.train()
    update.zero_grad()
    with autocast():
        logits = net(images)
    functional.cross_entropy(logits.float(), labels, ignore_index=255).backward()
    update.step()


def infer():
    """Logits."""
    net.eval()
    with torch.no_grad(), autocast():
        return net(images).float().numpy()


answer(train, infer, os.path.join(folder, f"pytorch-{precision}.npy"))
