"""PyTorch's counterpart of worker_mindfcn.py: `recipe FOLDER` with the sample's files, or `full SIZE`."""

import glob
import os
import sys
import time

import cv2
import numpy as np
import torch
from pytorch_net import FCN8s
from serve import batch
from torch.nn import functional


class Crops(torch.utils.data.Dataset):
    """Random scale, crop of 128 and flip of the sample's photographs, as in configs/sample.yaml."""

    def __init__(self, folder):
        self.photographs = sorted(glob.glob(os.path.join(folder, "**", "*.jpg"), recursive=True))
        masks = glob.glob(os.path.join(folder, "**", "*.png"), recursive=True)
        self.masks = {os.path.basename(path)[:-4]: path for path in masks}

    def __len__(self):
        return len(self.photographs)

    def __getitem__(self, index):
        path = self.photographs[index]
        image, mask = cv2.imread(path), cv2.imread(self.masks[os.path.basename(path)[:-4]], cv2.IMREAD_GRAYSCALE)
        random = np.random.default_rng(index)
        scale = random.uniform(0.8, 1.5)
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        mask = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        below, right = (max(0, 128 - side) for side in mask.shape)
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT)
        mask = cv2.copyMakeBorder(mask, 0, below, 0, right, cv2.BORDER_CONSTANT, value=255)
        top, left = (random.integers(0, side - 127) for side in mask.shape)
        image, mask = (array[top:top + 128, left:left + 128] for array in (image, mask))
        image = (image.astype(np.float32) / 255 - 0.45) / 0.225
        return np.ascontiguousarray(image.transpose(2, 0, 1)), np.minimum(mask, 20).astype(np.int64)


torch.set_num_threads(os.cpu_count())
if sys.argv[1] == "recipe":
    net, batches = FCN8s(True, (16, 32, 64, 128), 128), torch.utils.data.DataLoader(Crops(sys.argv[2]), 4, shuffle=True)
else:
    images, labels = map(torch.from_numpy, batch(int(sys.argv[2]), 1))
    net, batches = FCN8s(True), [(images, labels.long())] * 3
update = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
for count, (images, labels) in enumerate(batches):
    if count == 3:
        break
    update.zero_grad()
    functional.cross_entropy(net(images), labels, ignore_index=255).backward()
    update.step()
    print(time.time(), flush=True)
