"""Operations on a photograph and its mask, as pure functions of NumPy arrays.

Images are (H, W, 3) uint8 BGR, as OpenCV reads them, or, for networks that take more than colours, the planes of
`preprocess.MODALITIES` by name: {"image": ..., "depth": (H, W) uint16 mm, "hha": (H, W, 3) uint8, "bands": (H, W, N)}.
Masks are (H, W) uint8 class numbers, (H, W, tasks) for several label sets, or (H, W, C) bands of overlapping classes.
"""

import cv2
import numpy as np

from mindfcn.data.class_counts import histogram
from mindfcn.errors import UserError
from mindfcn.preprocess import CHANNELS

# Planes of 8 bits: their dtype, and the order of their channels.
UINT8_PLANES = {"image": "uint8 BGR", "hha": "uint8"}
# Interpolation of each plane. HHA's angles must not overshoot; depth must not be averaged across edges or with 0,
# which means unknown.
SCALING = {"image": cv2.INTER_CUBIC, "hha": cv2.INTER_LINEAR, "depth": cv2.INTER_NEAREST, "bands": cv2.INTER_LINEAR}


def scale(image, mask, factor):
    """Resize image and mask by `factor`: the image bicubically (planes by SCALING), the mask to the nearest pixel.

    Each side keeps at least one pixel.
    """
    size = tuple(max(1, int(factor * side)) for side in mask.shape[1::-1])
    return (map_planes(image, lambda plane, name: cv2.resize(plane, size, interpolation=SCALING[name])),
            cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))


def map_planes(image, function):
    """Apply function(plane, name) to an image, or to each of its planes."""
    if isinstance(image, dict):
        return {name: function(plane, name) for name, plane in image.items()}
    return function(image, "image")


def crop(array, top, left, size):
    """Cut the window of `size` by `size` pixels at (top, left); it is smaller where the array ends."""
    return array[top:top + size, left:left + size]


def flip(array, vertical=False):
    """Mirror left and right, or above and below."""
    return cv2.flip(array, 0 if vertical else 1)


def rotate(image, mask, degrees, preprocess, ignore_label):
    """Rotate image and mask counterclockwise about their centre; sizes stay.

    The mask is rotated to the nearest pixel and the image by SCALING. From outside come the ignore label, and in the
    image the mean of `preprocess`, rounded, or unknown depth.
    """
    height, width = mask.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)

    def turn(array, interpolation, outside):
        # OpenCV turns up to four channels at a time.
        if array.ndim == 3 and array.shape[2] > 4:
            return np.dstack([turn(array[..., first:first + 4], interpolation, outside[first:first + 4])
                              for first in range(0, array.shape[2], 4)])
        return cv2.warpAffine(array, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_CONSTANT,
                              borderValue=outside)

    return (map_planes(image, lambda plane, name: turn(plane, SCALING[name], outside_of(name, preprocess))),
            turn(mask, cv2.INTER_NEAREST, (ignore_label,) * mask[0, 0].size))


def outside_of(name, preprocess):
    """The values of a plane beyond the photograph: its mean, rounded, one number per channel; 0 for depth."""
    if name == "depth":
        return (0,)
    if name == "bands":
        return preprocess.mean
    first = sum(CHANNELS[plane] for plane in preprocess.planes[:preprocess.planes.index(name)])
    mean = np.rint(preprocess.mean[first:first + CHANNELS[name]]).tolist()
    return mean[::-1] if name == "image" and preprocess.order == "RGB" else mean


