"""Shapes painted into a mask: the rules where they overlap, against a loop over pixels."""

import numpy as np
import pytest

from mindfcn.data.sources.annotations import Shape, paint

NUMBERS = {"a": 1, "b": 2, "c": 3}


def shapes(seed):
    """Six random boxes of three classes, two of them crowds, and their arrays."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(6):
        inside = np.zeros((12, 15), bool)
        row, column = random.integers(0, 8, 2)
        inside[row:row + random.integers(1, 9), column:column + random.integers(1, 9)] = True
        found.append(("abc"[random.integers(3)], inside, number < 2))
    return [Shape(label, lambda *_, inside=inside: inside, crowd) for label, inside, crowd in found], found


@pytest.mark.parametrize("overlap", ["order", "area", "ignore"])
def test_each_pixel_follows_the_rule(overlap):
    for seed in range(6):
        given, arrays = shapes(seed)
        mask, several = paint(given, 12, 15, NUMBERS, 0, 255, overlap, True)
        count = 0
        for row, column in np.ndindex(12, 15):
            here = [(label, inside.sum()) for label, inside, crowd in arrays if inside[row, column] and not crowd]
            labels = {label for label, _ in here}
            count += len(labels) > 1
            if not here:
                expected = 255 if any(inside[row, column] for _, inside, crowd in arrays if crowd) else 0
            elif overlap == "ignore" and len(labels) > 1:
                expected = 255
            elif overlap == "area":
                least = min(area for _, area in here)
                expected = NUMBERS[[label for label, area in here if area == least][-1]]
            else:
                expected = NUMBERS[here[-1][0]]
            assert mask[row, column] == expected, (seed, row, column)
        assert several == count
