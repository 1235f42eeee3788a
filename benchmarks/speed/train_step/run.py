"""Time and memory of a training step, MindFCN and PyTorch: the same network, weights and batch, float32, on CPU.

    python benchmarks/speed/train_step/run.py [--models NAME ...] [--sizes SIZExBATCH ...] [--rivals NAME ...]
                                              [--width 1] [--runs 5] [--profile] [--keep]

Each rival runs in its own process and takes steps in turn with MindFCN, so that load on the machine affects both
equally. The first size is measured against PyTorch eager, with channels last, and compiled; the other sizes against
eager and the variants that were faster than eager; --rivals eager measures eager alone. Needs 16 GB of memory and
about 40 minutes on two cores.

--width multiplies the channels of VGG16's convolutions, and of fc6 and fc7 too: 0.25 is the sample recipe's.

--profile prints the time of MindFCN's step by block of the network and by operator instead.
"""

import csv
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from rivals import Worker, difference, limits, median, narrow, parser, python_of, show, take_turns

HERE = pathlib.Path(__file__).resolve().parent
VARIANTS = ("eager", "channels-last", "compiled")
SIZES = ("512x1", "512x2", "512x4", "256x8")
WARM_UP = 2
HEADER = ("network", "images", "rival", "MindFCN s/step", "rival s/step", "time, x rival's", "memory GB", "rival's GB",
          "memory, x rival's", "% of peak")
BLOCK = re.compile(r"conv\d|pool\d|head|loss|update|Dropout")


def main():
    """Print the tables."""
    options = parser(__doc__)
    options.add_argument("--table", default="train_step", help="the table of docs/performance.md that --keep writes")
    options.add_argument("--models", nargs="+", default=["fcn8s_vgg16_bn", "fcn8s_vgg16"])
    options.add_argument("--sizes", nargs="+", default=SIZES, metavar="SIZExBATCH",
                         help="side of the images in pixels, and batch size")
    options.add_argument("--rivals", nargs="+", default=VARIANTS, choices=VARIANTS,
                         help="PyTorch variants to measure")
    options.add_argument("--width", type=float, default=1, help="share of VGG16's channels")
    options.add_argument("--profile", action="store_true",
                         help="print the time of MindFCN's step by block and operator")
    options = options.parse_args()
    if options.profile:
        for model in options.models:
            for shape in options.sizes:
                profile(model, shape, options.width)
        return
    rows, peak = [], limits()[0]
    for model in options.models:
        variants = options.rivals
        for shape in options.sizes:
            found = compare(model, shape, variants, options, peak)
            rows += [row for _, row in found.values()]
            if variants is options.rivals and "eager" in variants:
                variants = [variant for variant in variants if found[variant][0] <= found["eager"][0]]
    show(options.table, HEADER, rows, keep=options.keep, notes=[
        f"Seconds are medians of {options.runs} steps in turn (minimum-maximum). Memory is the peak of the process, "
        "libraries included. Before timing, logits agree to 1e-3 of the largest. % of peak counts the multiply-adds of "
        "plain convolutions; MindFCN's algorithm needs fewer."])


def compare(model, shape, variants, options, peak):
    """{variant: (its seconds divided by MindFCN's, row of the table)}."""
    size, count = map(int, shape.split("x"))
    work, found = 3 * count * multiply_adds(model, size, options.width), {}
    name = model if options.width == 1 else f"{model}, width {options.width:g}"
    with tempfile.TemporaryDirectory() as folder:
        settings, others = (folder, model, size, count), ("CPU", "float32", options.width)
        mindfcn = Worker("MindFCN", sys.executable, HERE / "worker_mindfcn.py", *settings, *others)
        for variant in variants:
            rival = Worker(variant, python_of("torch"), HERE / "worker_pytorch.py", *settings, variant, *others)
            check_equal(folder)
            seconds = take_turns((mindfcn, rival), options.runs, WARM_UP)
            memory = [float(worker.ask("peak")) for worker in (mindfcn, rival)]
            times = [statistics.median(seconds[worker.name]) for worker in (mindfcn, rival)]
            version = rival.ask("version")
            rival.end()
            row = (name, f"{count} of {size}x{size}", f"{version}, {variant}", median(seconds["MindFCN"]),
                   median(seconds[variant]), f"{times[0] / times[1]:.2f}", f"{memory[0]:.2f}", f"{memory[1]:.2f}",
                   f"{memory[0] / memory[1]:.2f}", f"{100 * work / times[0] / peak:.0f}")
            print(" | ".join(row), file=sys.stderr, flush=True)
            found[variant] = times[1] / times[0], row
        mindfcn.end()
    return found


def multiply_adds(model, size, width):
    """Multiply-adds of one forward pass on one image; a training step needs three times as many."""
    options = [word for name, value in narrow(width).items() for word in (f"--{name}", str(value))]
    words = subprocess.run([sys.executable, "-m", "mindfcn", "describe", model, "--size", str(size), *options],
                           capture_output=True, text=True, check=True).stdout
    return int(re.search(r"multiply-adds +([\d,]+)", words).group(1).replace(",", ""))


def check_equal(folder):
    """Exit if the logits of the two networks differ by more than 1e-3 of the largest."""
    found = difference(*(pathlib.Path(folder) / f"{name}.npy" for name in ("mindspore", "pytorch")))
    if not found < 1e-3:
        sys.exit(f"the networks differ by {found:.1e} of the largest logit; nothing was timed")


def profile(model, shape, width):
    """Print the milliseconds of MindFCN's step by block and by operator."""
    size, count = map(int, shape.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker("MindFCN", sys.executable, HERE / "worker_mindfcn.py", folder, model, size, count, "CPU",
                        "float32", width)
        for _ in range(WARM_UP):
            worker.ask("step")
        worker.ask("profile")
        worker.end()
        table, = pathlib.Path(folder).glob("profile/*/FRAMEWORK/cpu_op_detail_info_0.csv")
        with open(table, encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    blocks, operators = {}, {}
    for row in rows:
        milliseconds = float(row["op_total_time(ms)"])
        block = BLOCK.search(row["full_op_name"])
        for table, key in ((blocks, block.group() if block else "other"), (operators, row["op_type"])):
            table[key] = table.get(key, 0) + milliseconds
    print(f"{model}, {count} of {size}x{size}: {sum(blocks.values()):.0f} ms in {len(rows)} operators")
    for table in (blocks, operators):
        for key, milliseconds in sorted(table.items(), key=lambda entry: -entry[1])[:20]:
            print(f"{key:24}{milliseconds:10.1f}")
        print()


if __name__ == "__main__":
    main()
