"""MindFCN's worker: prepares the comparison, trains, and evaluates the weights of every contestant.

    worker_mindfcn.py begin FOLDER RANDOM_SCORES IMAGES SETTING ...
        writes initial weights, records and files for the rivals; weights will be saved every IMAGES images
    worker_mindfcn.py train FOLDER MINUTES STEPS
        `mindfcn.commands.train` from those weights
    worker_mindfcn.py evaluate FOLDER
        input lines: "all" or "few" (the pairs in FOLDER/val) and a weight file; output lines: mean IoU and seconds
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

from mindfcn import ConfusionMatrix, LabelSet, SegDataset, load_segmenter, load_weights, runtime, save_checkpoint
from mindfcn.cli.parser import parse
from mindfcn.commands.prepare import find_records
from mindfcn.commands.train import train
from mindfcn.console import Console
from mindfcn.engine.build import build, training_set
from mindfcn.evaluation import evaluate_network
from mindfcn.metrics import MEAN_IOU

# Number of validation images on which PyTorch evaluates the same weights.
COMPARED = 5
# Steps of a resumed run that compile: the first two.
RECOMPILED_STEPS = 2


def begin(folder, random_scores, every, *words):
    """Write start.ckpt and start.npz (the same weights), the pairs as files, and plan.json."""
    config = parse(["train", *words])[1]
    runtime.set_up("CPU", config.seed)
    records = find_records(config.data, Console(print))
    train_path, val_path, labels = records.train, records.val, records.labels
    net, card, _ = build(config, labels, val_path, Console(print))
    if int(random_scores):
        # Score layers that start at zero would make all logits equal.
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
                   "classes": len(labels), "labels": labels.to_dict(), "ignore": labels.ignore_label,
                   "images": dataset.count,
                   "validation": SegDataset(data_file=val_path, training=False).count,
                   "preprocess": dataclasses.asdict(card.preprocess), "steps_per_epoch": dataset.steps_per_epoch,
                   "every": max(1, int(every) // config.augment.batch_size), "compared": COMPARED}, file, indent=1)


def write_pairs(dataset, records, folder):
    """Write the encoded image of each record as NUMBER.jpg and its mask as NUMBER.png."""
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
    """Train with stops and resumed runs, which leave a checkpoint in FOLDER/mindfcn/checkpoints at each stop.

    The clock pauses from a stop to the next batch; see TimedStops for the steps that compile again.
    """
    config, plan = settings(folder)
    own = os.path.join(folder, "mindfcn")
    model = dataclasses.replace(config.model, pretrained=os.path.join(folder, "start.ckpt"))
    config = dataclasses.replace(config, model=model, run_dir=own, overwrite=True, eval_every=0, keep=10000)
    show = TimedStops(own, minutes, min(int(steps), config.optim.epochs * plan["steps_per_epoch"]), plan["every"])
    train(config, show)
    config = dataclasses.replace(config, resume=True, overwrite=False)
    while not show.over:
        train(config, show)


class TimedStops(StepLog, Console):
    """Progress callback of `train` that records the steps and stops the run every `every` steps.

    Steps that compile again after a resume count as the median of the others: a run without stops compiles once.
    """

    def __init__(self, folder, minutes, steps, every):
        StepLog.__init__(self, folder, minutes, steps)
        Console.__init__(self, print)
        self.every = every
        self.taken = []

    def begin_training(self, *_):
        """Called before the first step of a run."""
        self.begin()
        self.to_recompile = RECOMPILED_STEPS if self.taken else 0

    def step(self, step, _epoch, loss, _rate, _speed):
        before, recompiled = self.seconds, self.to_recompile > 0
        if recompiled:
            self.to_recompile -= 1
            self.started = time.perf_counter() - before - statistics.median_low(self.taken)
        over = self.add(step, loss)
        self.taken += [] if recompiled else [self.seconds - before]
        if over or step % self.every == 0:
            # SIGTERM makes the run save and stop, without its final evaluation.
            os.kill(os.getpid(), signal.SIGTERM)


def evaluate(folder):
    """Answer input lines until the input ends."""
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
    """Segmenter of a checkpoint (MindFCN, course) or of PyTorch's weights with MindFCN's names."""
    if path.endswith(".ckpt"):
        return load_segmenter(path, "fcn8s_vgg16_bn")[0]
    segmenter = load_segmenter(os.path.join(folder, "start.ckpt"))[0]
    load_weights(segmenter.net, path)
    return segmenter


def on_all(segmenter, _folder, plan):
    """Mean IoU over the validation split at native size, as in `mindfcn eval`."""
    dataset = SegDataset(data_file=plan["val"], training=False, preprocess=segmenter.preprocess)
    labels = LabelSet.from_dict(plan["labels"], "plan.json")
    return evaluate_network(segmenter, dataset, labels).metrics[MEAN_IOU]


def on_few(segmenter, folder, plan):
    """Mean IoU over the pairs in FOLDER/val."""
    matrix = ConfusionMatrix(plan["classes"])
    for number in range(plan["compared"]):
        photograph, mask = (os.path.join(folder, "val", f"{number}{suffix}") for suffix in (".jpg", ".png"))
        matrix.update(segmenter(cv2.imread(photograph))[0], cv2.imread(mask, cv2.IMREAD_GRAYSCALE))
    return matrix.mean_iou()


if __name__ == "__main__":
    {"begin": begin, "train": train_here, "evaluate": evaluate}[sys.argv[1]](*sys.argv[2:])
