"""The verb prepare: photographs and masks of any source -> train.mindrecord, val.mindrecord and labels.yaml."""

import dataclasses
import os
from typing import Any, Optional

from mindfcn import runtime
from mindfcn.config import PrepareConfig, check_bounds
from mindfcn.console import SILENT, Console
from mindfcn.data.masks import mapped_reader
from mindfcn.data.records.identity import Origin, difference, settings_difference, source_settings
from mindfcn.data.records.integrity import count_records
from mindfcn.data.records.mindrecord import RecordSummary, read_manifest, remove_records, write_records
from mindfcn.data.records.records import COURSE_RECORD, Records, record_entry, suspicious_masks
from mindfcn.data.regions.proposals import check_installed
from mindfcn.data.regions.windows import window_samples
from mindfcn.data.samples import Sample
from mindfcn.data.sources.folder import Layout, list_folder
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
        train, val: RecordSummary of each split; val is None for the course's record, which has none, and without
            validation images.
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
    config = _with_root(config)
    paths = Records.paths(config.records)
    if not config.overwrite and Records.exist(config.records):
        for path in Records.made(config.records):
            check_source(path, read_manifest(path) or {}, config, "--")
    labels, train, val = list_samples(config, console)
    origins = origins_of(config, labels, train, val)
    if config.instances != "none":
        train = windows(config, train, labels, console)
    summaries: list[RecordSummary] = []
    for path, samples, origin in zip(paths, (train, val) if val else (train,), origins):
        summary = write_records(samples, path, labels, config.shards, config.skip_bad, config.overwrite, console.track,
                                origin.geometric, origin, config.processes)
        done = "already complete" if summary.reused else "written"
        console.say(f"{path}: {summary.written} records {done}, {len(summary.skipped)} pairs left out")
        summaries.append(summary)
    if not val:
        remove_records(paths[1])
        console.say("no validation: every image is in the training records")
    for line in suspicious_masks(paths[0]):
        console.say(line)
    _save_labels(labels, os.path.join(config.records, "labels.yaml"))
    return PrepareResult(summaries[0], summaries[1] if val else None, labels, paths[0], paths[1] if val else None)


