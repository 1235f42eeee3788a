"""PASCAL-Context: VOC 2010 with every pixel labelled (Mottaghi et al. 2014), in its 59 or 33 most frequent classes.

The annotations are trainval/ID.mat, whose LabelMap holds the numbers of labels.txt ("1: accordion" ...), more than 400;
59_labels.txt and 33_labels.txt name the classes in their order. All other labels, and 0, are background.
"""

import os
import re
from functools import partial

import numpy as np

from mindfcn.data.samples import Sample, check_names, check_present, find_folder
from mindfcn.data.sources.voc import below_voc
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.storage.files import read_lines
from mindfcn.storage.mat import read_classes

# Names in the lists of 59 and 33 classes that differ from labels.txt.
FIXES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
COUNTS = (59, 33)


def list_context(root, voc_root, split, classes=59, check=True):
    """List the samples of a split.

    Args:
        root: folder of trainval/, labels.txt and 59_labels.txt or 33_labels.txt.
        voc_root: the VOC2010 folder, VOCdevkit, or the folder that holds VOCdevkit: photographs and lists.
        split: list in ImageSets/Main, in ImageSets/Segmentation or next to the annotations: train, val.
        classes: 59 or 33.
        check: whether every file must exist; photographs without annotations are always left out.

    Returns:
        list of Sample.

    Raises:
        UserError: no such folder or list, class names that labels.txt lacks, missing files.
    """
    table = class_table(root, classes)
    folder = _voc_folder(voc_root)
    annotated = {name[:-4] for name in os.listdir(_annotations(root)) if name.endswith(".mat")}
    samples = [Sample(name, os.path.join(folder, "JPEGImages", f"{name}.jpg"),
                      os.path.join(_annotations(root), f"{name}.mat"), partial(read_context_mask, table=table))
               for name in _names(root, folder, split) if name in annotated]
    if not samples:
        raise UserError(f"no image of split {split!r} has annotations in {_annotations(root)}; check the two folders")
    if check:
        check_present(samples, f"PASCAL-Context split {split!r}")
    return samples


def context_labels(root, classes=59):
    """LabelSet of background and the 59 or 33 classes. Raises UserError."""
    path = os.path.join(root, f"{_count(classes)}_labels.txt")
    return LabelSet.from_dict({"names": ["background", *_numbered(path).values()]}, path)


def class_table(root, classes=59):
    """(labels + 1,) uint8: number in LabelMap -> class, 0 is background. Raises UserError."""
    labels = {name: number for number, name in _numbered(os.path.join(root, "labels.txt")).items()}
    table = np.zeros(max(labels.values()) + 1, np.uint8)
    for place, name in enumerate(context_labels(root, classes).names[1:], 1):
        there = name if name in labels else FIXES.get(name)
        if there not in labels:
            raise UserError(f"{root}/labels.txt has no label {name!r} of {classes}_labels.txt; fetch both again")
        table[labels[there]] = place
    return table


def read_context_mask(path, table):
    """LabelMap of an annotation: path -> (H, W) uint8 classes, 0 is background. Raises UserError."""
    labels = read_classes(path, "LabelMap")
    if labels.size and not 0 <= labels.min() <= labels.max() < len(table):
        raise UserError(f"{path}: LabelMap holds {labels.max()}, but labels.txt ends at {len(table) - 1}; "
                        "fetch both again")
    return table[labels]


def _count(classes):
    if classes not in COUNTS:
        raise UserError(f"PASCAL-Context with {classes} classes: there are 59 and 33")
    return classes


def _numbered(path):
    """{number: name without spaces} of lines such as `12: name`."""
    found = {}
    for place, line in enumerate(read_lines(path), 1):
        entry = re.fullmatch(r"(\d+)\s*:\s*(.+)", line)
        if not entry:
            raise UserError(f"{path} line {place}: expected a line such as `12: name`; fetch it again")
        found[int(entry[1])] = entry[2].replace(" ", "")
    if not found:
        raise UserError(f"{path} is empty; fetch it again")
    return found


def _annotations(root):
    folder = os.path.join(root, "trainval")
    if not os.path.isdir(folder):
        raise UserError(f"no PASCAL-Context in {root}: {folder} not found; unpack trainval.tar.gz there")
    return folder


def _names(root, folder, split):
    paths = [os.path.join(folder, "ImageSets", kind, f"{split}.txt") for kind in ("Main", "Segmentation")]
    paths.append(os.path.join(root, f"{split}.txt"))
    path = next((path for path in paths if os.path.isfile(path)), None)
    if path is None:
        raise UserError(f"no split {split!r}: none of {', '.join(paths)} is there")
    names = read_lines(path)
    check_names(names, path)
    return names


def _voc_folder(root):
    return find_folder(root, below_voc(2010), ["JPEGImages"],
                       f"no VOC2010 in {root}: JPEGImages not found; give the folder that holds VOCdevkit")
