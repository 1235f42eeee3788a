"""SBD, the Semantic Boundaries Dataset, and its union with VOC 2012: 10,582 training images."""

import os

import numpy as np

from mindfcn.data.samples import Sample, check_names, check_present, find_folder
from mindfcn.data.sources.voc import list_voc, voc_names
from mindfcn.errors import UserError
from mindfcn.storage.files import read_lines
from mindfcn.storage.images import MAX_PIXELS
from mindfcn.storage.mat import read_mat

OFFICIAL_SBD, OFFICIAL_TRAIN, OFFICIAL_VAL, OFFICIAL_TRAINAUG = 8498 + 2857, 1464, 1449, 10582


def list_sbd(root, splits=("train", "val"), check=True):
    """List the samples of SBD splits, one list after the other.

    Args:
        root: benchmark_RELEASE, its dataset/, or the folder that holds benchmark_RELEASE.
        splits: names of lists next to img/ and cls/.
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
             check=True, labels=None):
    """List VOC's training images and SBD's images that are in neither VOC list: 10,582 for the official lists.

    If both sets have an image, VOC's mask is used. An image of `val_split` is never included.
    VOC's palettes are compared with `labels`, if they are given.

    Returns:
        list of Sample: VOC's, then SBD's.

    Raises:
        UserError: as `list_voc` and `list_sbd`, or the official lists do not give 10,582.
    """
    val = set(voc_names(voc_root, val_split, year))
    voc = list_voc(voc_root, train_split, year, check, labels)
    sbd = list_sbd(sbd_root, sbd_splits, check)
    official = (len(sbd), len(voc), len(val)) == (OFFICIAL_SBD, OFFICIAL_TRAIN, OFFICIAL_VAL)
    train = [sample for sample in voc if sample.name not in val]
    # VOC 2007's image 000032 is named 2007_000032 in VOC 2012 and SBD.
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
    found = read_mat(path, "GTcls")
    try:
        mask = found["Segmentation"][0, 0]
    except (IndexError, ValueError):
        raise UserError(f"{path} holds no GTcls.Segmentation or is damaged; fetch SBD again") from None
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.size > MAX_PIXELS or mask.dtype.kind not in "iu":
        raise UserError(f"{path}: GTcls.Segmentation is not a mask of class numbers; fetch SBD again")
    if mask.size and not 0 <= mask.min() <= mask.max() <= 255:
        raise UserError(f"{path}: GTcls.Segmentation holds numbers outside 0..255; fetch SBD again")
    return mask.astype(np.uint8)


def _sbd_folder(root):
    return find_folder(root, ("dataset", os.path.join("benchmark_RELEASE", "dataset")), ("img", "cls"),
                       f"no SBD in {root}: img/ and cls/ not found; give the folder benchmark_RELEASE, or prepare with "
                       "--download sbd")


def _sbd_names(folder, splits):
    names = []
    for split in splits:
        path = os.path.join(folder, f"{split}.txt")
        if not os.path.isfile(path):
            raise UserError(f"no SBD split {split!r}: {path} is missing; SBD has train and val")
        names += read_lines(path)
    check_names(names, f"the SBD lists {', '.join(splits)} in {folder}")
    return names
