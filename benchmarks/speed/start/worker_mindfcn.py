"""MindFCN's first three training steps in a new process; prints the time after each. Started by run.py.

    worker_mindfcn.py recipe RECORDS ROOT RUN_DIR | full SIZE
"""

import sys
import time


def print_time():
    """Print the seconds since the epoch."""
    print(time.time(), flush=True)


def recipe(records, root, run_dir):
    """Train with the sample recipe on the 40 images that run.py prepared; exits after the third step."""
    import os

    from mindfcn.cli.parser import parse
    from mindfcn.commands.train import train
    from mindfcn.console import Console

    class Show(Console):
        """Called after every step."""

        def step(self, step, *_):
            print_time()
            if step == 3:
                # Skip the rest of the epoch and its checkpoint.
                os._exit(0)
    config = os.path.join(os.path.dirname(__file__), *[".."] * 3, "configs", "sample.yaml")
    words = ["train", "--config", config, "--data.records", records, "--data.root", root, "--data.samples", "40",
             "--run_dir", run_dir, "--device", "CPU"]
    train(parse(words)[1], Show())


def full(size):
    """Three steps of the full-width network on a constant batch."""
    import mindspore as ms
    from serve import batch

    from mindfcn import runtime
    from mindfcn.config import OptimConfig
    from mindfcn.engine.optimiser import optimiser
    from mindfcn.engine.step import TrainStep
    from mindfcn.models.factory import create_model
    runtime.set_up("CPU")
    runtime.graph_mode()
    net = create_model("fcn8s_vgg16_bn", 21)
    update, _ = optimiser(net, OptimConfig(), 1000)
    step = TrainStep(net, update)
    step.set_train()
    images, labels = map(ms.Tensor, batch(int(size), 1))
    for _ in range(3):
        step(images, labels).asnumpy()
        print_time()


{"recipe": recipe, "full": full}[sys.argv[1]](*sys.argv[2:])
