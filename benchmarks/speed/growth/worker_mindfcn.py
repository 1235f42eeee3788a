"""Prepare, training input and evaluation over a folder of many images, timed by run.py."""

import os
import re
import sys
import time

from mindspore import nn

from mindfcn import runtime
from mindfcn.data.dataset import SegDataset
from mindfcn.data.records.mindrecord import write_records
from mindfcn.data.sources.voc import list_voc
from mindfcn.data.synthetic.shapes import SAMPLE
from mindfcn.evaluation import evaluate_network
from mindfcn.inference.network import Segmenter
from mindfcn.preprocess import COURSE

folder, count = sys.argv[1], int(sys.argv[2])
runtime.set_up("CPU")
segmenter = Segmenter(nn.Conv2d(3, len(SAMPLE), 1), COURSE)


def prepare(split):
    """List a split and write its records. Returns their number."""
    path = os.path.join(folder, f"{split}.mindrecord")
    return write_records(list_voc(folder, split), path, SAMPLE, overwrite=True).written


def train(split):
    """One epoch of training batches. Returns the number of crops."""
    dataset = SegDataset(data_file=os.path.join(folder, f"{split}.mindrecord"), batch_size=4, crop_size=64, seed=1)
    return sum(len(label) for _, label in dataset.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True))


def evaluate(split):
    """Evaluate the network on every image. Returns their number."""
    dataset = SegDataset(data_file=os.path.join(folder, f"{split}.mindrecord"), training=False)
    return len(evaluate_network(segmenter, dataset, SAMPLE).scores)


def measured(phase, split):
    """(images, seconds, peak memory in MiB) of one phase."""
    # Writing 5 resets the peak of the resident set.
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    start = time.perf_counter()
    images = phase(split)
    seconds = time.perf_counter() - start
    with open("/proc/self/status", encoding="ascii") as file:
        peak = int(re.search(r"VmHWM:\s*(\d+) kB", file.read())[1]) / 1024
    return images, seconds, peak


PHASES = {"prepare": prepare, "train": train, "evaluate": evaluate}
for warm_up in PHASES.values():
    warm_up("warm_up")
for command in map(str.strip, sys.stdin):
    answer = "yes"
    if command in PHASES:
        images, seconds, peak = measured(PHASES[command], "all")
        assert images == count, (command, images)
        answer = f"{seconds} {peak}"
    print(answer, flush=True)