def windows(config, train, labels, console):
    """Training samples of photographs -> samples of the windows in them. Raises UserError."""
    if labels.multilabel:
        raise UserError(f"--instances {config.instances}: windows are cut around objects of masks with one class a "
                        "pixel, and these classes overlap; leave it out")
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

    Validation images are removed from the training samples. There are none with your own folder and `val_fraction` 0.

    Args:
        config: PrepareConfig; nothing is downloaded.
        console: Console that shows how many images are removed from training.

    Returns:
        (LabelSet, training list of Sample, validation list of Sample).

    Raises:
        UserError: the source is missing or damaged, or no images are left for training or validation.
    """
    config = _with_root(config)
    if config.more_roots and config.source != "folder":
        raise UserError(f"--more_roots is for your own folders, not for source {config.source}; leave it out")
    labels, train, val = SOURCES[str(config.source)](config)
    if labels.multilabel and config.source != "folder":
        raise UserError(f"{config.labels}: multilabel is for your own folder; masks of source {config.source} hold one "
                        "class a pixel")
    held_out = {sample.name for sample in val}
    kept = [sample for sample in train if sample.name not in held_out]
    if not kept:
        raise UserError(f"every image of split {config.train_split!r} is in {config.val_split!r} too; "
                        "give splits that differ")
    if not val and (config.source != "folder" or config.val_fraction):
        raise UserError(f"no validation images in {config.root}; add images or lists"
                        + ("; --val_fraction 0 trains without validation" if config.source == "folder" else ""))
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
    compared = labels if config.mask_encoding == "auto" else None
    if config.sbd:
        train = trainaug(config.root, config.sbd, config.year, config.train_split, config.val_split,
                         config.sbd_splits, check, compared)
    else:
        train = list_voc(config.root, config.train_split, config.year, check, compared)
    val = list_voc(config.root, config.val_split, config.year, check, compared)
    return labels, *([dataclasses.replace(sample, read_label=mapped_reader(sample.read_label, labels))
                      for sample in samples] for samples in (train, val))


def _folder(config):
    path, masks = config.labels or os.path.join(config.root, "labels.yaml"), os.path.join(config.root, config.mask_dir)
    if not os.path.exists(path) and os.path.isdir(masks):
        raise UserError(f"no labels file {path}; make one with mindfcn labels --from {masks}")
    labels = LabelSet.load(path)
    for other in (os.path.join(root, "labels.yaml") for root in config.more_roots if not config.labels):
        if os.path.exists(other) and (there := LabelSet.load(other)) != labels:
            found = there.in_masks.difference(labels.in_masks) or "merge or ignore differ"
            raise UserError(f"{other} has other classes than {path}: {found}; make them one, or give --labels")
    if config.bits and config.bands:
        raise UserError("--data.bits is for photographs: leave it out with --data.bands")
    train, val = (list_folder(config.root, split, labels, config.mask_encoding, config.val_fraction,
                              not config.skip_bad, config.bits, config.bands, Layout.of(config), config.more_roots)
                  for split in (config.train_split, config.val_split))
    return labels, train, val


def _save_labels(labels, path):
    """Write labels.yaml unless it already holds these labels."""
    if os.path.isfile(path):
        try:
            if not LabelSet.load(path).difference(labels):
                return
        except UserError:
            pass
    labels.save(path)


SOURCES = {"sample": _sample, "rooms": _rooms, "voc": _voc, "folder": _folder, "nyud": _nyud, "siftflow": _siftflow,
           "context": _context}
# Folders that the drawn sets are drawn into.
DRAWN = {"sample": "data/sample", "rooms": "data/rooms"}
# Settings that mean nothing without a source.
SOURCE_SETTINGS = ("root", "more_roots", "voc", "classes", "year", "sbd", "sbd_splits", "train_split", "val_split",
                   "val_fraction", "image_dir", "mask_dir", "mask_suffix", "group_by", "folds", "fold",
                   "mask_encoding", "bits", "bands", "instances", "instance_size", "per_image", "duplicate_rare",
                   "samples", "size", "seed")


# ------------------------------------------------------------------------------------------------ records at each use

def find_records(data: PrepareConfig, console: Console = SILENT, prefix: str = "--data.") -> Records:
    """The records that the settings name; the first process makes them if they are missing or to be overwritten.

    Args:
        data: PrepareConfig.
        console: Console that shows progress and which records are used.
        prefix: of these settings on the command line, for messages.

    Returns:
        Records.

    Raises:
        UserError: they were made from other data than the settings name, or there are none and no source is given.
    """
    with runtime.fail_on_all_ranks():
        if runtime.rank() == 0:
            if data.overwrite or not Records.exist(data.records):
                _make(data, console, prefix)
            else:
                check_records(data, console, prefix)
    with runtime.fail_on_all_ranks():
        if not Records.exist(data.records):
            raise UserError(f"no records in {data.records} for process {runtime.rank()}: the first one made them on "
                            "its own machine; share that folder, or run mindfcn prepare on every machine")
        records = Records.open(data.records, LabelSet.load(data.labels) if data.labels else VOC)
        if data.identity and records.identity and data.identity != records.identity:
            raise UserError(f"{records} has the hash {records.identity}, but {prefix}identity is {data.identity}; give "
                            f"the records that it names, or {prefix}identity '' to use these")
    console.say(f"using records {records}")
    for line in suspicious_masks(records.train):
        console.say(line)
    return records


def _make(data, console, prefix):
    """Prepare records for a verb that needs them. Raises UserError without a source."""
    if data.source is None and data.download != ["course"]:
        what = "it cannot be written again" if data.overwrite else f"there are no records in {data.records}"
        raise UserError(f"{what} without a source: name it with {prefix}source and {prefix}root, or give the folder of "
                        f"existing records with {prefix}records")
    prepare(data, console)


def check_records(data: PrepareConfig, console: Console, prefix: str) -> None:
    """Compare existing records with the settings, and with the files of the source if its folder is there.

    Raises:
        UserError: what differs, and how to make the records again.
    """
    manifests = {path: manifest for path in Records.made(data.records) if (manifest := read_manifest(path))}
    if data.source is None:
        _check_without_source(data, manifests, prefix)
        return
    data = _with_root(data)
    if not manifests:
        return
    for path, manifest in manifests.items():
        check_source(path, manifest, data, prefix)
    if not all("identity" in manifest for manifest in manifests.values()):
        console.say(f"{data.records} was written by a release that did not record what records are made from: only "
                    f"classes and files are compared; make it again with {prefix}overwrite true")
    entry = next(iter(manifests.values())).get("identity")
    gone = next((root for root in (data.root, *data.more_roots) if not os.path.isdir(root)), "")
    if gone and (entry is None or entry["settings"] == source_settings(data)):
        what = "only the settings of" if entry else "nothing of"
        console.say(f"{gone} is not here: {what} {data.records} can be compared")
        return
    if gone and data.source not in DRAWN:
        raise UserError(f"{data.records} was made from {entry['settings']['root']}, and there is no folder "
                        f"{gone}; correct {prefix}root")
    # Pairs that were left out are compared, too.
    listed = list_samples(dataclasses.replace(data, skip_bad=True))
    for path, origin in zip(Records.paths(data.records), origins_of(data, *listed)):
        if path in manifests:
            _refuse(path, difference(manifests[path], origin), data, prefix)


def _check_without_source(data, manifests, prefix):
    """Raise UserError if settings of a source are given without it, or other classes than the records'."""
    defaults = PrepareConfig()
    for name in SOURCE_SETTINGS:
        if getattr(data, name) != getattr(defaults, name):
            raise UserError(f"{prefix}{name} {getattr(data, name)} does not apply without {prefix}source: name the "
                            f"source, or leave it out to use {data.records} as it is")
    for path, manifest in manifests.items() if data.labels else ():
        labels = LabelSet.from_dict(manifest["labels"], path)
        _refuse(path, labels.difference(LabelSet.load(data.labels)), data, prefix)


