"""Drawn rooms with true depth, in NYUDv2's files: some classes differ only in depth, not in colour.

Walls, floors, ceilings, tables, beds, cabinets and boxes are painted from the same colours and patterns, unshaded, and
the camera is tilted and rolled; these classes differ only in shape. Pictures and windows lie flat on walls and differ
only in colour.
"""

import os

import cv2
import numpy as np
import scipy.io

from mindfcn.data.hha import KINECT, Camera, encode_hha
from mindfcn.data.samples import encode_plane
from mindfcn.data.sources.nyud import FIRST_ID, NYUD
from mindfcn.data.synthetic.draw_set import draw_set

FORMAT = 1
SMALLEST, LARGEST = 32, 640
# Of five images, the first three train, one validates and one tests.
SPLITS = ("train", "train", "train", "val", "test")
WALL, FLOOR, CABINET, BED, TABLE, WINDOW, PICTURE, CEILING, BOX = (
    NYUD.names.index(name) for name in ("wall", "floor", "cabinet", "bed", "table", "window", "picture", "ceiling",
                                        "box"))
# Class of a piece of furniture, its minimum and maximum sides (width, height, depth) in metres, and whether it is a
# slab at its height or fills everything below.
FURNITURE = ((TABLE, (0.9, 0.65, 0.6), (1.8, 0.8, 1.0), True), (BED, (1.4, 0.4, 1.8), (1.8, 0.6, 2.1), False),
             (CABINET, (0.5, 1.2, 0.4), (1.4, 2.0, 0.6), False), (BOX, (0.3, 0.25, 0.3), (0.6, 0.5, 0.6), False))
THICKNESS = 0.06


def draw_rooms(root, count, size, seed):
    """Draw a set of rooms in Gupta et al.'s layout of NYUDv2 (see `data.sources.nyud`), completely or not at all.

    A finished set of the same settings stays as it is. The same seed draws the same pixels.

    Args:
        root: folder to draw into; absent or empty.
        count: images, 5 or more.
        size: longer side in pixels, 32..640; images are 4:3.
        seed: a number from 0.

    Raises:
        UserError: a setting out of range, `root` holds something else, or it cannot be written.
    """
    settings = {"format": FORMAT, "count": count, "size": size, "seed": seed}
    draw_set(root, "drawn rooms", "rooms.json", _draw_files, settings, (10 ** 5, SMALLEST, LARGEST))


def room_camera(size):
    """The Camera of images `size` pixels wide: NYUDv2's, scaled."""
    scale = size / 640
    centre = ((middle - 0.5) * scale + 0.5 for middle in (KINECT.cx, KINECT.cy))
    return Camera(KINECT.fx * scale, KINECT.fy * scale, *centre)


def draw_room(size, seed, index):
    """Draw one room.

    Args:
        size: width in pixels; the height is three quarters of it.
        seed, index: the pixels follow from both.

    Returns:
        image (H, W, 3) uint8 BGR; depth (H, W) float64 metres along the camera's axis; mask (H, W) uint8 of NYUD.
    """
    rng = np.random.default_rng([seed, index])
    camera = room_camera(size)
    rows, columns = np.mgrid[1:round(size * 0.75) + 1, 1:size + 1]
    rays = np.stack([(columns - camera.cx) / camera.fx, (rows - camera.cy) / camera.fy, np.ones(rows.shape)], -1)
    room = np.array([rng.uniform(3, 6), rng.uniform(2.3, 3), rng.uniform(3, 6)])
    # Near a wall, looking into the room.
    eye = np.array([rng.uniform(0.4, room[0] - 0.4), rng.uniform(1.0, 1.8), rng.uniform(0.4, room[2] - 0.4)])
    axis = rng.choice((0, 2))
    eye[axis] = rng.choice((0.4, room[axis] - 0.4))
    # In the room, Y is up from the floor; in the camera's frame it is down.
    rays = rays * (1, -1, 1) @ _turn(rng, *(room / 2 - eye)[[0, 2]]).T
    scene = _Scene(rng, eye, rays)
    scene.walls(room)
    for _ in range(rng.integers(6, 12)):
        scene.furniture(room)
    return scene.picture()


