"""MindFCN's training step, timed by run.py: worker_mindfcn.py FOLDER MODEL SIZE COUNT [DEVICE PRECISION WIDTH] [logits]

Writes its weights and logits for the rival. A separate process (last argument `logits`) computes the logits, because
MindSpore never returns memory to the system.
"""

import os
import subprocess
import sys

import mindfcn  # noqa: F401  (before MindSpore, for which it loads CUDA's libraries)

# isort: split
import mindspore as ms
import numpy as np
from mindspore import profiler
from mindspore_device import on_device, peak, set_up, wait
from rivals import narrow
from serve import batch, serve

from mindfcn import runtime
from mindfcn.config import OptimConfig
from mindfcn.engine.optimiser import loss_scaler, optimiser
from mindfcn.engine.step import TrainStep
from mindfcn.losses import AuxiliaryLoss, CrossEntropy
from mindfcn.models.factory import create_model
from mindfcn.models.precision import compute_in

folder, model, size, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
device, precision, width = [word for word in sys.argv[5:] if word != "logits"] or ("CPU", "float32", 1)
set_up(device)
net = create_model(model, 21, **narrow(width))
if model == "fcn8s_vgg16":
    # The paper's score layers start at zero, which would make all logits equal.
    for parameter in net.get_parameters():
        if parameter.name.startswith("score") and parameter.name.endswith("weight"):
            values = np.random.default_rng(2).standard_normal(parameter.shape) * 0.01
            parameter.set_data(ms.Tensor(values.astype(np.float32)))
images, labels = map(on_device, batch(size, count))
weights = os.path.join(folder, "weights.npz")
dtype, scaler = loss_scaler(OptimConfig(precision=precision), device)
if sys.argv[-1] == "logits":
    with np.load(weights) as file:
        for parameter in net.get_parameters():
            parameter.set_data(ms.Tensor(file[parameter.name]))
    runtime.pynative_mode()
    compute_in(net, dtype, precision)
    net.set_train(False)
    np.save(os.path.join(folder, "mindspore.npy"), net(images).astype(ms.float32).asnumpy())
    sys.exit()
np.savez(weights, **{p.name: p.asnumpy() for p in net.get_parameters()})
subprocess.run([sys.executable, __file__, *sys.argv[1:], "logits"], check=True)

runtime.graph_mode()
compute_in(net, dtype, precision)
update, _ = optimiser(net, OptimConfig(lr=1e-4, min_lr=1e-4, schedule="constant"), 1000)
auxiliary = getattr(net, "auxiliary_weight", 0)
train_step = TrainStep(net, update, AuxiliaryLoss(CrossEntropy(), auxiliary) if auxiliary else None, scaler)
train_step.set_train()


def step():
    """Forward, backward, update."""
    train_step(images, labels).asnumpy()
    wait()


def profiled():
    """Take one step and write the times of its operators to `folder`/profile."""
    writer = profiler.tensorboard_trace_handler(os.path.join(folder, "profile"))
    # The profiler prints to stdout, which is for the answers.
    answers, words = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(words, 1)
    with profiler.profile(activities=[profiler.ProfilerActivity.CPU], on_trace_ready=writer):
        step()
    os.dup2(answers, 1)


serve(step, f"MindSpore {ms.__version__}", profile=profiled, peak=peak)
