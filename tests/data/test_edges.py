"""Edge maps of drawn pictures."""

import numpy as np
import pytest

from mindfcn.data.regions.edges import edge_maps, gradient, thin


def half(angle, size=64):
    """(size, size, 3) uint8: dark on one side of a line through the middle, bright where the angle points to."""
    rows, columns = np.indices((size, size)) - (size - 1) / 2
    bright = columns * np.cos(angle) + rows * np.sin(angle) > 0
    return np.where(bright, 220, 30).astype(np.uint8)[..., None].repeat(3, 2)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 135, 170])
def test_an_edge_is_a_thin_line_with_its_gradients_angle(degrees):
    angle = np.deg2rad(degrees)
    edges, orientation = edge_maps(half(angle))
    assert edges.dtype == orientation.dtype == np.float32 and edges.max() == 1
    rows, columns = np.nonzero(edges[8:-8, 8:-8] > 0.3)
    distance = np.abs((columns + 8 - 31.5) * np.cos(angle) + (rows + 8 - 31.5) * np.sin(angle))
    assert len(rows) >= 40 and distance.max() < 1.6
    # Across the line there are two pixels at most.
    assert len(rows) <= 2 * 48 * np.sqrt(2)
    turned = (orientation[8:-8, 8:-8][rows, columns] - angle + np.pi / 2) % np.pi - np.pi / 2
    assert np.abs(turned).max() < 0.25


def test_the_gradient_of_a_ramp_is_its_slope_in_the_strongest_channel():
    image = np.zeros((20, 30, 3), np.uint8)
    image[..., 2] = 5 * np.arange(30)
    image[..., 0] = 2 * np.arange(20)[:, None]
    strength, x, y = gradient(image)
    # Sobel's kernel sums 4 differences over 2 pixels, divided by its gain of 4.
    np.testing.assert_allclose(strength[5:-5, 5:-5], 2 * 5 / 255, rtol=0.05)
    np.testing.assert_allclose(x[5:-5, 5:-5], 1, atol=0.01)
    np.testing.assert_allclose(y[5:-5, 5:-5], 0, atol=0.1)


def test_thinning_keeps_ridges_whole():
    strength = np.zeros((9, 9), np.float32)
    strength[:, 3:6] = (0.5, 1, 0.5)
    kept = thin(strength, np.ones_like(strength), np.zeros_like(strength))
    expected = np.zeros_like(strength)
    expected[:, 4] = 1
    np.testing.assert_array_equal(kept, expected)


def test_a_plain_picture_has_no_edges():
    edges, _ = edge_maps(np.full((20, 30, 3), 77, np.uint8))
    assert not edges.any()
