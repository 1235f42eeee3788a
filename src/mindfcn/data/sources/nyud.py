"""NYUDv2, 1,449 rooms with depth (Silberman et al. 2012), in the 40 classes of Gupta et al. (2013).

Two layouts are read:
    nyu_depth_v2_labeled.mat (HDF5) as published, with splits.mat and, for the classes, classMapping40.mat or
    segmentation/img_ID.mat;
    Gupta et al.'s and the released nets' files: data/images/img_ID.png, data/depth/img_ID.png (16 bit, mm),
    data/hha/img_ID.png (made from the depth where they are missing), segmentation/img_ID.mat, train.txt, val.txt and
    test.txt of IDs from 5001.
Everything is cropped to the 425x560 pixels that have depth; depth is the one with filled holes.
"""

import os
from functools import lru_cache, partial

import cv2
import numpy as np

from mindfcn.data.hha import KINECT, Camera, encode_hha
from mindfcn.data.samples import Extra, Sample, check_names, check_present, decode_plane
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet, voc_palette
from mindfcn.storage.files import read_bytes, read_lines
from mindfcn.storage.mat import Hdf5, read_classes, read_mat, to_classes

NYUD = LabelSet(
    names=("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture",
           "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes",
           "ceiling", "books", "refridgerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard",
           "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture",
           "otherprop"),
    colors=tuple(map(tuple, voc_palette(41)[1:].tolist())))
LABELLED = "nyu_depth_v2_labeled.mat"
# Rows 46 to 470 and columns 41 to 600, counted from 1.
TOP, LEFT, HEIGHT, WIDTH = 45, 40, 425, 560
FULL = (480, 640)
# Gupta et al. number the images from here.
FIRST_ID = 5001
# Size of two PNGs of three channels, the depth and the mask if none of them can be compressed.
RECORD = 10 * HEIGHT * WIDTH


def list_nyud(root, split, check=True):
    """List the samples of a split.

    Args:
        root: folder of either layout.
        split: trainval (795), train, val, or test (654); splits.mat has trainval (under the name train) and test.
        check: whether every file must exist.

    Returns:
        list of Sample, with the extras `depth` and `hha`.

    Raises:
        UserError: no such folder, file or split.
    """
    names = nyud_names(root, split)
    whole = os.path.join(root, LABELLED)
    if os.path.isfile(whole):
        return [_of_whole(root, whole, name) for name in names]
    if not os.path.isdir(os.path.join(root, "data", "images")):
        raise UserError(f"no NYUDv2 in {root}: neither {LABELLED} nor data/images/ found; see docs/modalities.md")
    samples = [_of_files(root, name) for name in names]
    if check:
        check_present(samples, f"NYUDv2 split {split!r}")
    return samples


def nyud_names(root, split):
    """The image IDs of a split, "5001" to "6449". Raises UserError."""
    lists = [split] if split != "trainval" or os.path.isfile(_list(root, "trainval")) else ["train", "val"]
    matlab = os.path.join(root, "splits.mat")
    if all(os.path.isfile(_list(root, name)) for name in lists):
        names = [name for one in lists for name in read_lines(_list(root, one))]
    elif os.path.isfile(matlab) and split in ("trainval", "train", "test"):
        numbers = read_mat(matlab, "testNdxs" if split == "test" else "trainNdxs")
        names = [str(FIRST_ID - 1 + int(number)) for number in numbers.ravel()]
    else:
        raise UserError(f"no split {split!r} of NYUDv2 in {root}: neither {lists[0]}.txt nor splits.mat has it; "
                        "see docs/modalities.md")
    check_names(names, f"NYUDv2 split {split!r} in {root}")
    for name in names:
        if not name.isdigit():
            raise UserError(f"NYUDv2 split {split!r} in {root}: {name!r} is no image's number; fetch the list again")
    return names


def _list(root, split):
    return os.path.join(root, f"{split}.txt")


# ---------------------------------------------------------------------------------------------- the labelled .mat

