"""How often each class occurs in a data set, and class weights that balance it."""

import numpy as np


class ClassCounts:
    """Pixels and images of each class, counted mask by mask.

    Attributes:
        pixels: (n,) int64, pixels of each class.
        images: (n,) int64, number of images that contain it.
        area: (n,) int64, labelled pixels of the images that contain it.
        masks: number of masks counted.
    """

    def __init__(self, num_classes):
        self.pixels, self.images, self.area = np.zeros((3, num_classes), np.int64)
        self.masks = 0

    def add(self, histogram):
        """Count a mask by its histogram, (256,) int64. Numbers that are no class are not counted."""
        pixels = histogram[:len(self.pixels)]
        self.pixels += pixels
        self.images += pixels > 0
        self.area += np.where(pixels > 0, pixels.sum(), 0)
        self.masks += 1

    def shares(self):
        """(n,) float64: share of each class in the labelled pixels, 0..1; zeros if no pixel is labelled."""
        return self.pixels / max(self.pixels.sum(), 1)

    def median_frequency(self):
        """(n,) float64: class weights by median frequency balancing.

        The frequency of a class is its share of the labelled pixels of the images that contain it; its weight is the
        median of all frequencies divided by its own (Eigen and Fergus 2015). A class without pixels has weight 1
        and does not enter the median.
        """
        found = self.pixels > 0
        frequencies = self.pixels[found] / self.area[found]
        weights = np.ones(len(self.pixels))
        weights[found] = np.median(frequencies) / frequencies if found.any() else 1
        return weights


def histogram(mask):
    """Count the pixels of each number in a mask: (H, W) uint8 -> (256,) int64."""
    return np.bincount(mask.ravel(), minlength=256)
