"""Inference: from a batch on the host to its masks, and to its logits, on the host, MindFCN and PyTorch in turns."""

import itertools
import pathlib
import statistics
import sys
import tempfile

import numpy as np
from contestants import TOLERANCE, mindfcn, pytorch, shape_of
from records import attempt, ended, milliseconds
from rivals import HERE, difference, take_turns

FOLDER = HERE / "inference"
COMMANDS, BOTH = {"masks": "masks", "logits": "run"}, "both"


def columns(options):
    """Columns of the table."""
    rivals = options.rivals
    return ["network", "images", "precision", "copied", "MindFCN ms", *(f"{rival} ms" for rival in rivals),
            *(["x best rival's"] if rivals else []), "MindFCN GB",
            *(["best rival's GB", "logits differ"] if rivals else [])]


def measure(options):
    """Yield a record for each network, size, precision and what is copied from the device."""
    for model, shape, precision in itertools.product(options.models, options.sizes, options.precisions):
        size, count = shape_of(shape)
        record = {"network": model, "images": f"{count} of {size}x{size}", "precision": precision}
        found = attempt(record, compare, model, size, count, precision, options)
        for copied, times in found.pop(BOTH, {"": {}}).items():
            yield {**found, "copied": copied, **times}


def compare(model, size, count, precision, options):
    """What both records share, and the rest of each under BOTH.

    Raises SystemExit if the logits differ too much: nothing is timed then.
    """
    with tempfile.TemporaryDirectory() as name, ended() as keep:
        folder = pathlib.Path(name)
        np.save(folder / "image.npy", np.random.default_rng(1).integers(0, 256, (size, size, 3), np.uint8))
        where = (options.device, precision, options.width)
        workers = [keep(mindfcn(FOLDER, folder, model, "segmenter", *where)),
                   *(keep(pytorch(variant, FOLDER, folder, model, variant, *where)) for variant in options.rivals)]
        for number, worker in enumerate(workers):
            worker.ask(f"write image {number}")
        differences = [difference(folder / f"{number}.npy", folder / "0.npy") for number in range(len(workers))]
        if not max(differences) <= TOLERANCE[precision]:
            sys.exit(f"logits differ by {max(differences):.1e} of the largest; nothing was timed")
        return {"logits differ": max(differences), "versions": sorted({worker.ask("version") for worker in workers}),
                BOTH: {copied: times(workers, f"{command} image {count}", options)
                       for copied, command in COMMANDS.items()}}


def times(workers, command, options):
    """Times and memory of one record; the first worker is MindFCN's."""
    seconds = take_turns(workers, options.runs, options.warm_up, command)
    found = {f"{name} ms": milliseconds(taken) for name, taken in seconds.items()}
    memory = {worker.name: float(worker.ask("peak")) for worker in workers}
    ours, *rivals = seconds
    if rivals:
        medians = {name: statistics.median(taken) for name, taken in seconds.items()}
        best = min(rivals, key=medians.__getitem__)
        found |= {"best rival": best, "x best rival's": medians[ours] / medians[best], "best rival's GB": memory[best]}
    return {**found, f"{ours} GB": memory[ours]}
