"""HHA encoding of depth in three channels: disparity, height above the floor, angle with gravity (Gupta et al. 2014).

Distances are in centimetres in the camera's frame: X to the right, Y down, Z forward.
"""

import dataclasses

import cv2
import numpy as np

# Half sides of the windows of fitted normals: fine ones for the angle channel, smoother ones for estimating gravity.
FINE, COARSE = 3, 10
# (degrees, iterations): normals within this angle of gravity are floor, within this angle of its normal plane wall.
GRAVITY_STEPS = ((45, 5), (15, 5))
# The lowest visible point is taken for the floor if the camera is at least MIN_HEIGHT above it; otherwise the floor is
# assumed USUAL_HEIGHT below the camera.
USUAL_HEIGHT, MIN_HEIGHT = 130, 90
MIN_DEPTH, DISPARITY_SCALE = 100, 31000
UNKNOWN_ANGLE = 180
# Eigenvalues that differ by less than this fraction of the largest are equal.
EIGENVALUE_TOLERANCE = 1e-9


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera: focal lengths and principal point in pixels, counted from 1 as in MATLAB."""
    fx: float
    fy: float
    cx: float
    cy: float

    def cropped(self, top, left):
        """Camera of a crop that begins at row `top` and column `left`."""
        return Camera(self.fx, self.fy, self.cx - left, self.cy - top)


# NYUDv2's colour camera, 640x480 pixels.
KINECT = Camera(518.857901, 519.469611, 325.582449, 253.736166)


def encode_hha(depth, camera):
    """Encode a depth image as HHA.

    Args:
        depth: (H, W) metres, float; 0 or NaN where unknown.
        camera: Camera.

    Returns:
        (H, W, 3) uint8: 31000 / depth in cm (at least 100), height in cm above the lowest point, angle with gravity in
        degrees + 38 (floor 38, wall 128, ceiling 218); (0, 0, 218) where depth is unknown.
    """
    depth = 100 * np.asarray(depth, np.float64)
    known = np.isfinite(depth) & (depth > 0)
    depth = np.where(known, depth, 1)
    rows, columns = np.mgrid[1:depth.shape[0] + 1, 1:depth.shape[1] + 1]
    rays = np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones(depth.shape)])
    fine, coarse = normals(rays, depth, known)
    gravity = find_gravity(coarse[:, known])
    # Minus Y in the frame rotated so that gravity is the Y axis.
    height = -depth * np.tensordot(rotation((0, 1, 0), gravity)[:, 1], rays, 1)
    lowest = height[known].min() if known.any() else 0
    height -= -USUAL_HEIGHT if lowest > -MIN_HEIGHT else lowest
    angle = np.degrees(np.arccos(np.clip(np.tensordot(gravity, fine, 1), -1, 1)))
    angle = np.where(np.isnan(angle) | ~known, UNKNOWN_ANGLE, angle)
    disparity = np.where(known, DISPARITY_SCALE / np.maximum(depth, MIN_DEPTH), 0)
    channels = np.stack([disparity, np.where(known, height, 0), angle + 128 - 90], -1)
    # MATLAB's uint8 rounds halves up.
    return np.clip(np.floor(channels + 0.5), 0, 255).astype(np.uint8)


def normals(rays, depth, known, sizes=(FINE, COARSE)):
    """Unit normals of the planes fitted around each pixel, pointing away from the camera: n.P >= 0.

    Dividing the plane n.P = 1 by Z gives n.ray = 1/Z, which is fitted by linear least squares; so the noise of distant
    points has no larger weight. With A'A n = A'b, the normal's direction is adj(A'A) A'b.

    Args:
        rays: (3, H, W), each pixel's point at depth 1.
        depth: (H, W).
        known: (H, W) bool, pixels to use.
        sizes: half sides of the windows.

    Returns:
        list with (3, H, W) float64 for each size; NaN where a window has no plane.
    """
    x, y, _ = rays
    weight, inverse = known.astype(np.float64), known / depth
    products = [x * x * weight, x * y * weight, y * y * weight, x * weight, y * weight, weight,
                x * inverse, y * inverse, inverse]
    found = []
    for size in sizes:
        side = 2 * size + 1
        xx, xy, yy, x1, y1, one, xb, yb, b = (
            cv2.boxFilter(product, cv2.CV_64F, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
            for product in products)
        c_xx, c_xy, c_x1 = yy * one - y1 * y1, x1 * y1 - xy * one, xy * y1 - x1 * yy
        c_yy, c_y1, c_11 = xx * one - x1 * x1, x1 * xy - xx * y1, xx * yy - xy * xy
        normal = np.empty((3, *depth.shape))
        for out, (u, v, w) in zip(normal, ((c_xx, c_xy, c_x1), (c_xy, c_yy, c_y1), (c_x1, c_y1, c_11))):
            np.add(u * xb, v * yb, out=out)
            out += w * b
        length = np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
        # Fewer than three points determine no plane; their determinants are rounding errors.
        planar = (length > 0) & (one >= 3)
        normal /= np.where(planar, length, np.nan)
        found.append(normal)
    return found


def find_gravity(normals):
    """Estimate gravity's direction, (3,), from unit normals (3, n), starting at Y: floor normals are parallel to it.

    Each step minimises the sum of squared cosines with wall normals minus that with floor normals.
    """
    normals = np.ascontiguousarray(normals[:, np.isfinite(normals[0])])
    first, second = np.triu_indices(3)
    products = normals[first] * normals[second]
    gravity = np.array([0.0, 1.0, 0.0])
    for degrees, times in GRAVITY_STEPS:
        for _ in range(times):
            cosine = np.abs(gravity @ normals)
            sign = (cosine < np.sin(np.radians(degrees))) - 1.0 * (cosine > np.cos(np.radians(degrees)))
            moments = np.zeros((3, 3))
            moments[first, second] = products @ sign
            # eigh reads only the upper half. With a single wall, a plane of directions is equally good; the projection
            # takes the nearest one, and in all cases keeps the sign.
            values, directions = np.linalg.eigh(moments, "U")
            best = directions[:, values - values[0] <= EIGENVALUE_TOLERANCE * np.abs(values).max()]
            gravity = best @ (best.T @ gravity)
            gravity /= np.linalg.norm(gravity)
    return gravity


def rotation(start, end):
    """(3, 3) rotation of unit vector `start` to `end` about the axis normal to both (Rodrigues)."""
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    axis = np.cross(start, end)
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + start @ end)
