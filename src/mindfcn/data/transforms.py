"""The operations on a photograph and its mask, as pure functions of NumPy arrays.

Images are (H, W, 3) uint8 BGR, as OpenCV reads them; masks are (H, W) uint8 class numbers.
"""

import cv2
import numpy as np


def scale(image, mask, factor):
    """Resize both by `factor`: the image bicubically, the mask to the nearest pixel; at least one pixel remains."""
    height, width = (max(1, int(factor * side)) for side in image.shape[:2])
    return (cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC),
            cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST))


def crop(array, top, left, size):
    """The window of `size` by `size` pixels at (top, left), smaller where the array ends."""
    return array[top:top + size, left:left + size]


def pad(array, size, value):
    """Fill an array (H, W, ...) with `value` below and at the right up to `size` by `size`."""
    height, width = array.shape[:2]
    padded = np.full((size, size) + array.shape[2:], value, array.dtype)
    padded[:height, :width] = array
    return padded


def flip(array):
    """Mirror left and right."""
    return array[:, ::-1]


def to_input(image, preprocess):
    """(H, W, 3) uint8 BGR -> (3, H, W) float32, normalised: what every network here is fed, in every verb."""
    return np.ascontiguousarray(preprocess.normalise(image).transpose(2, 0, 1))


def augment(image, mask, random, crop_size, min_scale, max_scale, preprocess, ignore_label, mirror=True):
    """One training crop, drawn in the course's order: scale, vertical offset, horizontal offset, flip.

    Args:
        random: `numpy.random` or a RandomState.
        mirror: flip half of the crops.

    Returns:
        image (3, crop_size, crop_size) float32, normalised, 0 (the mean colour) where the photograph ends;
        mask (crop_size, crop_size) int32, the ignore label there.
    """
    image, mask = scale(image, mask, random.uniform(min_scale, max_scale))
    height, width = image.shape[:2]
    top = random.randint(0, max(height, crop_size) - crop_size + 1)
    left = random.randint(0, max(width, crop_size) - crop_size + 1)
    # Normalising only the crop gives the same numbers as the whole image, for less work.
    image = pad(preprocess.normalise(crop(image, top, left, crop_size)), crop_size, 0)
    mask = pad(crop(mask, top, left, crop_size), crop_size, ignore_label)
    if mirror and random.uniform(0.0, 1.0) > 0.5:
        image, mask = flip(image), flip(mask)
    return np.ascontiguousarray(image.transpose(2, 0, 1)), mask.astype(np.int32)
