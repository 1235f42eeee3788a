"""Your own photographs: ROOT/images/, ROOT/masks/, ROOT/labels.yaml, and optional lists train.txt and val.txt."""

import hashlib
import os
import unicodedata
from functools import partial

from mindfcn.data.bands import sample_options
from mindfcn.data.masks import mask_reader
from mindfcn.data.samples import Sample, check_names, check_present, is_utf8
from mindfcn.errors import UserError
from mindfcn.storage.files import read_bytes, read_lines
from mindfcn.storage.images import with_8_bits

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")


def list_folder(root, split, labels, encoding="auto", val_fraction=0.2, check=True, bits=0,
                bands=None):
    """List the samples of a split of your own folder, sorted by name or in the order of its list.

    With lists `train.txt` and `val.txt` (names with or without suffix) they decide. Without, an image is held out
    for validation by a hash of its name: adding files moves none of the others.

    Args:
        root: folder of images/ and masks/; the mask of images/NAME.jpg is masks/NAME.png.
        split: train or val, or another list's name.
        labels: LabelSet.
        encoding: auto, palette, grey or rgb, see `masks.MaskReader`.
        val_fraction: share of the images held out, 0..1; with two images or more, both splits get at least one.
        check: whether every mask must exist.
        bits: see `with_8_bits`; 0 leaves the photographs as they are.
        bands: for multispectral TIFFs, numbers from 1 of the bands that are shown as red, green and blue.

    Returns:
        list of Sample.

    Raises:
        UserError: no such folder or list, two images of one name, missing files.
    """
    images = files_by_name(os.path.join(root, "images"), IMAGE_SUFFIXES)
    masks = files_by_name(os.path.join(root, "masks"), MASK_SUFFIXES)
    read = mask_reader(list(masks.values()), labels, encoding)
    samples = []
    for name in _split_names(root, split, sorted(images), val_fraction):
        image = images.get(name, os.path.join(root, "images", f"{name}.jpg"))
        mask = masks.get(name, os.path.join(root, "masks", f"{name}.png"))
        options = {"read_image": partial(_with_8_bits, bits=bits)} if bits else {}
        if bands and os.path.exists(image):
            options = sample_options(image, bands)
        samples.append(Sample(name, image, mask, read, **options))
    if check:
        check_present(samples, f"split {split!r}")
    return samples


def _with_8_bits(path, bits):
    return with_8_bits(read_bytes(path), path, bits)


def hold_out(names, val_fraction):
    """Split names into (train, val) lists by a hash of each name, sorted; with two names or more neither is empty."""
    if not 0 <= val_fraction <= 1:
        raise UserError(f"val_fraction {val_fraction} must be a share from 0 to 1")
    places = {name: int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64
              for name in names}
    ordered = sorted(names, key=places.get)
    count = sum(place < val_fraction for place in places.values())
    if len(names) > 1:
        count = min(max(count, 1), len(names) - 1)
    return sorted(ordered[count:]), sorted(ordered[:count])


def files_by_name(folder, suffixes):
    """{name without suffix: path} of a folder; other suffixes and hidden files are ignored."""
    if not os.path.isdir(folder):
        raise UserError(f"no folder {folder}; your own data lie in images/ and masks/, see docs/own_data.md")
    files = {}
    for file in sorted(os.listdir(folder)):
        name, suffix = os.path.splitext(file)
        # The same name may be stored in two of Unicode's normal forms.
        name = unicodedata.normalize("NFC", name)
        if suffix.lower() not in suffixes or file.startswith("."):
            continue
        if name in files:
            raise UserError(f"{folder} holds both {os.path.basename(files[name])} and {file}; keep one per name")
        if not is_utf8(name):
            raise UserError(f"{folder} holds {file!r}, whose name is not UTF-8; rename it")
        files[name] = os.path.join(folder, file)
    return files


def _split_names(root, split, names, val_fraction):
    path = os.path.join(root, f"{split}.txt")
    if os.path.isfile(path):
        known = set(names)
        listed = [line if line in known or os.path.splitext(line)[1].lower() not in IMAGE_SUFFIXES
                  else os.path.splitext(line)[0]
                  for line in (unicodedata.normalize("NFC", line) for line in read_lines(path))]
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
