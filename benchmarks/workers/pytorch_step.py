"""The same network and step in PyTorch, for train_step.py."""

import os
import sys

import numpy as np
import torch
from serve import batch, serve
from torch import nn
from torch.nn import functional

folder, model, size, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(os.cpu_count())
normalise = model.endswith("_bn")


def block(inside, outside, kernels):
    """Convolution, (normalisation,) ReLU for each kernel."""
    layers = []
    for kernel in kernels:
        layers.append(nn.Conv2d(inside, outside, kernel, padding=kernel // 2, bias=not normalise))
        layers += [nn.BatchNorm2d(outside)] if normalise else []
        layers.append(nn.ReLU(inplace=True))
        inside = outside
    return nn.Sequential(*layers)


class Rival(nn.Module):
    """FCN-8s on VGG16 under MindFCN's names."""

    def __init__(self, classes=21):
        super().__init__()
        self.conv1, self.conv2 = block(3, 64, (3, 3)), block(64, 128, (3, 3))
        self.conv3, self.conv4 = block(128, 256, (3, 3, 3)), block(256, 512, (3, 3, 3))
        self.conv5, self.conv6, self.conv7 = block(512, 512, (3, 3, 3)), block(512, 4096, (7,)), block(4096, 4096, (1,))
        self.score_fr = nn.Conv2d(4096, classes, 1, bias=not normalise)
        self.score_pool4 = nn.Conv2d(512, classes, 1, bias=not normalise)
        self.score_pool3 = nn.Conv2d(256, classes, 1, bias=not normalise)
        self.upscore2 = nn.ConvTranspose2d(classes, classes, 4, 2, 1, bias=False)
        self.upscore_pool4 = nn.ConvTranspose2d(classes, classes, 4, 2, 1, bias=False)
        self.upscore8 = nn.ConvTranspose2d(classes, classes, 16, 8, 4, bias=False)

    def forward(self, x):
        """(N, 3, H, W) -> logits (N, classes, H, W)."""
        pooled = []
        for layers in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            x = functional.max_pool2d(layers(x), 2)
            pooled.append(x)
        drop = (lambda map: map) if normalise else (lambda map: functional.dropout(map, 0.5, self.training))
        scores = self.upscore2(self.score_fr(drop(self.conv7(drop(self.conv6(x))))))
        scores = self.upscore_pool4(scores + self.score_pool4(pooled[3]))
        return self.upscore8(scores + self.score_pool3(pooled[2]))


NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
net = Rival()
with np.load(os.path.join(folder, "weights.npz")) as weights:
    state = {".".join([*name.split(".")[:-1], NORM.get(name.split(".")[-1], name.split(".")[-1])]):
             torch.from_numpy(weights[name]) for name in weights.files if not name.endswith(".step")}
unfilled, unknown = net.load_state_dict(state, strict=False)
assert not unknown and all(name.endswith("num_batches_tracked") for name in unfilled), (unfilled, unknown)
images, labels = map(torch.from_numpy, batch(size, count))
labels = labels.long()
net.eval()
with torch.no_grad():
    np.save(os.path.join(folder, "pytorch.npy"), net(images).numpy())
net.train()
update = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)


def step():
    """Forward, backward, update."""
    update.zero_grad()
    loss = functional.cross_entropy(net(images), labels, ignore_index=255)
    loss.backward()
    update.step()
    return loss.item()


serve(step, f"PyTorch {torch.__version__}")
