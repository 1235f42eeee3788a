"""Links VOC and further folders of VOC photographs into one VOC folder, for configs/small_voc.yaml.

    python experiments/voc_small.py data/voc_small --voc data/VOCdevkit/VOC2012 --more data/voc_more

VOC is the folder with ImageSets/. Each folder of --more holds JPEGImages/, SegmentationClass/ and ids.txt, the names of
further training images; validation images stay out of the training list. Photographs and masks are linked, not copied.
"""

import argparse
import os

from mindfcn.storage.files import read_lines

FOLDERS = (("JPEGImages", ".jpg"), ("SegmentationClass", ".png"))


def main():
    """Write the lists and the links."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="new VOC folder")
    parser.add_argument("--voc", required=True, help="folder VOC2012")
    parser.add_argument("--more", nargs="*", default=[], help="folders with further training images")
    options = parser.parse_args()
    lists = os.path.join(options.folder, "ImageSets", "Segmentation")
    os.makedirs(lists, exist_ok=True)
    train, val = (read_lines(os.path.join(options.voc, "ImageSets", "Segmentation", f"{split}.txt"))
                  for split in ("train", "val"))
    link(options.voc, options.folder, train + val)
    known = set(train + val)
    for source in options.more:
        names = [name for name in read_lines(os.path.join(source, "ids.txt")) if name not in known]
        known.update(names)
        train += names
        link(source, options.folder, names)
    for split, names in (("train", train), ("val", val)):
        with open(os.path.join(lists, f"{split}.txt"), "w", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in names)
    print(f"{len(train)} training and {len(val)} validation images in {options.folder}")


def link(source, folder, names):
    """Link the photographs and masks of these names."""
    for kind, suffix in FOLDERS:
        os.makedirs(os.path.join(folder, kind), exist_ok=True)
        for name in names:
            target = os.path.join(folder, kind, name + suffix)
            if not os.path.lexists(target):
                os.symlink(os.path.abspath(os.path.join(source, kind, name + suffix)), target)


if __name__ == "__main__":
    main()
