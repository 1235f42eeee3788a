"""The verb prepare: photographs and masks of any source -> train.mindrecord, val.mindrecord and labels.yaml."""

import dataclasses
import os
from typing import Optional

from mindfcn import runtime
from mindfcn.config import PrepareConfig, check_bounds
from mindfcn.console import SILENT, Console
from mindfcn.data.records.integrity import count_records
from mindfcn.data.records.mindrecord import RecordSummary, write_records
from mindfcn.data.records.records import COURSE_RECORD, Records
from mindfcn.data.regions.proposals import check_installed
from mindfcn.data.regions.windows import window_samples
from mindfcn.data.samples import Sample
from mindfcn.data.sources.folder import list_folder
from mindfcn.data.sources.nyud import NYUD, list_nyud
from mindfcn.data.sources.pascal_context import context_labels, list_context
from mindfcn.data.sources.sbd import trainaug
from mindfcn.data.sources.siftflow import GEOMETRIC, SIFTFLOW, list_siftflow
from mindfcn.data.sources.voc import list_voc
from mindfcn.data.synthetic.rooms import draw_rooms
from mindfcn.data.synthetic.shapes import SAMPLE, draw_sample_set
from mindfcn.errors import UserError
from mindfcn.labels import VOC, LabelSet


@dataclasses.dataclass(frozen=True)
class PrepareResult:
    """Records made by `prepare`.

    Attributes:
        train, val: RecordSummary of each split; val is None for the course's record, which has none.
        labels: LabelSet of the masks.
        train_path, val_path: MindRecord paths; val_path is None if val is.
    """
    train: RecordSummary
    val: Optional[RecordSummary]
    labels: LabelSet
    train_path: str
    val_path: Optional[str]


def prepare(config: PrepareConfig, console: Console = SILENT) -> PrepareResult:
    """Download or draw a source, list it, and write its records; complete records are kept.

    Args:
        config: PrepareConfig.
        console: Console that shows progress and notes.

    Returns:
        PrepareResult.

    Raises:
        UserError: wrong settings, source or files.
    """
    check_bounds(config)
    config = _fetch(config, console)
    if config.download == ["course"]:
        return _course(config)
    labels, train, val = list_samples(config, console)
    if config.instances != "none":
        train = windows(config, train, labels, console)
    paths = Records.paths(config.records)
    summaries: list[RecordSummary] = []
    geometric = GEOMETRIC if config.source == "siftflow" else None
    for path, samples in zip(paths, (train, val)):
        summary = write_records(samples, path, labels, config.shards, config.skip_bad, config.overwrite, console.track,
                                geometric)
        done = "already complete" if summary.reused else "written"
        console.say(f"{path}: {summary.written} records {done}, {len(summary.skipped)} pairs left out")
        summaries.append(summary)
    _save_labels(labels, os.path.join(config.records, "labels.yaml"))
    return PrepareResult(summaries[0], summaries[1], labels, paths[0], paths[1])


def windows(config, train, labels, console):
    """Training samples of photographs -> samples of the windows in them. Raises UserError."""
    if config.instances == "proposals":
        check_installed()
    found = window_samples(train, config.instances, labels, config.instance_size, config.per_image,
                           config.duplicate_rare, console.track)
    copies = sum("_copy" in sample.name for sample in found)
    console.say(f"{len(found) - copies} windows ({config.instances}) in {len(train)} photographs, {copies} copies of "
                "rare classes")
    return found


def list_samples(config: PrepareConfig, console: Console = SILENT) -> tuple[LabelSet, list[Sample], list[Sample]]:
    """The labels and both splits of a source; draws the sample set if it is the source.

    Validation images are removed from the training samples.

    Args:
        config: PrepareConfig; nothing is downloaded.
        console: Console that shows how many images are removed from training.

    Returns:
        (LabelSet, training list of Sample, validation list of Sample).

    Raises:
        UserError: the source is missing or damaged, or no images are left for training or validation.
    """
    labels, train, val = SOURCES[config.source](config)
    held_out = {sample.name for sample in val}
    kept = [sample for sample in train if sample.name not in held_out]
    if not kept:
        raise UserError(f"every image of split {config.train_split!r} is in {config.val_split!r} too; "
                        "give splits that differ")
    if not val:
        raise UserError(f"no validation images in {config.root}; add images or lists")
    if len(kept) < len(train):
        console.say(f"{len(train) - len(kept)} validation images removed from the training images")
    return labels, kept, val


