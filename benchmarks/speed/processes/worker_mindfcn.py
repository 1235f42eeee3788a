"""One rank of MindFCN, timed by run.py: worker_mindfcn.py RANK RANKS PORT CORES FOLDER WIDTH SIZE BATCH"""

import functools
import os
import pathlib
import sys

rank, ranks, port, cores, folder = *map(int, sys.argv[1:5]), sys.argv[5]
width, size, global_batch = float(sys.argv[6]), int(sys.argv[7]), int(sys.argv[8])
scheduler = rank == ranks
# Pin each rank to its own cores before MindSpore counts them.
if not scheduler:
    os.sched_setaffinity(0, range(rank * cores, (rank + 1) * cores))
os.environ["OMP_NUM_THREADS"] = str(cores)
if ranks > 1:
    # The variables that msrun sets. msrun itself would take the workers' stdin, which carries the commands.
    os.environ.update(MS_WORKER_NUM=str(ranks), MS_SCHED_HOST="127.0.0.1", MS_SCHED_PORT=str(port),
                      MS_ROLE="MS_SCHED" if scheduler else "MS_WORKER", MS_NODE_ID=str(rank), GLOG_v="4")

import mindspore as ms  # noqa: E402
import numpy as np  # noqa: E402
from mindspore import nn  # noqa: E402
from serve import batch, seconds, serve  # noqa: E402

from mindfcn import runtime  # noqa: E402
from mindfcn.config import OptimConfig  # noqa: E402
from mindfcn.engine.optimiser import optimiser  # noqa: E402
from mindfcn.engine.step import TrainStep  # noqa: E402
from mindfcn.models.factory import create_model  # noqa: E402


class Reduction(nn.Cell):
    """The step's sum of all gradients over the ranks, without the rest of the step."""

    def __init__(self, step):
        super().__init__(auto_prefix=False)
        self.reduce = step.reduce
        self.weights = step.weights

    def construct(self):
        # Return all sums, because graph mode drops unused results.
        return self.reduce(self.weights)


@functools.cache
def begin():
    """Build the steps with and without the sum over ranks. Returns {name: function}.

    Called at the first command, which all ranks receive at the same time, because they wait for one another.
    """
    runtime.set_up("CPU")
    runtime.graph_mode()
    net = create_model("fcn8s_vgg16", 21, width=width, fc_width=round(4096 * width), dropout=0.0)
    random = np.random.default_rng(2)
    for parameter in net.get_parameters():
        # The paper's score layers start at zero, which would leave the backbone without gradients.
        if parameter.name.startswith("score") and parameter.name.endswith("weight"):
            parameter.set_data(ms.Tensor(random.standard_normal(parameter.shape, np.float32) * 0.01))
    if rank == 0:
        weights = {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}
        np.savez(pathlib.Path(folder) / "weights.npz", **weights)
    update, _ = optimiser(net, OptimConfig(lr=1e-3, min_lr=1e-3, schedule="constant"), 1000)
    images, labels = (ms.Tensor(array[rank::ranks]) for array in batch(size, global_batch))
    step, local = TrainStep(net, update), TrainStep(net, update)
    local.ranks, local.reduce, local.total = 1, nn.Identity(), nn.Identity()
    for one in (step, local):
        one.set_train()
    reduction = Reduction(step)
    return {"step": lambda: float(step(images, labels).asnumpy()),
            "local": lambda: local(images, labels).asnumpy(),
            "reduce": lambda: [gradient.asnumpy() for gradient in reduction()],
            "bytes": lambda: sum(parameter.nbytes for parameter in step.weights)}


if scheduler:
    runtime.set_up("CPU")
    sys.exit()
serve(lambda: begin()["step"](), f"MindSpore {ms.__version__}", loss=lambda: begin()["step"](),
      local=lambda: seconds(begin()["local"]), reduce=lambda: seconds(begin()["reduce"]),
      bytes=lambda: begin()["bytes"]())
