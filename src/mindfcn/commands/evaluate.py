"""The verb eval: metrics of a checkpoint on a complete split."""

import dataclasses
import os

from mindspore.train import Model

from mindfcn import runtime
from mindfcn.config import EvalConfig, check_bounds, flat
from mindfcn.console import SILENT, Console
from mindfcn.data.dataset import SegDataset
from mindfcn.data.records.records import describe_file, evaluation_records, record_entry
from mindfcn.errors import UserError
from mindfcn.evaluation import evaluate_network
from mindfcn.inference.load import combined, load_network, network_text
from mindfcn.inference.pipeline import Inference
from mindfcn.losses import CrossEntropy
from mindfcn.metrics import PIXEL_ACCURACY, segmentation_metrics
from mindfcn.report.evaluation import EvalResult, save_json, write_evaluation
from mindfcn.report.page import REPORT, Page, write_page
from mindfcn.weights.catalogue import with_checkpoint_paths


def evaluate(config: EvalConfig, console: Console = SILENT) -> EvalResult:
    """Evaluate a checkpoint; write metrics.json, tables (classes.txt, sizes.csv, trimap.csv), report.html and pictures.

    Args:
        config: EvalConfig.
        console: Console that shows progress and notes.

    Returns:
        EvalResult.

    Raises:
        UserError: checkpoint or records are missing, damaged, or do not fit each other.
    """
    check_bounds(config)
    runtime.set_up(config.device, config.seed, console)
    config = with_checkpoint_paths(config, console)
    segmenter, card = load_network(config.checkpoint, config.fallback_model, config.precision, console)
    records = evaluation_records(config.records, card, config.checkpoint)
    segmenter = combined(segmenter, card, config)
    segment = Inference(segmenter, config, card.shorter_side, console)
    segment.check(card)
    if config.protocol == "course" and (not segment.plain or config.window or config.limit
                                         or config.proposals != "none" or config.ensemble):
        raise UserError("--protocol course evaluates the plain network on all records: leave out scales, flip, "
                        "window, crf, limit, proposals and ensemble, and keep the size with --shorter_side 0")
    if config.protocol == "course" and card.labels.multilabel:
        raise UserError("--protocol course is for masks with one class a pixel; use the native protocol")
    folder = "evaluation" if config.protocol == "native" else "evaluation-course"
    out = config.out or os.path.join(os.path.dirname(os.path.abspath(config.checkpoint)), folder)
    console.say(f"using records {describe_file(records)}")
    console.say(f"evaluating {config.checkpoint}")
    page = Page(os.path.join(out, REPORT), f"Evaluation of {os.path.basename(config.checkpoint)}", card.labels,
                {"network": network_text(card), "checkpoint": config.checkpoint, "records": describe_file(records)},
                details={"Settings of this evaluation": dataclasses.asdict(config),
                         "Settings of the training": flat(card.training.get("settings", {})),
                         "Versions of this evaluation": runtime.versions()})
    if config.protocol == "course":
        return _course_protocol(config, segmenter, page, records, out)
    dataset = SegDataset.for_evaluation(records, card, config.limit)
    evaluation = evaluate_network(segment, dataset, card.labels, console,
                                  geometric=segmenter.geometric if card.geometric else None)
    return write_evaluation(out, evaluation, segment, dataset, page, config.worst, config.best)


def _course_protocol(config, segmenter, page, records, out):
    """The course's protocol: randomly scaled 512x512 crops in batches of 4; an incomplete last batch is dropped."""
    labels = page.labels
    if segmenter.classes is not None:
        raise UserError("--protocol course: the course's networks have one head; use the native protocol")
    dataset = SegDataset(data_file=records, batch_size=4, preprocess=segmenter.preprocess, seed=config.seed,
                         ignore_label=labels.ignore_label, num_classes=len(labels))
    runtime.pynative_mode()
    segmenter.net.set_train(False)
    views = segmentation_metrics(len(labels), labels.excluded_numbers())
    model = Model(segmenter.net, CrossEntropy(labels.ignore_label), metrics=views)
    metrics = model.eval(dataset.get_dataset(), dataset_sink_mode=False)
    images = dataset.steps_per_epoch * dataset.batch_size
    if runtime.rank() == 0:
        note = "random crops of the given records, for comparison with the course's printed figures only"
        page.matrix, page.notes = views[PIXEL_ACCURACY].matrix, [f"The course's protocol: {note}."]
        page.facts |= {"images": f"{images:,}"}
        write_page(page)
        save_json(os.path.join(out, "metrics.json"), {"protocol": f"course: {note}", "images": images,
                                                      "records": record_entry(records), "metrics": metrics})
    return EvalResult(metrics, "", out, images, "course")
