"""Roboflow's export of semantic masks: NAME.jpg, NAME_mask.png and _classes.csv in train/, valid/ and test/.

Roboflow's other exports are COCO's (`_annotations.coco.json`) and YOLO's (`data.yaml`).
"""

import glob
import os
from functools import partial

from mindfcn.data.masks import MaskReader
from mindfcn.data.sources.annotations import Annotated, Export
from mindfcn.data.sources.folder import IMAGE_SUFFIXES, files_by_name
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.storage.files import read_lines

CLASSES, MASK = "_classes.csv", "_mask"


def list_roboflow(root):
    """List the photographs of an export.

    Args:
        root: folder with _classes.csv, or with folders of splits that have one each.

    Returns:
        Export with labels. Photographs without a mask are left out.

    Raises:
        UserError: no _classes.csv, splits with different classes, or nothing that can be converted.
    """
    tables = sorted(glob.glob(os.path.join(glob.escape(root), "*", CLASSES)))
    tables = tables or [os.path.join(root, CLASSES)]
    found = {os.path.dirname(path): _read_classes(path) for path in tables}
    names = next(iter(found.values()))
    other = next((folder for folder in found if found[folder] != names), None)
    if other:
        raise UserError(f"{other} has other classes than {next(iter(found))}; export the splits together")
    export = Export([], [], labels=LabelSet.from_dict({"names": list(names)}, tables[0]))
    for folder in found:
        split = "" if os.path.samefile(folder, root) else os.path.basename(folder)
        files = files_by_name(folder, IMAGE_SUFFIXES)
        for name, path in files.items():
            if name.endswith(MASK) and name[:-len(MASK)] in files:
                continue
            mask = files.get(name + MASK)
            if mask is None:
                export.left_out.append((path, f"there is no mask {name}{MASK}.png"))
            else:
                export.photographs.append(Annotated(path, mask, split=split,
                                                    read_mask=partial(MaskReader([mask], export.labels, "grey"), mask)))
    if not export.photographs:
        raise UserError(f"no photograph in {root} has a mask NAME{MASK}.png; export semantic segmentation masks")
    return export


def _read_classes(path):
    """Class names by pixel value. Raises UserError."""
    names = {}
    for line in read_lines(path)[1:]:
        number, _, name = line.partition(",")
        if not number.strip().isdigit():
            raise UserError(f"{path}: {line!r} is no line of pixel value and class; export it again")
        names[int(number)] = name.strip()
    if sorted(names) != list(range(len(names))) or not names:
        raise UserError(f"{path} does not number its classes from 0; export it again")
    return tuple(names[number] for number in sorted(names))
