"""PASCAL VOC's layout: JPEGImages/ID.jpg, SegmentationClass/ID.png, ImageSets/Segmentation/SPLIT.txt."""

import os
from functools import partial

from mindfcn.data.masks import check_palette
from mindfcn.data.samples import Sample, check_names, check_present, find_folder
from mindfcn.errors import UserError
from mindfcn.storage.files import read_lines
from mindfcn.storage.images import palette_numbers, read_mask_image, read_palette_mask


def list_voc(root, split, year=2012, check=True, labels=None):
    """List the samples of a VOC split, in the order of its list.

    Args:
        root: the VOC<year> folder, VOCdevkit, or the folder that holds VOCdevkit.
        split: name of a list in ImageSets/Segmentation, such as train or val.
        year: VOC year; the folder VOC<year> is searched below `root`.
        check: whether every file must exist.
        labels: LabelSet whose colours must not contradict the masks' palettes; None compares none.

    Returns:
        list of Sample.

    Raises:
        UserError: no such folder or list, a bad or repeated name, missing files.
    """
    folder = voc_folder(root, year)
    read = partial(_read_checked, labels=labels) if labels else read_palette_mask
    samples = [Sample(name, os.path.join(folder, "JPEGImages", f"{name}.jpg"),
                      os.path.join(folder, "SegmentationClass", f"{name}.png"), read)
               for name in voc_names(root, split, year)]
    if check:
        check_present(samples, f"VOC split {split!r}")
    return samples


def _read_checked(path, labels):
    """Read a mask as `read_palette_mask`. Raises UserError also if its palette shows a class in another's colour."""
    mask = read_mask_image(path)
    numbers = palette_numbers(mask, path)
    if mask.mode == "P":
        check_palette(mask.getpalette("RGB"), numbers, labels, path)
    return numbers


def voc_names(root, split, year=2012):
    """The image names of a VOC split, in the order of its list. Raises UserError as `list_voc` does."""
    lists = os.path.join(voc_folder(root, year), "ImageSets", "Segmentation")
    path = os.path.join(lists, f"{split}.txt")
    if not os.path.isfile(path):
        known = sorted(name[:-4] for name in os.listdir(lists) if name.endswith(".txt"))
        raise UserError(f"no split {split!r}: {path} is missing; there are {', '.join(known) or 'none'}")
    names = read_lines(path)
    check_names(names, path)
    return names


def voc_folder(root, year=2012):
    """The folder below `root` that holds ImageSets/Segmentation. Raises UserError if there is none."""
    return find_folder(root, below_voc(year), [os.path.join("ImageSets", "Segmentation")],
                       f"no VOC{year} in {root}: ImageSets/Segmentation not found; give the folder that holds "
                       f"VOCdevkit, or prepare with --download voc{year}")


def below_voc(year):
    """Relative paths of the folder of a VOC year in the folders that may be given for it."""
    return f"VOC{year}", os.path.join("VOCdevkit", f"VOC{year}")
