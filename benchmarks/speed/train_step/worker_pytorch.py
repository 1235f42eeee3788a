"""The same network and step in PyTorch, timed by run.py: eager, with channels last, or compiled."""

import os
import sys

import numpy as np
import torch
from pytorch_net import loss_of, rival
from serve import batch, serve

folder, size, count, variant = sys.argv[1], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
torch.set_num_threads(os.cpu_count())
net = rival(os.path.join(folder, "weights.npz"))
images, labels = map(torch.from_numpy, batch(size, count))
labels = labels.long()
if variant == "channels-last":
    net, images = net.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
net.eval()
with torch.no_grad():
    np.save(os.path.join(folder, "pytorch.npy"), net(images).contiguous().numpy())
net.train()
update = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
forward = torch.compile(net) if variant == "compiled" else net


def step():
    """Forward, backward, update."""
    update.zero_grad()
    loss = loss_of(forward(images), labels)
    loss.backward()
    update.step()
    return loss.item()


serve(step, f"PyTorch {torch.__version__}")
