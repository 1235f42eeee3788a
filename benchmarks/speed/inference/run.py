"""From normalised image to logits, MindFCN, PyTorch and runtimes of the export: the same weights, float32, on CPU.

    python benchmarks/speed/inference/run.py [--runs 5] [--images 16] [--models fcn8s_vgg16_bn fcn8s_vgg16]
                                             [--ways NAME ...] [--keep]

Inputs are squares of 512x512, one and four at once, and PASCAL VOC photographs at native size from ../shared next to
the repository (noise of such sizes if they are missing); --images 200 takes an hour more, with three --ways a quarter
of it. Each contestant runs in its own process and they take turns; each sees a photograph once, so that the cost of a
new size is included. Logits are compared before timing. The runtimes read the file that MindFCN exports, which needs
the package onnx; without it they are left out. Needs about 16 GB of memory and about 20 minutes on two cores.
"""

import importlib.util
import pathlib
import statistics
import sys
import tempfile

import cv2
import numpy as np

from mindfcn import runtime
from mindfcn.models.analysis.trace import trace
from mindfcn.models.factory import create_model

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from rivals import SHARED, Worker, limits, median, parser, python_of, show, take_turns

HERE = pathlib.Path(__file__).resolve().parent
VOC = SHARED / "data/VOCdevkit/VOC2012"
SIZES = ((375, 500), (500, 375), (333, 500), (334, 500), (281, 500), (442, 500), (500, 400), (225, 300))
SIDE = 512
# Name in the table: (environment, worker script, its variant).
WAYS = {"MindSpore, plain": ("", "worker_mindfcn.py", "plain"),
        "MindFCN": ("", "worker_mindfcn.py", "segmenter"),
        "PyTorch": ("torch", "worker_pytorch.py", "eager"),
        "channels-last": ("torch", "worker_pytorch.py", "channels-last"),
        "torch.compile": ("torch", "worker_pytorch.py", "compile"),
        "ONNX Runtime": ("runtimes", "worker_runtimes.py", "onnxruntime"),
        "OpenVINO": ("runtimes", "worker_runtimes.py", "openvino")}
EXPORTED = ("ONNX Runtime", "OpenVINO")


def photographs(count):
    """(H, W, 3) uint8 images: the first `count` of the validation split."""
    if not VOC.is_dir():
        print(f"{VOC} is missing: noise instead of photographs", file=sys.stderr)
        random = np.random.default_rng(1)
        return [random.integers(0, 256, (*SIZES[number % len(SIZES)], 3), np.uint8) for number in range(count)]
    names = (VOC / "ImageSets/Segmentation/val.txt").read_text(encoding="utf-8").split()
    return [cv2.imread(str(VOC / f"JPEGImages/{name}.jpg")) for name in names[:count]]


def start(folder, model, names):
    """Start the workers of these names, in the order of WAYS."""
    ways = {name: way for name, way in WAYS.items() if name in names}
    if importlib.util.find_spec("onnx") is None:
        print("the package onnx is not installed: ONNX Runtime and OpenVINO are left out", file=sys.stderr)
        ways = {name: way for name, way in ways.items() if name not in EXPORTED}
    return [Worker(name, python_of(env) if env else sys.executable, HERE / script, folder, model, way)
            for name, (env, script, way) in ways.items()]


def compare(workers, folder, picture):
    """Largest difference of logits as a fraction of the largest logit; exits above 1e-3."""
    found = []
    for worker in workers:
        worker.ask(f"write {picture} logits")
        found.append(np.load(folder / "logits.npy"))
    differences = [float(np.abs(logits - found[0]).max() / np.abs(found[0]).max()) for logits in found]
    if not max(differences) <= 1e-3:
        sys.exit(f"logits differ, nothing was timed: {dict(zip([worker.name for worker in workers], differences))}")
    return max(differences)


