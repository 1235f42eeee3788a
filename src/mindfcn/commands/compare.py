"""The verb compare: several networks, trained the same way or loaded, in one table with published figures."""

import dataclasses
import json
import os
import re
import typing

import numpy as np
import yaml

from mindfcn import combinations, runtime
from mindfcn.commands.evaluate import evaluate
from mindfcn.commands.prepare import find_records
from mindfcn.commands.train import train
from mindfcn.config import CompareConfig, EvalConfig, TrainConfig, flat
from mindfcn.console import SILENT, Console
from mindfcn.data.dataset import SegDataset, evenly_spaced
from mindfcn.data.records.mindrecord import first_line
from mindfcn.data.records.records import check_classes, describe_file
from mindfcn.data.transforms import to_input
from mindfcn.engine.build import band_preprocess, build, training_set
from mindfcn.engine.optimiser import freeze, loss_scaler
from mindfcn.engine.run_dir import EVALUATION, RunDir, table_rows
from mindfcn.engine.settings import check_settings
from mindfcn.errors import UserError
from mindfcn.evaluation import WARM_UP, median_time, timed
from mindfcn.inference.load import load_network
from mindfcn.launcher import num_processes
from mindfcn.logits import argmax
from mindfcn.memory import is_out_of_memory
from mindfcn.metrics import MEAN_IOU, ConfusionMatrix
from mindfcn.models.factory import split_name
from mindfcn.report.canvas import vstack
from mindfcn.report.overlays import masks_in_a_row, write_picture
from mindfcn.report.page import PHOTOGRAPH, REPORT, Page, picture, write_page
from mindfcn.report.published import published
from mindfcn.report.tables import ABSENT, csv_text, format_number, text_table
from mindfcn.storage.files import read_bytes, read_yaml, write_text
from mindfcn.weights.catalogue import CATALOGUE
from mindfcn.weights.checkpoint import load_checkpoint
from mindfcn.weights.load import is_state

# Photographs for timing, and how many of them are shown; evenly spaced over the records.
TIMED, SHOWN = 20, 5
# Name of the true mask, next to masks named by their networks' labels.
TRUTH = "truth"
METRICS = EVALUATION[2:]
HEADER = ("network", "PA %", "MPA %", "mIoU %", "FWIoU %", "parameters, M", "ms/image", "training, min",
          "started from")
# Settings that a variant's `settings` cannot change: the training budget, and the variant's own attributes.
FIXED = ("model.name", "model.pretrained", "optim.epochs", "augment.crop_size", "augment.batch_size", "augment.workers")
# Settings of a run that do not affect its results.
UNCHECKED = ("run_dir", "resume", "overwrite", "keep", "tensorboard", "device", "augment.workers", "data.overwrite")
IDENTITY = "data.identity"
# What ends one network and not the others.
FAILURES = (UserError, MemoryError, RuntimeError)


@dataclasses.dataclass
class Row:
    """Measurements of one network.

    Attributes:
        label, name: of its Variant.
        checkpoint: the evaluated file.
        start: initial weights of its training: a weights file, another row's label, or "".
        metrics: the four metrics by name, 0..1, on all validation records at native size.
        class_ious: IoU of each class, 0..1, NaN where it does not occur.
        parameters: number of weights and biases.
        seconds: median time of the network for one image, measured the same way for all rows.
        minutes: time in training steps, without evaluation; None for a loaded checkpoint.
        classes, modality: of the network; they select the published figures.
        failure: why it has no figures, one line; empty if it has.
    """
    label: str
    name: str
    checkpoint: str
    start: str
    metrics: dict
    parameters: int = 0
    seconds: float = 0.0
    minutes: typing.Optional[float] = None
    class_ious: list = dataclasses.field(default_factory=list)
    classes: int = 0
    modality: str = "rgb"
    failure: str = ""


@dataclasses.dataclass
class CompareResult:
    """Results of a comparison.

    Attributes:
        out: its folder, with report.html, table.txt, table.csv, table.md, pictures.jpg and a run directory for each
            network.
        rows: list of Row.
        table: text of table.txt.
        signal: number of the signal that stopped it before the table was complete, or None.
    """
    out: str
    rows: list
    table: str = ""
    signal: typing.Optional[int] = None


