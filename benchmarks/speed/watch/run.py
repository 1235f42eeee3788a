"""What the watch over the loss costs: a training step and a check of its loss, in turn.

    python benchmarks/speed/watch/run.py [--models NAME ...] [--size 256] [--batch 2] [--device CPU] [--runs 5] [--keep]

Both run in one process on the same batch. Shares are of the step's time, at the default interval on GPU; the first
step's check is computed twice. Takes about three minutes on two cores and 6 GB of memory.
"""

import pathlib
import statistics
import sys

import mindfcn  # noqa: F401  (before MindSpore, for which it loads CUDA's libraries)

# isort: split
import mindspore as ms

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from mindspore_device import peak, set_up
from rivals import median, narrow, parser, show
from serve import batch, seconds

from mindfcn import runtime
from mindfcn.config import OptimConfig
from mindfcn.engine.optimiser import optimiser
from mindfcn.engine.step import TrainStep
from mindfcn.engine.watch import EVERY, LossOnly
from mindfcn.models.factory import create_model

EACH = EVERY["GPU"]


def main():
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--models", nargs="+", default=["fcn8s_vgg16_bn", "fcn8s_vgg16"])
    options.add_argument("--size", type=int, default=256, help="side of the images, pixels")
    options.add_argument("--batch", type=int, default=2, help="images a step")
    options.add_argument("--width", type=float, default=1.0, help="share of the channels")
    options.add_argument("--device", default="CPU", help="CPU, GPU or Ascend")
    options = options.parse_args()
    set_up(options.device)
    runtime.graph_mode()
    rows = [measure(model, options) for model in options.models]
    show("watch", ["network", "images", "step, s", "check, s", "check / step", f"share of time, every {EACH} steps",
                   "compiled in, s", "more memory, GB"], rows,
         [f"Medians of {options.runs} in turn. Memory: what the process holds at most, after the checks and before; on "
          "a GPU, what tensors take."],
         options.keep)


def measure(model, options):
    """Row of the table."""
    size, count = options.size, options.batch
    net = create_model(model, 21, **narrow(options.width))
    update, _ = optimiser(net, OptimConfig(lr=1e-4, min_lr=1e-4, schedule="constant"), 1000)
    step = TrainStep(net, update)
    step.set_train()
    tensors, loss = [ms.Tensor(array) for array in batch(size, count)], LossOnly(step)

    def check():
        """As `LossWatch` does."""
        loss(*(ms.Tensor(tensor.asnumpy()) for tensor in tensors))

    def take():
        """A step, and its loss on the host."""
        step(*tensors).asnumpy()

    for _ in range(3):
        take()
    before = peak()
    compiled = seconds(check)
    times = [(seconds(take), seconds(check)) for _ in range(options.runs)]
    steps, checks = zip(*times)
    ratio = statistics.median(checks) / statistics.median(steps)
    return [model, f"{count} of {size}x{size}", median(steps), median(checks), f"{ratio:.2f}",
            f"{100 * ratio / EACH:.2f} %", f"{compiled - statistics.median(checks):.1f}", f"{peak() - before:.2f}"]


if __name__ == "__main__":
    main()
