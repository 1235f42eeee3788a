"""YOLO's polygons: a line `class x1 y1 x2 y2 ...` for each area, in shares of the photograph's width and height.

Smaller areas cover larger ones, as in Ultralytics. Corners are rounded to whole pixels: tools write five decimals,
which rounding down would move by a pixel. Boxes (four numbers) are not areas, and a photograph with one is left out,
because its object would count as background. An empty file is a photograph of background alone; a photograph without a
file is left out.
"""

import os
from functools import partial

import cv2
import numpy as np

from mindfcn.data.image_paths import ImageIndex, find_images
from mindfcn.data.sources.annotations import Annotated, Export, Shape, checked_points
from mindfcn.errors import UserError
from mindfcn.storage.files import read_lines, read_yaml

SPLITS = ("train", "val", "test")


def list_yolo(root, names=None):
    """List the photographs of a data set in YOLO's layout: images/ and labels/, with data.yaml or classes.txt.

    Args:
        root: data.yaml, or the folder with it or with images/, labels/ and classes.txt.
        names: class names by number; None takes those of data.yaml or classes.txt.

    Returns:
        Export.

    Raises:
        UserError: no class names, no photographs, or none with polygons.
    """
    folder = root if os.path.isdir(root) else os.path.dirname(root)
    path = _settings_file(root)
    content = read_yaml(path) if path else {}
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings of YOLO; expected names, train and val")
    names = names or _names(content, folder)
    export = Export(list(names), [], "area")
    for split, images in _images(content, folder).items():
        for image in images:
            where = _label_file(image)
            try:
                if not os.path.isfile(where):
                    raise UserError(f"there is no {where}")
                export.photographs.append(Annotated(image, where, _shapes(where, names), split=split))
            except UserError as error:
                export.left_out.append((image, str(error)))
    export.check(f"no photograph of {root} has polygons")
    return export


def _settings_file(root):
    if os.path.isfile(root):
        return root
    return next((path for name in ("data.yaml", "data.yml", "dataset.yaml")
                 if os.path.isfile(path := os.path.join(root, name))), "")


def _names(content, folder):
    """Class names of data.yaml, a list or {number: name}, or of classes.txt. Raises UserError."""
    names, text = content.get("names"), os.path.join(folder, "classes.txt")
    if isinstance(names, dict) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in sorted(names)]
    if names is None and os.path.isfile(text):
        names = read_lines(text)
    if not isinstance(names, list) or not names:
        raise UserError(f"no class names in {folder}: neither `names` in data.yaml nor classes.txt; give --names")
    return list(map(str, names))


def _images(content, folder):
    """{split: paths of its photographs}; the split is "" without data.yaml. Raises UserError."""
    if not any(content.get(split) for split in SPLITS):
        return {"": ImageIndex([os.path.join(folder, "images")]).paths()}
    base = str(content.get("path") or "")
    found = {}
    for split in SPLITS:
        entries = content.get(split) or []
        for entry in [entries] if isinstance(entries, str) else entries:
            found.setdefault(split, []).extend(_listed(str(entry), [os.path.join(folder, base), folder, base]))
    return found


def _listed(entry, folders):
    """Photographs of a folder or of a text file of paths, as data.yaml names it, relative to one of the folders.

    Roboflow writes ../train/images for train/images.
    """
    relative = entry.replace("\\", "/")
    places = [os.path.join(folder, name) for name in (relative, relative.lstrip("./")) for folder in folders]
    place = next((place for place in places if os.path.exists(place)), None)
    if place is None:
        raise UserError(f"data.yaml names {entry}, which is not there; correct it")
    if os.path.isdir(place):
        return ImageIndex([place]).paths()
    return find_images([line if os.path.isabs(line) else os.path.join(os.path.dirname(place), line)
                        for line in read_lines(place)])


def _label_file(image):
    """labels/NAME.txt for images/NAME.jpg: the last folder of that name counts; else next to the photograph."""
    head, name = os.path.split(os.path.splitext(image)[0])
    parts = head.split(os.sep)
    if "images" in parts:
        place = len(parts) - 1 - parts[::-1].index("images")
        parts[place] = "labels"
    return os.path.join(os.sep.join(parts), f"{name}.txt")


def _shapes(path, names):
    shapes = []
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}, line {number}"
        try:
            label, *values = map(float, line.split())
            name = names[int(label)] if label == int(label) >= 0 else None
        except (ValueError, OverflowError, IndexError):
            name = None
        if name is None:
            raise UserError(f"{where}: expected the number of a class below {len(names)} and a polygon")
        if len(values) in (4, 5):
            raise UserError(f"{where}: a box, not a polygon; export the data set for segmentation")
        shapes.append(Shape(name, partial(_fill, values, where)))
    return shapes


def _fill(values, where, height, width):
    """(H, W) bool: the pixels of a polygon in shares. Raises UserError."""
    try:
        points = checked_points(values, 1, 1) * (width, height)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return cv2.fillPoly(np.zeros((height, width), np.uint8), [np.rint(points).astype(np.int32)], 1).astype(bool)