def compare(config: CompareConfig, console: Console = SILENT) -> CompareResult:
    """Train each network without a finished run in `out`, then compare all of them in one table.

    Args:
        config: CompareConfig.
        console: Console that shows progress and notes.

    Returns:
        CompareResult.

    Raises:
        UserError: wrong settings, data or weights. All variants are checked before the first one is trained.
    """
    runs = plan(config)
    device = runtime.set_up(config.train.device, config.train.seed)
    if runtime.rank_size() > 1:
        raise UserError("compare runs in one process; train its networks one by one with msrun, and give it their "
                        "checkpoints")
    records = find_records(config.train.data, console, "--train.data.")
    if records.labels.multilabel:
        combinations.check("compare", combinations.MULTILABEL)
    if not records.val:
        raise UserError(f"{records.train} has no validation records next to it, and a comparison measures on them; "
                        "prepare records with a validation split")
    config = dataclasses.replace(config, train=with_records(config.train, records))
    runs = [(variant, run and with_records(run, records)) for variant, run in runs]
    check_variants(runs, device, records, console)
    write_text(os.path.join(config.out, "settings.yaml"), yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
    rows: list[Row] = []
    for number, (variant, run) in enumerate(runs, 1):
        console.say(f"network {number} of {len(runs)}: {variant.label}")
        row, signal = attempt(variant, run, rows, records.val, config, console)
        if signal:
            return CompareResult(config.out, rows, signal=signal)
        rows.append(row)
    pictures = time_and_draw([row for row in rows if not row.failure], records.val, records.labels,
                             os.path.join(config.out, "pictures.jpg"), console)
    notes = [*(f"{row.label} failed: {row.failure}" for row in rows if row.failure),
             f"Measured: {describe_file(records.val)} at native size; ms/image is the median time of the network for "
             f"one image, {device}.",
             "Minutes of a network initialised from another one come on top of that one's minutes.",
             "Published figures have other training data, weights, images, devices: compare rankings, not numbers."]
    table = "\n".join([text_table(HEADER, cells(rows, 1)), "", *notes])
    write_text(os.path.join(config.out, "table.txt"), table + "\n")
    write_text(os.path.join(config.out, "table.csv"), csv_text(HEADER, cells(rows, 4)))
    write_text(os.path.join(config.out, "table.md"), as_markdown(cells(rows, 1), notes))
    write_page(page_of(rows, runs, config, records.labels, notes, pictures))
    return CompareResult(config.out, rows, table)


# ----------------------------------------------------------------------------------------------- checks before training

def plan(config):
    """[(Variant with its label, TrainConfig of its run, or None for a checkpoint)]. Raises UserError."""
    if not config.variants:
        raise UserError("no variants: name the networks to compare, as in configs/compare/sample.yaml")
    if config.train.resume or config.train.overwrite:
        raise UserError("compare resumes unfinished runs automatically; leave out --train.resume and "
                        "--train.overwrite, and delete a network's folder to train it again")
    if num_processes() > 1:
        raise UserError("compare runs in one process; train with msrun and give the checkpoints as variants")
    runs, folders = [], {}
    for variant in config.variants:
        variant = dataclasses.replace(variant, label=variant.label or variant.name)
        where = f"variants, {variant.label}"
        split_name(variant.name)
        if not re.fullmatch(r"\w[\w.+ -]*", variant.label):
            raise UserError(f"{where}: a label names a folder; use letters, digits, and _ . + -")
        if variant.label in (PHOTOGRAPH, TRUTH):
            raise UserError(f"{where}: the report shows pictures named photograph and truth; choose another `label`")
        if variant.label in folders:
            raise UserError(f"{where}: two variants have this label; give each its own `label`")
        if variant.checkpoint and (variant.pretrained or variant.settings):
            raise UserError(f"{where}: a checkpoint is not trained; leave out pretrained and settings")
        folder = os.path.join(config.out, variant.label)
        run = None if variant.checkpoint else run_settings(config, variant, folder, folders, where)
        folders[variant.label] = folder
        runs.append((variant, run))
    return runs


def run_settings(config, variant, folder, above, where):
    """TrainConfig of a variant's run; `above` are {label: folder} of the variants before it. Raises UserError."""
    pretrained = variant.pretrained or config.train.model.pretrained
    if variant.pretrained in above:
        source = next(one for one in config.variants if (one.label or one.name) == variant.pretrained)
        pretrained = source.checkpoint or RunDir(above[variant.pretrained]).last
    elif any((one.label or one.name) == variant.pretrained for one in config.variants):
        raise UserError(f"{where}: it starts from {variant.pretrained}, which is not trained before it; "
                        "change the order of the variants")
    elif pretrained and not os.path.isfile(pretrained) and pretrained not in CATALOGUE:
        raise UserError(f"{where}: pretrained {pretrained} is neither a file nor the label of a variant above it, nor "
                        "a name that mindfcn weights lists")
    run = dataclasses.replace(config.train, run_dir=folder, model=dataclasses.replace(
        config.train.model, name=variant.name, pretrained=pretrained))
    for dotted, value in variant.settings.items():
        run = with_setting(run, dotted, value, where)
    if run.model.pretrained_hha in above:
        # Like `pretrained`, it may be the label of a variant above.
        run = with_setting(run, "model.pretrained_hha", RunDir(above[run.model.pretrained_hha]).last, where)
    return run


def with_setting(run, dotted, value, where):
    """A TrainConfig with one setting of `model`, `optim` or `augment` changed. Raises UserError."""
    group, _, name = dotted.partition(".")
    hints = typing.get_type_hints(type(getattr(run, group))) if group in ("model", "optim", "augment") else {}
    if name not in hints or dotted in FIXED:
        raise UserError(f"{where}: settings: {dotted} cannot differ between networks; those of optim (but for epochs), "
                        "model and augment (but for the sizes of crops and batches) can, as in `optim.lr: 0.01`")
    if not fits(value, hints[name]):
        raise UserError(f"{where}: settings: {dotted} cannot be {value!r}; see mindfcn train --help_all")
    return dataclasses.replace(run, **{group: dataclasses.replace(getattr(run, group), **{name: value})})


def fits(value, kind):
    """Whether a value read from YAML has a setting's type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return value in arguments
    if origin is typing.Union:
        return any(fits(value, one) for one in arguments)
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)) or origin is tuple and len(value) != len(arguments):
            return False
        return all(map(fits, value, arguments * len(value) if origin is list else arguments))
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def with_records(run, records):
    """A TrainConfig whose records are these and are not written again."""
    return dataclasses.replace(run, data=dataclasses.replace(run.data, identity=records.identity, overwrite=False))


def check_variants(runs, device, records, console):
    """Check all variants before the first one is trained, to find mistakes early. Raises UserError."""
    run_of, bands = {variant.label: run for variant, run in runs}, None
    for variant, run in runs:
        if run is None:
            check_checkpoint(variant, records.val)
            continue
        source = run_of.get(variant.pretrained)
        if has_started(run):
            check_run(run, console)
            if source and not is_complete(source):
                raise UserError(f"{run.run_dir} was started from an earlier {source.run_dir}, which is gone; "
                                f"delete {run.run_dir} to train it again")
            continue
        check_settings(run)
        loss_scaler(run.optim, device)
        # Weights of a network that is not trained yet cannot be checked.
        pending = source and not is_complete(source) or run.model.pretrained_hha and not os.path.exists(
            run.model.pretrained_hha)
        model = dataclasses.replace(run.model, pretrained="", pretrained_hha="") if pending else run.model
        if run.model.modality == "bands":
            bands = bands or band_preprocess(run, records.train, records.labels, SILENT)
        net, card, _ = build(dataclasses.replace(run, model=model), records.labels, records.val, SILENT,
                             bands=bands if run.model.modality == "bands" else None)
        training_set(run, records.train, records.labels, card.preprocess)
        freeze(net, run.optim.freeze)


def check_checkpoint(variant, val_path):
    """Raise UserError if a checkpoint is of another network or has other classes."""
    _, card, _ = load_checkpoint(variant.checkpoint, variant.name)
    if card.model["name"] != variant.name:
        raise UserError(f"variants, {variant.label}: {variant.checkpoint} is a {card.model['name']}, "
                        f"not a {variant.name}; correct its name")
    check_classes(val_path, card.labels, variant.checkpoint)


def has_started(run):
    """Whether the run's folder holds a run."""
    return os.path.exists(RunDir(run.run_dir).settings)


def is_complete(run):
    """Whether a run is complete: the evaluation of its best checkpoint is written last."""
    return os.path.exists(metrics_of(run.run_dir))


def metrics_of(folder):
    """Path of metrics.json in a variant's folder."""
    return os.path.join(RunDir(folder).evaluation, "metrics.json")


def check_run(run, console):
    """Raise UserError if a variant's folder holds a run on other data or with other settings."""
    path = RunDir(run.run_dir).settings
    try:
        there = flat(read_yaml(path))
    except (UserError, AttributeError):
        raise UserError(f"{path} cannot be read; delete {run.run_dir} to train it again") from None
    here, defaults = (flat(yaml.safe_load(yaml.safe_dump(dataclasses.asdict(one)))) for one in (run, TrainConfig()))
    if here[IDENTITY] and not there.get(IDENTITY):
        console.say(f"{run.run_dir} does not record which data it was trained on, as older releases did not; delete it "
                    "to train it again")
        there[IDENTITY] = here[IDENTITY]
    for name in here:
        was = there.get(name, defaults[name])
        if name not in UNCHECKED and was != here[name]:
            raise UserError(f"{run.run_dir} holds a run with other settings: {name} is {was!r} there and "
                            f"{here[name]!r} here; choose another --out, or delete that folder to train it again")


# ------------------------------------------------------------------------------------------------- one variant

def attempt(variant, run, rows, val_path, config, console):
    """`result_of`; a variant that fails, or whose source among `rows` has failed, gives a Row with the reason."""
    failed = {row.label for row in rows if row.failure}
    try:
        if variant.pretrained in failed:
            raise UserError(f"it starts from {variant.pretrained}, which failed")
        return result_of(variant, run, val_path, config, console)
    except FAILURES as error:
        reason = reason_of(error)
        console.say(f"{variant.label} failed: {reason}")
        start = os.path.basename(variant.pretrained or variant.checkpoint)
        nothing = dict.fromkeys(METRICS, float("nan"))
        return Row(variant.label, variant.name, "", start, nothing, failure=reason), None


def reason_of(error):
    """Why a network failed, one line."""
    if is_out_of_memory(error):
        return "the memory does not suffice; compute less at a time (--train.augment.batch_size or crop_size)"
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"


def result_of(variant, run, val_path, config, console):
    """(Row, None) of a variant, trained or loaded; (None, signal) if its training was stopped."""
    folder = os.path.join(config.out, variant.label)
    if run is None:
        evaluate(EvalConfig(variant.checkpoint, records=val_path, out=RunDir(folder).evaluation,
                            device=config.train.device, fallback_model=variant.name), console)
        metrics, class_ious = metrics_in(metrics_of(folder))
        return Row(variant.label, variant.name, variant.checkpoint, "", metrics, class_ious=class_ious), None
    run_dir = RunDir(folder)
    if is_complete(run):
        console.say(f"{folder} is already trained")
    else:
        resume = has_started(run) and os.path.exists(run_dir.last)
        result = train(dataclasses.replace(run, resume=resume, overwrite=has_started(run) and not resume), console)
        if result.signal:
            return None, result.signal
    checkpoint = run_dir.best if os.path.exists(run_dir.best) else run_dir.last
    metrics, class_ious = metrics_in(metrics_of(folder))
    start = os.path.basename(variant.pretrained or run.model.pretrained)
    return Row(variant.label, variant.name, checkpoint, start, metrics,
               minutes=minutes_of(run_dir.log, run.augment.batch_size), class_ious=class_ious), None


def metrics_in(path):
    """Read an evaluation's ({metric: value}, [class IoUs]), 0..1 or NaN. Raises UserError if the file is damaged."""
    try:
        found = json.loads(read_bytes(path))
        return ({name: float("nan" if value is None else value) for name, value in found["metrics"].items()},
                [float("nan" if value is None else value) for value in found["class IoU"]])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} is damaged; delete it to evaluate again") from None


