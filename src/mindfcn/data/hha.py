"""HHA: depth as three channels, disparity, height above the floor, and angle with gravity (Gupta et al. 2014).

Distances are in centimetres, in the camera's frame: X to the right, Y down, Z forward.
"""

import dataclasses

import cv2
import numpy as np

# Half sides of the windows that normals are fitted in: those that are encoded, and smoother ones to find gravity by.
FINE, COARSE = 3, 10
# Directions that count as floor or wall, degrees from the gravity found so far, and how often it is found anew.
GRAVITY_STEPS = ((45, 5), (15, 5))
# A camera hangs this much above what it sees lowest, where it sees no floor.
USUAL_HEIGHT, MIN_HEIGHT = 130, 90
NEAREST, DISPARITY = 100, 31000
UNKNOWN_ANGLE = 180
# Eigenvalues that differ by less of the largest are one.
ALIKE = 1e-9


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera: focal lengths and principal point in pixels, counted from 1 as MATLAB does."""
    fx: float
    fy: float
    cx: float
    cy: float

    def cropped(self, top, left):
        """The camera of a window that begins `top` rows and `left` columns further in."""
        return Camera(self.fx, self.fy, self.cx - left, self.cy - top)


# NYUDv2's colour camera, 640x480 pixels.
KINECT = Camera(518.857901, 519.469611, 325.582449, 253.736166)


def encode_hha(depth, camera):
    """Depth image -> HHA.

    Args:
        depth: (H, W) metres, float; 0 or NaN where nothing was measured.
        camera: Camera.

    Returns:
        (H, W, 3) uint8: 31000 / depth in cm (at least 100), height in cm above the lowest point, angle with gravity in
        degrees + 38 (floor 38, wall 128, ceiling 218). Without depth: 0, 0, 218.
    """
    depth = 100 * np.asarray(depth, np.float64)
    known = np.isfinite(depth) & (depth > 0)
    depth = np.where(known, depth, 1)
    rows, columns = np.mgrid[1:depth.shape[0] + 1, 1:depth.shape[1] + 1]
    rays = np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones(depth.shape)])
    fine, coarse = normals(rays, depth, known)
    gravity = find_gravity(coarse[:, known])
    # The Y of the frame that is turned so that gravity points down.
    height = -depth * np.tensordot(rotation((0, 1, 0), gravity)[:, 1], rays, 1)
    lowest = height[known].min() if known.any() else 0
    height -= -USUAL_HEIGHT if lowest > -MIN_HEIGHT else lowest
    angle = np.degrees(np.arccos(np.clip(np.tensordot(gravity, fine, 1), -1, 1)))
    angle = np.where(np.isnan(angle) | ~known, UNKNOWN_ANGLE, angle)
    disparity = np.where(known, DISPARITY / np.maximum(depth, NEAREST), 0)
    channels = np.stack([disparity, np.where(known, height, 0), angle + 128 - 90], -1)
    # MATLAB's uint8: halves go up.
    return np.clip(np.floor(channels + 0.5), 0, 255).astype(np.uint8)


def normals(rays, depth, known, sizes=(FINE, COARSE)):
    """Unit normals of the planes fitted around each pixel, away from the camera: n.P >= 0.

    A plane n.P = 1 is, divided by Z, n.ray = 1/Z: linear least squares without points, so that noise at a distance does
    not count more. With A'A n = A'b, the normal's direction is adj(A'A) A'b.

    Args:
        rays: (3, H, W) points of depth 1.
        depth: (H, W).
        known: (H, W) bool, pixels that count.
        sizes: half sides of the windows.

    Returns:
        [(3, H, W) float64 for each size]; NaN where a window holds no plane.
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
        # Fewer than three points of a window span no plane: only rounding is left of the determinants.
        flat = (length > 0) & (one >= 3)
        normal /= np.where(flat, length, np.nan)
        found.append(normal)
    return found


def find_gravity(normals):
    """The direction, (3,), that floors are along and walls across: unit normals (3, n) -> Y at first, then refined.

    Each step takes the direction that minimises the squared cosines with the walls less those with the floors.
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
            # Of a symmetric matrix, NumPy reads one half. A single wall leaves a plane of equally good directions, of
            # which the nearest is taken; elsewhere this keeps the sign.
            values, directions = np.linalg.eigh(moments, "U")
            best = directions[:, values - values[0] <= ALIKE * np.abs(values).max()]
            gravity = best @ (best.T @ gravity)
            gravity /= np.linalg.norm(gravity)
    return gravity


def rotation(start, end):
    """(3, 3) matrix that turns unit vector `start` into `end` about the axis across both (Rodrigues)."""
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    axis = np.cross(start, end)
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + start @ end)
