"""Test-time augmentation: mean probabilities over several scales of a photograph and their mirror images.

DeepLab (Chen et al. 2018, section 4) and later frameworks evaluate this way; the FCN paper does not.
"""

import cv2
import numpy as np

from mindfcn.data.transforms import flip as mirrored


def average_views(segment, image, scales=(1.0,), flip=False):
    """Mean probabilities over the views of a photograph: each scale, and each scale mirrored left to right.

    Args:
        segment: function (image (H, W, 3) uint8 BGR, probabilities=True) -> (mask, probabilities (C, H, W) float32).
        image: (H, W, 3) uint8 BGR.
        scales: factors on both sides; images and maps are resized bilinearly.
        flip: also use mirror images.

    Returns:
        (C, H, W) float32.
    """
    total, views = 0, 0
    for scale in scales:
        scaled = image if scale == 1 else cv2.resize(image, scaled_size(image, scale), interpolation=cv2.INTER_LINEAR)
        for mirror in (False, True)[:1 + flip]:
            found = segment(mirrored(scaled) if mirror else scaled, probabilities=True)[1]
            found = found[:, :, ::-1] if mirror else found
            total = total + resize_maps(found, image.shape[:2])
            views += 1
    return total / np.float32(views)


def scaled_size(image, scale):
    """(width, height) of a scaled photograph, at least one pixel each."""
    return tuple(max(1, round(scale * side)) for side in image.shape[1::-1])


def resize_maps(maps, size):
    """(C, h, w) float32 -> (C, H, W) float32, bilinear; maps that have this size already are returned as they are."""
    if maps.shape[1:] == tuple(size):
        return maps
    # Some of OpenCV's code paths take at most four channels, so resize one map at a time.
    return np.stack([cv2.resize(np.ascontiguousarray(each), size[::-1], interpolation=cv2.INTER_LINEAR)
                     for each in maps])
