"""Cityscapes' layout (Cordts et al. 2016): leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and
gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png, in the 19 classes of its benchmark; all other labels get the ignore label.
"""

import glob
import os
from functools import partial

import numpy as np

from mindfcn.data.sources.annotations import Annotated, Export
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.storage.images import read_palette_mask

# The number of each class in the files.
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
CITYSCAPES = LabelSet(
    names=("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
           "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    colors=((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
            (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0),
            (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)))
IMAGE, LABEL = "_leftImg8bit.png", "_labelIds.png"
# The highest number of Cityscapes' labels; -1, license plates, is 255 in the files.
LAST_ID = 33


def list_cityscapes(root):
    """List the photographs of all splits and cities.

    Args:
        root: folder with leftImg8bit/ and gtFine/, or gtCoarse/ if that is missing.

    Returns:
        Export with labels. Photographs without labels are left out.

    Raises:
        UserError: no such folders, or no photograph with labels.
    """
    if os.path.isfile(os.path.join(root, "label_colors.txt")):
        raise UserError(f"{root} has classes of its own (label_colors.txt); export them as segmentation masks "
                        "(labelmap.txt)")
    photographs, kind = os.path.join(root, "leftImg8bit"), "gtFine"
    if not os.path.isdir(os.path.join(root, kind)):
        kind = "gtCoarse"
    export = Export([], [], labels=CITYSCAPES)
    for path in sorted(glob.glob(os.path.join(glob.escape(photographs), "**", f"*{IMAGE}"), recursive=True)):
        inner = os.path.relpath(path, photographs)
        label = os.path.join(root, kind, f"{inner[:-len(IMAGE)]}_{kind}{LABEL}")
        if os.path.isfile(label):
            export.photographs.append(Annotated(path, label, read_mask=partial(read_label_ids, label),
                                                split=inner.split(os.sep)[0]))
        else:
            export.left_out.append((path, f"there is no {label}"))
    if not export.photographs:
        raise UserError(f"no photograph with labels in {root}: expected leftImg8bit/SPLIT/CITY/NAME{IMAGE} and "
                        f"gtFine/SPLIT/CITY/NAME_gtFine{LABEL}")
    return export


def read_label_ids(path):
    """Read a labelIds file: path -> (H, W) uint8, the 19 classes and 255. Raises UserError."""
    found = read_palette_mask(path)
    if ((found > LAST_ID) & (found != 255)).any():
        row, column = np.argwhere((found > LAST_ID) & (found != 255))[0]
        raise UserError(f"{path} holds {found[row, column]} at row {row}, column {column}, which is no label of "
                        "Cityscapes")
    table = np.full(256, 255, np.uint8)
    table[list(IDS)] = np.arange(len(IDS))
    return table[found]
