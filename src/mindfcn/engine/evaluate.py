"""The verb eval: a checkpoint against a whole split."""

import contextlib
import dataclasses
import glob
import json
import os
import time
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore.train import Model

from mindfcn import runtime
from mindfcn.config import flat
from mindfcn.data.dataset import SegDataset
from mindfcn.data.mindrecord import read_manifest
from mindfcn.dense.whole_image import Segmenter
from mindfcn.engine.precision import compute_in, layer_type
from mindfcn.errors import UserError
from mindfcn.files import atomic_path, write_text
from mindfcn.logits import argmax
from mindfcn.losses import CrossEntropy
from mindfcn.metrics import PIXEL_ACCURACY, ConfusionMatrix, segmentation_metrics
from mindfcn.models.factory import create_model
from mindfcn.report.masks import side_by_side, write_picture
from mindfcn.report.page import REPORT, Page, picture, write_page
from mindfcn.report.plots import save_class_bars, save_confusion
from mindfcn.report.tables import class_table
from mindfcn.weights.checkpoint import load_checkpoint
from mindfcn.weights.surgery import load_weights

# The first passes of a process set up kernels and memory; their times do not count.
WARM_UP = 2


@dataclasses.dataclass
class Evaluation:
    """What an evaluation found.

    Attributes:
        matrix: ConfusionMatrix of all pixels.
        names: file names, in the records' order.
        scores: (images,) float64 mean IoU of each image over the classes in its truth or prediction; NaN without any.
        seconds: median time of the network for one image, logits copied to the host.
        geometric: ConfusionMatrix of the second head, or None.
    """
    matrix: ConfusionMatrix
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
        seconds: median time of the network for one image; None for the course's protocol.
        geometric: the four metrics of the second head, or None.
    """
    metrics: dict
    table: str
    out: str
    images: int
    protocol: str
    seconds: Optional[float] = None
    geometric: Optional[dict] = None


def evaluate_network(segmenter, dataset, num_classes, progress=None, stop=None, excluded=(), geometric_classes=3):
    """Every image of an evaluation data set at native size, each pixel counted once.

    Where processes share the data set (its `rank_size` says so), each sees every `rank_size`-th record, and all return
    the counts and scores of the whole.

    Args:
        segmenter: Segmenter.
        dataset: SegDataset(training=False).
        num_classes: classes.
        progress: wraps an iterable of batches and its length.
        stop: function, asked before each image; None is returned when it says true to any process.
        excluded: numbers of classes that means leave out.
        geometric_classes: classes of the second head, where the data set has labels for it.

    Returns:
        Evaluation, or None.

    Raises:
        UserError: a damaged record, here or where another process reads.
    """
    runtime.pynative_mode()
    shared = dataset.rank_size > 1
    with runtime.together() if shared else contextlib.nullcontext():
        matrices, share, seconds, stopped = _evaluate_share(segmenter, dataset, progress, stop, [
            ConfusionMatrix(num_classes, excluded), ConfusionMatrix(geometric_classes)])
    add_up = runtime.sum_over_ranks if shared else np.asarray
    if add_up(np.array(stopped, np.int64)):
        return None
    for matrix in matrices:
        matrix.counts = add_up(matrix.counts)
    scores = np.zeros(dataset.count)
    scores[dataset.rank::dataset.rank_size] = share
    return Evaluation(matrices[0], dataset.names(), add_up(scores), typical(seconds),
                      matrices[1] if dataset.geometric else None)


def _evaluate_share(segmenter, dataset, progress, stop, matrices):
    """(the two ConfusionMatrices, mean IoUs, seconds, whether it was stopped) of this process's records."""
    (matrix, second), scores, seconds = matrices, [], []
    batches = dataset.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True)
    with runtime.user_errors():
        for image, truth in progress(batches, dataset.steps_per_epoch) if progress else batches:
            if stop and stop():
                return matrices, scores, seconds, True
            single = ConfusionMatrix(matrix.num_classes)
            logits, taken = timed(segmenter, image)
            if dataset.geometric:
                logits, others = segmenter.split(logits[0])
                second.update(argmax(others), truth[0, 1])
                logits, truth = logits[None], truth[:, 0]
            single.counts = matrix.update(argmax(logits[0]), truth[0])
            scores.append(single.mean_iou())
            seconds.append(taken)
    return matrices, scores, seconds, False


def timed(segmenter, batch):
    """(logits of a batch, seconds until they were there)."""
    started = time.perf_counter()
    # `logits` returns an array on the host, so a device that computes behind our back has ended.
    return segmenter.logits(batch), time.perf_counter() - started


def typical(seconds):
    """Median of the times of passes, without those of WARM_UP where there are more; NaN where there are none."""
    return float(np.median(seconds[WARM_UP:] or seconds or [np.nan]))


