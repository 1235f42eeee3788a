"""FCN-8s in MindSpore, timed by run.py: `plain`, the training network in PyNative mode, or MindFCN's `segmenter`.

    worker_mindfcn.py FOLDER MODEL WAY [DEVICE PRECISION WIDTH]

The first worker writes the weights for the others, and the ONNX file if the package onnx is installed.
"""

import importlib.util
import math
import os
import sys

import mindfcn  # noqa: F401  (before MindSpore, for which it loads CUDA's libraries)

# isort: split
import mindspore as ms
import numpy as np
from answers import serve
from mindspore_device import peak, set_up
from rivals import narrow

from mindfcn import runtime
from mindfcn.commands.export import write_onnx
from mindfcn.inference.network import Segmenter
from mindfcn.models.factory import create_model
from mindfcn.models.precision import compute_in, layer_type
from mindfcn.preprocess import COURSE

folder, model, way = sys.argv[1:4]
device, precision, width = sys.argv[4:] or ("CPU", "float32", 1)
set_up(device)
runtime.pynative_mode()
net = create_model(model, 21, **narrow(width)).set_train(False)
# Random parameters: a new network has zero score layers and identity normalisation.
random = np.random.default_rng(1)
for parameter in net.get_parameters():
    kind, shape = parameter.name.split(".")[-1], parameter.shape
    if kind == "weight" and not parameter.name.startswith("upscore"):
        value = random.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    elif kind in ("gamma", "moving_variance"):
        value = random.uniform(0.5, 1.5, shape)
    elif kind in ("bias", "beta", "moving_mean"):
        value = random.standard_normal(shape) * 0.1
    else:
        continue
    parameter.set_data(ms.Tensor(value.astype(np.float32)))
weights = os.path.join(folder, "weights.npz")
if not os.path.exists(weights):
    np.savez(weights, **{entry.name: entry.asnumpy() for entry in net.get_parameters()})
    if device == "CPU" and importlib.util.find_spec("onnx"):
        write_onnx(net, os.path.join(folder, "net.onnx"))
compute_in(net, layer_type(precision, device), precision)
segmenter = Segmenter(net, COURSE)
logits = segmenter.logits if way == "segmenter" else lambda batch: net(ms.Tensor(batch)).asnumpy()
serve(folder, logits, f"MindSpore {ms.__version__}", segmenter.masks, peak)
