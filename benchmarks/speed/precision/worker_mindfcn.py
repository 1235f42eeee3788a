"""MindFCN's training step and inference in one precision, timed by run.py.

    worker_mindfcn.py FOLDER PRECISION WIDTH FC_WIDTH SIZE BATCH

PRECISION "plain" is float32 with MindSpore's own 3x3 convolutions, as in float16; MindFCN's support float32 only.
"""

import os
import sys

import mindspore as ms
import numpy as np
from answers import answer
from serve import batch

from mindfcn import runtime
from mindfcn.config import OptimConfig
from mindfcn.engine.optimiser import optimiser
from mindfcn.engine.step import TrainStep
from mindfcn.models import layers
from mindfcn.models.factory import create_model
from mindfcn.models.precision import TYPES, compute_in

folder, precision = sys.argv[1:3]
width, fc_width, size, count = float(sys.argv[3]), *map(int, sys.argv[4:])
runtime.set_up("CPU")
if precision != "float32":
    layers.WINOGRAD_BACKWARD = 10 ** 9
net = create_model("fcn8s_vgg16_bn", 21, width=width, fc_width=fc_width)
weights = os.path.join(folder, "weights.npz")
if precision == "float32":
    np.savez(weights, **{parameter.name: parameter.asnumpy() for parameter in net.get_parameters()})
with np.load(weights) as values:
    for parameter in net.get_parameters():
        parameter.set_data(ms.Tensor(values[parameter.name]))
images, labels = map(ms.Tensor, batch(size, count))
update, _ = optimiser(net, OptimConfig(lr=1e-4, min_lr=1e-4, schedule="constant"), 1000)
compute_in(net, TYPES.get(precision, ms.float32))
step = TrainStep(net, update, scaler=ms.amp.DynamicLossScaler(2 ** 16, 2, 2000) if precision == "float16" else None)


def train():
    """One compiled step."""
    runtime.graph_mode()
    step.set_train()
    step(images, labels).asnumpy()


def infer():
    """Logits in PyNative mode, as predict and eval compute them."""
    runtime.pynative_mode()
    net.set_train(False)
    return net(images).astype(ms.float32).asnumpy()


answer(train, infer, os.path.join(folder, f"mindfcn-{precision}.npy"))