def check_image(image, preprocess):
    """Raise UserError unless an image, or its planes, are arrays such as `to_input` takes."""
    planes = image if isinstance(image, dict) else {"image": image}
    for name in preprocess.planes:
        if name not in planes:
            raise UserError(f"the network takes {' and '.join(preprocess.planes)}, but the input has no {name}; give "
                            "a dictionary of planes by name")
        plane, channels = planes[name], CHANNELS.get(name, preprocess.channels)
        if not isinstance(plane, np.ndarray):
            raise UserError(f"{name} is of type {type(plane).__name__}; it must be a NumPy array (cv2.imread returns "
                            "None for a file that it cannot read)")
        fits = plane.ndim == 2 if name == "depth" else plane.ndim == 3 and plane.shape[2] == channels
        number = plane.dtype == np.uint8 if name in UINT8_PLANES else plane.dtype.kind in "uif"
        if not (fits and number and plane.size):
            expected = "(H, W)" if name == "depth" else f"(H, W, {channels}) {UINT8_PLANES.get(name, '')}".rstrip()
            raise UserError(f"{name} is {plane.shape} {plane.dtype}; it must be {expected}")


def to_input(image, preprocess, out=None):
    """Normalise an image, (H, W, 3) uint8 BGR or planes, to a network's input, (C, H, W) float32.

    Every verb uses this function. Depth enters as its logarithm; unknown depth becomes 0, the mean.

    Args:
        out: array to write into; a new one if None.

    Raises:
        UserError: a plane is missing, or of another shape or dtype.
    """
    check_image(image, preprocess)
    planes = image if isinstance(image, dict) else {"image": image}
    if out is None:
        out = np.empty((preprocess.channels, *planes[preprocess.planes[0]].shape[:2]), np.float32)
    # One channel at a time fits the cache and takes a tenth of the time of normalising and transposing the image.
    channels = [channel for name in preprocess.planes for channel in _channels(planes[name], name, preprocess)]
    for values, channel, mean, std in zip(channels, out, np.float32(preprocess.mean), np.float32(preprocess.std)):
        channel[...] = values
        channel -= mean
        channel /= std
    if "depth" in preprocess.planes:
        out[preprocess.planes.index("depth") * 3][planes["depth"] == 0] = 0
    return out


def _channels(plane, name, preprocess):
    """List the channels of a plane, (H, W) each."""
    if name == "depth":
        return [np.log(np.maximum(plane, 1).astype(np.float32))]
    channels = cv2.split(plane)
    return channels[::-1] if name == "image" and preprocess.order == "RGB" else channels


def jitter_colors(image, random, strength=1.0):
    """Change brightness, contrast, saturation and hue, each in half of the cases, by random amounts.

    The order and, at strength 1, the ranges are those of SSD's training (Liu et al. 2016, section 2.2, and its released
    configuration, after Howard 2013): brightness +-32 of 255; contrast 0.5 to 1.5, before or after the colours;
    saturation 0.5 to 1.5; hue +-36 degrees. SSD's random swap of channels is left out.

    Args:
        image: (H, W, 3) uint8 BGR.
        random: `numpy.random` or a RandomState.
        strength: 0..1, a factor on the ranges: 0 is no change.

    Returns:
        (H, W, 3) uint8 BGR.
    """
    def draw(bound):
        amount, happens = random.uniform(-bound, bound), random.randint(2)
        return strength * amount * happens

    brightness, contrast, saturation, hue = draw(32 / 255), 1 + draw(0.5), 1 + draw(0.5), draw(36)
    contrast_last = random.randint(2)
    pixels = np.clip(image.astype(np.float32) / 255 + np.float32(brightness), 0, 1)
    if not contrast_last:
        pixels = np.clip(pixels * np.float32(contrast), 0, 1)
    if saturation != 1 or hue:
        # Hue is in degrees; saturation and value are in 0..1.
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2HSV)
        pixels[..., 0] = (pixels[..., 0] + np.float32(hue)) % 360
        pixels[..., 1] = np.clip(pixels[..., 1] * np.float32(saturation), 0, 1)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_HSV2BGR)
    if contrast_last:
        pixels = np.clip(pixels * np.float32(contrast), 0, 1)
    return np.rint(255 * pixels).astype(np.uint8)


def largest_share(mask, ignore_label):
    """Share of the most frequent class in a mask's labelled pixels, 0..1; 1 for a mask without labelled pixels."""
    pixels = labelled_pixels(mask, ignore_label)
    return pixels.max() / pixels.sum() if pixels.any() else 1.0


