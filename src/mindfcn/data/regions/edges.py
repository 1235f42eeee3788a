"""Edge strength and orientation of a photograph, the input of Edge Boxes.

Images are (H, W, 3) uint8 BGR, maps (H, W) float32.
"""

import cv2
import numpy as np

# Standard deviation of the smoothing before the gradient, pixels.
SMOOTHING = 1.0
# Largest sum of a 3x3 Sobel kernel's response, per grey level.
SOBEL_GAIN = 4


def gradient(image):
    """Sobel's gradient of the channel in which it is largest.

    Returns:
        (strength 0..1, x, y): the length of the gradient, and its direction as a unit vector, zero where it is flat.
    """
    smooth = cv2.GaussianBlur(image, (0, 0), SMOOTHING).astype(np.float32) / 255
    # (H, W, 3) each.
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=3) / SOBEL_GAIN for order in ((1, 0), (0, 1)))
    length = np.hypot(across, down)
    strongest = length.argmax(2)[..., None]
    strength, across, down = (np.take_along_axis(array, strongest, 2)[..., 0] for array in (length, across, down))
    divisor = np.where(strength > 0, strength, 1)
    return np.minimum(strength, 1), across / divisor, down / divisor


def thin(strength, x, y, radius=2):
    """Non-maximum suppression: 0 where the strength is larger `radius` pixels or less along the gradient.

    Args:
        strength, x, y: as `gradient` gives them.
        radius: pixels.
    """
    rows, columns = np.indices(strength.shape, np.float32)
    kept = strength.copy()
    for distance in (*range(-radius, 0), *range(1, radius + 1)):
        there = cv2.remap(strength, columns + distance * x, rows + distance * y, cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_REPLICATE)
        kept[there > strength] = 0
    return kept


def edge_maps(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(edges, orientation): strength 0..1, thinned to lines, the strongest 1; the gradient's angle in 0..pi."""
    strength, x, y = gradient(image)
    edges = thin(strength, x, y)
    return edges / max(edges.max(), 1e-6), np.mod(np.arctan2(y, x), np.pi).astype(np.float32)
