"""Time and memory of a training step, MindFCN beside PyTorch: the same network, weights and batch, float32, on CPU.

    python benchmarks/train_step.py [--model fcn8s_vgg16_bn] [--size 512] [--batch 1] [--runs 7]

Both live in their own process, are warmed up, and then take steps in turn, so that a busy machine disturbs both alike.
PyTorch is installed into .bench/torch on the first run. Needs about 12 GB of memory at the defaults.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
TORCH = "torch==2.13.0"
WARM_UP = 2


class Worker:
    """A process that answers each line of command with one line."""

    def __init__(self, python, script, *arguments):
        self.name = script.split("_")[0]
        self.process = subprocess.Popen([python, os.path.join(HERE, "workers", script), *map(str, arguments)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("ready?")

    def ask(self, command):
        """Send a command and return the answer."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            sys.exit(f"{self.name} ended without an answer to {command!r}; see its message above")
        return answer


def rival_python():
    """The interpreter of PyTorch's own environment, made on the first run."""
    folder = os.environ.get("TORCH_ENV") or os.path.join(os.path.dirname(HERE), ".bench", "torch")
    python = os.path.join(folder, "bin", "python")
    if not os.path.exists(python):
        print(f"installing {TORCH} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", TORCH, "numpy<2"], check=True)
    return python


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["fcn8s_vgg16_bn", "fcn8s_vgg16"], default="fcn8s_vgg16_bn")
    parser.add_argument("--size", type=int, default=512, help="side of the square images, pixels")
    parser.add_argument("--batch", type=int, default=1, help="images per step")
    parser.add_argument("--runs", type=int, default=7, help="timed steps of each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = (folder, options.model, options.size, options.batch)
        ours = Worker(sys.executable, "mindspore_step.py", *settings)
        rival = Worker(rival_python(), "pytorch_step.py", *settings)
        logits = [np.load(os.path.join(folder, f"{worker.name}.npy")) for worker in (ours, rival)]
        difference = np.abs(logits[0] - logits[1]).max() / np.abs(logits[1]).max()
        if difference > 1e-3:
            sys.exit(f"the networks differ by {difference:.1e} of the largest logit; nothing was timed")
        seconds = {ours.name: [], rival.name: []}
        for run in range(WARM_UP + options.runs):
            for worker in (ours, rival):
                taken = float(worker.ask("step"))
                if run >= WARM_UP:
                    seconds[worker.name].append(taken)
        peak = {worker.name: float(worker.ask("peak")) for worker in (ours, rival)}
        versions = [worker.ask("version") for worker in (ours, rival)]
    print(f"{options.model}, batch {options.batch}, {options.size}x{options.size}, float32, training step on CPU, "
          f"{os.cpu_count()} cores ({platform.machine()}); {', '.join(versions)}")
    print(f"logits agree to {difference:.1e} of the largest; medians of {options.runs} steps in turn")
    print(f"{'':12}{'s/step':>8}{'min':>8}{'max':>8}{'peak GB':>9}")
    for worker in (ours, rival):
        times = seconds[worker.name]
        print(f"{worker.name:12}{statistics.median(times):8.2f}{min(times):8.2f}{max(times):8.2f}"
              f"{peak[worker.name]:9.2f}")
    ratio = statistics.median(seconds[ours.name]) / statistics.median(seconds[rival.name])
    print(f"time {ratio:.2f} of PyTorch's, memory {peak[ours.name] / peak[rival.name]:.2f}")


if __name__ == "__main__":
    main()
