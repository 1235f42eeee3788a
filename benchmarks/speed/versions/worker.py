"""One network in one MindSpore: answers `step` and `infer` with seconds, `peak` with GB. Started by run.py.

    worker.py NETWORK SIZE IMAGES full|narrow
"""

import sys

import mindspore as ms
import numpy as np
from serve import batch, seconds, serve

import mindfcn
from mindfcn import runtime
from mindfcn.config import OptimConfig
from mindfcn.engine.optimiser import optimiser
from mindfcn.engine.step import TrainStep

name, size, count, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
runtime.set_up("CPU")
options = {} if width == "full" else {"width": 0.25, "fc_width": 128}
net = mindfcn.create_model(name, 21, **options)
step = TrainStep(net, optimiser(net, OptimConfig(lr=1e-4, min_lr=0.0), 1000)[0])
images, labels = map(ms.Tensor, batch(size, count))
photograph = np.random.default_rng(1).integers(0, 256, (size, size, 3), np.uint8)
segmenter = mindfcn.Segmenter(net, mindfcn.COURSE)


def train():
    """One training step."""
    runtime.graph_mode()
    if not step.training:
        step.set_train()
    step(images, labels).asnumpy()


def infer():
    """One photograph."""
    return seconds(lambda: segmenter(photograph))


serve(train, f"MindSpore {ms.__version__}", infer=infer)
