"""Training input: MindRecord -> augmented batches, by MindFCN, PyTorch's DataLoader and the course's class.

    python benchmarks/speed/data/run.py [--runs 5] [--no-step] [--keep]

Reads the photographs of 500x375 in ../shared/data (VOC 2012); without them, draws pictures of that size. An epoch
contains every photograph twice; the three pipelines run epochs in turn. Before timing, all three get the same
photographs and random numbers and must return the same crops, to 1e-5 in normalised pixels. The second part takes
training steps of fcn8s_vgg16 at 512x512, in turn on new batches and on one constant batch; it needs about 10 GB of
memory and two minutes.
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
import tempfile
import time

import cv2
import numpy as np

from mindfcn.data import transforms
from mindfcn.data.records.mindrecord import read_records, write_records
from mindfcn.data.sources.voc import list_voc
from mindfcn.data.synthetic.shapes import SAMPLE, draw_sample_set
from mindfcn.labels import VOC
from mindfcn.preprocess import COURSE
from mindfcn.storage.images import decode_image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import rivals

HERE = pathlib.Path(__file__).resolve().parent
PHOTOGRAPHS = rivals.SHARED / "data"
BATCH, SIZE, REPEATS, CHECKED = 4, 512, 2, 8
# Largest difference of normalised pixels between crops that count as equal.
SAME = 1e-5
TIMES = 3


def main():
    """Print the tables."""
    parser = rivals.parser(__doc__)
    parser.add_argument("--step", action=argparse.BooleanOptionalAction, default=True, help="also run the second part")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        samples, labels, source = photographs(folder)
        seconds = prepare(samples, labels, folder / "records")
        export(folder)
        rows, notes = loaders(folder, len(samples), options.runs)
        rows.append(["preparation (files -> verified records)", rate(len(samples) / s for s in seconds), "", ""])
        notes = [f"{source}; batch {BATCH}, {SIZE}x{SIZE}. {notes}", f"One photograph, one thread: {profile(folder)}."]
        if options.step:
            notes.append(waiting(folder, options.runs))
    rivals.show("data", ["", "images/s", "of PyTorch's", "of the course's"], rows, notes, options.keep)


def photographs(folder):
    """(samples with unique names, labels, description of the source)."""
    if (PHOTOGRAPHS / "VOCdevkit").is_dir():
        samples, labels = list_voc(PHOTOGRAPHS, "train") + list_voc(PHOTOGRAPHS, "val"), VOC
        samples = [sample for sample in samples if cv2.imread(sample.image).shape == (375, 500, 3)]
        source = f"{len(samples)} photographs of VOC 2012 of 500x375, each {REPEATS} times"
    else:
        draw_sample_set(folder / "drawn", 100, 500, 1)
        samples, labels = list_voc(folder / "drawn", "train"), SAMPLE
        source = f"no VOC 2012 in {PHOTOGRAPHS}: {len(samples)} drawn pictures of 500x375, each {REPEATS} times"
    return [dataclasses.replace(sample, name=f"{sample.name}_{number}")
            for number in range(REPEATS) for sample in samples], labels, source


def prepare(samples, labels, path):
    """Write the records TIMES times; returns the seconds of each."""
    seconds = []
    for _ in range(TIMES):
        start = time.perf_counter()
        write_records(samples, path, labels, overwrite=True)
        seconds.append(time.perf_counter() - start)
    return seconds


def export(folder):
    """Write the encoded images and masks of the records as files, for PyTorch."""
    names = []
    for name, data, label in read_records(folder / "records"):
        (folder / f"{name}.jpg").write_bytes(data)
        (folder / f"{name}.png").write_bytes(label)
        names.append(name)
    (folder / "names.txt").write_text("\n".join(names))


def loaders(folder, count, runs):
    """Rows of images per second, and a note."""
    settings = (folder, BATCH, SIZE)
    mindfcn = rivals.Worker("mindspore", sys.executable, HERE / "worker_mindfcn.py", *settings)
    torch = rivals.Worker("pytorch", rivals.python_of("torch"), HERE / "worker_pytorch.py", *settings, rivals.THREADS)
    course = rivals.Worker("course", sys.executable, HERE / "worker_course.py", *settings)
    workers = [mindfcn, torch, course]
    check(folder, workers)
    seconds = rivals.take_turns(workers, runs, 1)
    version = torch.ask("version")
    peaks = ", ".join(f"{float(worker.ask('peak')):.2f}" for worker in workers)
    for worker in workers:
        worker.end()
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    images = count // BATCH * BATCH
    rows = [[title, rate(images / s for s in seconds[worker.name]),
             f"{middle['pytorch'] / middle[worker.name]:.2f}", f"{middle['course'] / middle[worker.name]:.2f}"]
            for title, worker in (("**MindFCN** SegDataset", mindfcn),
                                  (f"{version} DataLoader, {rivals.THREADS} processes", torch),
                                  (f"the course's class, {min(4, rivals.THREADS)} threads", course))]
    return rows, (f"{CHECKED} crops with the same random numbers agree within {SAME} in all three, masks exactly. "
                  f"Peak memory of the three processes (PyTorch's without its loader processes): {peaks} GB")


def check(folder, workers):
    """Exit if the three pipelines return different crops."""
    for number in range(CHECKED):
        crops = [np.load(folder / f"{worker.name}{number}.npz") for worker in workers]
        for worker, crop in zip(workers, crops):
            apart = np.abs(crop["image"] - crops[0]["image"]).max()
            if apart > SAME or (crop["label"] != crops[0]["label"]).any():
                sys.exit(f"crop {number} of {worker.name} differs from {workers[0].name}'s; nothing was timed")


def waiting(folder, runs):
    """A note on step time with real data, compared with step time on a constant batch."""
    worker = rivals.Worker("step", sys.executable, HERE / "worker_step.py", folder, SIZE)
    real, constant, waited = [], [], []
    for run in range(runs + 2):
        found = [float(worker.ask(command)) for command in ("constant", "real", "waited")]
        for seconds, taken in zip((constant, real, waited), found):
            seconds += [taken] if run > 1 else []
    worker.end()
    ratio = statistics.median(real) / statistics.median(constant)
    return (f"A step of fcn8s_vgg16, {SIZE}x{SIZE}, batch 1: {rivals.median(real)} s on new batches, "
            f"{rivals.median(constant)} s on a constant batch, ratio {ratio:.3f}; "
            f"it waits {1e3 * statistics.median(waited):.1f} ms for its batch")


def profile(folder):
    """Text: milliseconds of each operation in one thread."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    rows = [row for _, row in zip(range(100), read_records(folder / "records"))]
    spent = {}

    def clock(name, operation, *arguments):
        start = time.perf_counter()
        result = operation(*arguments)
        spent.setdefault(name, []).append(time.perf_counter() - start)
        return result

    for number, (_, data, label) in enumerate(rows):
        random = np.random.RandomState(number)
        image = clock("photograph decoded", decode_image, data, "a record")
        mask = clock("mask decoded", cv2.imdecode, np.frombuffer(label, np.uint8), cv2.IMREAD_GRAYSCALE)
        image, mask = clock("scaled", transforms.scale, image, mask, random.uniform(0.5, 2.0))
        clock("cropped, flipped, normalised, padded", transforms.augment, image, mask, random, SIZE, 1, 1, COURSE, 255)
    cv2.setNumThreads(threads)
    return ", ".join(f"{name} {1e3 * statistics.median(seconds):.2f} ms" for name, seconds in spent.items())


def rate(found):
    """Text: images per second, median (minimum-maximum)."""
    found = sorted(found)
    return f"{statistics.median(found):.0f} ({found[0]:.0f}-{found[-1]:.0f})"


if __name__ == "__main__":
    main()
