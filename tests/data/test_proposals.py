"""Region proposals; with opencv-contrib-python where it is installed, and the message without it."""

import cv2
import numpy as np
import pytest

from mindfcn.data.regions import proposals
from mindfcn.data.regions.proposals import enlarge, overlap, propose
from mindfcn.errors import UserError

contrib = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="OpenCV here is without contrib: install "
                             "opencv-contrib-python<4.12 in the place of opencv-python")


def rectangle(box, height=200, width=300):
    image = np.full((height, width, 3), (90, 110, 100), np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = (40, 60, 210)
    return image


@contrib
@pytest.mark.parametrize("method", ["edge_boxes", "selective_search"])
@pytest.mark.parametrize("box", [(60, 40, 190, 160), (20, 30, 280, 170)])
def test_a_rectangle_is_among_the_first_boxes(method, box):
    found = propose(rectangle(box), method, min_side=50)
    assert found.dtype == np.int32 and 0 < len(found) <= 50
    assert overlap(found[:5], [box]).max() > 0.85
    assert (found[:, 2:] > found[:, :2]).all() and found.min() >= 0 and (found[:, 2:] <= (300, 200)).all()


@contrib
@pytest.mark.parametrize("method", ["edge_boxes", "selective_search"])
def test_small_boxes_are_skipped_and_their_number_is_bounded(method):
    image = np.random.default_rng(1).integers(0, 255, (20, 30, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    every = propose(image, method, max_proposals=10000, min_side=1)
    assert len(every) > 20
    large = propose(image, method, max_proposals=10000, min_side=60)
    np.testing.assert_array_equal(large, [box for box in every if min(box[2:] - box[:2]) >= 60])
    np.testing.assert_array_equal(propose(image, method, max_proposals=5, min_side=60), large[:5])
    np.testing.assert_array_equal(propose(image, method, max_proposals=5, min_side=60), large[:5])
    assert propose(image, method, min_side=1000).shape == (0, 4)


@contrib
def test_a_picture_without_edges_has_no_edge_boxes():
    assert propose(np.full((150, 150, 3), 80, np.uint8)).shape == (0, 4)


def test_without_contrib_one_line_names_the_package_to_install(monkeypatch):
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    with pytest.raises(UserError) as error:
        propose(rectangle((10, 10, 100, 100)))
    assert "pip install 'opencv-contrib-python<4.12'" in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match="choose edge_boxes or selective_search"):
        proposals.propose(rectangle((10, 10, 100, 100)), "grid")


def test_overlap_is_counted_pixel_by_pixel():
    random = np.random.default_rng(1)
    corners = np.sort(random.integers(0, 20, (2, 6, 2, 2)), 2).reshape(2, 6, 4)
    corners[..., 2:] += 1
    boxes, others = corners
    found = overlap(boxes, others)
    for row, one in enumerate(boxes):
        for column, other in enumerate(others):
            inside = np.zeros((2, 25, 25), bool)
            for plane, (left, top, right, bottom) in zip(inside, (one, other)):
                plane[top:bottom, left:right] = True
            assert found[row, column] == pytest.approx((inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum())


def test_a_box_is_enlarged_about_its_middle_and_cut_at_the_edge():
    assert enlarge((40, 20, 60, 40), 1.2, 100, 100) == (38, 18, 62, 42)
    assert enlarge((0, 90, 50, 100), 1.2, 100, 100) == (0, 89, 55, 100)
