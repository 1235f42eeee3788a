"""SBD, the Semantic Boundaries Dataset, and the 10,582 training images that it makes with VOC 2012."""

import io
import math
import os
import struct
import zlib

import numpy as np
import scipy.io

from mindfcn.data.samples import MAX_PIXELS, Sample, check_names, check_present
from mindfcn.data.voc import list_voc, voc_names
from mindfcn.errors import UserError
from mindfcn.files import read_bytes, read_lines

# Of .mat files: element types, classes of arrays that hold arrays, and how deep SBD's masks lie in GTcls, twice.
MATRIX, COMPRESSED, NESTING, DEEPEST = 14, 15, (1, 2, 3), 6
OFFICIAL_SBD, OFFICIAL_TRAIN, OFFICIAL_VAL, OFFICIAL_TRAINAUG = 8498 + 2857, 1464, 1449, 10582


def list_sbd(root, splits=("train", "val"), check=True):
    """List the samples of SBD splits, one list after the other.

    Args:
        root: benchmark_RELEASE, its dataset/, or the folder that holds benchmark_RELEASE.
        splits: names of lists beside img/ and cls/.
        check: whether every file must exist.

    Returns:
        list of Sample.

    Raises:
        UserError: no such folder or list, a bad or repeated name, missing files.
    """
    folder = _sbd_folder(root)
    samples = [Sample(name, os.path.join(folder, "img", f"{name}.jpg"), os.path.join(folder, "cls", f"{name}.mat"),
                      read_sbd_mask) for name in _sbd_names(folder, splits)]
    if check:
        check_present(samples, "SBD")
    return samples


def trainaug(voc_root, sbd_root, year=2012, train_split="train", val_split="val", sbd_splits=("train", "val"),
             check=True):
    """List VOC's training images and SBD's images that are in neither VOC list: 10,582 for the official lists.

    VOC's own masks are taken where both sets have the image. An image of `val_split` never gets in.

    Returns:
        list of Sample: VOC's, then SBD's.

    Raises:
        UserError: as `list_voc` and `list_sbd`, or the official lists do not give 10,582.
    """
    val = set(voc_names(voc_root, val_split, year))
    voc = list_voc(voc_root, train_split, year, check)
    sbd = list_sbd(sbd_root, sbd_splits, check)
    official = (len(sbd), len(voc), len(val)) == (OFFICIAL_SBD, OFFICIAL_TRAIN, OFFICIAL_VAL)
    train = [sample for sample in voc if sample.name not in val]
    # VOC 2012 and SBD call VOC 2007's image 000032 by the name 2007_000032.
    known = {alias for name in val.union(sample.name for sample in voc) for alias in (name, f"{year}_{name}")}
    train += [sample for sample in sbd if sample.name not in known]
    leaked = val.intersection(sample.name for sample in train)
    if leaked:
        raise UserError(f"validation image {min(leaked)} is among the training images; check the lists")
    if official and len(train) != OFFICIAL_TRAINAUG:
        raise UserError(f"VOC with SBD gives {len(train)} training images instead of {OFFICIAL_TRAINAUG}: "
                        f"the lists in {voc_root} and {sbd_root} are not the official ones; fetch them again")
    return train


def read_sbd_mask(path):
    """Read `GTcls.Segmentation` of an SBD .mat file: path -> (H, W) uint8 class numbers. Raises UserError."""
    data = read_bytes(path)
    try:
        _check_mat(data)
        content = scipy.io.loadmat(io.BytesIO(data), variable_names=["GTcls"])
        mask = content["GTcls"]["Segmentation"][0, 0]
    # damaged bytes make SciPy fail in many ways
    except Exception:
        raise UserError(f"{path} holds no GTcls.Segmentation or is damaged; fetch SBD again") from None
    if mask.ndim != 2 or mask.size > MAX_PIXELS or not np.issubdtype(mask.dtype, np.integer):
        raise UserError(f"{path}: GTcls.Segmentation is not a mask of class numbers; fetch SBD again")
    if mask.size and not 0 <= mask.min() <= mask.max() <= 255:
        raise UserError(f"{path}: GTcls.Segmentation holds numbers outside 0..255; fetch SBD again")
    return mask.astype(np.uint8)


def _check_mat(data):
    """Raise ValueError where a MAT-file of version 5 does not keep to its own sizes, before SciPy believes them.

    SciPy follows nested arrays by recursion in C, which a file of 200 kB can make overflow, allocates what an array of
    arrays announces, and does not read to the checksum of what is compressed.
    """
    order = {b"\0\1IM": "<", b"\1\0MI": ">"}.get(data[124:128])
    _require(order)
    waiting, room = [(memoryview(data)[128:], 0)], MAX_PIXELS + len(data)
    while waiting:
        part, depth = waiting.pop()
        at = 0
        while at < len(part):
            kind, size = struct.unpack_from(f"{order}II", part, at)
            # a small element: its size and its bytes stand within these eight
            size, padding = (0, 0) if kind >> 16 else (size, -size % 8)
            body = part[at + 8:at + 8 + size]
            _require(len(body) == size)
            if kind == COMPRESSED:
                _require(depth == 0)
                waiting.append((_inflated(body, room), 1))
                room -= len(waiting[-1][0])
                padding = 0
            elif kind == MATRIX:
                _require(depth < DEEPEST)
                _check_dimensions(body, order)
                waiting.append((body, depth + 1))
            at += 8 + size + padding


def _inflated(data, room):
    """Unpack to `room` bytes at most, to the end, where zlib compares the checksum."""
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(data, room)
    _require(unpacker.eof and not unpacker.unused_data)
    return memoryview(content)


def _check_dimensions(body, order):
    """Refuse an array of arrays that announces more of them than there are bytes."""
    # its flags, with the class in one byte, come first, then its dimensions
    if body and struct.unpack_from(f"{order}I", body, 8)[0] & 255 in NESTING:
        size, = struct.unpack_from(f"{order}I", body, 20)
        _require(math.prod(struct.unpack_from(f"{order}{size // 4}i", body, 24)) <= len(body))


def _require(condition):
    if not condition:
        raise ValueError


def _sbd_folder(root):
    for inner in ("", "dataset", os.path.join("benchmark_RELEASE", "dataset")):
        folder = os.path.join(root, inner) if inner else os.fspath(root)
        if os.path.isdir(os.path.join(folder, "img")) and os.path.isdir(os.path.join(folder, "cls")):
            return folder
    raise UserError(f"no SBD in {root}: img/ and cls/ not found; "
                    "give the folder benchmark_RELEASE, or prepare with --download sbd")


def _sbd_names(folder, splits):
    names = []
    for split in splits:
        path = os.path.join(folder, f"{split}.txt")
        if not os.path.isfile(path):
            raise UserError(f"no SBD split {split!r}: {path} is missing; SBD has train and val")
        names += read_lines(path)
    check_names(names, f"the SBD lists {', '.join(splits)} in {folder}")
    return names
