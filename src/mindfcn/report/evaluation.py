"""The files of an evaluation: metrics, tables, pictures and the report."""

import contextlib
import dataclasses
import glob
import json
import os
from typing import Optional

import numpy as np

from mindfcn import runtime
from mindfcn.data.records.records import record_entry
from mindfcn.metrics import MEAN_IOU, MEAN_PIXEL_ACCURACY, counter_of
from mindfcn.report.overlays import side_by_side, write_picture
from mindfcn.report.page import picture, write_page
from mindfcn.report.plots import save_class_bars, save_confusion, save_trimap
from mindfcn.report.tables import class_table, csv_text, overlapping_table
from mindfcn.storage.files import atomic_path, held, remove_leftovers, write_text

# Folders of an evaluation with the pictures of single images.
PICTURES = ("worst", "best")


@dataclasses.dataclass
class EvalResult:
    """Metrics of an evaluation and the folder of its files.

    Attributes:
        metrics: the four metrics by name, or those of overlapping classes.
        table: per-class table as text; empty for the course's protocol.
        out: folder of the files.
        images: images counted.
        protocol: "native" or "course".
        seconds: median time from a photograph in memory to its mask; None for the course's protocol.
        geometric: the four metrics of the second head, or None.
    """
    metrics: dict
    table: str
    out: str
    images: int
    protocol: str
    seconds: Optional[float] = None
    geometric: Optional[dict] = None


def write_evaluation(out, evaluation, segment, dataset, page, worst=8, best=8):
    """Write the files of a native evaluation into `out`, complete its Page and write it; only the first process writes.

    Returns EvalResult.
    """
    matrix, labels = evaluation.matrix, page.labels
    table = (overlapping_table(labels.names, matrix) if labels.multilabel else
             class_table(labels.names, matrix.class_ious(), matrix.class_accuracies(), matrix.class_shares()))
    second = evaluation.geometric
    result = EvalResult(evaluation.metrics, table, out, len(evaluation.names), "native", evaluation.seconds,
                        second and second.compute())
    if runtime.rank():
        return result
    # A second evaluation into the same folder waits, so that their files do not mix.
    with held(os.path.join(out, "evaluation.lock"), out, wait=True):
        remove_leftovers(out, PICTURES)
        done = os.path.join(out, "metrics.json")
        # Removed first and written last: where it exists, all other files are of the same evaluation.
        with contextlib.suppress(FileNotFoundError):
            os.remove(done)
        write_text(os.path.join(out, "classes.txt"), table + "\n")
        save_class_bars(os.path.join(out, "classes.png"), matrix.class_ious(), labels)
        figures = _overlapping_figures(matrix) if labels.multilabel else _figures(out, evaluation, page)
        order = [number for number in np.argsort(evaluation.scores) if not np.isnan(evaluation.scores[number])]
        shown = dict(zip(PICTURES, (order[:worst], order[worst:][::-1][:best])))
        page.galleries = {f"{kind.capitalize()} images": write_pictures(
            os.path.join(out, kind), numbers, evaluation, labels, segment, dataset) for kind, numbers in shown.items()}
        page.matrix = matrix
        page.facts |= {"images": f"{result.images:,}",
                       "an image takes": f"{1000 * evaluation.seconds:.1f} ms"}
        if second:
            page.facts |= {"geometric classes": str(second)}
        if labels.excluded:
            left_out = ", ".join(labels.excluded)
            page.notes = [*page.notes, f"Means leave out {left_out}, as the data set's protocol does."]
        write_page(page)
        save_json(done, {
            "protocol": "native", "images": len(evaluation.names), "records": record_entry(dataset.path),
            "metrics": evaluation.metrics,
            "seconds per image": evaluation.seconds,
            "classes": list(labels.names), "class IoU": matrix.class_ious().tolist(), **figures,
            "image IoU": dict(zip(evaluation.names, evaluation.scores.tolist())),
            **({"geometric": {"metrics": second.compute(), "class IoU": second.class_ious().tolist(),
                              "confusion matrix": second.counts.tolist()}} if second else {}),
            **({"excluded": list(labels.excluded)} if labels.excluded else {})})
    return result


def _figures(out, evaluation, page):
    """Write tables and plots of confusions, boundaries and object sizes, also into the page. Returns their figures."""
    matrix, sizes, bands = evaluation.matrix, evaluation.sizes.compute(), evaluation.trimap.mean_ious()
    save_confusion(os.path.join(out, "confusion.png"), matrix.counts, page.labels)
    trimap = os.path.join(out, "trimap.png")
    save_trimap(trimap, bands, matrix.mean_iou())
    write_text(os.path.join(out, "sizes.csv"), csv_text(
        ("size", MEAN_IOU, MEAN_PIXEL_ACCURACY, "objects"), [(size, *row.values()) for size, row in sizes.items()]))
    write_text(os.path.join(out, "trimap.csv"), csv_text(("width", MEAN_IOU), list(enumerate(bands, 1))))
    page.sizes, page.trimap = sizes, trimap if np.isfinite(bands).any() else ""
    return {"object sizes": sizes, "boundary mean IoU": {str(width): float(iou) for width, iou in enumerate(bands, 1)},
            "class accuracy": matrix.class_accuracies().tolist(), "confusion matrix": matrix.counts.tolist()}


def _overlapping_figures(counts):
    """The figures of overlapping classes for metrics.json, from their BinaryCounts."""
    return {"class precision": counts.class_precisions().tolist(), "class recall": counts.class_recalls().tolist(),
            "binary counts": counts.counts.tolist()}


def write_pictures(folder, numbers, evaluation, labels, segment, dataset):
    """Draw the images with these numbers and their masks, one file each in `folder`. Returns their Pictures."""
    # Remove pictures of an earlier evaluation, whose numbers and names differ.
    for old in glob.glob(os.path.join(glob.escape(folder), "[0-9][0-9]*_*.jpg")):
        os.remove(old)
    pictures = []
    for place, (name, image, planes, truth, _) in enumerate(dataset.examples(numbers), 1):
        mask, _ = segment(planes)
        image = np.ascontiguousarray(image[..., ::-1])
        note = f"mean IoU {100 * evaluation.scores[numbers[place - 1]]:.1f} %"
        write_picture(os.path.join(folder, f"{place:02d}_{_safe(name)}.jpg"),
                      side_by_side(image, truth, mask, labels, f"{name}: {note}"))
        single = counter_of(labels)
        single.update(mask, truth)
        pictures.append(picture(name, image, {"truth": truth, "prediction": mask}, labels, note, single.class_ious()))
    return pictures


def save_json(path, content):
    """Write indented JSON; NaN becomes null."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        json.dump(_no_nan(content), file, indent=1, ensure_ascii=False)


def _no_nan(content):
    if isinstance(content, dict):
        return {key: _no_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_no_nan(value) for value in content]
    return None if isinstance(content, float) and content != content else content


def _safe(name):
    """A record's name, made safe for a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[:80]
