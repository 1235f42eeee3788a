"""Counts of each class in a data set, and the class weights and repetitions that balance them."""

import cv2
import numpy as np

# Pixels of the ignore label this far from any other are part of a region, not of an outline.
OUTLINE = 8


class ClassCounts:
    """Numbers of pixels and images of each class, added up mask by mask.

    Attributes:
        pixels: (n,) int64, number of pixels of each class.
        images: (n,) int64, number of images that contain the class.
        area: (n,) int64, number of labelled pixels in the images that contain the class.
        labelled: number of labelled pixels.
        masks: number of masks counted.
    """

    def __init__(self, num_classes):
        self.pixels, self.images, self.area = np.zeros((3, num_classes), np.int64)
        self.labelled = self.masks = 0

    def add(self, histogram, labelled=None):
        """Add a mask, given by its histogram (256,) int64. Numbers that are not classes are ignored.

        `labelled` is its number of labelled pixels where classes overlap; if not given, it is the sum of the classes'.
        """
        pixels = histogram[:len(self.pixels)]
        labelled = int(pixels.sum()) if labelled is None else labelled
        self.pixels += pixels
        self.images += pixels > 0
        self.area += np.where(pixels > 0, labelled, 0)
        self.labelled += labelled
        self.masks += 1

    def shares(self):
        """(n,) float64: share of each class in the labelled pixels, 0..1; all zeros if no pixel is labelled."""
        return self.pixels / max(self.labelled, 1)

    def median_frequency(self):
        """Class weights by median frequency balancing, (n,) float64.

        The frequency of a class is its share of the labelled pixels of the images that contain it; its weight is the
        median of all frequencies divided by its own (Eigen and Fergus 2015). A class that never occurs has weight 1 and
        is left out of the median.
        """
        found = self.pixels > 0
        frequencies = self.pixels[found] / self.area[found]
        weights = np.ones(len(self.pixels))
        weights[found] = np.median(frequencies) / frequencies if found.any() else 1
        return weights


def count_inner(mask, number):
    """Number of a mask's pixels of this number that are more than OUTLINE pixels from any other: (H, W) uint8 -> int.

    The edge of the mask is not another number. A mask of this number alone counts 0: it has no region to learn. So do
    bands (H, W, C) of overlapping classes.
    """
    if mask.ndim == 3:
        return 0
    found, side = mask == number, 2 * OUTLINE + 1
    return 0 if found.all() else int(cv2.erode(found.astype(np.uint8), np.ones((side, side))).sum())


def histogram(mask, ignore_label=255):
    """Number of pixels of each value: (H, W) uint8 -> (256,) int64.

    Of bands (H, W, C): the pixels of each class, and at `ignore_label` the labels that do not count.
    """
    if mask.ndim == 2:
        return np.bincount(mask.ravel(), minlength=256)
    found = np.zeros(256, np.int64)
    found[:mask.shape[2]] = (mask == 1).sum((0, 1))
    found[ignore_label] = (mask == ignore_label).sum()
    return found


def repeats(present, threshold, random):
    """How often each photograph is taken in an epoch, by repeat factor sampling (Gupta et al. 2019, section 4.3).

    The factor of a class that is in a share f of the photographs is max(1, sqrt(threshold / f)). A photograph has the
    largest factor of its classes, rounded up with the probability of its fraction.

    Args:
        present: (photographs, classes) bool.
        threshold: share of the photographs below which a class is rare, 0..1.
        random: numpy Generator, for the rounding.

    Returns:
        (photographs,) int64, at least 1 each.
    """
    shares = np.maximum(present.mean(0), 1 / len(present))
    factors = np.where(present, np.maximum(1, np.sqrt(threshold / shares)), 1).max(1)
    whole = np.floor(factors).astype(np.int64)
    return whole + (random.random(len(factors)) < factors - whole)
