"""Print the memory of this process, MB, after 5 and after 40 sizes of images: python worker_memory.py TASK [NETWORK]

TASK is training (PyNative mode, as on whole photographs), prediction (a Segmenter that keeps two graphs), or onnx (ONNX
Runtime on the same network). NETWORK is fcn32s_vgg16, fcn16s_vgg16, ...
"""

import pathlib
import sys
import tempfile

import mindspore as ms
import numpy as np
from mindspore import nn

from mindfcn.commands.export import write_onnx
from mindfcn.engine.step import TrainStep
from mindfcn.inference import network
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE
from mindfcn.runtime import pynative_mode, set_up

FEW, MANY, CLASSES = 5, 40, 21
NETWORK = sys.argv[2] if len(sys.argv) > 2 else "fcn32s_vgg16"


def sizes(random):
    """(MANY, 2) heights and widths of 12 to 24 cells of 32x32 pixels: the largest first, the others in any order."""
    known = [(32 * rows, 32 * columns) for rows in range(1, 25) for columns in range(1, 25)
             if 12 <= rows * columns <= 24]
    found = sorted(random.permutation(known)[:MANY].tolist(), key=lambda size: -size[0] * size[1])
    return found[:FEW] + random.permutation(found[FEW:]).tolist()


def computation(task):
    """A function that computes one image (1, 3, H, W) float32."""
    net = create_model(NETWORK, CLASSES, width=0.25, fc_width=64)
    if task == "training":
        step = TrainStep(net, nn.Momentum(net.trainable_params(), 1e-3, 0.9)).set_train()
        return lambda image: step(ms.Tensor(image), ms.Tensor(np.zeros((1, *image.shape[2:]), np.int32))).asnumpy()
    if task == "prediction":
        network.GRAPHS = 2
        return network.Segmenter(net, COURSE).logits
    import onnxruntime
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "net.onnx"
        write_onnx(net, path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})


def resident():
    """Memory of this process, MB."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def main():
    """Print the two numbers."""
    set_up("CPU")
    pynative_mode()
    random, compute, found = np.random.default_rng(1), computation(sys.argv[1]), []
    for height, width in sizes(random):
        compute(random.standard_normal((1, 3, height, width)).astype(np.float32))
        found.append(resident())
    print(f"{found[FEW - 1]:.0f} {found[-1]:.0f}")


if __name__ == "__main__":
    main()
