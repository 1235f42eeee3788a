"""The regions, targets and pasting of experiments/rcnn.py, on pictures with known results."""

import importlib.util
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from mindfcn.preprocess import COURSE

pytest.importorskip("sklearn")
PATH = pathlib.Path(__file__).parents[2] / "experiments" / "rcnn.py"
spec = importlib.util.spec_from_file_location("rcnn", PATH)
rcnn = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rcnn)


def scene(height=90, width=120):
    """A disc and a square on a noisy ground: (image, mask of classes 1 and 2)."""
    random = np.random.default_rng(1)
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (35, 40), 22, 1, -1)
    mask[50:80, 75:105] = 2
    colors = np.array([[60, 110, 60], [40, 40, 220], [220, 160, 30]])
    image = colors[mask] + random.normal(0, 6, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8), mask


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


def test_segments_cover_the_photograph_without_gaps():
    image, mask = scene()
    cut = rcnn.segments(image, 60)
    assert cut.shape == mask.shape and cut.min() == 0
    assert np.unique(cut).tolist() == list(range(cut.max() + 1))
    assert 30 < cut.max() < 90
    # Cut along the edges: giving each segment its commonest class changes few pixels.
    likely = np.array([np.bincount(mask[cut == number]).argmax() for number in range(cut.max() + 1)])
    assert (likely[cut] != mask).mean() < 0.03
    assert rcnn.segments(image[:3, :4]).shape == (3, 4)


def test_merging_finds_the_objects():
    image, mask = scene()
    regions = rcnn.propose(image, "merged", 40)
    assert 10 < len(regions) <= 40
    for number in (1, 2):
        assert max(iou(region, mask == number) for region in regions) > 0.85
    assert not any(region.all() for region in regions)
    sizes = [region.sum() for region in regions]
    assert sizes[0] > np.median(sizes)


def test_a_region_of_a_merge_is_the_union_of_its_parts():
    image, _ = scene()
    cut = rcnn.segments(image, 60)
    held = rcnn.merged(image, cut, 10 ** 6)
    assert len(held) == 2 * cut.max(), "a tree of n leaves has 2 n - 2 nodes below its root"
    known = {flags.tobytes() for flags in held}
    for flags in held:
        if flags.sum() > 1:
            assert any(flags.tobytes() == (one | other).tobytes() for one in held for other in held
                       if not (one & other).any() and one.tobytes() in known)


def test_boxes_hold_the_segments_that_lie_in_them_by_more_than_half():
    cut = np.repeat(np.arange(4), 10)[None].repeat(5, 0).astype(np.int32)
    boxes = [(0, 0, 20, 5), (4, 0, 16, 5), (0, 0, 40, 2), (0, 0, 40, 3)]
    assert rcnn.inside(boxes, cut).astype(int).tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("kind", ["selective_search", "edge_boxes"])
def test_opencvs_boxes_become_regions(kind):
    if not hasattr(cv2, "ximgproc"):
        pytest.skip("this OpenCV has no contributed modules")
    image, mask = scene()
    regions = rcnn.propose(image, kind, 60)
    assert 1 < len(regions) <= 60
    assert max(iou(region, mask == 1) for region in regions) > 0.7


def test_overlaps_are_the_best_iou_with_a_part_of_a_class():
    mask = np.zeros((10, 20), np.uint8)
    mask[2:6, 2:6] = mask[2:6, 12:16] = 3
    mask[8] = 255
    parts = rcnn.components(mask, 5, 255)
    assert [(number, part.sum()) for number, part in parts] == [(3, 16), (3, 16)]
    one, both = np.zeros((2, 10, 20), bool)
    one[2:6, 2:6] = True
    both[2:6, 2:16] = True
    np.testing.assert_allclose(rcnn.overlaps([one, both], parts, 5), [[0, 0, 0, 1, 0], [0, 0, 0, 16 / 56, 0]])


def test_regions_are_pasted_in_ascending_order_of_their_scores():
    left, right, small = np.zeros((3, 4, 6), bool)
    left[:, :4], right[:, 2:], small[0, 0] = True, True, True
    scores = np.array([[9, 0.6, 0.1], [9, 0.2, 0.8], [9, 0.3, 0.1]])
    expected = np.array([[1, 1, 2, 2, 2, 2]] * 4)
    np.testing.assert_array_equal(rcnn.paste([left, right, small], scores, 0.5, (4, 6)), expected)
    np.testing.assert_array_equal(rcnn.paste([right, left, small], scores[[1, 0, 2]], 0.5, (4, 6)), expected)
    np.testing.assert_array_equal(rcnn.paste([left, right], scores[:2], 0.7, (4, 6)),
                                  np.where(expected == 1, 0, expected))
    assert not rcnn.paste([left], np.array([[9, -np.inf, -np.inf]]), 0.1, (4, 6)).any()
    assert rcnn.paste([], np.empty((0, 3)), 0.1, (4, 6)).tolist() == [[0] * 6] * 4


def test_squares_are_the_box_and_the_region_on_the_mean_color():
    image, mask = scene()

    class Squares(rcnn.Features):
        def __init__(self):
            self.preprocess, self.side = COURSE, 64
    full, fg = Squares().squares(image, mask == 2)
    np.testing.assert_array_equal(full, fg)
    disc_full, disc = Squares().squares(image, mask == 1)
    assert (disc[:, 0, 0] == 0).all() and (disc_full[:, 0, 0] != 0).any()
    np.testing.assert_array_equal(disc[:, 32, 32], disc_full[:, 32, 32])
    assert full.shape == (3, 64, 64)


def test_regressors_predict_overlaps_and_skip_absent_classes():
    random = np.random.default_rng(1)
    features = random.standard_normal((400, 8))
    targets = np.zeros((400, 3))
    targets[:, 1] = np.clip(0.5 + 0.2 * features[:, 2], 0, 1)
    score = rcnn.fit_regressors(features, targets)
    scores = score(features)
    assert score(features[:0]).shape == (0, 3)
    assert (scores[:, [0, 2]] == -np.inf).all()
    assert np.corrcoef(scores[:, 1], targets[:, 1])[0, 1] > 0.95


def test_wrong_settings_are_reported_in_one_line(tmp_path):
    done = subprocess.run([sys.executable, PATH, "--checkpoint", tmp_path / "nothing.ckpt"], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("rcnn.py: ") and done.stderr.count("\n") == 1
