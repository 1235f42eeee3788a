"""Logits, loss and gradients of networks with the same random numbers, a file for each: started by networks.py.

    worker_networks.py DEVICE PRECISION FOLDER [NETWORK ...]

NETWORK is a name of `mindfcn.models.factory`, or NAME:MODALITY; without any, all of them and two of other inputs. The
process ends at a network that fails; started again, it goes on after it.
"""

import math
import pathlib
import sys
import time

import mindfcn  # noqa: F401  (before MindSpore, for which it loads CUDA's libraries)

# isort: split
import mindspore as ms
import numpy as np

from mindfcn import runtime
from mindfcn.losses import CrossEntropy
from mindfcn.models.factory import MODELS, create_model
from mindfcn.models.precision import compute_in

device, precision, folder, *names = sys.argv[1:]
CLASSES, HEIGHT, WIDTH = 5, 150, 131
CHANNELS = {"rgb": 3, "rgbd": 4, "rgb_hha": 6}


def main():
    """Write FOLDER/NETWORK.npz of each network that has none; it is empty while the network computes."""
    runtime.set_up(device)
    for name in names or [*MODELS, "fcn8s_vgg16:rgbd", "fcn8s_vgg16:rgb_hha"]:
        path, started = pathlib.Path(folder) / f"{name}.npz", time.perf_counter()
        if path.exists():
            continue
        path.touch()
        np.savez(path, **results(*name.split(":")))
        print(f"{name} on {device}, {precision}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


def results(name, modality="rgb"):
    """{logits, loss, gradient NAME of each weight: array}."""
    narrow = {} if name.startswith("fcn_r") else {"fc_width": 64}
    narrow = {} if "googlenet" in name else narrow
    net = filled(create_model(name, CLASSES, width=0.25, modality=modality, **narrow))
    compute_in(net, ms.float32, precision)
    # DeconvNet takes squares of its own size.
    height, width = [net.side] * 2 if hasattr(net, "side") else (HEIGHT, WIDTH)
    random = np.random.default_rng(2)
    images = ms.Tensor(random.standard_normal((2, CHANNELS[modality], height, width)).astype(np.float32))
    labels = ms.Tensor(random.integers(0, CLASSES, (2, height, width)).astype(np.int32))
    weights = ms.ParameterTuple(net.trainable_params())
    runtime.graph_mode()
    loss = CrossEntropy()

    def forward(images, labels):
        return loss(net(images), labels)

    value, gradients = ms.value_and_grad(forward, None, weights)(images, labels)
    found = {f"gradient {weight.name}": gradient.asnumpy() for weight, gradient in zip(weights, gradients)}
    return {"logits": net(images).asnumpy(), "loss": value.asnumpy(), **found}


def filled(net):
    """The network in evaluation mode, with random numbers in every parameter, so that each affects the logits."""
    random = np.random.default_rng(1)
    for parameter in net.get_parameters():
        kind, shape = parameter.name.split(".")[-1], parameter.shape
        if kind == "step":
            continue
        if kind in ("gamma", "moving_variance"):
            value = random.uniform(0.5, 1.5, shape)
        else:
            value = random.standard_normal(shape) * (math.sqrt(2 / math.prod(shape[1:])) if kind == "weight" else 0.1)
        parameter.set_data(ms.Tensor(value.astype(np.float32)))
    return net.set_train(False)


main()