class _Scene:
    """The nearest surface so far along each ray of the camera: (H, W) depth and class, (H, W, 3) colour."""

    def __init__(self, rng, eye, rays):
        self.rng, self.eye, self.rays = rng, eye, rays
        self.depth = np.full(rays.shape[:2], np.inf)
        self.mask = np.full(rays.shape[:2], NYUD.ignore_label, np.uint8)
        self.color = np.zeros(rays.shape)

    def walls(self, room):
        """Draw the six sides of the room from inside, and the pictures and windows on its walls."""
        for axis in range(3):
            for side in (0, room[axis]):
                with np.errstate(divide="ignore", invalid="ignore"):
                    depth = (side - self.eye[axis]) / self.rays[..., axis]
                depth = np.where(depth > 0, depth, np.inf)
                number = WALL if axis != 1 else CEILING if side else FLOOR
                along = [other for other in range(3) if other != axis]
                u, v = (self.eye[other] + depth * self.rays[..., other] for other in along)
                self.paint(depth, number, u, v)
                if number == WALL:
                    # `u` and `v` are (Y, Z) or (X, Y).
                    self.hang(depth, *((v, u) if axis == 0 else (u, v)), room[2 - axis] if axis != 1 else 0)

    def hang(self, depth, across, up, length):
        """Draw pictures and windows, flat on a wall."""
        for _ in range(self.rng.integers(0, 3)):
            number = (PICTURE, WINDOW)[self.rng.integers(2)]
            width, height = self.rng.uniform(0.5, 1.1, 2)
            left, low = self.rng.uniform(0.2, max(0.3, length - width)), self.rng.uniform(0.9, 1.3)
            with np.errstate(invalid="ignore"):
                inside = (across > left) & (across < left + width) & (up > low) & (up < low + height)
            where = inside & (depth <= self.depth)
            if number == WINDOW:
                bars = np.minimum(np.abs(across - left - width / 2), np.abs(up - low - height / 2)) < 0.03
                color = np.where(bars[..., None], 245.0, (235, 200, 140) + self.rng.normal(0, 8, 3))
            else:
                with np.errstate(invalid="ignore"):
                    shade = 0.5 + 0.5 * np.sin(9 * across + 3 * np.sin(7 * up))
                color = np.where(shade[..., None] > 0.5, (40, 40, 220), (40, 200, 230)) + self.rng.normal(0, 12, 3)
            self.mask[where], self.color[where] = number, color[where]

    def furniture(self, room):
        """Draw one piece of furniture on the floor, turned at random."""
        number, min_sides, max_sides, slab = FURNITURE[self.rng.integers(len(FURNITURE))]
        sides = self.rng.uniform(min_sides, max_sides)
        angle = self.rng.uniform(0, np.pi)
        centre = np.array([self.rng.uniform(0.3, room[0] - 0.3), 0, self.rng.uniform(0.3, room[2] - 0.3)])
        if np.hypot(*(centre - self.eye)[[0, 2]]) < 0.8 + np.hypot(sides[0], sides[2]) / 2:
            return
        turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
        low = np.array([-sides[0] / 2, sides[1] - THICKNESS if slab else 0, -sides[2] / 2])
        self.box(number, low, np.array([sides[0] / 2, sides[1], sides[2] / 2]), (self.eye - centre) @ turn,
                 self.rays @ turn)

    def box(self, number, low, high, eye, rays):
        """Draw a box, given by two corners in the coordinates in which it is axis-aligned."""
        with np.errstate(divide="ignore", invalid="ignore"):
            first, second = (low - eye) / rays, (high - eye) / rays
        near, far = np.minimum(first, second), np.maximum(first, second)
        depth, leave = near.max(-1), far.min(-1)
        depth = np.where((depth < leave) & (depth > 0), depth, np.inf)
        with np.errstate(invalid="ignore"):
            points = eye + depth[..., None] * rays
        face = near.argmax(-1)
        u = np.where(face == 0, points[..., 2], points[..., 0])
        v = np.where(face == 1, points[..., 2], points[..., 1])
        self.paint(depth, number, u, v)

    def paint(self, depth, number, u, v):
        """Draw a surface where it is the nearest, with a pattern in its coordinates (metres)."""
        where = depth < self.depth
        u, v = np.where(where, u, 0), np.where(where, v, 0)
        first, second = self.rng.uniform(60, 220) + self.rng.normal(0, 25, (2, 3))
        period, phase = self.rng.uniform(0.1, 0.5), self.rng.uniform(0, 1, 2)
        kind = self.rng.integers(3)
        pattern = (np.sin(2 * np.pi * (u / period + phase[0])), np.sin(2 * np.pi * (v / period + phase[1])))
        pattern = pattern[kind] if kind < 2 else pattern[0] * pattern[1]
        blend = (0.5 + 0.5 * np.tanh(3 * pattern))[..., None]
        self.color[where] = (blend * first + (1 - blend) * second)[where]
        self.depth[where], self.mask[where] = depth[where], number

    def picture(self):
        """Return (image, depth, mask); the image gets sensor noise."""
        image = self.color + self.rng.normal(0, 4, self.color.shape)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8), self.depth, self.mask


def _turn(rng, x, z):
    """Rotation (3, 3): heading near (x, z), pitch from 40 degrees down to 20 up, roll up to 10 degrees."""
    heading = np.arctan2(x, z) + np.radians(rng.normal(0, 30))
    pitch, roll = np.radians([rng.uniform(-40, 20), rng.uniform(-10, 10)])
    about_y = np.array([[np.cos(heading), 0, np.sin(heading)], [0, 1, 0], [-np.sin(heading), 0, np.cos(heading)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    about_z = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def _draw_files(root, settings):
    for folder in ("data/images", "data/depth", "data/hha", "segmentation"):
        os.makedirs(os.path.join(root, folder))
    camera = room_camera(settings["size"])
    for index in range(settings["count"]):
        image, depth, mask = draw_room(settings["size"], settings["seed"], index)
        millimetres = np.rint(1000 * depth).astype(np.uint16)
        name = f"img_{FIRST_ID + index}"
        files = {"images": cv2.imencode(".png", image)[1].tobytes(), "depth": encode_plane("depth", millimetres),
                 "hha": encode_plane("hha", encode_hha(millimetres / 1000, camera))}
        for kind, content in files.items():
            with open(os.path.join(root, "data", kind, f"{name}.png"), "wb") as file:
                file.write(content)
        # Their numbers start at 1; 0 is void.
        scipy.io.savemat(os.path.join(root, "segmentation", f"{name}.mat"),
                         {"segmentation": (mask + 1).astype(np.uint8)}, do_compression=True)
    for split in dict.fromkeys(SPLITS):
        names = [FIRST_ID + index for index in range(settings["count"]) if SPLITS[index % 5] == split]
        with open(os.path.join(root, f"{split}.txt"), "w", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in names)
