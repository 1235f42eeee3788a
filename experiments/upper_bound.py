"""The upper bound experiment: best mean IoU of a network whose prediction is as coarse as its stride.

    python experiments/upper_bound.py [--root ../shared/data] [--split trainval] [--year 2012]

The true masks are shrunk by a factor, enlarged again, and scored against themselves (Long et al. 2015, appendix A).
The paper does not describe the resampling; this prints both methods of CONVENTIONS. Takes about a minute for 532 masks.
"""

import argparse
import sys

import cv2
import numpy as np

from mindfcn.data.sources.voc import list_voc
from mindfcn.errors import UserError
from mindfcn.metrics import ConfusionMatrix

FACTORS = (128, 64, 32, 16, 8, 4)
PAPER = (50.9, 73.3, 86.1, 92.8, 96.4, 98.5)


def centre_pixel(mask, classes, factor):
    """(C, h, w) float32: 1 at the class of each cell's middle pixel, or of the nearest one to it in the image."""
    rows, columns = (np.minimum(np.arange(0, side, factor) + factor // 2, side - 1) for side in mask.shape)
    return one_hot(mask[rows[:, None], columns], classes)


def majority(mask, classes, factor):
    """(C, h, w) float32: 1 at the most frequent class of each cell, the lowest one in a tie."""
    height, width = (-(-side // factor) * factor for side in mask.shape)
    pixels = np.zeros((len(classes), height, width), np.float32)
    pixels[:, :mask.shape[0], :mask.shape[1]] = one_hot(mask, classes)
    counts = pixels.reshape(len(classes), height // factor, factor, width // factor, factor).sum((2, 4))
    return one_hot(classes[counts.argmax(0)], classes)


def nearest(cells, factor):
    """(C, h, w) -> (C, h factor, w factor): each cell a square."""
    return cells.repeat(factor, 1).repeat(factor, 2)


def bilinear(cells, factor):
    """(C, h, w) -> (C, h factor, w factor): as a fixed bilinear upsampling layer enlarges scores."""
    size = (cells.shape[2] * factor, cells.shape[1] * factor)
    return np.stack([cv2.resize(scores, size, interpolation=cv2.INTER_LINEAR) for scores in cells])


CONVENTIONS = {"middle pixel, nearest": (centre_pixel, nearest), "majority, bilinear": (majority, bilinear)}


def coarse(mask, factor, shrink=majority, enlarge=bilinear):
    """A mask (H, W) uint8 shrunk and enlarged by a factor; void is shrunk like a class, then becomes background."""
    classes = np.unique(mask)
    scores = enlarge(shrink(mask, classes, factor), factor)[:, :mask.shape[0], :mask.shape[1]]
    prediction = classes[scores.argmax(0)]
    return np.where(prediction == 255, 0, prediction)


def upper_bound(masks, factor, shrink=majority, enlarge=bilinear, num_classes=21):
    """Mean IoU, 0..1, of coarse masks against themselves; void pixels are ignored."""
    matrix = ConfusionMatrix(num_classes)
    for mask in masks:
        matrix.update(coarse(mask, factor, shrink, enlarge), mask)
    return matrix.mean_iou()


def one_hot(mask, classes):
    """(H, W) class numbers -> (C, H, W) float32."""
    return (mask == classes[:, None, None]).astype(np.float32)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", default="../shared/data", help="folder that holds VOCdevkit (default: %(default)s)")
    parser.add_argument("--split", default="trainval", help="list of masks (default: %(default)s)")
    parser.add_argument("--year", type=int, default=2012, help="VOC year (default: %(default)s)")
    settings = parser.parse_args()
    try:
        masks = [sample.read_label(sample.label) for sample in list_voc(settings.root, settings.split, settings.year)]
    except UserError as error:
        sys.exit(f"upper_bound.py: {error}")
    print(f"mean IoU % of {len(masks)} masks of VOC {settings.year} {settings.split}, shrunk and enlarged by a factor")
    print(f"{'':24}" + "".join(f"{factor:7}" for factor in FACTORS))
    for name, (shrink, enlarge) in CONVENTIONS.items():
        found = [100 * upper_bound(masks, factor, shrink, enlarge) for factor in FACTORS]
        print(f"{name:24}" + "".join(f"{value:7.1f}" for value in found), flush=True)
    print(f"{'paper (VOC 2011)':24}" + "".join(f"{value:7.1f}" for value in PAPER))


if __name__ == "__main__":
    main()