def multiply_adds(model):
    """Multiply-adds of the network's convolutions per pixel, for image sides that are multiples of 32."""
    runtime.set_up("CPU")
    layers, _ = trace(create_model(model, 21), 64)
    return sum(layer.multiply_adds for layer in layers) / 64 ** 2


def row(words, seconds, pixels, work, product):
    """Row of the table: time of each contestant, ratios to PyTorch eager, and MindFCN's percentage of the peak."""
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    eager, mindfcn = medians["PyTorch"], medians["MindFCN"]
    exported = min(((medians[name], name) for name in EXPORTED if name in medians), default=None)
    return [words, *(median(seconds[name]) if name in seconds else "" for name in WAYS), f"{mindfcn / eager:.2f}",
            f"{exported[0] / eager:.2f} ({exported[1]})" if exported else "",
            f"{100 * work * pixels / mindfcn / product:.0f} %"]


def padded(image):
    """Number of pixels after padding the sides to multiples of 32."""
    return int(np.prod([-(-side // 32) * 32 for side in image.shape[:2]]))


def measure(model, images, options):
    """(rows of the table, notes) of one network."""
    rows, notes = [], []
    work, (product, _) = multiply_adds(model), limits()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        np.save(folder / "square.npy", cv2.resize(images[0], (SIDE, SIDE)))
        for number, image in enumerate(images):
            np.save(folder / f"{number}.npy", image)
        workers = start(folder, model, options.ways)
        difference = max(compare(workers, folder, picture) for picture in ("square", "0"))
        for count in options.batches:
            seconds = take_turns(workers, options.runs, 2, f"run square {count}")
            rows.append(row(f"`{model}`, {SIDE}x{SIDE}, batch {count}", seconds, count * SIDE ** 2, work, product))
        seconds = {worker.name: [] for worker in workers}
        for number in range(len(images)):
            for worker in workers:
                seconds[worker.name].append(float(worker.ask(f"run {number} 1")))
        sizes = len({image.shape for image in images})
        rows.append(row(f"`{model}`, {len(images)} photographs, {sizes} sizes", seconds,
                        statistics.median(map(padded, images)), work, product))
        totals = ", ".join(f"{name} {sum(taken):.1f}" for name, taken in seconds.items())
        notes += [f"`{model}`: logits agree to {difference:.1e} of the largest; seconds for all photographs: {totals}."]
        notes += [", ".join(dict.fromkeys(worker.ask("version") for worker in workers)) + "."]
        for worker in workers:
            worker.end()
    return rows, notes


def main():
    """Print the table."""
    made = parser(__doc__)
    made.add_argument("--table", default="inference", help="the table of docs/performance.md that --keep writes")
    made.add_argument("--images", type=int, default=16, help="photographs at native size")
    made.add_argument("--models", nargs="+", default=["fcn8s_vgg16_bn", "fcn8s_vgg16"],
                      help="FCN-8s on VGG16, fcn_resnet50, fcn_resnet101")
    made.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="batch sizes of the squares")
    made.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS, help="MindFCN, PyTorch and any others")
    options = made.parse_args()
    if not {"MindFCN", "PyTorch"} <= set(options.ways):
        sys.exit("--ways: must include MindFCN and PyTorch; the table shows their ratio")
    images, rows, notes = photographs(options.images), [], []
    for model in options.models:
        new_rows, new_notes = measure(model, images, options)
        rows += new_rows
        notes += [note for note in new_notes if note not in notes]
    show(options.table, ["seconds", *WAYS, "MindFCN / PyTorch", "best exported / PyTorch", "MindFCN, of peak"], rows,
         [*notes, f"Medians of {options.runs} runs in turn, after 2 warm-up runs; photographs: one pass each. "
          "MindSpore, plain: PyNative mode, the network as it trains. PyTorch: eager. Of peak: the multiply-adds "
          "of plain convolutions."], options.keep)


if __name__ == "__main__":
    main()