def _fetch(config, console):
    """Download what `config.download` lists. Returns the config with the folders of the downloads."""
    if not config.download:
        return config
    from mindfcn.storage.download import download
    targets = {"voc2012": "root", "sbd": "sbd", "course": "records"}
    for name in config.download:
        folder = getattr(config, targets[name])
        if not folder:
            raise UserError(f"no folder to download {name} to; set {targets[name]}")
        console.say(f"downloading {name} into {folder}")
        path = download(name, folder, progress=console.track)
        if name != "course":
            config = dataclasses.replace(config, **{targets[name]: os.fspath(path)})
    return config


def _course(config):
    """PrepareResult of the course's ready record, which is used as it is."""
    path = os.path.join(config.records, COURSE_RECORD)
    return PrepareResult(RecordSummary(count_records(path), [], reused=True), None, VOC, path, None)


def _sample(config):
    if config.labels:
        raise UserError("the sample set has its own labels; leave `labels` empty")
    draw_sample_set(config.root, config.samples, config.size, config.seed)
    return SAMPLE, list_voc(config.root, "train"), list_voc(config.root, "val")


def _rooms(config):
    draw_rooms(config.root, config.samples, config.size, config.seed)
    return _nyud(config)


def _nyud(config):
    return NYUD, *(list_nyud(config.root, split, not config.skip_bad)
                   for split in _splits(config, "its own 40 classes"))


def _siftflow(config):
    return SIFTFLOW, *(list_siftflow(config.root, split, not config.skip_bad)
                       for split in _splits(config, "its own 33 classes"))


def _context(config):
    if not config.voc:
        raise UserError("PASCAL-Context's photographs are VOC 2010's; give their folder with --voc")
    return context_labels(config.root, config.classes), *(
        list_context(config.root, config.voc, split, config.classes, not config.skip_bad)
        for split in _splits(config, "its own classes"))


def _splits(config, own):
    """Names of the training and validation lists of a data set with fixed classes."""
    if config.labels:
        raise UserError(f"{config.source} has {own}; leave `labels` empty")
    return config.train_split, config.val_split


def _voc(config):
    labels = LabelSet.load(config.labels) if config.labels else VOC
    check = not config.skip_bad
    if config.sbd:
        train = trainaug(config.root, config.sbd, config.year, config.train_split, config.val_split,
                         config.sbd_splits, check)
    else:
        train = list_voc(config.root, config.train_split, config.year, check)
    return labels, train, list_voc(config.root, config.val_split, config.year, check)


def _folder(config):
    path, masks = config.labels or os.path.join(config.root, "labels.yaml"), os.path.join(config.root, "masks")
    if not os.path.exists(path) and os.path.isdir(masks):
        raise UserError(f"no labels file {path}; make one with mindfcn labels --from {masks}")
    labels = LabelSet.load(path)
    train, val = (list_folder(config.root, split, labels, config.mask_encoding, config.val_fraction,
                              check=not config.skip_bad) for split in (config.train_split, config.val_split))
    return labels, train, val


def _save_labels(labels, path):
    """Write labels.yaml unless it already holds these labels."""
    if os.path.isfile(path):
        try:
            if LabelSet.load(path) == labels:
                return
        except UserError:
            pass
    labels.save(path)


SOURCES = {"sample": _sample, "rooms": _rooms, "voc": _voc, "folder": _folder, "nyud": _nyud, "siftflow": _siftflow,
           "context": _context}


def find_records(data, console=SILENT):
    """Records of the settings; if they are missing, the first process makes them. Raises UserError."""
    with runtime.fail_on_all_ranks():
        if runtime.rank() == 0 and not Records.exist(data.records):
            prepare(data, console)
    with runtime.fail_on_all_ranks():
        if not Records.exist(data.records):
            raise UserError(f"no records in {data.records} for process {runtime.rank()}: the first one made them on "
                            "its own machine; share that folder, or run mindfcn prepare on every machine")
    return Records.open(data.records, LabelSet.load(data.labels) if data.labels else VOC)
