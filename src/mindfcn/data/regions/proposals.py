"""Where objects may be: boxes by Edge Boxes (Zitnick and Dollar 2014) or selective search (Uijlings et al. 2013).

Both are OpenCV's, in the package opencv-contrib-python, which takes the place of opencv-python. Boxes are
(left, top, right, bottom) pixels, int32, right and bottom excluded.
"""

import cv2
import numpy as np

from mindfcn.data.regions.edges import edge_maps
from mindfcn.errors import UserError

METHODS = ("edge_boxes", "selective_search")
# DeconvNet's: the most promising of about 2000, none with a side below 112 pixels (half of its window).
MOST, MIN_SIDE = 50, 112
FOUND = 2000
# Smallest area of an Edge Box, square pixels; its own default.
LEAST_AREA = 1000


def propose(image: np.ndarray, method: str = "edge_boxes", most: int = MOST,
            min_side: int = MIN_SIDE) -> np.ndarray:
    """The most promising boxes of a photograph, the best first.

    Args:
        image: (H, W, 3) uint8 BGR.
        method: one of METHODS. Edge Boxes ranks by objectness; selective search does not
            rank; the largest of its regions come first.
        most: boxes at most.
        min_side: boxes with a shorter side are skipped.

    Returns:
        (n, 4) int32; n is 0 where no box is large enough.

    Raises:
        UserError: no such method, or the package opencv-contrib-python is not installed.
    """
    if method not in METHODS:
        raise UserError(f"no proposals by {method!r}; choose {' or '.join(METHODS)}")
    check_installed()
    boxes = {"edge_boxes": _edge_boxes, "selective_search": _selective_search}[method](image)
    large = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=2 ** 30) >= min_side
    return boxes[large][:most]


def check_installed():
    """Raise UserError where OpenCV has no proposals."""
    if not hasattr(getattr(cv2, "ximgproc", None), "createEdgeBoxes"):
        raise UserError("proposals need opencv-contrib-python, which is not installed; put it in the place of "
                        "opencv-python: pip uninstall opencv-python, then pip install 'opencv-contrib-python<4.12'")


def overlap(boxes, others):
    """(n, m) float64: intersection over union of (n, 4) boxes with (m, 4) others."""
    boxes, others = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)[None]
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    common = np.maximum(sides, 0).prod(-1)
    return common / ((boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1) - common)


def enlarge(box, factor, height, width):
    """A box `factor` times as wide and high about its centre, cut where the image of `height` and `width` ends."""
    left, top, right, bottom = (float(side) for side in box)
    across, down = (factor - 1) / 2 * (right - left), (factor - 1) / 2 * (bottom - top)
    return (max(0, round(left - across)), max(0, round(top - down)),
            min(width, round(right + across)), min(height, round(bottom + down)))


def _edge_boxes(image):
    edges, orientation = edge_maps(image)
    finder = cv2.ximgproc.createEdgeBoxes()
    finder.setMaxBoxes(FOUND)
    finder.setMinBoxArea(LEAST_AREA)
    # A photograph without an edge has no boxes.
    found = finder.getBoundingBoxes(edges, orientation)[0] if edges.any() else ()
    return _corners(found, image)


def _selective_search(image):
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    search.switchToSelectiveSearchFast()
    # It ranks regions by chance, so that its order is another one each time.
    found = np.unique(_corners(search.process(), image), axis=0)
    return found[np.argsort(-(found[:, 2:] - found[:, :2]).prod(1), kind="stable")]


def _corners(found, image):
    """(left, top, width, height) as OpenCV gives it -> (n, 4) boxes within the image."""
    boxes = np.array(found, np.int32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    height, width = image.shape[:2]
    return np.clip(boxes, 0, np.array([width, height, width, height], np.int32))
