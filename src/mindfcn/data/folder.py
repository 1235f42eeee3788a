"""Your own photographs: ROOT/images/, ROOT/masks/, ROOT/labels.yaml, and, if wanted, lists train.txt and val.txt."""

import functools
import hashlib
import os

import numpy as np

from mindfcn.data.samples import Sample, check_names, check_present, read_mask_image
from mindfcn.errors import UserError
from mindfcn.files import read_lines
from mindfcn.labels import voc_palette

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
GREY_MODES = ("L", "LA", "I", "I;16", "I;16B", "I;16L")


def list_folder(root, split, labels, encoding="auto", val_fraction=0.2, check=True):
    """List the samples of a split of your own folder, sorted by name or in the order of its list.

    With lists `train.txt` and `val.txt` (names with or without suffix) they decide. Without, an image is held out
    for validation by a hash of its name: adding files moves none of the others.

    Args:
        root: folder of images/ and masks/; the mask of images/NAME.jpg is masks/NAME.png.
        split: train or val, or another list's name.
        labels: LabelSet.
        encoding: auto, palette, grey or rgb, see `read_mask`.
        val_fraction: share of the images held out, 0..1; from two images on, both splits get at least one.
        check: whether every mask must exist.

    Returns:
        list of Sample.

    Raises:
        UserError: no such folder or list, two images of one name, missing files.
    """
    images = _files_by_name(os.path.join(root, "images"), IMAGE_SUFFIXES)
    masks = _files_by_name(os.path.join(root, "masks"), MASK_SUFFIXES)
    read = functools.partial(read_mask, labels=labels, encoding=encoding)
    samples = []
    for name in _split_names(root, split, sorted(images), val_fraction):
        image = images.get(name, os.path.join(root, "images", f"{name}.jpg"))
        samples.append(Sample(name, image, masks.get(name, os.path.join(root, "masks", f"{name}.png")), read))
    if check:
        check_present(samples, f"split {split!r}")
    return samples


def hold_out(names, val_fraction):
    """Split names into (train, val) lists by a hash of each name, both sorted; neither is empty from two names on."""
    if not 0 <= val_fraction <= 1:
        raise UserError(f"val_fraction {val_fraction} must be a share from 0 to 1")
    places = {name: int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64
              for name in names}
    ordered = sorted(names, key=places.get)
    count = sum(place < val_fraction for place in places.values())
    if len(names) > 1:
        count = min(max(count, 1), len(names) - 1)
    return sorted(ordered[count:]), sorted(ordered[:count])


def read_mask(path, labels, encoding="auto"):
    """Read a mask: path -> (H, W) uint8 class numbers, the ignore label included.

    Args:
        path: mask file.
        labels: LabelSet; its colours are looked up for masks of colours. The ignore label's palette colour and
            VOC's border colour (224, 224, 192) stand for the ignore label.
        encoding: palette (numbers of a palette image), grey (numbers as brightness), rgb (colours), or
            auto: what the file is.

    Raises:
        UserError: unreadable, another encoding than told, an unknown colour, a number over 255.
    """
    mask = read_mask_image(path)
    grey = mask.mode in GREY_MODES
    if encoding == "auto":
        encoding = "palette" if mask.mode in ("P", "PA") else "grey" if grey else "rgb"
    if encoding == "rgb":
        return _class_of_colour(np.asarray(mask.convert("RGB")), labels, path)
    if encoding == "palette":
        if mask.mode not in ("P", "L"):
            raise UserError(f"{path} is no palette mask but of mode {mask.mode}; choose another mask_encoding")
        return np.array(mask)
    return _class_of_grey(np.asarray(mask if grey else mask.convert("RGB")), mask.mode, path)


def _class_of_grey(values, mode, path):
    """(H, W), (H, W, 2) grey with alpha or (H, W, 3) grey colours -> (H, W) uint8."""
    if values.ndim == 3 and values.shape[2] == 3 and (values != values[..., :1]).any():
        raise UserError(f"{path} is a mask of colours (mode {mode}), not grey; choose mask_encoding rgb or palette")
    values = values[..., 0] if values.ndim == 3 else values
    if values.size and not 0 <= values.min() <= values.max() <= 255:
        row, column = np.argwhere((values < 0) | (values > 255))[0]
        raise UserError(f"{path}: class number {values[row, column]} at row {row}, column {column} "
                        "is outside 0..255; mend the mask")
    return values.astype(np.uint8)


def _class_of_colour(colours, labels, path):
    """(H, W, 3) uint8 RGB -> (H, W) uint8."""
    codes, numbers = _colour_table(labels)
    pixels = _code(colours)
    places = np.searchsorted(codes, pixels).clip(max=len(codes) - 1)
    unknown = codes[places] != pixels
    if unknown.any():
        row, column = np.argwhere(unknown)[0]
        raise UserError(f"{path}: colour {tuple(map(int, colours[row, column]))} at row {row}, column {column} "
                        "is in no class; add it to labels.yaml or mend the mask")
    return numbers[places]


def _colour_table(labels):
    """Sorted (K,) int64 colour codes and their (K,) uint8 class numbers."""
    table = {}
    for number, colour in enumerate(labels.colours):
        other = table.setdefault(int(_code(np.array(colour))), number)
        if other != number:
            raise UserError(f"labels: {labels.names[other]!r} and {labels.names[number]!r} share the colour "
                            f"{list(colour)}; masks of colours need one colour a class")
    for colour in (labels.palette()[labels.ignore_label], voc_palette()[255]):
        table.setdefault(int(_code(colour)), labels.ignore_label)
    codes = np.array(sorted(table), np.int64)
    return codes, np.array([table[code] for code in codes.tolist()], np.uint8)


def _code(colours):
    colours = np.asarray(colours, np.int64)
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]


def _files_by_name(folder, suffixes):
    """{name without suffix: path} of a folder; other suffixes and hidden files are passed over."""
    if not os.path.isdir(folder):
        raise UserError(f"no folder {folder}; your own data lie in images/ and masks/, see docs/own_data.md")
    files = {}
    for file in sorted(os.listdir(folder)):
        name, suffix = os.path.splitext(file)
        if suffix.lower() not in suffixes or file.startswith("."):
            continue
        if name in files:
            raise UserError(f"{folder} holds both {os.path.basename(files[name])} and {file}; keep one per name")
        files[name] = os.path.join(folder, file)
    return files


def _split_names(root, split, names, val_fraction):
    path = os.path.join(root, f"{split}.txt")
    if os.path.isfile(path):
        listed = [line[:-len(suffix)] if (suffix := os.path.splitext(line)[1]).lower() in IMAGE_SUFFIXES else line
                  for line in read_lines(path)]
        check_names(listed, path)
        return listed
    if split not in ("train", "val"):
        raise UserError(f"no split {split!r}: {path} is missing; write it, one image name a line")
    other = os.path.join(root, "val.txt" if split == "train" else "train.txt")
    if os.path.isfile(other):
        raise UserError(f"{other} exists but {path} does not; write both lists or none")
    if not names:
        raise UserError(f"no images in {os.path.join(root, 'images')}; known suffixes are {' '.join(IMAGE_SUFFIXES)}")
    return hold_out(names, val_fraction)[split == "val"]