def check_source(path: str, manifest: dict[str, Any], data: PrepareConfig, prefix: str) -> None:
    """Raise UserError if complete records were made with settings that give other pixels or classes."""
    entry = manifest.get("identity")
    if entry:
        _refuse(path, settings_difference(entry, str(data.source), source_settings(data)), data, prefix)


def changed_since(path: str) -> str:
    """What differs between records and the files of their source now, in one line; "" if nothing does.

    Also "" if the source is not recorded or its folder is not there.
    """
    manifest = read_manifest(path)
    entry = (manifest or {}).get("identity", {})
    if not manifest or not entry.get("source"):
        return ""
    if not all(map(os.path.isdir, [entry["settings"]["root"], *entry["settings"].get("more_roots", [])])):
        return ""
    data = PrepareConfig(source=entry["source"], skip_bad=True, **entry["settings"])
    try:
        labels, train, val = list_samples(data)
    except UserError as error:
        return f"{path}: the source cannot be listed any more: {error}"
    train_origin, val_origin = origins_of(data, labels, train, val)
    found = difference(manifest, val_origin if os.path.basename(path).startswith("val.") else train_origin)
    source = record_entry(path)["source"]
    return found and f"{path}, made from {source}: {found}; make it again with mindfcn prepare --overwrite"


def _refuse(path, found, data, prefix):
    """Raise UserError if there is a difference, with the two sources and the setting that makes the records again."""
    if found:
        there = record_entry(path)["source"] or "files that are not recorded"
        here = f"{data.source} {' + '.join([data.root, *data.more_roots])}".rstrip() if data.source else data.labels
        raise UserError(f"{path} was made from {there} and is not that of {here}: {found}; make it again with "
                        f"{prefix}overwrite true, or choose another {prefix}records")


def origins_of(config, labels, train, val):
    """[Origin of the training records, Origin of the validation records]."""
    settings = source_settings(config)
    geometric = GEOMETRIC if config.source == "siftflow" else None
    return [Origin(config.source, settings, labels, samples, geometric, bool(val)) for samples in (train, val)]


def _with_root(config):
    """The settings with the root of a drawn set, if it is empty. Raises UserError without a source or a root."""
    if config.source is None:
        raise UserError("no source of photographs and masks: name it with --source (and --root), such as --source "
                        "folder --root mydata, or --source sample for the drawn set")
    root = config.root or DRAWN.get(config.source)
    if not root:
        raise UserError(f"source {config.source} needs a folder: give it with --root")
    return dataclasses.replace(config, root=root)
