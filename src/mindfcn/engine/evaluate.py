"""The verb eval: a checkpoint against a whole split."""

import contextlib
import dataclasses
import glob
import json
import os
import time
from typing import Optional

import numpy as np
from mindspore.train import Model

from mindfcn import runtime
from mindfcn.config import EvalConfig, flat
from mindfcn.data.dataset import SegDataset
from mindfcn.data.mindrecord import read_manifest
from mindfcn.dense.inference import Inference
from mindfcn.engine.networks import combined, load_segmenter, network_text
from mindfcn.errors import UserError
from mindfcn.files import atomic_path, held, remove_leftovers, write_text
from mindfcn.hooks import Progress, Say
from mindfcn.losses import CrossEntropy
from mindfcn.metrics import (
    MEAN_IOU,
    MEAN_PIXEL_ACCURACY,
    PIXEL_ACCURACY,
    ConfusionMatrix,
    ObjectSizes,
    Trimap,
    segmentation_metrics,
)
from mindfcn.report.masks import side_by_side, write_picture
from mindfcn.report.page import REPORT, Page, picture, write_page
from mindfcn.report.plots import save_class_bars, save_confusion, save_trimap
from mindfcn.report.tables import class_table, csv_text

# The first passes of a process set up kernels and memory; their times do not count.
WARM_UP = 2
# sky, horizontal, vertical
GEOMETRIC_CLASSES = 3


@dataclasses.dataclass
class Evaluation:
    """What an evaluation found.

    Attributes:
        matrix: ConfusionMatrix of all pixels.
        trimap: Trimap, of the pixels near boundaries.
        sizes: ObjectSizes.
        names: file names, in the records' order.
        scores: (images,) float64 mean IoU of each image over the classes in its truth or prediction; NaN without any.
        seconds: median time from a photograph in memory to its mask.
        geometric: ConfusionMatrix of the second head, or None.
    """
    matrix: ConfusionMatrix
    trimap: Trimap
    sizes: ObjectSizes
    names: list
    scores: np.ndarray
    seconds: float
    geometric: Optional[ConfusionMatrix] = None

    @property
    def metrics(self):
        """The four metrics."""
        return self.matrix.compute()


@dataclasses.dataclass
class EvalResult:
    """Metrics of an evaluation, and where they are written.

    Attributes:
        metrics: the four metrics by name.
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


def evaluate_network(segment, dataset, num_classes, progress=None, stop=None, background=None, excluded=(),
                     geometric=None):
    """Every image of an evaluation data set at native size, each pixel counted once.

    Where processes share the data set (its `rank_size` says so), each sees every `rank_size`-th record, and all return
    the counts and scores of the whole.

    Args:
        segment: function (image (H, W, 3) uint8 BGR) -> (mask (H, W) uint8, anything): a Segmenter, an Inference.
        dataset: SegDataset(training=False).
        num_classes: classes.
        progress: wraps an iterable of batches and its length.
        stop: function, asked before each image; None is returned when it says true to any process.
        background: a class that has no objects (see ObjectSizes).
        excluded: numbers of classes that means leave out.
        geometric: function from an image to the second head's mask, where the data set has labels for it.

    Returns:
        Evaluation, or None.

    Raises:
        UserError: a damaged record, here or where another process reads.
    """
    runtime.pynative_mode()
    shared = dataset.rank_size > 1
    with runtime.together() if shared else contextlib.nullcontext():
        counters = ConfusionMatrix(num_classes, excluded), Trimap(num_classes), ObjectSizes(num_classes, background)
        second = ConfusionMatrix(GEOMETRIC_CLASSES)
        share, seconds, stopped = _evaluate_share(segment, dataset, counters, progress, stop, geometric, second)
    add_up = runtime.sum_over_ranks if shared else np.asarray
    if add_up(np.array(stopped, np.int64)):
        return None
    for counter in (*counters, second):
        counter.counts = add_up(counter.counts)
    scores = np.zeros(dataset.count)
    scores[dataset.rank::dataset.rank_size] = share
    return Evaluation(*counters, dataset.names(), add_up(scores), typical(seconds), second if geometric else None)


def _evaluate_share(segment, dataset, counters, progress, stop, geometric, second):
    """Count this process's records. Returns (their mean IoUs, seconds, whether it was stopped)."""
    matrix, *others = counters
    scores, seconds = [], []
    pairs = dataset.photographs()
    for image, truth in progress(pairs, dataset.steps_per_epoch) if progress else pairs:
        if stop and stop():
            return scores, seconds, True
        single = ConfusionMatrix(matrix.num_classes)
        if geometric:
            second.update(geometric(image), truth[..., 1])
            truth = truth[..., 0]
        (mask, _), taken = timed(segment, image)
        single.counts = matrix.update(mask, truth)
        for other in others:
            other.update(mask, truth)
        scores.append(single.mean_iou())
        seconds.append(taken)
    return scores, seconds, False


