"""HHA: exact on a drawn room, normals against least squares pixel by pixel, gravity for a tilted camera."""

import numpy as np
import pytest

from mindfcn.data.hha import KINECT, encode_hha, find_gravity, normals, rotation

SHAPE = (480, 640)


def rays_of(camera, shape=SHAPE):
    rows, columns = np.mgrid[1:shape[0] + 1, 1:shape[1] + 1]
    return np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones(shape)])


def room(rays, down=(0, 1, 0), ahead=(0, 0, 1)):
    """Depth in metres: the floor 1.3 m below the eye, the ceiling 1.2 m above it, a wall 4 m ahead."""
    slopes = np.stack([np.tensordot(down, rays, 1) / 1.3, np.tensordot(down, rays, 1) / -1.2,
                       np.tensordot(ahead, rays, 1) / 4])
    return 1 / slopes.max(0), slopes.argmax(0)


def inside(part, margin=11):
    """Pixels whose widest window is within one part."""
    kept = part.copy()
    for axis in (0, 1):
        for shift in range(-margin, margin + 1):
            kept &= np.roll(part, shift, axis)
    kept[:margin] = kept[-margin:] = kept[:, :margin] = kept[:, -margin:] = False
    return kept


def test_the_room_is_exact():
    """The numbers of the published recipe: floor 38/0, ceiling 218/250, wall 128, disparity 31000/400."""
    depth, part = room(rays_of(KINECT))
    hha = encode_hha(depth, KINECT)
    assert hha.shape == (*SHAPE, 3) and hha.dtype == np.uint8
    floor, ceiling, wall = (inside(part == number) for number in range(3))
    assert floor.sum() > 10000 and ceiling.sum() > 10000 and wall.sum() > 10000
    assert (hha[floor][:, 1:] == (0, 38)).all()
    assert (hha[ceiling][:, 1:] == (250, 218)).all()
    assert (hha[wall][:, [0, 2]] == (78, 128)).all()
    disparity = np.floor(31000 / np.maximum(100 * depth, 100) + 0.5)
    np.testing.assert_array_equal(hha[..., 0], np.minimum(disparity, 255))


def test_a_tilted_camera_gives_gravity_and_the_same_room():
    down = np.array([0.15, 0.98, 0.12])
    turn = rotation((0, 1, 0), down / np.linalg.norm(down))
    depth, part = room(rays_of(KINECT), turn[:, 1], turn[:, 2])
    hha = encode_hha(depth, KINECT)
    for number, (height, angle) in enumerate(((0, 38), (250, 218))):
        where = inside(part == number)
        assert where.sum() > 3000
        assert (abs(hha[where][:, 1].astype(int) - height) <= 1).all()
        assert (abs(hha[where][:, 2].astype(int) - angle) <= 1).all()
    assert (abs(hha[inside(part == 2)][:, 2].astype(int) - 128) <= 1).all()


@pytest.mark.parametrize("missing", [0, 0.3])
def test_normals_are_the_least_squares_planes_of_their_windows(missing):
    rng = np.random.default_rng(1)
    shape, size = (24, 30), 3
    rays, depth = rays_of(KINECT, shape), rng.uniform(80, 400, shape)
    known = rng.random(shape) >= missing
    found, = normals(rays, depth, known, (size,))
    for row, column in ((0, 0), (5, 9), (12, 29), (23, 14)):
        rows = slice(max(0, row - size), row + size + 1)
        window = (rows, slice(max(0, column - size), column + size + 1))
        pick = known[window]
        expected = np.linalg.lstsq(rays[(slice(None), *window)][:, pick].T, 1 / depth[window][pick], rcond=None)[0]
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(found[:, row, column], expected, atol=1e-6)
    points = rays * depth
    assert np.nanmin((found[:, 12, 15] * points[:, 12, 15]).sum()) >= 0


def test_pixels_without_depth_are_0_0_218_and_move_nothing_else():
    depth, part = room(rays_of(KINECT))
    holes = depth.copy()
    holes[100:140, 200:260] = 0
    holes[300:310, 50:60] = np.nan
    hha, whole = encode_hha(holes, KINECT), encode_hha(depth, KINECT)
    assert (hha[100:140, 200:260] == (0, 0, 218)).all() and (hha[300:310, 50:60] == (0, 0, 218)).all()
    far = inside(part == 0, 21)
    np.testing.assert_array_equal(hha[far], whole[far])
    assert (encode_hha(np.zeros((20, 20)), KINECT) == (0, 0, 218)).all()


def test_the_camera_of_a_crop_has_the_same_rays():
    np.testing.assert_allclose(rays_of(KINECT.cropped(45, 40), (425, 560)), rays_of(KINECT)[:, 45:470, 40:600],
                               atol=1e-12)


def test_heights_start_at_the_default_height_where_no_floor_is_visible():
    rays = rays_of(KINECT)
    depth = np.full(SHAPE, 0.5)
    height = encode_hha(depth, KINECT)[..., 1]
    expected = np.floor(130 - 50 * rays[1] + 0.5)
    np.testing.assert_array_equal(height, np.clip(expected, 0, 255))


def test_gravity_keeps_its_sign_and_needs_no_floor():
    rng = np.random.default_rng(2)
    walls = rng.standard_normal((3, 500))
    walls[1] = 0
    walls /= np.linalg.norm(walls, axis=0)
    np.testing.assert_allclose(find_gravity(walls), (0, 1, 0), atol=1e-9)
    for unknown in (np.full((3, 4), np.nan), np.zeros((3, 0))):
        np.testing.assert_array_equal(find_gravity(unknown), (0, 1, 0))
