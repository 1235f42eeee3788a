"""The upper bound experiment of experiments/upper_bound.py on masks whose answer is known."""

import importlib.util
import pathlib

import cv2
import numpy as np
import pytest

PATH = pathlib.Path(__file__).parents[2] / "experiments" / "upper_bound.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("upper_bound", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def masks():
    """Discs of three classes with a void border, on masks of different sizes."""
    found = []
    for seed, size in enumerate([(60, 90), (75, 50), (64, 64)]):
        random = np.random.default_rng(seed)
        mask = np.zeros(size, np.uint8)
        for number in (1, 2, 15):
            centre = tuple(int(value) for value in random.integers(15, 45, 2))
            cv2.circle(mask, centre, 12, 255, -1)
            cv2.circle(mask, centre, 10, number, -1)
        found.append(mask)
    return found


def ways(bench):
    return bench.CONVENTIONS.values()


def test_nothing_is_lost_at_factor_1_and_in_masks_of_one_class(bench, masks):
    for way in ways(bench):
        assert bench.upper_bound(masks, 1, *way) == 1
        constant = [np.full((50, 70), 7, np.uint8)]
        assert all(bench.upper_bound(constant, factor, *way) == 1 for factor in bench.FACTORS)


def test_the_bound_falls_with_the_factor(bench, masks):
    for way in ways(bench):
        bounds = [bench.upper_bound(masks, factor, *way) for factor in (1, 2, 4, 8, 16, 32, 64)]
        assert bounds == sorted(bounds, reverse=True) and bounds[2] > 0.8 and bounds[-1] < 0.5


def test_the_bound_of_two_halves_is_that_counted_by_hand(bench):
    """Cells of 8 over a border at column 20 of 32: the cell of 16..23 is half of either class, the lower one wins."""
    mask = np.zeros((32, 32), np.uint8)
    mask[:, 20:] = 1
    truth, found = 12, 8
    by_hand = ((20 / 24) + found / truth) / 2
    assert bench.upper_bound([mask], 8, bench.majority, bench.nearest) == pytest.approx(by_hand)
    # The middle pixel of that cell is column 20, of the right half.
    assert bench.upper_bound([mask], 8, bench.centre_pixel, bench.nearest) == pytest.approx((16 / 20 + 12 / 16) / 2)


def test_the_void_label_is_never_predicted(bench, masks):
    for way in ways(bench):
        assert 255 in masks[0] and 255 not in bench.coarse(masks[0], 4, *way)
        assert bench.coarse(masks[0], 4, *way).shape == masks[0].shape
