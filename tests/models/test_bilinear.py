"""A transposed convolution with the bilinear kernel is bilinear resizing (Long et al. 2015, section 3.3)."""

import cv2
import mindspore as ms
import numpy as np
import pytest

from mindfcn.models import layers

FACTORS = range(2, 33)
ROWS, COLUMNS, CHANNELS = 5, 4, 2


def upsampled(maps, factor):
    """(1, C, H, W) by our layer -> (1, C, H factor, W factor): kernel 2f - f % 2, padding ceil((f - 1) / 2)."""
    layer = layers.deconv(maps.shape[1], 2 * factor - factor % 2, factor, -(-(factor - 1) // 2))
    return layer(ms.Tensor(maps.astype(np.float32))).asnumpy()


def resized(maps, factor):
    """(1, C, H, W) -> (1, C, H factor, W factor) in float64, each value from its own place.

    The middle of pixel i of the result lies at (i + 1/2) / f - 1/2 of the map; beyond the outer cells, the outer value.
    """
    for axis in (2, 3):
        side = maps.shape[axis]
        place = np.clip((np.arange(side * factor) + 0.5) / factor - 0.5, 0, side - 1)
        before = np.minimum(place.astype(int), side - 2)
        share = (place - before).reshape([-1 if at == axis else 1 for at in range(4)])
        maps = np.take(maps, before, axis) * (1 - share) + np.take(maps, before + 1, axis) * share
    return maps


def maps_of(seed=1):
    return np.random.default_rng(seed).standard_normal((1, CHANNELS, ROWS, COLUMNS))


@pytest.mark.parametrize("factor", FACTORS)
def test_the_interior_is_half_pixel_bilinear_resizing(factor):
    """Where four cells surround a pixel; nearer to the border, the layer sees zeros beyond it and is weaker."""
    maps = maps_of(factor)
    ours, expected = upsampled(maps, factor), resized(maps, factor)
    assert ours.shape == expected.shape == (1, CHANNELS, ROWS * factor, COLUMNS * factor)
    border = factor // 2
    inside = (..., slice(border, -border), slice(border, -border))
    np.testing.assert_allclose(ours[inside], expected[inside], rtol=0, atol=1e-6)
    assert np.abs(ours - expected).max() > 0.01, "the border differs"


@pytest.mark.parametrize("factor", FACTORS)
def test_with_the_edge_repeated_and_cut_off_again_they_are_equal_everywhere(factor):
    maps = maps_of(factor)
    ours = upsampled(np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)), "edge"), factor)
    ours = ours[..., factor:-factor, factor:-factor]
    np.testing.assert_allclose(ours, resized(maps, factor), rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", FACTORS)
def test_the_border_fades_and_changes_no_argmax(factor):
    """Zeros beyond the border scale every channel alike, so that the class with the highest score stays the same."""
    maps = maps_of(factor)
    ours, expected = upsampled(maps, factor), resized(maps, factor)
    share = upsampled(np.ones_like(maps), factor)
    np.testing.assert_allclose(ours, share * expected, rtol=0, atol=1e-6)
    assert share.min() > 0.2 and share.max() <= 1 + 1e-6
    clear = np.abs(expected[:, 0] - expected[:, 1]) > 1e-4
    assert (ours.argmax(1) == expected.argmax(1))[clear].all()


@pytest.mark.parametrize("factor", FACTORS)
def test_the_reference_is_the_resizing_of_other_libraries(factor):
    maps = maps_of(factor)
    expected = resized(maps, factor)
    size = (COLUMNS * factor, ROWS * factor)
    by_cv2 = [cv2.resize(channel, size, interpolation=cv2.INTER_LINEAR) for channel in maps[0]]
    np.testing.assert_allclose(by_cv2, expected[0], rtol=0, atol=1e-6)
    torch = pytest.importorskip("torch")
    theirs = torch.nn.functional.interpolate(torch.tensor(maps), scale_factor=factor, mode="bilinear")
    np.testing.assert_allclose(theirs.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_gradients_are_those_of_resizing(factor):
    """The gradient of the sum of direction * resize(maps) is what each cell gives to each pixel."""
    padded = np.zeros((1, 1, ROWS, COLUMNS))
    direction = np.random.default_rng(4).standard_normal((1, 1, ROWS * factor, COLUMNS * factor))
    border = factor // 2
    inside = np.zeros_like(direction)
    inside[..., border:-border, border:-border] = direction[..., border:-border, border:-border]
    layer = layers.deconv(1, 2 * factor - factor % 2, factor, -(-(factor - 1) // 2))

    def along(maps):
        return (layer(maps) * ms.Tensor(inside.astype(np.float32))).sum()

    found = ms.grad(along)(ms.Tensor(padded.astype(np.float32))).asnumpy()
    expected = np.zeros_like(padded)
    for place in np.ndindex(padded.shape):
        unit = np.zeros_like(padded)
        unit[place] = 1
        expected[place] = (resized(unit, factor) * inside).sum()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
