"""Start-up time: imports, help, and the time to the first training step, MindFCN and PyTorch.

    python benchmarks/speed/start/run.py [--runs 5] [--size 512] [--keep]

Every run is a new process, MindFCN and PyTorch in turn. Needs no data (the sample set is drawn), PyTorch's
environment (created on the first run), and 8 GB of memory.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import rivals

HERE = pathlib.Path(__file__).resolve().parent
NAMES = "import mindspore, mindfcn\nfor name in mindfcn.__all__: getattr(mindfcn, name)"


def seconds_of(command):
    """Seconds from the start to the end of a process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def in_turn(commands, runs):
    """{name: seconds of each run} of the commands in turn, after one warm-up run that fills the file cache."""
    seconds = {name: [] for name in commands}
    for run in range(1 + runs):
        for name, command in commands.items():
            taken = seconds_of(command)
            if run:
                seconds[name].append(taken)
    return seconds


def first_steps(script, *words, python=sys.executable):
    """(seconds from the start of a process to the end of its first step, seconds of its third step)."""
    start = time.time()
    done = subprocess.run([python, HERE / script, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True,
                          env=rivals.environment())
    first, second, third = map(float, done.stdout.split()[-3:])
    return first - start, third - second


def imports(runs, torch):
    """Rows of the table for imports and help."""
    python = sys.executable
    seconds = in_turn({
        "nothing": [python, "-c", ""], "mindspore": [python, "-c", "import mindspore"],
        "mindfcn": [python, "-c", "import mindfcn"], "names": [python, "-c", NAMES],
        "--help": [python, "-m", "mindfcn", "--help"], "train --help": [python, "-m", "mindfcn", "train", "--help"],
        "torch": [torch, "-c", "import torch"]}, runs)
    nothing, mindspore = statistics.median(seconds["nothing"]), statistics.median(seconds["mindspore"])
    beyond = [pair[0] - pair[1] for pair in zip(seconds["names"], seconds["mindspore"])]
    return [("`import mindspore`, against `import torch`", *compared(seconds["mindspore"], seconds["torch"])),
            ("`import mindfcn`, beyond Python's own start", f"{statistics.median(seconds['mindfcn']) - nothing:.3f}",
             "", ""),
            (f"all public names of mindfcn, beyond MindSpore's {mindspore:.2f}", rivals.median(beyond), "", ""),
            *((f"`mindfcn {words}`", rivals.median(seconds[words]), "", "") for words in ("--help", "train --help"))]


def compared(mindfcn, rival):
    """Cells of both medians and their ratio."""
    return rivals.median(mindfcn), rivals.median(rival), f"{statistics.median(mindfcn) / statistics.median(rival):.2f}"


def until_first_step(runs, size, torch):
    """Rows of the table: the sample recipe, without and with its step compiled before, and the full-width network."""
    rows = []
    # Compiled steps are kept only where MindSpore's log is silent.
    os.environ["GLOG_v"] = "4"
    with tempfile.TemporaryDirectory() as folder:
        records, root = os.path.join(folder, "records"), os.path.join(folder, "files")
        subprocess.run([sys.executable, "-m", "mindfcn", "prepare", "--records", records, "--source", "sample",
                        "--root", root, "--size", "160", "--samples", "40"], check=True, stdout=subprocess.DEVNULL)
        recipe = "the sample recipe, 128x128, batch 4"
        for name, graphs, mindfcn, rival in (
                (recipe, "0", ("recipe", records, root), ("recipe", root)),
                (f"{recipe}, started before", os.path.join(folder, "graphs"), ("recipe", records, root),
                 ("recipe", root)),
                (f"fcn8s_vgg16_bn, {size}x{size}, batch 1", "0", ("full", size), ("full", size))):
            # The folder in which a worker finds the step that an earlier one compiled; "0" keeps none.
            os.environ["MINDFCN_GRAPHS"] = graphs
            pairs = []
            for run in range(1 + runs):
                fresh = [os.path.join(folder, f"run{len(rows)}{run}")] if mindfcn[0] == "recipe" else []
                pairs.append((first_steps("worker_mindfcn.py", *mindfcn, *fresh),
                              first_steps("worker_pytorch.py", *rival, python=torch)))
            first, later = ([[pair[who][kind] for pair in pairs[1:]] for who in (0, 1)] for kind in (0, 1))
            rows.append((f"to the end of step 1: {name}", *compared(*first)))
            rows.append((f"step 3 of it: {name}", *compared(*later)))
    return rows


def main():
    """Print the table."""
    parser = rivals.parser(__doc__)
    parser.add_argument("--size", type=int, default=512, help="side of the images of the full-width network, pixels")
    options = parser.parse_args()
    os.environ.setdefault("GLOG_v", "4")
    torch = rivals.python_of("torch")
    rows = imports(options.runs, torch) + until_first_step(options.runs, options.size, torch)
    rivals.show("start", ("seconds", "MindFCN", "PyTorch", "ratio"), rows,
                ["Step 1 minus step 3 and the import is the time of compilation and first memory allocation."],
                options.keep)


if __name__ == "__main__":
    main()
