"""LabelMe's JSON files, one a photograph, as LabelMe, AnyLabeling and EISeg write them.

Later shapes cover earlier ones, as in LabelMe: a hole is a later shape of the class `_background_`. Pixels of the class
`__ignore__` do not count. Outlines belong to their shapes, as LabelMe draws them with Pillow.
"""

import base64
import binascii
import math
import os
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from mindfcn.data.image_paths import ImageIndex
from mindfcn.data.sources.annotations import BACKGROUND, IGNORED, Annotated, Export, Shape, checked_points, read_json
from mindfcn.errors import UserError
from mindfcn.storage.files import read_bytes
from mindfcn.storage.images import check_complete

# Number of points of each kind of shape that has an area; None is any number from three.
AREAS = {"polygon": None, "rectangle": 2, "circle": 2, "mask": 2, "oriented_rectangle": 4, "rotation": 4}


def list_labelme(root, images="", names=None):
    """List the photographs of a folder of JSON files, at any depth, or of one file.

    Args:
        root: folder or file.
        images: folder of the photographs; "" searches those that the files name, and takes the one in the file itself
            (`imageData`) if there is none.
        names: class names in their order; None sorts the names that occur.

    Returns:
        Export. Points and lines have no area and are left out; so are photographs without a JSON file.

    Raises:
        UserError: no JSON file of LabelMe, or a class that is not among the names.
    """
    folder = root if os.path.isdir(root) else os.path.dirname(root)
    index, export = ImageIndex([images or folder], relative=not images), Export([], [])
    used = set()
    for path in _json_files(root):
        try:
            found = _photograph(path, index, export)
        except UserError as error:
            export.left_out.append((path, str(error)))
            continue
        if found:
            export.photographs.append(found)
            used.add(os.path.abspath(found.image))
    export.check(f"no JSON file of LabelMe with its photograph in {root}")
    export.left_out += [(path, "the photograph has no JSON file") for path in index.paths()
                        if os.path.abspath(path) not in used]
    found = {shape.label for one in export.photographs for shape in one.shapes} - {IGNORED, *BACKGROUND}
    export.names = [name for name in names or sorted(found) if name not in (IGNORED, *BACKGROUND)]
    if found - set(export.names):
        raise UserError(f"the class {min(found - set(export.names))!r} is not among the given names; add it to --names")
    return export


def _json_files(root):
    if os.path.isfile(root):
        return [root]
    return sorted(os.path.join(parent, name) for parent, _, names in os.walk(root) for name in names
                  if name.lower().endswith(".json") and not name.startswith("."))


def _photograph(path, index, export):
    """Annotated of a JSON file; None if it is another tool's. Raises UserError."""
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return None
    size = (content.get("imageHeight"), content.get("imageWidth"))
    size = size if all(type(side) is int for side in size) else None
    shapes = []
    for number, entry in enumerate(content["shapes"], 1):
        shape = _shape(entry, f"{path}, shape {number}", export.left_out)
        shapes += [shape] if shape else []
    try:
        image, read = index.find(str(content.get("imagePath") or ""), path), read_bytes
    except UserError:
        if not content.get("imageData"):
            raise
        image, read = path, _embedded
    return Annotated(image, path, shapes, size=size, read_image=read)


def _embedded(path):
    """Bytes of the photograph in a JSON file. Raises UserError."""
    try:
        return base64.b64decode(read_json(path)["imageData"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise UserError(f"{path}: its imageData cannot be read; save it again in LabelMe") from None


def _shape(entry, where, left_out):
    """Shape of an entry; None, and a line in `left_out`, if it has no area. Raises UserError."""
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str) or not isinstance(entry.get("points"),
                                                                                                list):
        raise UserError(f"{where} has no label or no points; save it again in LabelMe")
    kind = entry.get("shape_type") or "polygon"
    if kind not in AREAS:
        left_out.append((where, f"{kind} {entry['label']!r} has no area"))
        return None
    return Shape(entry["label"], partial(_fill, kind, entry["points"], entry.get("mask"), where))


def _fill(kind, points, mask, where, height, width):
    """(H, W) bool: the pixels of a shape. Raises UserError."""
    try:
        count = AREAS[kind]
        points = checked_points(points, height, width, count or 3)
        if count and kind != "rectangle" and len(points) != count:
            raise UserError(f"a {kind} has {count} points, not {len(points)}")
        if kind == "mask":
            return _place(mask, points, height, width, where)
        return _draw(kind, points, height, width)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _draw(kind, points, height, width):
    canvas = Image.new("L", (width, height))
    draw = ImageDraw.Draw(canvas)
    if kind == "circle":
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
    elif kind == "rectangle":
        draw.rectangle((*points.min(0), *points.max(0)), fill=1, outline=1)
    else:
        draw.polygon([tuple(point) for point in points], fill=1, outline=1)
    return np.array(canvas, bool)


def _place(mask, points, height, width, where):
    """A mask given as PNG in base64 for the box of two corners, in the whole picture."""
    try:
        inner = np.asarray(check_complete(base64.b64decode(mask, validate=True), f"{where}: its mask"))
    except (binascii.Error, ValueError, TypeError):
        raise UserError("its mask is not an image") from None
    if inner.ndim != 2:
        raise UserError("its mask is not grey")
    left, top = points.astype(int).min(0)
    inner = inner[max(0, -top):, max(0, -left):].astype(bool)
    whole = np.zeros((height, width), bool)
    box = whole[max(0, top):, max(0, left):][:inner.shape[0], :inner.shape[1]]
    box[:] = inner[:box.shape[0], :box.shape[1]]
    return whole
