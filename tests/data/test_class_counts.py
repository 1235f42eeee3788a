"""Counts of classes and median frequency balancing, against their definitions pixel by pixel."""

import statistics

import numpy as np
import pytest

from mindfcn.data.class_counts import ClassCounts, histogram, repeats

# Class 3 occurs nowhere; the second mask has no class 1, the last one no labelled pixel.
MASKS = [np.array([[0, 0, 1], [0, 2, 255]], np.uint8), np.array([[2, 2, 0, 0]], np.uint8),
         np.array([[0] * 9 + [1]], np.uint8), np.array([[255, 255]], np.uint8)]


def counted(masks, classes=4):
    counts = ClassCounts(classes)
    for mask in masks:
        counts.add(histogram(mask))
    return counts


def test_counts_are_those_of_the_masks():
    counts = counted(MASKS)
    assert counts.pixels.tolist() == [14, 2, 3, 0] and counts.images.tolist() == [3, 2, 2, 0] and counts.masks == 4
    np.testing.assert_allclose(counts.shares(), [14 / 19, 2 / 19, 3 / 19, 0])


def test_weights_are_the_median_frequency_divided_by_each_frequency():
    """Frequency: pixels of the class by labelled pixels of the images that contain it."""
    frequencies = {}
    for number in range(3):
        within = [mask for mask in MASKS if (mask == number).any()]
        frequencies[number] = sum((mask == number).sum() for mask in within) / sum(
            (mask != 255).sum() for mask in within)
    middle = statistics.median(frequencies.values())
    weights = counted(MASKS).median_frequency()
    np.testing.assert_allclose(weights, [middle / frequencies[0], middle / frequencies[1], middle / frequencies[2], 1])
    assert weights[1] == 1.0 or weights[2] == 1.0, "the class in the middle"
    assert weights[0] < 1


@pytest.mark.parametrize("masks", [[], MASKS[3:]])
def test_nothing_labelled_gives_equal_weights(masks):
    counts = counted(masks)
    assert (counts.median_frequency() == 1).all() and (counts.shares() == 0).all()


def test_photographs_of_rare_classes_are_repeated_by_the_papers_factors():
    """Gupta et al. 2019, section 4.3: sqrt(t / f) for a class in a share f below t; the largest per image."""
    present = np.zeros((400, 4), bool)
    present[:, 0] = True
    present[:100, 1] = present[90:106, 2] = True
    times = repeats(present, 0.25, np.random.default_rng(3))
    assert set(times[106:]) == {1} and set(times[:90]) == {1}, "a share of 0.25 is not rare"
    # sqrt(0.25 / 0.04) = 2.5: rounded up in half of the cases.
    assert set(times[90:106]) == {2, 3}
    rounded = [repeats(present, 0.25, np.random.default_rng(seed))[95] for seed in range(400)]
    assert np.mean(rounded) == pytest.approx(2.5, abs=0.08)
    assert (repeats(present, 0.01, np.random.default_rng(1)) == 1).all()
