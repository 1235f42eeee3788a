"""PyTorch's worker: the same network, weights, batches, optimiser and schedule.

    worker_pytorch.py train FOLDER MINUTES STEPS     from start.npz; saves weights to FOLDER/pytorch
    worker_pytorch.py evaluate FOLDER FILE           prints the mean IoU of those weights on the pairs in FOLDER/val
"""

import json
import os
import sys

import cv2
import numpy as np
import torch
from pytorch_net import rival
from step_log import StepLog, snapshot
from torch.nn import functional

from mindfcn.config import AugmentConfig
from mindfcn.data import transforms
from mindfcn.preprocess import Preprocess

HEADS = ("conv6", "conv7", "score", "upscore")


class Crops(torch.utils.data.Dataset):
    """Training crops by (epoch, record), with MindFCN's random numbers and its NumPy and OpenCV functions."""

    def __init__(self, folder, settings, ignore, preprocess):
        self.folder, self.ignore, self.preprocess = folder, ignore, preprocess
        self.seed, self.augment = settings["seed"], AugmentConfig(**settings["augment"])

    def __getitem__(self, key):
        image, mask = read_pair(self.folder, key[1])
        return transforms.augment(image, mask, np.random.RandomState([self.seed, *key]), self.augment, self.preprocess,
                                  self.ignore)


def read_pair(folder, number):
    """Photograph (H, W, 3) BGR and mask (H, W), uint8."""
    return (cv2.imread(os.path.join(folder, f"{number}.jpg")),
            cv2.imread(os.path.join(folder, f"{number}.png"), cv2.IMREAD_GRAYSCALE))


def batches(plan):
    """The (epoch, record) pairs of every training batch, in MindFCN's order."""
    settings, size = plan["settings"], plan["settings"]["augment"]["batch_size"]
    for epoch in range(settings["optim"]["epochs"]):
        order = np.random.default_rng([settings["seed"], epoch]).permutation(plan["images"]).tolist()
        for start in range(0, size * plan["steps_per_epoch"], size):
            yield [(epoch, record) for record in order[start:start + size]]


def freeze(net, last):
    """Disable gradients of the blocks up to `last`."""
    for block in range(1, int(last.removeprefix("conv") or 0) + 1):
        getattr(net, f"conv{block}").requires_grad_(False)


def optimiser(net, optim):
    """SGD in groups; each group's `factor` multiplies the scheduled learning rate."""
    groups = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            bias = optim["paper_biases"] and name.endswith("bias")
            factor = (optim["head_lr"] if name.startswith(HEADS) else 1) * (2 if bias else 1)
            groups.setdefault((factor, 0.0 if bias else optim["weight_decay"]), []).append(parameter)
    return torch.optim.SGD([{"params": members, "factor": factor, "weight_decay": decay}
                            for (factor, decay), members in groups.items()], lr=optim["lr"], momentum=optim["momentum"])


def rate(optim, step, steps):
    """The learning rate of a step (from 0)."""
    time = step / max(1, steps - 1)
    shape = {"polynomial": (1 - time) ** optim["power"], "cosine": (1 + np.cos(np.pi * time)) / 2, "constant": 1.0}
    return optim["min_lr"] + (optim["lr"] - optim["min_lr"]) * shape[optim["schedule"]]


def check_supported(settings):
    """Exit if a setting that is not implemented here differs from its default."""
    optim, model = settings["optim"], settings["model"]
    plain = (optim["accumulate"] == optim["keep_cells"] == 1 and optim["loss"] == "mean" and not optim["warmup_epochs"]
             and model["name"] == "fcn8s_vgg16" and model["padding"] == "same" and model["upsampling"] == "bilinear")
    if not plain:
        sys.exit("worker_pytorch.py: the recipe has settings that this worker does not implement")


def read_plan(folder):
    """(plan, Preprocess)."""
    with open(os.path.join(folder, "plan.json"), encoding="utf-8") as file:
        plan = json.load(file)
    check_supported(plan["settings"])
    return plan, Preprocess(**plan["preprocess"])


def network(plan, path):
    """The network with the weights of the file `path`."""
    model = plan["settings"]["model"]
    return rival(path, dropout=0.5 if model["dropout"] is None else model["dropout"],
                 skip_scales=model["skip_scales"] or (1, 1))


def train(folder, minutes, steps):
    """Train from start.npz."""
    plan, preprocess = read_plan(folder)
    settings, own = plan["settings"], os.path.join(folder, "pytorch")
    optim, per_epoch = settings["optim"], plan["steps_per_epoch"]
    torch.manual_seed(settings["seed"])
    net = network(plan, os.path.join(folder, "start.npz")).train()
    freeze(net, optim["freeze"])
    update = optimiser(net, optim)
    last = min(int(steps), optim["epochs"] * per_epoch)
    crops = Crops(os.path.join(folder, "train"), settings, plan["ignore"], preprocess)
    log = StepLog(own, minutes, last)
    log.begin()
    loader = torch.utils.data.DataLoader(crops, batch_sampler=list(batches(plan)),
                                         num_workers=settings["augment"]["workers"])
    for number, (images, labels) in enumerate(loader, 1):
        for group in update.param_groups:
            group["lr"] = group["factor"] * rate(optim, number - 1, optim["epochs"] * per_epoch)
        update.zero_grad()
        loss = functional.cross_entropy(net(images), labels.long(), ignore_index=plan["ignore"])
        loss.backward()
        update.step()
        over = log.add(number, loss.item())
        if over or number % plan["every"] == 0:
            save(net, snapshot(own, number, per_epoch, ".npz"))
            log.begin()
        if over:
            break


def save(net, path):
    """Write the weights to a temporary file and rename it, so that no incomplete file is left."""
    np.savez(path + ".new.npz", **{name: weight.numpy() for name, weight in net.state_dict().items()})
    os.replace(path + ".new.npz", path)


def evaluate(folder, path):
    """Print the mean IoU over FOLDER/val at native size."""
    plan, preprocess = read_plan(folder)
    net, classes = network(plan, path).eval(), plan["classes"]
    counts = np.zeros((classes, classes), np.int64)
    for number in range(plan["compared"]):
        image, mask = read_pair(os.path.join(folder, "val"), number)
        batch = torch.from_numpy(preprocess.normalise(image).transpose(2, 0, 1).copy())[None]
        with torch.no_grad():
            logits = net(batch)[0]
        found, counted = logits.argmax(0).numpy()[mask < classes], mask[mask < classes].astype(np.int64)
        counts += np.bincount(classes * counted + found, minlength=classes ** 2).reshape(classes, classes)
    union = counts.sum(0) + counts.sum(1) - counts.diagonal()
    print((counts.diagonal()[union > 0] / union[union > 0]).mean())


if __name__ == "__main__":
    {"train": train, "evaluate": evaluate}[sys.argv[1]](*sys.argv[2:])
