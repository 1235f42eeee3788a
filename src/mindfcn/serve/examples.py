"""Pictures that the page offers to try the network on."""

import dataclasses
import os

import cv2

from mindfcn.data.image_paths import find_images
from mindfcn.data.synthetic.shapes import SAMPLE, draw_image
from mindfcn.storage.files import read_bytes
from mindfcn.storage.images import decode_photograph

# Pictures offered, and their longer side in pixels.
MAX_EXAMPLES, SIDE = 8, 1024
# Drawn pictures: how many, their longer side in pixels, and a seed that no sample set of the recipes has.
DRAWN, DRAWN_SIDE, SEED = 4, 320, 2015


@dataclasses.dataclass
class Example:
    """A picture with a name: `jpeg` are its encoded bytes."""
    name: str
    jpeg: bytes


def examples(images, labels):
    """The first MAX_EXAMPLES of the images that are named; without a name, drawn ones for the sample set's classes.

    Args:
        images: files, folders or glob patterns.
        labels: LabelSet of the network.

    Returns:
        list of Example.

    Raises:
        UserError: a pattern matches no image, or an image is damaged.
    """
    if images:
        return [Example(os.path.basename(path), _jpeg(decode_photograph(read_bytes(path), path)))
                for path in find_images(images)[:MAX_EXAMPLES]]
    if labels.names != SAMPLE.names:
        return []
    return [Example(f"drawn {number}", _jpeg(draw_image(DRAWN_SIDE, SEED, number)[0])) for number in range(DRAWN)]


def _jpeg(image):
    """(H, W, 3) uint8 BGR -> JPEG bytes of at most SIDE pixels a side."""
    factor = min(1, SIDE / max(image.shape[:2]))
    height, width = (max(1, round(factor * side)) for side in image.shape[:2])
    return cv2.imencode(".jpg", cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))[1].tobytes()
