"""Photographs with known masks."""

import io

import numpy as np
from PIL import Image


def photograph(height=30, width=40, suffix="PNG", **options):
    """(encoded bytes, mask) of a dark photograph with a red, a green and a blue part."""
    mask = np.zeros((height, width), np.uint8)
    mask[:height // 2, :width // 4] = 1
    mask[:height // 2, width // 2:] = 2
    mask[-2:] = 3
    image = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)[mask]
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, suffix, **options)
    return encoded.getvalue(), mask
