"""Losses of training steps, or means of logits, to a file: started by race.py.

    worker_race.py SOURCE FROZEN DEVICE OUT.npy RECORDS STEPS SIDE WIDTH

SOURCE is where batches come from: `data`, MindSpore's pipeline; `do_copy`, the same with do_copy=True; `held`, tensors
of arrays that were all read before; `placed`, copied on the device and waited for; `all_placed`, so are the weights and
the optimiser's state; `one`, the same random batch at each step; `inference`, the absolute mean of a Segmenter's
logits. FROZEN is the last frozen block, or none.
"""

import itertools
import math
import sys

import mindfcn  # noqa: F401  (before MindSpore, for which it loads CUDA's libraries)

# isort: split
import mindspore as ms
import numpy as np
from mindspore_device import set_up, wait
from serve import batch

from mindfcn import runtime
from mindfcn.config import OptimConfig
from mindfcn.data.dataset import SegDataset
from mindfcn.engine.optimiser import freeze, optimiser
from mindfcn.engine.step import TrainStep
from mindfcn.inference.network import Segmenter
from mindfcn.models.factory import create_model
from mindfcn.models.precision import compute_in
from mindfcn.preprocess import COURSE

source, frozen, device, out, records = sys.argv[1:6]
steps, side, width = int(sys.argv[6]), int(sys.argv[7]), float(sys.argv[8])
BATCH = 2


def main():
    """Write the numbers."""
    set_up(device)
    net = network()
    compute_in(net, ms.float32, "float32_strict")
    if source == "inference":
        runtime.pynative_mode()
        segmenter = Segmenter(net, COURSE)
        numbers = [np.abs(segmenter.logits(images.asnumpy())).mean() for images, _ in batches()]
    else:
        step = train_step(net)
        numbers = [float(step(*pair).asnumpy()) for pair in batches()]
    np.save(out, np.float64(numbers))


def network():
    """The paper's FCN-8s with random weights and narrow fully connected layers, which play no part here."""
    net = create_model("fcn8s_vgg16", 21, width=width, fc_width=int(512 * width), dropout=0.0, skip_scales=[0.1, 0.02])
    random = np.random.default_rng(1)
    for parameter in net.get_parameters():
        if parameter.name.endswith("weight") and not parameter.name.startswith("upscore"):
            spread = 0.01 if parameter.name.startswith("score") else math.sqrt(2 / math.prod(parameter.shape[1:]))
            value = spread * random.standard_normal(parameter.shape)
            parameter.set_data(ms.Tensor(value.astype(np.float32)))
    return net


def train_step(net):
    """A TrainStep as the recipes with frozen layers have it."""
    runtime.graph_mode()
    rate = 1e-3 if source == "one" else 1e-12
    layers = freeze(net, "" if frozen == "none" else frozen)
    settings = OptimConfig(lr=rate, min_lr=rate, schedule="constant", paper_biases=True, head_lr=10)
    update, _ = optimiser(net, settings, 10 ** 5)
    step = TrainStep(net, update, frozen=layers)
    step.set_train()
    if source == "all_placed":
        runtime.pynative_mode()
        for parameter in step.get_parameters():
            parameter.set_data(parameter.value().copy())
        wait()
        runtime.graph_mode()
    return step


def batches():
    """The pairs of images and labels of all steps."""
    if source == "one":
        pair = [ms.Tensor(array) for array in batch(side, BATCH)]
        yield from itertools.repeat(pair, steps)
        return
    pairs = itertools.islice(from_records(), steps)
    if source == "held":
        pairs = [[tensor.asnumpy() for tensor in pair] for pair in pairs]
        pairs = ([ms.Tensor(array) for array in pair] for pair in pairs)
    for pair in pairs:
        if source.endswith("placed"):
            pair = [tensor * 1 for tensor in pair]
            wait()
        yield pair


def from_records():
    """Pairs of the records' crops without end, the same for the same seed."""
    for epoch in itertools.count():
        data = SegDataset(data_file=records, batch_size=BATCH, crop_size=side, seed=1, first_epoch=epoch)
        yield from data.get_dataset().create_tuple_iterator(num_epochs=1, do_copy=source == "do_copy")


main()