def labelled_pixels(mask, ignore_label):
    """Number of pixels of each class: (H, W) uint8 -> (256,) int64, 0 for the ignore label."""
    pixels = histogram(mask)
    pixels[ignore_label] = 0
    return pixels


def place(mask, random, config, ignore_label):
    """Draw the upper left corner of a crop: (row, column).

    A share of `rare_crops` contain a pixel that is drawn from those of a class that is drawn from the mask's.

    Args:
        mask: (H, W) uint8.
        config: AugmentConfig.
    """
    size = config.crop_size
    last = [max(side, size) - size for side in mask.shape]
    if config.rare_crops and random.uniform() < config.rare_crops:
        classes = np.flatnonzero(labelled_pixels(mask, ignore_label))
        if classes.size:
            places = np.argwhere(mask == classes[random.randint(classes.size)])
            pixel = places[random.randint(len(places))]
            return [random.randint(max(0, at - size + 1), min(at, end) + 1) for at, end in zip(pixel, last)]
    return [random.randint(0, end + 1) for end in last]


def augment(image, mask, random, config, preprocess, ignore_label, out=None, pipeline=None):
    """Draw one training crop in the course's order: scale, vertical offset, horizontal offset, flip; then colours.

    With `shorter_side`, the random scale is relative to the photograph of that shorter side. What is off in the
    settings draws no random numbers.

    Args:
        random: `numpy.random` or a RandomState.
        config: AugmentConfig. Offsets are drawn again, up to `crop_tries` times in all, while one class exceeds
            `max_class_share`; the last ones are used. A share of 1 draws them once.
        preprocess: normalisation of the image.
        ignore_label: label of the padding.
        out: (image, mask) arrays to write into; new ones if None.
        pipeline: Pipeline applied to the crop after it is flipped, or None.

    Returns:
        image (C, crop_size, crop_size) float32, normalised, 0 (the mean colour) beyond the photograph;
        mask (crop_size, crop_size) int32, or with its tasks or bands first, the ignore label beyond the photograph.
    """
    crop_size = config.crop_size
    factor = config.shorter_side / min(mask.shape[:2]) if config.shorter_side else 1.0
    image, mask = scale(image, mask, factor * random.uniform(config.min_scale, config.max_scale))
    if config.rotate:
        image, mask = rotate(image, mask, random.uniform(-config.rotate, config.rotate), preprocess, ignore_label)
    # With two masks, the first one decides. Of overlapping classes none does: what asks for it is refused with them.
    first = mask[..., 0] if mask.ndim == 3 else mask
    for _ in range(config.crop_tries):
        top, left = place(first, random, config, ignore_label)
        share = 0 if config.max_class_share == 1 else largest_share(crop(first, top, left, crop_size), ignore_label)
        if share <= config.max_class_share:
            break
    image = map_planes(image, lambda plane, _: crop(plane, top, left, crop_size))
    mask = crop(mask, top, left, crop_size)
    height, width = mask.shape[:2]
    top = left = 0
    if config.flip and random.uniform(0.0, 1.0) > 0.5:
        # The padding is then at the left.
        image, mask, left = map_planes(image, lambda plane, _: flip(plane)), flip(mask), crop_size - width
    if config.vertical_flip and random.uniform() > 0.5:
        image, mask, top = map_planes(image, lambda plane, _: flip(plane, True)), flip(mask, True), crop_size - height
    if pipeline:
        image, mask = pipeline(image, mask, random)
    if config.photometric:
        image = map_planes(image, lambda plane, name: jitter_colors(plane, random, config.photometric)
                           if name == "image" else plane)
    data, label = out or (np.empty((preprocess.channels, crop_size, crop_size), np.float32),
                          np.empty((*mask.shape[2:], crop_size, crop_size), np.int32))
    if (height, width) != (crop_size, crop_size):
        data.fill(0)
        label.fill(ignore_label)
    to_input(image, preprocess, data[:, top:top + height, left:left + width])
    label[..., top:top + height, left:left + width] = np.moveaxis(mask, -1, 0) if mask.ndim == 3 else mask
    return data, label