def timed(function, argument):
    """(what a function gives, seconds until it was there).

    A segmenter's results are arrays on the host, so a device that computes behind our back has ended.
    """
    started = time.perf_counter()
    return function(argument), time.perf_counter() - started


def typical(seconds):
    """Median of the times of passes, without those of WARM_UP where there are more; NaN where there are none."""
    return float(np.median(seconds[WARM_UP:] or seconds or [np.nan]))


def evaluate(config: EvalConfig, progress: Optional[Progress] = None, say: Optional[Say] = None) -> EvalResult:
    """Evaluate a checkpoint; write metrics.json, tables (classes.txt, sizes.csv, trimap.csv), report.html and pictures.

    Args:
        config: EvalConfig.
        progress: wraps an iterable and its length.
        say: called with one line of text.

    Returns:
        EvalResult.

    Raises:
        UserError: checkpoint or records are missing, damaged, or do not fit each other.
    """
    for name, value in (("worst", config.worst), ("best", config.best), ("images", config.images)):
        if value < 0:
            raise UserError(f"--{name} {value}: must be at least 0")
    runtime.set_up(config.device, config.seed)
    segmenter, card = load_segmenter(config.checkpoint, config.model, config.precision)
    records = config.records or card.records
    if not records:
        raise UserError(f"{config.checkpoint} does not say where its validation records are; give --records")
    check_classes(records, card.labels, config.checkpoint)
    segmenter = combined(segmenter, card, config)
    segment = Inference(segmenter, config)
    segment.check(card)
    if config.protocol == "course" and (not segment.plain or config.window or config.images
                                         or config.proposals != "none" or config.ensemble):
        raise UserError("--protocol course takes the network as it is, on all records: leave out scales, flip, window, "
                        "crf, images, proposals and ensemble")
    folder = "evaluation" if config.protocol == "native" else "evaluation-course"
    out = config.out or os.path.join(os.path.dirname(os.path.abspath(config.checkpoint)), folder)
    if say:
        say(f"evaluating {config.checkpoint} on {records}")
    page = Page(os.path.join(out, REPORT), f"Evaluation of {os.path.basename(config.checkpoint)}", card.labels,
                {"network": network_text(card), "checkpoint": config.checkpoint, "records": records},
                details={"Settings of this evaluation": dataclasses.asdict(config),
                         "Settings of the training": flat(card.training.get("settings", {})),
                         "Versions of this evaluation": runtime.versions()})
    if config.protocol == "course":
        return _course_protocol(config, segmenter, page, records, out)
    dataset = SegDataset(data_file=records, training=False, preprocess=card.preprocess,
                         num_classes=len(card.labels), ignore_label=card.labels.ignore_label, rank=runtime.rank(),
                         rank_size=runtime.rank_size(), most=config.images, geometric=bool(card.geometric))
    evaluation = evaluate_network(segment, dataset, len(card.labels), progress, background=card.labels.background,
                                  excluded=card.labels.excluded_numbers(),
                                  geometric=segmenter.geometric if card.geometric else None)
    return write_evaluation(out, evaluation, segment, dataset, page, config.worst, config.best)


def check_classes(records, labels, checkpoint):
    """Refuse records whose classes are not the checkpoint's."""
    manifest = read_manifest(records)
    if manifest and manifest["labels"]["names"] != list(labels.names):
        raise UserError(f"{records} has {len(manifest['labels']['names'])} classes "
                        f"({', '.join(manifest['labels']['names'][:3])}, ...), {checkpoint} was trained for "
                        f"{len(labels)} ({', '.join(labels.names[:3])}, ...); give the records of its data set")


