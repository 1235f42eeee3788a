"""Every operation of the training step gives the same bits on repeated runs, in separate processes."""

import hashlib
import os
import subprocess
import sys

import pytest
from killing import SOURCE

# Steps of one network in a fresh process: losses, then a digest of all weights, moments and counters.
STEPS = """
import hashlib, sys
import mindspore as ms, numpy as np
from mindfcn import runtime
from mindfcn.config import OptimConfig
from mindfcn.engine.step import TrainStep
from mindfcn.engine.optimiser import optimiser
from mindfcn.losses import CrossEntropy
from mindfcn.models.factory import create_model
name, options = sys.argv[1], eval(sys.argv[2])
runtime.set_up("CPU", 1)
net = create_model(name, 5, **options)
step = TrainStep(net, optimiser(net, OptimConfig(lr=0.05, paper_biases=True), 10)[0],
                 CrossEntropy(255, keep=0.75, seed=1, class_weights=[1.0, 2.0, 0.5, 1.0, 3.0]))
runtime.graph_mode()
step.set_train()
random = np.random.default_rng(1)
for _ in range(3):
    images = random.standard_normal((2, 3, 64, 64), np.float32)
    labels = random.integers(0, 5, (2, 64, 64), np.int32)
    labels[:, :3] = 255
    print(float(step(ms.Tensor(images), ms.Tensor(labels)).asnumpy()).hex())
for parameter in [*net.get_parameters(), *step.state().values()]:
    value = parameter.asnumpy()
    assert np.isfinite(value).all(), parameter.name
    print(parameter.name, hashlib.blake2b(value.tobytes(), digest_size=12).hexdigest())
"""


def outcome(name, options):
    """A fresh process's output for three steps."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([SOURCE, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", STEPS, name, repr(options)], capture_output=True, text=True,
                          env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


# Quick tests of the same with one network: tests/commands/test_train.py, runs that were interrupted.
# Winograd's algorithm is used for convolutions of this many channels on maps of 32 tiles and more.
@pytest.mark.long
@pytest.mark.parametrize("name, options", [
    ("fcn8s_vgg16", {"width": 0.125, "fc_width": 16}), ("fcn8s_vgg16_bn", {"width": 0.5, "fc_width": 32}),
    ("fcn8s_vgg16", {"width": 1.0, "fc_width": 64}), ("fcn32s_googlenet", {"width": 0.25}),
    ("fcn32s_alexnet", {"width": 0.25, "fc_width": 32})])
def test_two_processes(name, options):
    one, other = outcome(name, options), outcome(name, options)
    assert len(one) > 20 and one == other
    # Losses of different batches differ, so the comparison is not of constants.
    assert len(set(one[:3])) == 3
    assert hashlib.blake2b(b"").hexdigest() not in one
