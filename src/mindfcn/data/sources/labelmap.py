"""CVAT's and Datumaro's "segmentation mask" export: VOC's folders with a file of names and colours, labelmap.txt.

    labelmap.txt                          name:R,G,B:parts:actions, one class a line
    SegmentationClass/NAME.png            masks of these colours, or of grey numbers of the lines
    ImageSets/Segmentation/SPLIT.txt      names, of the split `default` if there are no others
    JPEGImages/NAME.jpg                   the photographs, if they were exported, too

Black is the background if no line has that colour.
"""

import glob
import os
from functools import partial

import numpy as np

from mindfcn.data.image_paths import ImageIndex
from mindfcn.data.masks import MaskReader
from mindfcn.data.sources.annotations import Annotated, Export
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet, voc_palette
from mindfcn.storage.files import read_lines
from mindfcn.storage.images import read_mask_image

BLACK = (0, 0, 0)
MASK_FOLDERS = ("SegmentationClass", "SegmentationObject")


def list_labelmap(root, images=""):
    """List the photographs of an export.

    Args:
        root: folder with labelmap.txt.
        images: folder of the photographs; "" searches JPEGImages/ and the rest of `root`.

    Returns:
        Export with labels. Names of the lists that have no mask or no photograph are left out.

    Raises:
        UserError: no or a wrong labelmap.txt, no lists, or nothing that can be converted.
    """
    given = _read_labelmap(os.path.join(root, "labelmap.txt"))
    folder = os.path.join(root, "JPEGImages")
    index = ImageIndex([images or (folder if os.path.isdir(folder) else root)], MASK_FOLDERS)
    lists = sorted(glob.glob(os.path.join(glob.escape(root), "ImageSets", "Segmentation", "*.txt")))
    if not lists:
        raise UserError(f"no list of names in {os.path.join(root, 'ImageSets', 'Segmentation')}; export it again")
    labels = given if BLACK in given.colors else LabelSet(("background", *given.names), (BLACK, *given.colors))
    export = Export([], [], labels=labels)
    for path in lists:
        split = os.path.splitext(os.path.basename(path))[0]
        for name in read_lines(path):
            mask = os.path.join(root, "SegmentationClass", f"{name}.png")
            try:
                if not os.path.isfile(mask):
                    raise UserError(f"there is no mask {mask}")
                export.photographs.append(Annotated(
                    index.find(name, split, suffix=False), mask, read_mask=partial(_read, mask, labels, given),
                    split="" if split == "default" else split))
            except UserError as error:
                export.left_out.append((f"{path}: {name}", str(error)))
    export.check(f"no mask of {root} can be converted")
    return export


def _read_labelmap(path):
    """LabelSet of the lines; VOC's colours where a line has none. Raises UserError."""
    names, colors = [], []
    for line in read_lines(path):
        if line.startswith("#"):
            continue
        # Names may contain colons, the last three parts do not.
        parts = line.rsplit(":", 3)
        if len(parts) != 4:
            raise UserError(f"{path}: {line!r} is not name:R,G,B:parts:actions; export it again")
        try:
            color = tuple(map(int, parts[1].split(","))) if parts[1] else tuple(voc_palette()[len(names)].tolist())
        except (ValueError, IndexError):
            raise UserError(f"{path}: {parts[1]!r} in {line!r} is no colour R,G,B; export it again") from None
        names.append(parts[0].strip())
        colors.append(color)
    if not names:
        raise UserError(f"{path} names no class; export it again")
    return LabelSet(tuple(names), tuple(colors))


def _read(path, labels, given):
    """(H, W) uint8 class numbers of a mask. Raises UserError."""
    mask = read_mask_image(path)
    if mask.mode != "L":
        return MaskReader([path], labels, "rgb")(path)
    # Grey values are the numbers of the lines, without an added background.
    numbers = np.array(mask)
    return numbers if labels is given else np.where(numbers == labels.ignore_label, numbers, numbers + 1)