def write_evaluation(out, evaluation, segment, dataset, page, worst=8, best=8):
    """Write the files of a native evaluation into `out` and fill in and write its Page, from the first process alone.

    Returns EvalResult.
    """
    matrix, labels = evaluation.matrix, page.labels
    table = class_table(labels.names, matrix.class_ious(), matrix.class_accuracies(), matrix.class_shares())
    second = evaluation.geometric
    result = EvalResult(evaluation.metrics, table, out, len(evaluation.names), "native", evaluation.seconds,
                        second and second.compute())
    if runtime.rank():
        return result
    # Two evaluations into one folder follow each other, or their files would mix.
    with held(os.path.join(out, "evaluation.lock"), out, wait=True):
        remove_leftovers(out)
        done = os.path.join(out, "metrics.json")
        # First removed, last written: who finds it finds the others of the same evaluation, too.
        with contextlib.suppress(FileNotFoundError):
            os.remove(done)
        write_text(os.path.join(out, "classes.txt"), table + "\n")
        save_confusion(os.path.join(out, "confusion.png"), matrix.counts, labels)
        save_class_bars(os.path.join(out, "classes.png"), matrix.class_ious(), labels)
        sizes, bands = evaluation.sizes.compute(), evaluation.trimap.mean_ious()
        save_trimap(os.path.join(out, "trimap.png"), bands, matrix.mean_iou())
        write_text(os.path.join(out, "sizes.csv"), csv_text(
            ("size", MEAN_IOU, MEAN_PIXEL_ACCURACY, "objects"), [(size, *row.values()) for size, row in sizes.items()]))
        write_text(os.path.join(out, "trimap.csv"), csv_text(("width", MEAN_IOU), list(enumerate(bands, 1))))
        order = [number for number in np.argsort(evaluation.scores) if not np.isnan(evaluation.scores[number])]
        shown = {"worst": order[:worst], "best": order[worst:][::-1][:best]}
        page.galleries = {f"{kind.capitalize()} images": write_pictures(
            os.path.join(out, kind), numbers, evaluation, labels, segment, dataset) for kind, numbers in shown.items()}
        page.matrix, page.sizes, page.trimap = matrix, sizes, bands
        page.facts |= {"images": f"{result.images:,}",
                       "an image takes": f"{1000 * evaluation.seconds:.1f} ms"}
        if second:
            page.facts |= {"geometric classes": str(second)}
        if labels.excluded:
            left_out = ", ".join(labels.excluded)
            page.notes = [*page.notes, f"Means leave out {left_out}, as the data set's protocol does."]
        write_page(page)
        save_json(done, {
            "protocol": "native", "images": len(evaluation.names), "metrics": evaluation.metrics,
            "seconds per image": evaluation.seconds,
            "object sizes": sizes, "boundary mean IoU": {str(width): float(iou) for width, iou in enumerate(bands, 1)},
            "classes": list(labels.names), "class IoU": matrix.class_ious().tolist(),
            "class accuracy": matrix.class_accuracies().tolist(), "confusion matrix": matrix.counts.tolist(),
            "image IoU": dict(zip(evaluation.names, evaluation.scores.tolist())),
            **({"geometric": {"metrics": second.compute(), "class IoU": second.class_ious().tolist(),
                              "confusion matrix": second.counts.tolist()}} if second else {}),
            **({"excluded": list(labels.excluded)} if labels.excluded else {})})
    return result


def write_pictures(folder, numbers, evaluation, labels, segment, dataset):
    """Draw these images of an evaluation beside their masks, one file each in `folder`. Returns their Pictures."""
    # Pictures of an earlier evaluation would stand among these under their own numbers.
    for old in glob.glob(os.path.join(glob.escape(folder), "[0-9][0-9]*_*.jpg")):
        os.remove(old)
    pictures = []
    for place, (name, image, planes, truth, _) in enumerate(dataset.examples(numbers), 1):
        mask, _ = segment(planes)
        image = np.ascontiguousarray(image[..., ::-1])
        note = f"mean IoU {100 * evaluation.scores[numbers[place - 1]]:.1f} %"
        write_picture(os.path.join(folder, f"{place:02d}_{_safe(name)}.jpg"),
                      side_by_side(image, truth, mask, labels, f"{name}: {note}"))
        single = ConfusionMatrix(len(labels))
        single.update(mask, truth)
        pictures.append(picture(name, image, {"truth": truth, "prediction": mask}, labels, note, single.class_ious()))
    return pictures


def _course_protocol(config, segmenter, page, records, out):
    """The course's way: random scaled 512x512 crops in batches of 4, the last incomplete batch dropped."""
    labels = page.labels
    if segmenter.split(np.empty(0))[1] is not None:
        raise UserError("--protocol course: the course's networks have one head; use the native protocol")
    dataset = SegDataset(data_file=records, batch_size=4, preprocess=segmenter.preprocess, seed=config.seed,
                         ignore_label=labels.ignore_label, num_classes=len(labels))
    runtime.pynative_mode()
    segmenter.net.set_train(False)
    views = segmentation_metrics(len(labels))
    model = Model(segmenter.net, CrossEntropy(labels.ignore_label), metrics=views)
    metrics = model.eval(dataset.get_dataset(), dataset_sink_mode=False)
    images = dataset.steps_per_epoch * dataset.batch_size
    if runtime.rank() == 0:
        note = "random crops of the given records, for comparison with the course's printed figures only"
        page.matrix, page.notes = views[PIXEL_ACCURACY].matrix, [f"The course's protocol: {note}."]
        page.facts |= {"images": f"{images:,}"}
        write_page(page)
        save_json(os.path.join(out, "metrics.json"), {"protocol": f"course: {note}", "images": images,
                                                      "metrics": metrics})
    return EvalResult(metrics, "", out, images, "course")


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
    """A record's name as part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)[:80]
