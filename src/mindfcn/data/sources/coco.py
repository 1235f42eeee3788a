"""COCO's JSON: polygons, and run lengths (RLE) of any spelling, read by pycocotools (extra `coco`).

Smaller shapes cover larger ones, because COCO's order says nothing. Areas of a crowd (`iscrowd`) are of their class,
too: CVAT, Datumaro and supervision mark every area that they write as run lengths. Photographs without annotations are
background.
"""

import glob
import os
import re
from functools import partial

import numpy as np

from mindfcn.data.image_paths import ImageIndex
from mindfcn.data.sources.annotations import Annotated, Export, Shape, checked_points, read_json
from mindfcn.errors import UserError

PATTERNS = ("*.json", os.path.join("annotations", "*.json"), os.path.join("*", "*.json"))
SPLIT = re.compile(r"(?<![a-z])(train|valid|val|test)(?![a-z])")


def list_coco(root, images=""):
    """List the photographs of a COCO file, or of all COCO files of a folder, one for each split.

    Args:
        root: .json file, or a folder with them, in annotations/ or next to the photographs of each split.
        images: folder of the photographs; "" searches the folder of the files and its parents' folders `images`.

    Returns:
        Export. Annotations without an area (boxes, key points) are left out.

    Raises:
        UserError: no COCO file, pycocotools is not installed, or a category without a name.
    """
    _masks()
    files = {path: content for path in _files(root) if is_coco(content := read_json(path))}
    if not files:
        raise UserError(f"no COCO file in {root}: a .json file with images, annotations and categories")
    export = Export([], [], "area")
    index = ImageIndex([images] if images else [_folder(root, path) for path in files], relative=not images)
    for path, content in files.items():
        names = _names(content, path)
        export.names += [name for name in names.values() if name not in export.names]
        _list_file(path, content, names, index, export)
    export.check(f"no photograph of {root} can be converted")
    return export


def is_coco(content):
    """Whether the contents of a JSON file are those of a COCO file with annotations."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list)
                                             for key in ("images", "annotations", "categories"))


def _masks():
    try:
        from pycocotools import mask
    except ImportError:
        raise UserError("COCO files are read with pycocotools, which is not installed; install it with "
                        "pip install 'mindfcn[coco]'") from None
    return mask


def _files(root):
    if os.path.isfile(root):
        return [root]
    return sorted(path for pattern in PATTERNS for path in glob.glob(os.path.join(glob.escape(root), pattern)))


def _folder(root, path):
    """The folder to search photographs in: the given one, or the one above annotations/."""
    folder = root if os.path.isdir(root) else os.path.dirname(os.path.abspath(path))
    return os.path.dirname(folder) if os.path.basename(folder) == "annotations" else folder


def _names(content, path):
    """{category id: name} in the order of the ids. The category above all others that Roboflow adds is left out."""
    try:
        found = {entry["id"]: entry for entry in content["categories"]}
        used = {entry["category_id"] for entry in content["annotations"]}
        above = {entry.get("supercategory") for entry in found.values()}
        return {key: str(found[key]["name"]) for key in sorted(found)
                if key in used or found[key]["name"] not in above or found[key].get("supercategory") != "none"}
    except (KeyError, TypeError):
        raise UserError(f"{path}: a category or annotation has no id or name; export it again") from None


def _list_file(path, content, names, index, export):
    split = SPLIT.search(os.path.basename(path).lower()) or SPLIT.fullmatch(os.path.basename(os.path.dirname(path)))
    found = {}
    for place, entry in enumerate(content["images"], 1):
        try:
            image = index.find(str(entry["file_name"]), path)
            found[entry["id"]] = Annotated(image, path, split=split[1] if split else "",
                                           size=(int(entry["height"]), int(entry["width"])))
        except (KeyError, TypeError, ValueError):
            export.left_out.append((f"{path}, image {place}", "it has no id, file_name, height or width"))
        except UserError as error:
            export.left_out.append((f"{path}, image {place}", str(error)))
    known = {entry.get("id") for entry in content["images"] if isinstance(entry, dict)}
    for place, entry in enumerate(content["annotations"], 1):
        where, image = f"{path}, annotation {entry.get('id', place)}", entry.get("image_id")
        if image not in known:
            export.left_out.append((where, f"there is no image {image!r}"))
        elif not entry.get("segmentation"):
            export.left_out.append((where, "it has no area but a box or key points alone"))
        elif entry["category_id"] not in names:
            export.left_out.append((where, f"there is no category {entry['category_id']!r}"))
        elif image in found:
            found[image].shapes.append(Shape(
                names[entry["category_id"]], partial(_fill, entry["segmentation"], where),
                bool(entry.get("iscrowd"))))
    export.photographs += found.values()


def _fill(segmentation, where, height, width):
    """(H, W) bool: the pixels of polygons or of run lengths. Raises UserError."""
    masks = _masks()
    try:
        if isinstance(segmentation, dict):
            return masks.decode(_runs(segmentation, height, width, masks)).astype(bool)
        polygons = [checked_points(points, height, width).ravel().tolist() for points in segmentation]
        return masks.decode(masks.merge(masks.frPyObjects(polygons, height, width))).astype(bool)
    except (UserError, ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{where}: {error}") from None


def _runs(segmentation, height, width, masks):
    """Run lengths as pycocotools takes them. Raises ValueError, TypeError or KeyError."""
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"its run lengths are of {segmentation['size'][::-1]} pixels, the photograph of "
                         f"[{width}, {height}]")
    counts = segmentation["counts"]
    counts = np.array(_decode_counts(counts) if isinstance(counts, str) else counts)
    if counts.dtype.kind != "i" or (counts < 0).any() or counts.sum() != height * width:
        raise ValueError(f"its run lengths do not add up to {height * width} pixels")
    return masks.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)


def _decode_counts(text):
    """Run lengths from their compressed text: 5 bits a character, lowest first; from the fourth on they are differences
    to the length two before.

    pycocotools reads text that ends too early without an error, so the lengths are added up here. Raises ValueError.
    """
    counts, value, bits = [], 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or bits > 30:
            raise ValueError("its run lengths are damaged")
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            value -= (code & 16) << bits - 4
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, bits = 0, 0
    return counts
