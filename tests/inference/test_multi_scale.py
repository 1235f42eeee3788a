"""Averaging over scales and mirror images."""

import cv2
import numpy as np
import pytest

from mindfcn.inference.multi_scale import average_views, resize_maps


def colours(image, probabilities=False):
    """A network of single pixels: three classes by their colours."""
    found = np.moveaxis(image, -1, 0).astype(np.float32) + 1
    return None, found / found.sum(0)


def leftmost(image, probabilities=False):
    """A network that depends on the side: class 0 on the left, class 1 on the right."""
    right = np.broadcast_to(np.linspace(0, 1, image.shape[1], dtype=np.float32), image.shape[:2])
    return None, np.stack([1 - right, right])


@pytest.fixture
def image():
    return np.random.default_rng(3).integers(0, 256, (20, 31, 3), np.uint8)


def test_one_view_is_the_plain_result(image):
    np.testing.assert_array_equal(average_views(colours, image), colours(image)[1])


def test_mirroring_changes_nothing_for_a_network_without_left_and_right(image):
    np.testing.assert_allclose(average_views(colours, image, (1.0,), True), colours(image)[1], atol=1e-7)


def test_mirroring_evens_out_what_depends_on_the_side(image):
    np.testing.assert_allclose(average_views(leftmost, image, (1.0,), True), 0.5, atol=1e-6)


def test_every_scale_has_the_same_weight(image):
    expected = 0
    for scale, size in ((0.5, (16, 10)), (1.0, (31, 20)), (2.0, (62, 40))):
        scaled = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR) if scale != 1 else image
        maps = colours(scaled)[1].transpose(1, 2, 0)
        expected = expected + cv2.resize(maps, (31, 20), interpolation=cv2.INTER_LINEAR) / 3
    found = average_views(colours, image, (0.5, 1.0, 2.0))
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-6)
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-6)


def test_the_order_of_scales_does_not_matter(image):
    np.testing.assert_allclose(average_views(colours, image, (0.5, 1.5), True),
                               average_views(colours, image, (1.5, 0.5), True), atol=1e-6)


def test_the_smallest_images_and_any_number_of_classes():
    maps = np.random.default_rng(1).random((150, 1, 1), np.float32)
    np.testing.assert_allclose(resize_maps(maps, (3, 4)), np.broadcast_to(maps, (150, 3, 4)), atol=1e-6)
    assert average_views(colours, np.zeros((1, 1, 3), np.uint8), (0.25, 1.0)).shape == (3, 1, 1)
