"""The operations on a photograph and its mask, as pure functions of NumPy arrays.

Images are (H, W, 3) uint8 BGR, as OpenCV reads them, or for networks that see more than colours the planes of
`preprocess.MODALITIES` by name: {"image": ..., "depth": (H, W) uint16 mm, "hha": (H, W, 3) uint8}. Masks are (H, W)
uint8 class numbers, or (H, W, tasks) of several label sets.
"""

import cv2
import numpy as np

# How a plane is scaled. HHA's angles must not overshoot, and depth must not mix with what is behind it, or is unknown.
SCALING = {"image": cv2.INTER_CUBIC, "hha": cv2.INTER_LINEAR, "depth": cv2.INTER_NEAREST}


def scale(image, mask, factor):
    """Resize both by `factor`: the image bicubically (planes by SCALING), the mask to the nearest pixel.

    At least one pixel remains.
    """
    size = tuple(max(1, int(factor * side)) for side in mask.shape[1::-1])
    return (each(image, lambda plane, name: cv2.resize(plane, size, interpolation=SCALING[name])),
            cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))


def each(image, function):
    """function(plane, its name) of an image, or of each of its planes."""
    if isinstance(image, dict):
        return {name: function(plane, name) for name, plane in image.items()}
    return function(image, "image")


def crop(array, top, left, size):
    """The window of `size` by `size` pixels at (top, left), smaller where the array ends."""
    return array[top:top + size, left:left + size]


def flip(array):
    """Mirror left and right."""
    return cv2.flip(array, 1)


def to_input(image, preprocess, out=None):
    """(H, W, 3) uint8 BGR, or planes -> (C, H, W) float32, normalised: what every network is fed, in every verb.

    Of depth, its logarithm; where there is none, it becomes 0, the mean.

    Args:
        out: where to write it; a new array if None.
    """
    planes = image if isinstance(image, dict) else {"image": image}
    if out is None:
        out = np.empty((preprocess.channels, *planes[preprocess.planes[0]].shape[:2]), np.float32)
    # One channel at a time fits the cache: a tenth of the time that normalising the image and transposing it takes.
    channels = [channel for name in preprocess.planes for channel in _channels(planes[name], name, preprocess)]
    for values, channel, mean, std in zip(channels, out, np.float32(preprocess.mean), np.float32(preprocess.std)):
        channel[...] = values
        channel -= mean
        channel /= std
    if "depth" in preprocess.planes:
        out[preprocess.planes.index("depth") * 3][planes["depth"] == 0] = 0
    return out


def _channels(plane, name, preprocess):
    """The channels, (H, W) each, of a plane."""
    if name == "depth":
        return [np.log(np.maximum(plane, 1).astype(np.float32))]
    channels = cv2.split(plane)
    return channels[::-1] if name == "image" and preprocess.order == "RGB" else channels


def augment(image, mask, random, crop_size, min_scale, max_scale, preprocess, ignore_label, mirror=True, out=None):
    """One training crop, drawn in the course's order: scale, vertical offset, horizontal offset, flip.

    Args:
        random: `numpy.random` or a RandomState.
        mirror: flip half of the crops.
        out: (image, mask) arrays to write into; new ones if None.

    Returns:
        image (C, crop_size, crop_size) float32, normalised, 0 (the mean colour) where the photograph ends;
        mask (crop_size, crop_size) int32, or (tasks, crop_size, crop_size), the ignore label there.
    """
    image, mask = scale(image, mask, random.uniform(min_scale, max_scale))
    height, width = mask.shape[:2]
    top = random.randint(0, max(height, crop_size) - crop_size + 1)
    left = random.randint(0, max(width, crop_size) - crop_size + 1)
    image = each(image, lambda plane, _: crop(plane, top, left, crop_size))
    mask = crop(mask, top, left, crop_size)
    height, width = mask.shape[:2]
    left = 0
    if mirror and random.uniform(0.0, 1.0) > 0.5:
        # The padding lies at the left then.
        image, mask, left = each(image, lambda plane, _: flip(plane)), flip(mask), crop_size - width
    data, label = out or (np.empty((preprocess.channels, crop_size, crop_size), np.float32),
                          np.empty((*mask.shape[2:], crop_size, crop_size), np.int32))
    if (height, width) != (crop_size, crop_size):
        data.fill(0)
        label.fill(ignore_label)
    to_input(image, preprocess, data[:, :height, left:left + width])
    label[..., :height, left:left + width] = np.moveaxis(mask, -1, 0) if mask.ndim == 3 else mask
    return data, label
