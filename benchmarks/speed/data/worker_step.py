"""MindFCN's training step on new batches of SegDataset ("real") or on one fixed batch ("constant"), timed by run.py."""

import pathlib
import sys
import time

import mindspore as ms

from mindfcn import runtime
from mindfcn.config import OptimConfig
from mindfcn.data.dataset import SegDataset
from mindfcn.engine.optimiser import optimiser
from mindfcn.engine.step import TrainStep
from mindfcn.models.factory import create_model

folder, size = pathlib.Path(sys.argv[1]), int(sys.argv[2])
runtime.set_up("CPU")
runtime.graph_mode()
net = create_model("fcn8s_vgg16", 21)
update, _ = optimiser(net, OptimConfig(lr=1e-6, min_lr=1e-6, schedule="constant"), 1000)
step = TrainStep(net, update)
step.set_train()
dataset = SegDataset(data_file=str(folder / "records"), batch_size=1, crop_size=size, seed=1)
batches = dataset.get_dataset().create_tuple_iterator(num_epochs=1)
constant = next(batches)
step(*constant).asnumpy()
waited = 0
for command in map(str.strip, sys.stdin):
    start = time.perf_counter()
    if command == "waited":
        answer = waited
    elif command in ("real", "constant"):
        images, labels = next(batches) if command == "real" else constant
        waited = time.perf_counter() - start
        step(images, labels).asnumpy()
        answer = time.perf_counter() - start
    else:
        answer = ms.__version__
    print(answer, flush=True)
