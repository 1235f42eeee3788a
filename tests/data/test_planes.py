"""Planes with a photograph: moved with it, scaled as fits each, normalised by one record."""

import numpy as np
import pytest

from mindfcn.config import AugmentConfig
from mindfcn.data import transforms
from mindfcn.data.samples import decode_plane, encode_plane
from mindfcn.errors import UserError
from mindfcn.preprocess import COURSE, NYUD

SHAPE = (20, 31)


@pytest.fixture
def planes():
    """Every plane holds the place of each pixel, as does the mask."""
    rows, columns = np.mgrid[:SHAPE[0], :SHAPE[1]]
    place = (rows * SHAPE[1] + columns + 1).astype(np.uint16)
    byte = (place % 251).astype(np.uint8)
    return {"image": np.repeat(byte[..., None], 3, 2), "depth": place, "hha": np.repeat(byte[..., None], 3, 2)}, byte


@pytest.mark.parametrize("seed", range(6))
def test_a_crop_moves_all_planes_and_masks_alike(planes, seed):
    image, byte = planes
    mask = np.stack([byte % 40, byte % 3], -1)
    record = NYUD.to("rgb_hha")
    crops = AugmentConfig(crop_size=24, min_scale=1.0, max_scale=1.0)
    data, label = transforms.augment({"image": image["image"], "hha": image["hha"]}, mask,
                                     np.random.RandomState(seed), crops, record, 255)
    assert data.shape == (6, 24, 24) and label.shape == (2, 24, 24)
    inside = label[0] != 255
    assert inside.sum() == 20 * 24
    pixels = np.rint(data + np.array(record.mean)[:, None, None]).astype(int)
    for channel in pixels:
        np.testing.assert_array_equal(channel[inside], pixels[0][inside])
    np.testing.assert_array_equal(label[0][inside], pixels[0][inside] % 40)
    np.testing.assert_array_equal(label[1][inside], pixels[0][inside] % 3)
    assert (label[1][~inside] == 255).all() and (data[:, ~inside] == 0).all()
    # Depth is moved in the same way.
    record = NYUD.to("rgbd")
    data, label = transforms.augment({"image": image["image"], "depth": image["depth"]}, mask[..., 0],
                                     np.random.RandomState(seed), crops, record, 255)
    depth = np.rint(np.exp(data[3].astype(np.float64) + 7.844)).astype(int)
    np.testing.assert_array_equal(depth[inside] % 251, np.rint(data[0] + record.mean[0]).astype(int)[inside])


def test_scaled_depth_is_never_mixed_and_hha_does_not_overshoot():
    depth = np.where(np.arange(40) < 20, 1000, 5000).astype(np.uint16)[None].repeat(30, 0)
    depth[10:14, 5:9] = 0
    hha = np.where(np.arange(40) < 20, 38, 218).astype(np.uint8)[None, :, None].repeat(30, 0).repeat(3, 2)
    for factor in (0.6, 1.7):
        scaled, mask = transforms.scale({"depth": depth, "hha": hha}, np.zeros((30, 40), np.uint8), factor)
        assert scaled["depth"].shape == scaled["hha"].shape[:2] == mask.shape == (int(30 * factor), int(40 * factor))
        assert set(np.unique(scaled["depth"])) == {0, 1000, 5000}
        assert scaled["hha"].min() == 38 and scaled["hha"].max() == 218


def test_depth_is_its_logarithm_and_unknown_depth_the_mean():
    depth = np.array([[0, 1000], [2549, 65535]], np.uint16)
    image = np.zeros((2, 2, 3), np.uint8)
    for record in (NYUD.to("rgbd"), COURSE.to("rgbd")):
        found = transforms.to_input({"image": image, "depth": depth}, record)[3]
        expected = (np.log(depth.clip(1).astype(np.float64)) - 7.844) / record.std[3]
        np.testing.assert_allclose(found[depth > 0], expected[depth > 0], atol=1e-5)
        assert found[0, 0] == 0


def test_hha_is_not_swapped_and_colours_are_where_asked():
    rng = np.random.default_rng(1)
    image, hha = rng.integers(0, 256, (2, 4, 5, 3), np.uint8)
    found = transforms.to_input({"image": image, "hha": hha}, NYUD.to("rgb_hha"))
    both = np.concatenate([image, hha], -1).astype(np.float32) - np.float32(NYUD.to("rgb_hha").mean)
    np.testing.assert_allclose(found, both.transpose(2, 0, 1), atol=1e-4)


def test_pngs_keep_every_plane():
    rng = np.random.default_rng(2)
    planes = {"depth": rng.integers(0, 65536, SHAPE).astype(np.uint16),
              "hha": rng.integers(0, 256, (*SHAPE, 3), np.uint8),
              "geometric": rng.integers(0, 256, SHAPE, np.uint8)}
    for name, plane in planes.items():
        np.testing.assert_array_equal(decode_plane(name, encode_plane(name, plane), "x"), plane)
    with pytest.raises(UserError, match="x is no 16-bit grey PNG"):
        decode_plane("depth", encode_plane("geometric", planes["geometric"]), "x")
    with pytest.raises(UserError, match="x is no 8-bit RGB PNG"):
        decode_plane("hha", b"nothing", "x")
