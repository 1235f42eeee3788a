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


def flip(array):
    """Mirror left and right."""
    return cv2.flip(array, 1)


def to_input(image, preprocess, out=None):
    """(H, W, 3) uint8 BGR -> (3, H, W) float32, normalised: what every network here is fed, in every verb.

    Args:
        out: where to write it; a new array if None.
    """
    if out is None:
        out = np.empty((3, *image.shape[:2]), np.float32)
    # One plane at a time fits the cache: a tenth of the time that normalising the image and transposing it takes.
    planes = cv2.split(image)
    if preprocess.order == "RGB":
        planes = planes[::-1]
    for plane, channel, mean, std in zip(planes, out, np.float32(preprocess.mean), np.float32(preprocess.std)):
        channel[...] = plane
        channel -= mean
        channel /= std
    return out


def augment(image, mask, random, crop_size, min_scale, max_scale, preprocess, ignore_label, mirror=True, out=None):
    """One training crop, drawn in the course's order: scale, vertical offset, horizontal offset, flip.

    Args:
        random: `numpy.random` or a RandomState.
        mirror: flip half of the crops.
        out: (image, mask) arrays to write into; new ones if None.

    Returns:
        image (3, crop_size, crop_size) float32, normalised, 0 (the mean colour) where the photograph ends;
        mask (crop_size, crop_size) int32, the ignore label there.
    """
    image, mask = scale(image, mask, random.uniform(min_scale, max_scale))
    height, width = mask.shape
    top = random.randint(0, max(height, crop_size) - crop_size + 1)
    left = random.randint(0, max(width, crop_size) - crop_size + 1)
    image, mask = (crop(array, top, left, crop_size) for array in (image, mask))
    height, width = mask.shape
    left = 0
    if mirror and random.uniform(0.0, 1.0) > 0.5:
        # The padding lies at the left then.
        image, mask, left = flip(image), flip(mask), crop_size - width
    data, label = out or (np.empty((3, crop_size, crop_size), np.float32), np.empty((crop_size, crop_size), np.int32))
    if (height, width) != (crop_size, crop_size):
        data.fill(0)
        label.fill(ignore_label)
    to_input(image, preprocess, data[:, :height, left:left + width])
    label[:height, left:left + width] = mask
    return data, label
