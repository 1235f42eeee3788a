"""A training step: forward, backward and update of one batch that is on the device, MindFCN and PyTorch in turns."""

import itertools
import statistics
import sys
import tempfile

from contestants import TOLERANCE, mindfcn, pytorch, shape_of
from records import attempt, ended, milliseconds
from rivals import HERE, difference, take_turns

FOLDER = HERE / "train_step"


def columns(options):
    """Columns of the table."""
    rivals = options.rivals
    return ["network", "images", "precision", "MindFCN ms", *(f"{rival} ms" for rival in rivals),
            *(["x best rival's"] if rivals else []), "MindFCN GB",
            *(["best rival's GB", "logits differ"] if rivals else [])]


def measure(options):
    """Yield a record for each network, size and precision."""
    for model, shape, precision in itertools.product(options.models, options.sizes, options.precisions):
        size, count = shape_of(shape)
        record = {"network": model, "images": f"{count} of {size}x{size}", "precision": precision}
        yield attempt(record, compare, model, size, count, precision, options)


def compare(model, size, count, precision, options):
    """The rest of a record. Raises SystemExit if the logits differ too much: nothing is timed then."""
    with tempfile.TemporaryDirectory() as folder, ended() as keep:
        settings, where = (folder, model, size, count), (options.device, precision, options.width)
        ours = keep(mindfcn(FOLDER, *settings, *where))
        if not options.rivals:
            seconds = take_turns([ours], options.runs, options.warm_up)
            return {"MindFCN ms": milliseconds(seconds[ours.name]), "MindFCN GB": float(ours.ask("peak")),
                    "versions": [ours.ask("version")]}
        found, pairs, memory, differences = {"MindFCN ms": []}, {}, {}, []
        for variant in options.rivals:
            rival = keep(pytorch(variant, FOLDER, *settings, variant, *where))
            differences.append(difference(f"{folder}/mindspore.npy", f"{folder}/pytorch.npy"))
            if not differences[-1] <= TOLERANCE[precision]:
                sys.exit(f"logits differ from those of {variant} by {differences[-1]:.1e} of the largest; nothing was "
                         "timed")
            pairs[variant] = take_turns((ours, rival), options.runs, options.warm_up)
            memory[variant] = float(rival.ask("peak"))
            version = rival.ask("version")
            found["MindFCN ms"] += milliseconds(pairs[variant][ours.name])
            found[f"{variant} ms"] = milliseconds(pairs[variant][variant])
            rival.end()
        best = min(pairs, key=lambda variant: statistics.median(pairs[variant][variant]))
        return {**found, "best rival": best,
                "x best rival's": statistics.median(pairs[best][ours.name]) / statistics.median(pairs[best][best]),
                "MindFCN GB": float(ours.ask("peak")), "best rival's GB": memory[best],
                "logits differ": max(differences), "versions": [ours.ask("version"), version]}
