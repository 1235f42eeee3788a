"""The records of a data set: where training and validation records are, and the classes of their masks."""

import os
from typing import NamedTuple, Optional

from mindfcn.data.records.mindrecord import read_manifest
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet

COURSE_RECORD = os.path.join("dataset_fcn8s", "mindname.mindrecord")


class Records(NamedTuple):
    """Training and validation records in one folder.

    Attributes:
        train: MindRecord path of the training records, as `SegDataset` takes it.
        val: that of the validation records; None for the course's ready record, which has none.
        labels: LabelSet of the masks.
    """
    train: str
    val: Optional[str]
    labels: LabelSet

    @staticmethod
    def paths(folder: str) -> list[str]:
        """[training path, validation path] of the records that `prepare` writes."""
        return [os.path.join(folder, f"{split}.mindrecord") for split in ("train", "val")]

    @classmethod
    def exist(cls, folder: str) -> bool:
        """Whether a folder has the records of both splits, or the course's ready record; contents are not checked."""
        return os.path.isfile(os.path.join(folder, COURSE_RECORD)) or all(
            os.path.isfile(path) or os.path.isfile(path + ".json") for path in cls.paths(folder))

    @classmethod
    def open(cls, folder: str, labels: LabelSet) -> "Records":
        """The records in a folder; `labels` are the classes of records without a manifest."""
        train, val = cls.paths(folder)
        course = os.path.join(folder, COURSE_RECORD)
        ready = os.path.isfile(course)
        manifest = read_manifest(course if ready else train)
        if manifest:
            labels = LabelSet.from_dict(manifest["labels"], train)
        return cls(course, None, labels) if ready else cls(train, val, labels)


def check_classes(records, labels, checkpoint):
    """Refuse records whose classes are not the checkpoint's."""
    manifest = read_manifest(records)
    if manifest and manifest["labels"]["names"] != list(labels.names):
        raise UserError(f"{records} has {len(manifest['labels']['names'])} classes "
                        f"({', '.join(manifest['labels']['names'][:3])}, ...), {checkpoint} was trained for "
                        f"{len(labels)} ({', '.join(labels.names[:3])}, ...); give the records of its data set")


def evaluation_records(records, card, checkpoint):
    """Path of the records to evaluate a checkpoint on: those given, or the validation records of its run.

    Raises:
        UserError: its card names none, or the classes differ.
    """
    path = records or card.records
    if not path:
        raise UserError(f"{checkpoint} does not name its validation records; give --records")
    check_classes(path, card.labels, checkpoint)
    return path