def minutes_of(log, batch_size):
    """Duration of the training steps in a log, including waiting for data, in minutes."""
    return sum(batch_size / float(row["images_per_s"]) for row in table_rows(log)) / 60


# ------------------------------------------------------------------------------------------------- all of them

def time_and_draw(rows, val_path, labels, path, console):
    """Time every row's network on the same photographs, one network after another, and draw their masks.

    Sets `classes`, `modality`, `parameters` and `seconds` of the rows, and `failure` of those that fail, such as for
    want of memory. Returns the list of Pictures.
    """
    dataset = SegDataset(data_file=val_path, training=False)
    numbers = evenly_spaced(dataset.count, TIMED)
    samples = [(name, image, truth) for name, image, _, truth, _ in dataset.examples(numbers)]
    chosen = evenly_spaced(len(samples), SHOWN)
    shown = [{TRUTH: samples[number][2]} for number in chosen]
    runtime.pynative_mode()
    for row in console.track(rows, len(rows)):
        try:
            masks = time_row(row, dataset, numbers)
        except FAILURES as error:
            row.failure = reason_of(error)
            console.say(f"{row.label} failed: {row.failure}")
            continue
        for number, masks_shown in zip(chosen, shown):
            masks_shown[row.label] = masks[number]
    photographs = [(samples[number][0], np.ascontiguousarray(samples[number][1][..., ::-1])) for number in chosen]
    notes = [scores_text(masks, labels) for masks in shown]
    write_picture(path, vstack([masks_in_a_row(image, masks, labels, name, max_side=320)
                                for (name, image), masks in zip(photographs, shown)]))
    return [picture(name, image, masks, labels, note) for (name, image), masks, note in zip(photographs, shown, notes)]