def _of_whole(root, path, name):
    index = int(name) - FIRST_ID
    segmentation = os.path.join(root, "segmentation", f"img_{name}.mat")
    mapping = os.path.join(root, "classMapping40.mat")
    if os.path.isdir(os.path.dirname(segmentation)):
        label, read = segmentation, read_nyud_mask
    else:
        label, read = path, partial(_mapped_mask, index=index, mapping=mapping)
    return Sample(name, path, label, read, partial(_image, index=index), {
        "depth": Extra(path, partial(_depth, index=index)), "hha": Extra(path, partial(_hha, index=index))}, RECORD)


def _image(path, index):
    """Encoded PNG of one image's crop."""
    image = _crop(_item(path, "images", index), path)
    return cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()


def _depth(path, index):
    """(425, 560) uint16 mm."""
    return np.rint(np.clip(1000 * _crop(_item(path, "depths", index), path), 0, 65535)).astype(np.uint16)


def _hha(path, index):
    """HHA (425, 560, 3) uint8, for the camera of the crop."""
    return encode_hha(_depth(path, index) / 1000, KINECT.cropped(TOP, LEFT))


def _mapped_mask(path, index, mapping):
    """(425, 560) uint8: the 894 labels of the file, mapped to Gupta et al.'s 40 classes."""
    table = _mapping(mapping, os.path.getmtime(mapping) if os.path.exists(mapping) else 0)
    labels = _crop(_item(path, "labels", index), path).astype(np.int64)
    if labels.max() >= len(table):
        raise UserError(f"{path}: image {index + 1} holds label {labels.max()}, but {mapping} has {len(table) - 1}; "
                        "fetch both again")
    return to_classes(table[labels], len(NYUD), mapping)


@lru_cache(maxsize=1)
def _mapping(path, _changed):
    """(895,) int64: label -> class 1..40, 0 is void."""
    return np.concatenate([[0], read_mat(path, "mapClass").ravel().astype(np.int64)])


def _item(path, name, index):
    with Hdf5(path) as file:
        return file.item(name, index)


def _crop(array, path):
    if array.shape[:2] != FULL:
        raise UserError(f"{path}: images of {array.shape[1]}x{array.shape[0]} pixels instead of {FULL[1]}x{FULL[0]}; "
                        "fetch it again")
    return array[TOP:TOP + HEIGHT, LEFT:LEFT + WIDTH]


# ------------------------------------------------------------------------------------------------- files of images

def _of_files(root, name):
    depth = os.path.join(root, "data", "depth", f"img_{name}.png")
    hha = os.path.join(root, "data", "hha", f"img_{name}.png")
    extras = {"depth": Extra(depth, read_depth),
              "hha": Extra(hha, read_hha) if os.path.isdir(os.path.dirname(hha)) else
              Extra(depth, partial(hha_of_file, camera=None))}
    return Sample(name, os.path.join(root, "data", "images", f"img_{name}.png"),
                  os.path.join(root, "segmentation", f"img_{name}.mat"), read_nyud_mask, read_bytes, extras, RECORD)


def read_nyud_mask(path):
    """`segmentation` of Gupta et al.: path -> (H, W) uint8, classes 1..40 as 0..39 and void 0 as 255."""
    return to_classes(read_classes(path, "segmentation"), len(NYUD), path)


def read_depth(path):
    """A 16-bit grey PNG of millimetres: path -> (H, W) uint16, 0 where unknown. Raises UserError."""
    return decode_plane("depth", read_bytes(path), path)


def read_hha(path):
    """An HHA image as published, disparity, height and angle as R, G, B: path -> (H, W, 3) uint8. Raises UserError."""
    return decode_plane("hha", read_bytes(path), path)


def hha_of_file(path, camera=None):
    """HHA of a depth image: path -> (H, W, 3) uint8; the default Camera is NYUDv2's, cropped if the image is."""
    depth = read_depth(path)
    if camera is None:
        camera = KINECT.cropped(TOP, LEFT) if depth.shape == (HEIGHT, WIDTH) else KINECT
    return encode_hha(depth / 1000, camera if isinstance(camera, Camera) else Camera(*camera))
