"""Two MindSpore releases side by side: first step, training step, inference and memory.

    python benchmarks/speed/versions/run.py [--runs 7] [--size 256] VERSION PYTHON VERSION PYTHON

Each PYTHON is an interpreter with that MindSpore and MindFCN's other packages. The two take turns, step by step, so
that load on the machine affects both. Needs 8 GB of memory.
"""

import argparse
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import rivals

HERE = pathlib.Path(__file__).resolve().parent
# (network, images in a step, whether full width)
NETWORKS = [("fcn8s_vgg16", 1, True), ("fcn8s_vgg16_bn", 1, True), ("fcn8s_vgg16_bn", 4, False)]
WARM_UP = 2


def measure(name, count, full, pairs, options):
    """Rows of one network: [network, version, first step s, step s, ratio, first pass s, pass ms, ratio, GB]."""
    size = options.size if full else 128
    workers = [rivals.Worker(version, python, HERE / "worker.py", name, size, count, "full" if full else "narrow")
               for version, python in pairs]
    first = [float(worker.ask("step")) for worker in workers]
    steps = rounds(workers, "step", options.runs)
    first_pass = [float(worker.ask("infer")) for worker in workers]
    passes = rounds(workers, "infer", options.runs)
    peaks = [float(worker.ask("peak")) for worker in workers]
    for worker in workers:
        worker.end()
    title = f"{name}, {'full width' if full else 'sample recipe'}, {count} x {size}x{size}"
    return [[title, worker.name, f"{first[place]:.1f}", f"{steps[place]:.3f}", f"{steps[place] / steps[0]:.2f}",
             f"{first_pass[place]:.2f}", f"{1000 * passes[place]:.1f}", f"{passes[place] / passes[0]:.2f}",
             f"{peaks[place]:.2f}"] for place, worker in enumerate(workers)]


def rounds(workers, command, runs):
    """Median seconds of each worker, in turns."""
    seconds = [[] for _ in workers]
    for run in range(WARM_UP + runs):
        for place, worker in enumerate(workers):
            taken = float(worker.ask(command))
            if run >= WARM_UP:
                seconds[place].append(taken)
    return [statistics.median(each) for each in seconds]


def main():
    """Measure all networks and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pairs", nargs=4, metavar="VERSION PYTHON", help="two versions with their interpreters")
    parser.add_argument("--runs", type=int, default=7, help="timed steps, of which the median is shown")
    parser.add_argument("--size", type=int, default=256, help="side of the images of the full networks, pixels")
    options = parser.parse_args()
    pairs = list(zip(options.pairs[::2], options.pairs[1::2]))
    print("| network | MindSpore | first step, s | step, s | ratio | first pass, s | pass, ms | ratio | memory, GB |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, count, full in NETWORKS:
        for row in measure(name, count, full, pairs, options):
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