def scores_text(masks, labels):
    """Mean IoU of each network's mask of one image: {TRUTH: mask, label: mask} -> text."""
    scores = []
    for label, mask in masks.items():
        if label != TRUTH:
            matrix = ConfusionMatrix(len(labels), labels.excluded_numbers())
            matrix.update(mask, masks[TRUTH])
            scores.append(f"{label} {100 * matrix.mean_iou():.1f} %")
    return "mean IoU: " + ", ".join(scores)


def time_row(row, dataset, numbers):
    """Time a row's network on the photographs with these numbers. Returns their masks, (H, W) uint8 each."""
    segmenter, card = load_network(row.checkpoint, row.name)
    row.classes, row.modality = len(card.labels), card.preprocess.modality
    row.parameters = count_parameters(segmenter.net)
    masks, seconds = [], []
    dataset.preprocess = segmenter.preprocess
    inputs = [image for _, _, image, _, _ in dataset.examples(numbers)]
    for image in inputs[:1] * WARM_UP + inputs:
        logits, elapsed = timed(segmenter.logits, to_input(image, segmenter.preprocess)[None])
        masks.append(argmax(segmenter.split(logits[0])[0]))
        seconds.append(elapsed)
    row.seconds = median_time(seconds)
    return masks[WARM_UP:]