def load_segmenter(checkpoint, default_model=None, precision="auto"):
    """(Segmenter, Card) of a checkpoint. Raises UserError as `load_checkpoint`, `load_weights` and `layer_type` do."""
    dtype = layer_type(precision, ms.get_context("device_target"))
    weights, card, _ = load_checkpoint(checkpoint, default_model)
    net = create_model(card.model["name"], len(card.labels), **network_options(card))
    load_weights(net, weights, checkpoint)
    compute_in(net, dtype)
    return Segmenter(net, card.preprocess), card


def network_options(card):
    """Options of `create_model` that a card names."""
    return {name: value for name, value in card.model.items() if name != "name"}


def network_text(card):
    """A card's network and its options in one line."""
    return ", ".join([card.model["name"], *(f"{name} {value}" for name, value in network_options(card).items())])


def evaluate(config, progress=None, say=None):
    """Evaluate a checkpoint; write metrics.json, classes.txt, confusion.png, classes.png, worst/, best/, report.html.

    Args:
        config: EvalConfig.
        progress: wraps an iterable and its length.
        say: called with one line of text.

    Returns:
        EvalResult.

    Raises:
        UserError: checkpoint or records are missing, damaged, or do not fit each other.
    """
    for name, value in (("worst", config.worst), ("best", config.best)):
        if value < 0:
            raise UserError(f"--{name} {value}: must be at least 0")
    runtime.set_up(config.device, config.seed)
    segmenter, card = load_segmenter(config.checkpoint, config.model, config.precision)
    records = config.records or card.records
    if not records:
        raise UserError(f"{config.checkpoint} does not say where its validation records are; give --records")
    check_classes(records, card.labels, config.checkpoint)
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
    dataset = SegDataset(data_file=records, training=False, preprocess=card.preprocess, rank=runtime.rank(),
                         rank_size=runtime.rank_size(), geometric=bool(card.geometric))
    evaluation = evaluate_network(segmenter, dataset, len(card.labels), progress,
                                  excluded=card.labels.excluded_numbers())
    return write_evaluation(out, evaluation, segmenter, dataset, page, config.worst, config.best)


def check_classes(records, labels, checkpoint):
    """Refuse records whose classes are not the checkpoint's."""
    manifest = read_manifest(records)
    if manifest and manifest["labels"]["names"] != list(labels.names):
        raise UserError(f"{records} has {len(manifest['labels']['names'])} classes "
                        f"({', '.join(manifest['labels']['names'][:3])}, ...), {checkpoint} was trained for "
                        f"{len(labels)} ({', '.join(labels.names[:3])}, ...); give the records of its data set")


def write_evaluation(out, evaluation, segmenter, dataset, page, worst=8, best=8):
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
    write_text(os.path.join(out, "classes.txt"), table + "\n")
    save_confusion(os.path.join(out, "confusion.png"), matrix.counts, labels)
    save_class_bars(os.path.join(out, "classes.png"), matrix.class_ious(), labels)
    order = [number for number in np.argsort(evaluation.scores) if not np.isnan(evaluation.scores[number])]
    shown = {"worst": order[:worst], "best": order[worst:][::-1][:best]}
    page.galleries = {f"{kind.capitalize()} images": write_pictures(
        os.path.join(out, kind), numbers, evaluation, labels, segmenter, dataset) for kind, numbers in shown.items()}
    page.matrix = matrix
    page.facts |= {"images": f"{result.images:,}",
                   "an image takes": f"{1000 * evaluation.seconds:.1f} ms in the network"}
    if second:
        page.facts |= {"geometric classes": str(second)}
    if labels.excluded:
        page.notes = [*page.notes, f"Means leave out {', '.join(labels.excluded)}, as the data set's protocol does."]
    write_page(page)
    # Last: who finds it finds the others, too.
    save_json(os.path.join(out, "metrics.json"), {
        "protocol": "native", "images": len(evaluation.names), "metrics": evaluation.metrics,
        "seconds per image": evaluation.seconds,
        "classes": list(labels.names), "class IoU": matrix.class_ious().tolist(),
        "class accuracy": matrix.class_accuracies().tolist(), "confusion matrix": matrix.counts.tolist(),
        "image IoU": dict(zip(evaluation.names, evaluation.scores.tolist())),
        **({"geometric": {"metrics": second.compute(), "class IoU": second.class_ious().tolist(),
                          "confusion matrix": second.counts.tolist()}} if second else {}),
        **({"excluded": list(labels.excluded)} if labels.excluded else {})})
    return result


def write_pictures(folder, numbers, evaluation, labels, segmenter, dataset):
    """Draw these images of an evaluation beside their masks, one file each in `folder`. Returns their Pictures."""
    # Pictures of an earlier evaluation would stand among these under their own numbers.
    for old in glob.glob(os.path.join(glob.escape(folder), "[0-9][0-9]*_*.jpg")):
        os.remove(old)
    pictures = []
    for place, (name, image, planes, truth, _) in enumerate(dataset.examples(numbers), 1):
        mask, _ = segmenter(planes)
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
