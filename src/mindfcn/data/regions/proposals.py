"""Region proposals: boxes by Edge Boxes (Zitnick and Dollar 2014) or selective search (Uijlings et al. 2013).

Both are OpenCV's, in the package opencv-contrib-python, which replaces opencv-python. Boxes are
(left, top, right, bottom) pixels, int32, right and bottom excluded.
"""

import cv2
import numpy as np

from mindfcn.data.regions.edges import edge_maps
from mindfcn.errors import UserError

METHODS = ("edge_boxes", "selective_search")
# DeconvNet's: the best of about 2000 boxes, none with a side below 112 pixels (half of its window).
MAX_PROPOSALS, MIN_SIDE = 50, 112
MAX_CANDIDATES = 2000
# Smallest area of an Edge Box in square pixels; OpenCV's default.
MIN_AREA = 1000


def propose(image: np.ndarray, method: str = "edge_boxes", max_proposals: int = MAX_PROPOSALS,
            min_side: int = MIN_SIDE) -> np.ndarray:
    """Propose boxes of objects in a photograph, the best first.

    Args:
        image: (H, W, 3) uint8 BGR.
        method: one of METHODS. Edge Boxes are ranked by objectness; selective search does not rank, so its largest
            regions come first.
        max_proposals: upper bound on the number of boxes.
        min_side: boxes with a shorter side, in pixels, are dropped.

    Returns:
        (n, 4) int32; n is 0 if no box is large enough.

    Raises:
        UserError: no such method, or the package opencv-contrib-python is not installed.
    """
    if method not in METHODS:
        raise UserError(f"no proposals by {method!r}; choose {' or '.join(METHODS)}")
    check_installed()
    boxes = {"edge_boxes": _edge_boxes, "selective_search": _selective_search}[method](image)
    large = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=2 ** 30) >= min_side
    return boxes[large][:max_proposals]


def check_installed():
    """Raise UserError if OpenCV is installed without proposals."""
    if not hasattr(getattr(cv2, "ximgproc", None), "createEdgeBoxes"):
        raise UserError("proposals need opencv-contrib-python, which is not installed; put it in the place of "
                        "opencv-python: pip uninstall opencv-python, then pip install 'opencv-contrib-python<4.12'")


def overlap(boxes, others):
    """Intersection over union of (n, 4) boxes with (m, 4) others: (n, m) float64."""
    boxes, others = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)[None]
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2])
    common = np.maximum(sides, 0).prod(-1)
    return common / ((boxes[..., 2:] - boxes[..., :2]).prod(-1) + (others[..., 2:] - others[..., :2]).prod(-1) - common)


def enlarge(box, factor, height, width):
    """Scale a box by `factor` about its centre and clip it to an image of `height` and `width` pixels."""
    left, top, right, bottom = (float(side) for side in box)
    across, down = (factor - 1) / 2 * (right - left), (factor - 1) / 2 * (bottom - top)
    return (max(0, round(left - across)), max(0, round(top - down)),
            min(width, round(right + across)), min(height, round(bottom + down)))


def _edge_boxes(image):
    edges, orientation = edge_maps(image)
    finder = cv2.ximgproc.createEdgeBoxes()
    finder.setMaxBoxes(MAX_CANDIDATES)
    finder.setMinBoxArea(MIN_AREA)
    # A photograph without edges has no boxes.
    found = finder.getBoundingBoxes(edges, orientation)[0] if edges.any() else ()
    return _corners(found, image)


def _selective_search(image):
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(image)
    search.switchToSelectiveSearchFast()
    # OpenCV ranks the regions at random; sorting makes the order reproducible.
    found = np.unique(_corners(search.process(), image), axis=0)
    return found[np.argsort(-(found[:, 2:] - found[:, :2]).prod(1), kind="stable")]


def _corners(found, image):
    """Convert OpenCV's (left, top, width, height) to (n, 4) boxes clipped to the image."""
    boxes = np.array(found, np.int32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    height, width = image.shape[:2]
    return np.clip(boxes, 0, np.array([width, height, width, height], np.int32))