def count_parameters(net):
    """Number of weights and biases, without batch normalisation statistics and dropout counters."""
    return sum(parameter.size for parameter in net.get_parameters()
               if not is_state(parameter.name) and ".moving_" not in parameter.name)


def cells(rows, digits):
    """The table's lines, as lists of cells under HEADER: each row, followed by the published figures of its network."""
    lines = []
    for row in rows:
        title = row.label if row.label == row.name else f"{row.label} ({row.name})"
        start = row.start or (os.path.basename(row.checkpoint) if row.minutes is None else ABSENT)
        if row.failure:
            lines.append([f"{title} (failed)", *[ABSENT] * (len(HEADER) - 2), start or ABSENT])
            continue
        lines.append([title, *(format_number(100 * row.metrics[name], digits) for name in METRICS),
                      f"{row.parameters / 1e6:.2f}", f"{1000 * row.seconds:.1f}",
                      ABSENT if row.minutes is None else f"{row.minutes:.1f}", start])
        for known in published(row.name, row.classes, row.modality):
            figures = [format_number(value, 1) for value in known.metrics]
            lines.append([f"published: {known.source}, {known.split}", *figures, known.parameters or ABSENT,
                          known.milliseconds or ABSENT, ABSENT, ABSENT])
    return lines


def page_of(rows, runs, config, labels, notes, pictures):
    """The Page of a comparison."""
    return Page(os.path.join(config.out, REPORT), f"Comparison of {len(rows)} networks", labels, notes=notes,
                scores={row.label: row.metrics[MEAN_IOU] for row in rows if not row.failure},
                class_scores={row.label: row.class_ious for row in rows if not row.failure},
                table=(HEADER, [(line, place > 0) for row in rows for place, line in enumerate(cells([row], 1))]),
                galleries={"Masks": pictures},
                details={"Networks": flat({variant.label: dataclasses.asdict(variant) for variant, _ in runs}),
                         "Settings that all share": flat(dataclasses.asdict(config.train)),
                         "Versions": runtime.versions()})


def as_markdown(lines, notes):
    """The table and its notes in Markdown."""
    rows = [HEADER, ["---", *["--:"] * (len(HEADER) - 2), "---"], *lines]
    return "\n".join(["| " + " | ".join(map(str, row)) + " |" for row in rows] + ["", *notes]) + "\n"
