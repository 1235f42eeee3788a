"""SIFT Flow, 2,688 outdoor scenes with semantic and geometric classes (Liu et al. 2009; Tighe and Lazebnik 2010).

Images/, SemanticLabels/ and GeoLabels/, each with one folder of ID.jpg or ID.mat (`S`), and lists trainval.txt and
test.txt as the released nets have them (2,486 and 200), or TestSet1.txt as in the data set's archive.
"""

import os
from functools import partial

from mindfcn.data.samples import Extra, Sample, check_names, check_present
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet, voc_palette
from mindfcn.storage.files import read_bytes, read_lines
from mindfcn.storage.mat import read_classes, to_classes

NAMES = ("awning", "balcony", "bird", "boat", "bridge", "building", "bus", "car", "cow", "crosswalk", "desert", "door",
         "fence", "field", "grass", "moon", "mountain", "person", "plant", "pole", "river", "road", "rock", "sand",
         "sea", "sidewalk", "sign", "sky", "staircase", "streetlight", "sun", "tree", "window")
# No test image contains these three; the published means leave them out.
ABSENT = ("cow", "desert", "moon")
SIFTFLOW = LabelSet(NAMES, tuple(map(tuple, voc_palette(34)[1:].tolist())), excluded=ABSENT)
GEOMETRIC = LabelSet(("sky", "horizontal", "vertical"), ((120, 170, 230), (110, 140, 60), (170, 110, 80)))
SCENES = "spatial_envelope_256x256_static_8outdoorcategories"
# Images without annotations.
UNLABELLED = ("highway_bost181", "street_urb506")


def list_siftflow(root, split, check=True):
    """List the samples of a split.

    Args:
        root: the folder that holds Images/, SemanticLabels/ and GeoLabels/.
        split: trainval or test; NAME.txt next to them. Without trainval.txt and test.txt, TestSet1.txt lists the test
            images and all other images are for training.
        check: whether every file must exist.

    Returns:
        list of Sample, with the extra `geometric`; the two images without annotations are left out.

    Raises:
        UserError: no such folder or list, a bad or repeated name, missing files.
    """
    folders = [os.path.join(root, kind, SCENES) for kind in ("Images", "SemanticLabels", "GeoLabels")]
    for folder in folders:
        if not os.path.isdir(folder):
            raise UserError(f"no SIFT Flow in {root}: {folder} not found; give the folder that holds Images/, "
                            "SemanticLabels/ and GeoLabels/")
    images, semantic, geometric = folders
    samples = [Sample(name, os.path.join(images, f"{name}.jpg"), os.path.join(semantic, f"{name}.mat"), read_semantic,
                      read_bytes, {"geometric": Extra(os.path.join(geometric, f"{name}.mat"), read_geometric)})
               for name in _names(root, images, split)]
    if check:
        check_present(samples, f"SIFT Flow split {split!r}")
    return samples


def _names(root, images, split):
    path, archive = os.path.join(root, f"{split}.txt"), os.path.join(root, "TestSet1.txt")
    if os.path.isfile(path):
        names = read_lines(path)
    elif os.path.isfile(archive) and split in ("trainval", "test"):
        # Lines look like spatial_envelope_...\coast_arnat59.jpg.
        names = [line.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".jpg") for line in read_lines(archive)]
        if split == "trainval":
            every = sorted(name[:-4] for name in os.listdir(images) if name.endswith(".jpg"))
            names = sorted(set(every) - set(names))
    else:
        raise UserError(f"no split {split!r} of SIFT Flow: neither {path} nor {archive} is there")
    names = [name for name in names if name not in UNLABELLED]
    check_names(names, path)
    return names


def _read(path, count, void):
    return to_classes(read_classes(path, "S"), count, path, void)


read_semantic = partial(_read, count=len(SIFTFLOW), void=(0,))
# Void is -1 or 0.
read_geometric = partial(_read, count=len(GEOMETRIC), void=(-1, 0))
