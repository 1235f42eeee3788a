"""What test_ranks.py starts alone and under msrun: `on_ranks.py TASK FOLDER [ARGUMENTS]`."""

import os
import sys
import time

import mindspore as ms
import numpy as np

from mindfcn import runtime
from mindfcn.cli.main import main
from mindfcn.cli.parser import parse
from mindfcn.commands import train as engine
from mindfcn.config import OptimConfig
from mindfcn.console import Console
from mindfcn.engine.averaging import WeightAverage
from mindfcn.engine.callbacks import Signals
from mindfcn.engine.optimiser import loss_function, optimiser
from mindfcn.engine.step import TrainStep
from mindfcn.errors import UserError
from mindfcn.losses import CrossEntropy
from mindfcn.models.factory import create_model

TASK, FOLDER, *ARGUMENTS = sys.argv[1:]
# Loss, batches an update, weights of the classes.
CURVES = [("mean", 1, None), ("mean", 2, None), ("sum", 1, None), ("mean", 1, [0.1, 3.0, 1.0, 1.0, 1.0]),
          ("bootstrapped", 1, None), ("focal", 1, None), ("dice", 1, None)]
TINY = {"width": 0.125, "fc_width": 16, "dropout": 0.0}


def sums():
    """Sums over ranks, signals and masks."""
    runtime.set_up("CPU")
    rank = runtime.rank()
    counts = np.array([[2 ** 62 + rank, -5], [3 * 10 ** 9 * (rank + 1), rank]])
    scores = np.array([1 / 3 + rank, np.nan, 2.0 ** 60, 1e-300])
    signals = Signals()
    signals.received = 15 if rank == 1 else None
    net, loss = create_model("fcn8s_vgg16", 3, width=0.125, fc_width=64), CrossEntropy(keep=0.5, seed=4)
    engine.offset_seeds(net, loss)
    net.set_train()
    loss.set_train()
    ones = ms.Tensor(np.ones((1, 64, 16, 16), np.float32))
    masks = [cell(ones).asnumpy() for cell in (net.backbone.drop6, net.backbone.drop7, net.backbone.drop6)]
    save("sums", counts=runtime.sum_over_ranks(counts), scores=runtime.sum_over_ranks(scores),
         one=runtime.sum_over_ranks(np.int64(rank + 1)), none=runtime.sum_over_ranks(np.zeros((0, 2))),
         signal=signals.agreed() or 0, masks=masks, cells=loss.sampled((1, 512, 512)).asnumpy())


def failures():
    """A block in which rank 1 fails."""
    runtime.set_up("CPU")
    try:
        with runtime.fail_on_all_ranks():
            if runtime.rank() == 1:
                raise UserError("no such thing")
    except UserError as error:
        message = str(error)
    save("failures", message=message)


def curves():
    """Six steps on the shares of one joined batch of 4, whose photographs have very different numbers of labels."""
    runtime.set_up("CPU")
    rank, ranks = runtime.rank(), runtime.rank_size()
    runtime.graph_mode()
    for name, accumulate, weights in CURVES:
        ms.set_seed(1)
        net = create_model("fcn8s_vgg16", 5, **TINY)
        random = np.random.default_rng(1)
        for parameter in net.trainable_params():
            if parameter.name.startswith("score") and parameter.name.endswith("weight"):
                parameter.set_data(ms.Tensor(random.standard_normal(parameter.shape, np.float32) * 0.1))
        rate = {"sum": 1e-6, "dice": 0.1}.get(name, 0.01)
        # Image 0 has fewer labelled pixels than are kept.
        config = OptimConfig(lr=rate, min_lr=rate, accumulate=accumulate, loss=name, hard_pixels=800)
        update, _ = optimiser(net, config, 10)
        average = WeightAverage(net, 0.2)
        step = TrainStep(net, update, loss_function(config, 255, 1, weights), accumulate=accumulate, average=average)
        step.set_train()
        losses = []
        for number in range(6):
            images = random.standard_normal((4, 3, 64, 64), np.float32)
            labels = random.integers(0, 2, (4, 64, 64), np.int32)
            labels[0][random.random((64, 64)) < 0.9] = 255
            labels[2, :20] = 255
            if number == 3:
                # Rank 0 has no labelled pixel.
                labels[::2] = 255
            mine = slice(rank, None, ranks)
            losses.append(float(step(ms.Tensor(images[mine]), ms.Tensor(labels[mine])).asnumpy()))
        averages = {parameter.name: parameter.asnumpy() for parameter in average.averages}
        save(f"curve-{name}-{accumulate}" + ("-weighted" if weights else ""), losses=losses, **parameters(net),
             **averages)


def train():
    """The verb, with a run directory for each rank: those of other ranks must not be written."""
    kept = {}

    class Kept(TrainStep):
        """The training step, kept so that its network can be read."""

        def __init__(self, net, *arguments, **options):
            super().__init__(net, *arguments, **options)
            kept["net"] = net

    engine.TrainStep = Kept
    path = os.path.join(FOLDER, "run" if os.environ.get("RANK_ID", "0") == "0" else "other")
    if "--resume" in ARGUMENTS:
        path = os.path.join(FOLDER, "run")
    result = engine.train(parse(["train", "--run_dir", path, *ARGUMENTS])[1], Shown())
    save("train", signal=result.signal or 0, evaluated=result.evaluation is not None, **parameters(kept["net"]))


class Shown(Console):
    """Reports every step to the test, and waits there for a signal where the test sends one."""

    def begin_training(self, *_):
        """Where this process can be reached."""
        with open(os.path.join(FOLDER, f"pid{runtime.rank()}"), "w", encoding="utf-8") as file:
            file.write(str(os.getpid()))

    def step(self, step, *_):
        if step == int(os.environ.get("FAIL_AT", "0")) and runtime.rank() == 1:
            raise UserError("this process has had enough")
        if step == int(os.environ.get("WAIT_AT", "0")) and runtime.rank() == 1:
            open(os.path.join(FOLDER, "waiting"), "w", encoding="utf-8").close()
            time.sleep(3)


def command():
    """The command line."""
    status = main(ARGUMENTS)
    with open(os.path.join(FOLDER, f"status{os.environ.get('RANK_ID', '0')}"), "w", encoding="utf-8") as file:
        file.write(str(status))
    sys.exit(status)


def parameters(net):
    return {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}


def save(name, **arrays):
    np.savez(os.path.join(FOLDER, f"{name}-{runtime.rank_size()}-{runtime.rank()}.npz"), **arrays)
    with runtime.fail_on_all_ranks():
        # The last message must have arrived before a process ends.
        pass


if __name__ == "__main__":
    {"sums": sums, "failures": failures, "curves": curves, "train": train, "command": command}[TASK]()
