"""The records of a data set: where training and validation records are, their classes, and what they were made from."""

import os
from typing import NamedTuple, Optional

from mindfcn.data.records.integrity import count_records
from mindfcn.data.records.mindrecord import read_manifest
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet

# Shares of the pixels above which there is a warning: ignored ones, and ignored ones away from outlines, of which VOC
# has 0.004.
MAX_IGNORED, MAX_INNER = 0.5, 0.02
COURSE_RECORD = os.path.join("dataset_fcn8s", "mindname.mindrecord")


class Records(NamedTuple):
    """Training and validation records in one folder.

    Attributes:
        train: MindRecord path of the training records, as `SegDataset` takes it.
        val: that of the validation records; None for the course's ready record, and without validation images.
        labels: LabelSet of the masks.
        identity: hashes of the training and of the validation records, TRAIN+VAL, or TRAIN; empty without recorded
            identity.
        source: what they were made from, such as "folder mydata"; empty if it is not recorded.
        images: number of images of both.
    """
    train: str
    val: Optional[str]
    labels: LabelSet
    identity: str = ""
    source: str = ""
    images: int = 0

    def __str__(self) -> str:
        source = f"source {self.source}" if self.source else "source not recorded"
        return f"{os.path.dirname(self.train)} ({source}, {self.images:,} images)"

    @staticmethod
    def paths(folder: str) -> list[str]:
        """[training path, validation path] of the records that `prepare` writes."""
        return [os.path.join(folder, f"{split}.mindrecord") for split in ("train", "val")]

    @classmethod
    def exist(cls, folder: str) -> bool:
        """Whether a folder has the records of all splits, or the course's ready record; contents are not checked."""
        return os.path.isfile(os.path.join(folder, COURSE_RECORD)) or all(
            os.path.isfile(path) or os.path.isfile(path + ".json") for path in cls.made(folder))

    @classmethod
    def made(cls, folder: str) -> list[str]:
        """The paths of the records that a folder should hold: only training where there is no validation."""
        train, val = cls.paths(folder)
        return [train, val] if has_validation(train) else [train]

    @classmethod
    def open(cls, folder: str, labels: LabelSet) -> "Records":
        """The records in a folder; `labels` are the classes of records without a manifest."""
        course = os.path.join(folder, COURSE_RECORD)
        paths = [course] if os.path.isfile(course) else cls.made(folder)
        manifest = read_manifest(paths[0])
        if manifest:
            labels = LabelSet.from_dict(manifest["labels"], paths[0])
        entries = [record_entry(path) for path in paths]
        hashes = [entry["hash"] for entry in entries]
        return cls(paths[0], paths[1] if len(paths) > 1 else None, labels, "+".join(hashes) if all(hashes) else "",
                   entries[0]["source"], sum(map(count_records, paths)))


def has_validation(train):
    """Whether there are validation records besides training records."""
    return (read_manifest(train) or {}).get("identity", {}).get("validation", True)


def record_entry(path):
    """{"path", "source", "hash"} of a MindRecord file, for reports; the last two are empty if they are not recorded.

    The source is such as "folder mydata"; the hash is of the classes, photographs and masks.
    """
    entry = (read_manifest(path) or {}).get("identity")
    roots = [entry["settings"].get("root", ""), *entry["settings"].get("more_roots", [])] if entry else []
    source = f"{entry['source']} {' + '.join(roots)}".strip() if entry else ""
    return {"path": os.fspath(path), "source": source, "hash": entry["hash"] if entry else ""}


def describe_file(path):
    """A MindRecord file with its source, hash and number of images. Raises UserError as `count_records` does."""
    entry = record_entry(path)
    texts = [f"source {entry['source'] or 'not recorded'}", *([f"hash {entry['hash']}"] if entry["hash"] else []),
             f"{count_records(path):,} images"]
    return f"{path} ({', '.join(texts)})"


def suspicious_masks(path):
    """Lines about classes without a pixel in training records, and about an ignore label that may hide a class."""
    manifest = read_manifest(path)
    if not manifest or "pixels" not in manifest:
        return []
    labels, pixels = LabelSet.from_dict(manifest["labels"], path), manifest["pixels"]
    absent = [name for name, count in zip(labels.names, pixels) if not count and name not in labels.excluded]
    lines = []
    if absent:
        few = f"{', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}"
        lines.append(f"{path}: no pixel of {len(absent)} of {len(labels)} classes ({few}), which cannot be learned")
    if hidden := hidden_class(labels, pixels[:len(labels)], pixels[labels.ignore_label], manifest.get("inner", 0)):
        lines.append(f"{path}: {hidden}")
    return lines


def hidden_class(labels, pixels, ignored, inner):
    """A line if the ignore label may hide a class: on most pixels, on whole regions, or beside one class; else "".

    Args:
        labels: LabelSet.
        pixels: number of pixels of each class.
        ignored: number of pixels of the ignore label.
        inner: number of those away from outlines, see `count_inner`.
    """
    # Where classes overlap, what is no class is 0, and no number hides one.
    if labels.multilabel:
        return ""
    total = max(1, ignored + sum(pixels))
    regions = inner / total > MAX_INNER
    if ignored / total <= MAX_IGNORED and not regions and not (
            ignored and len(labels) > 1 and sum(map(bool, pixels)) <= 1):
        return ""
    where = ", in whole regions," if regions else ""
    return (f"{100 * ignored / total:.1f} % of the pixels{where} have the ignore label {labels.ignore_label} and count "
            "neither in the loss nor in the metrics; if it is a class, give the classes' colours or another "
            "ignore_label")


def check_classes(records, labels, checkpoint):
    """Raise UserError if the classes of records are not the checkpoint's, by names, order, colours and ignore label."""
    manifest = read_manifest(records)
    found = manifest and LabelSet.from_dict(manifest["labels"], records).difference(labels)
    if found:
        raise UserError(f"{records} has other classes than {checkpoint}: {found}, in the checkpoint; "
                        "give the records of its data set")


def _near(checkpoint, path):
    """A path that a run recorded relative to its working directory, found from a folder above the checkpoint."""
    folder = os.path.abspath(checkpoint)
    while not os.path.exists(path) and not os.path.isabs(path) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
        if os.path.isfile(found := os.path.join(folder, path)) or os.path.isfile(found + ".json"):
            return found
    return path


def evaluation_records(records, card, checkpoint):
    """Path of the records to evaluate a checkpoint on: those given, or the validation records of its run.

    A folder stands for its validation records.

    Raises:
        UserError: its card names none, the classes differ, or the records of its run have been replaced by others.
    """
    path = os.fspath(records or card.records)
    if not path:
        raise UserError(f"{checkpoint} was trained without validation, or does not name its validation records; give "
                        "--records")
    if not records:
        path = _near(checkpoint, path)
    train, inside = Records.paths(path)
    if not has_validation(train):
        raise UserError(f"{path} holds no validation records; to measure on those of training, give --records {train}")
    if os.path.isfile(inside) or os.path.isfile(inside + ".json"):
        path = inside
    check_classes(path, card.labels, checkpoint)
    expected, found = card.data.get("identity", "").rpartition("+")[2], record_entry(path)
    if not records and expected and found["hash"] and expected != found["hash"]:
        raise UserError(f"{path} holds other records (hash {found['hash']}, source {found['source']}) than those that "
                        f"{checkpoint} was validated on (hash {expected}, source {card.data.get('source')}); make them "
                        f"again with mindfcn prepare, or evaluate on these with --records {path}")
    return path
