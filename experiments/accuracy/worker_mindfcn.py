"""MindFCN's part of accuracy.py: it begins a comparison, trains, and evaluates every contestant's weights.

    worker_mindfcn.py begin FOLDER RANDOM_SCORES IMAGES SETTING ...
        the first weights, the records, files for the rivals; weights are to be kept every IMAGES images
    worker_mindfcn.py train FOLDER MINUTES STEPS
        `mindfcn.commands.train` from those weights
    worker_mindfcn.py evaluate FOLDER
        each line of input: "all" or "few" (the pairs in FOLDER/val) and a file of weights; of output: mean IoU, seconds
"""

import dataclasses
import json
import os
import signal
import statistics
import sys
import time

import cv2
import mindspore as ms
import numpy as np
from step_log import StepLog

from mindfcn import ConfusionMatrix, SegDataset, load_segmenter, load_weights, runtime, save_checkpoint
from mindfcn.cli.main import parse
from mindfcn.commands.prepare import find_records
from mindfcn.commands.train import train
from mindfcn.engine.build import build, training_set
from mindfcn.evaluation import evaluate_network
from mindfcn.metrics import MEAN_IOU

# Validation images that PyTorch gets, to evaluate the same weights.
COMPARED = 5
# Steps of a resumed run that are compiled: the second one, too.
COMPILED_ANEW = 2


def begin(folder, random_scores, every, *words):
    """Write start.ckpt and start.npz (the same weights), the pairs as files, and plan.json."""
    config = parse(["train", *words])[1]
    runtime.set_up("CPU", config.seed)
    train_path, val_path, labels = find_records(config.data, None, print)
    net, card = build(config, labels, val_path, print)
    if int(random_scores):
        # Score layers that begin at zero would make every logit equal.
        for parameter in net.get_parameters():
            if parameter.name.startswith("score") and parameter.name.endswith("weight"):
                values = np.random.default_rng(2).standard_normal(parameter.shape) * 0.01
                parameter.set_data(ms.Tensor(values.astype(np.float32)))
    save_checkpoint(os.path.join(folder, "start.ckpt"), net, card)
    np.savez(os.path.join(folder, "start.npz"), **{parameter.name: parameter.asnumpy()
                                                   for parameter in net.get_parameters()})
    dataset = training_set(config, train_path, labels, card.preprocess)
    write_pairs(dataset, range(dataset.count), os.path.join(folder, "train"))
    write_pairs(SegDataset(data_file=val_path, training=False), range(COMPARED), os.path.join(folder, "val"))
    with open(os.path.join(folder, "plan.json"), "w", encoding="utf-8") as file:
        json.dump({"words": words, "settings": dataclasses.asdict(config), "train": train_path, "val": val_path,
                   "classes": len(labels), "ignore": labels.ignore_label, "images": dataset.count,
                   "validation": SegDataset(data_file=val_path, training=False).count,
                   "preprocess": dataclasses.asdict(card.preprocess), "steps_per_epoch": dataset.steps_per_epoch,
                   "every": max(1, int(every) // config.augment.batch_size), "compared": COMPARED}, file, indent=1)


def write_pairs(dataset, records, folder):
    """Write NUMBER.jpg, as the record has it, and the mask NUMBER.png."""
    os.makedirs(folder, exist_ok=True)
    for record, (_, image, mask) in zip(records, dataset.samples(records)):
        with open(os.path.join(folder, f"{record}.jpg"), "wb") as file:
            file.write(image)
        cv2.imwrite(os.path.join(folder, f"{record}.png"), mask)


def settings(folder):
    """(TrainConfig, plan) of the comparison in `folder`."""
    with open(os.path.join(folder, "plan.json"), encoding="utf-8") as file:
        plan = json.load(file)
    return parse(["train", *plan["words"]])[1], plan


def train_here(folder, minutes, steps):
    """Train as a user does, who stops and resumes: a checkpoint in FOLDER/mindfcn/checkpoints at each stop.

    The clock stands still from a stop to the first batch after it; see Show for the steps that are compiled again.
    """
    config, plan = settings(folder)
    own = os.path.join(folder, "mindfcn")
    model = dataclasses.replace(config.model, pretrained=os.path.join(folder, "start.ckpt"))
    config = dataclasses.replace(config, model=model, run_dir=own, overwrite=True, eval_every=0, keep=10000)
    show = Show(own, minutes, min(int(steps), config.optim.epochs * plan["steps_per_epoch"]), plan["every"])
    train(config, show=show, say=print)
    config = dataclasses.replace(config, resume=True, overwrite=False)
    while not show.over:
        train(config, show=show)


class Show(StepLog):
    """What `train` tells of its steps; it stops the run every so many.

    Steps that a resumed run compiles anew count as the median of the others: a user who does not stop compiles once.
    """

    def __init__(self, folder, minutes, steps, every):
        super().__init__(folder, minutes, steps)
        self.every = every
        self.taken = []

    def begin(self, *_):
        """The first step is near."""
        super().begin()
        self.compiled_anew = COMPILED_ANEW if self.taken else 0

    def __call__(self, step, _epoch, loss, _rate, _speed):
        before, anew = self.seconds, self.compiled_anew > 0
        if anew:
            self.compiled_anew -= 1
            self.started = time.perf_counter() - before - statistics.median_low(self.taken)
        over = self.add(step, loss)
        self.taken += [] if anew else [self.seconds - before]
        if over or step % self.every == 0:
            # The run saves and stops; after its last step it leaves out its own evaluation, too.
            os.kill(os.getpid(), signal.SIGTERM)


def evaluate(folder):
    """Answer lines until the input ends."""
    config, plan = settings(folder)
    runtime.set_up("CPU", config.seed)
    for line in map(str.strip, sys.stdin):
        answer = "yes"
        if line != "ready?":
            which, path = line.split(maxsplit=1)
            started = time.perf_counter()
            score = {"all": on_all, "few": on_few}[which](segmenter_of(path, folder), folder, plan)
            answer = f"{score} {time.perf_counter() - started}"
        print(answer, flush=True)


def segmenter_of(path, folder):
    """MindFCN's and the course's checkpoints, or PyTorch's weights under MindFCN's names."""
    if path.endswith(".ckpt"):
        return load_segmenter(path, "fcn8s_vgg16_bn")[0]
    segmenter = load_segmenter(os.path.join(folder, "start.ckpt"))[0]
    load_weights(segmenter.net, path)
    return segmenter


def on_all(segmenter, _folder, plan):
    """Mean IoU over the validation split at native size, as `mindfcn eval` has it."""
    dataset = SegDataset(data_file=plan["val"], training=False, preprocess=segmenter.preprocess)
    return evaluate_network(segmenter, dataset, plan["classes"]).metrics[MEAN_IOU]


def on_few(segmenter, folder, plan):
    """Mean IoU over the pairs in FOLDER/val."""
    matrix = ConfusionMatrix(plan["classes"])
    for number in range(plan["compared"]):
        photograph, mask = (os.path.join(folder, "val", f"{number}{suffix}") for suffix in (".jpg", ".png"))
        matrix.update(segmenter(cv2.imread(photograph))[0], cv2.imread(mask, cv2.IMREAD_GRAYSCALE))
    return matrix.mean_iou()


if __name__ == "__main__":
    {"begin": begin, "train": train_here, "evaluate": evaluate}[sys.argv[1]](*sys.argv[2:])
