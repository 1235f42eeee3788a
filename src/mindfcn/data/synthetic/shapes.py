"""The sample set: drawn photographs of six shapes with exact masks, in VOC's layout, drawn in seconds.

Classes differ in shape, in texture and a little in colour; none of the three alone identifies a class.
"""

import os

import cv2
import numpy as np
from PIL import Image

from mindfcn.data.synthetic.draw_set import draw_set
from mindfcn.labels import LabelSet

SAMPLE = LabelSet(
    names=("background", "disc", "square", "triangle", "star", "ring", "cross"),
    colors=((0, 0, 0), (230, 80, 70), (70, 130, 230), (250, 190, 50), (150, 90, 210), (60, 180, 110),
             (240, 130, 190)))
HUES = {"disc": 5, "square": 110, "triangle": 28, "star": 140, "ring": 62, "cross": 168}
FORMAT = 1
# Share of the objects that have the usual texture of their class.
USUAL_TEXTURE = 0.85
SMALLEST, LARGEST = 32, 2048


def draw_sample_set(root, count, size, seed):
    """Draw the sample set, completely or not at all.

    JPEGImages/ID.jpg, SegmentationClass/ID.png (palette, 255 along outlines), ImageSets/Segmentation/train.txt
    (four of five images) and val.txt, labels.yaml and sample.json. A finished set of the same settings stays as it
    is. The same seed draws the same pixels.

    Args:
        root: folder to draw into; absent or empty.
        count: images in both splits, 5 or more.
        size: longer side in pixels, 32..2048.
        seed: a number from 0.

    Raises:
        UserError: a setting out of range, `root` holds something else, or it cannot be written.
    """
    settings = {"format": FORMAT, "count": count, "size": size, "seed": seed}
    draw_set(root, "sample set", "sample.json", _draw_files, settings, (10 ** 6, SMALLEST, LARGEST))


def draw_image(size, seed, index):
    """Draw one photograph and its mask: (H, W, 3) uint8 BGR and (H, W) uint8, max(H, W) = size."""
    rng = np.random.default_rng([seed, index])
    shorter = max(round(size * rng.choice([0.625, 0.75, 0.875, 1.0])), SMALLEST // 2)
    height, width = (shorter, size) if rng.random() < 0.4 else (size, shorter)
    if rng.random() < 0.5:
        height, width = width, height
    image = _background(rng, height, width)
    mask = np.zeros((height, width), np.uint8)
    # The class follows the index, so that every class occurs in both splits.
    numbers = [1 + index % 6] + rng.integers(1, len(SAMPLE), rng.integers(1, 5)).tolist()
    radii = np.sort(rng.triangular(0.08, 0.16, 0.32, len(numbers)) * size)[::-1]
    for number, radius in zip(rng.permutation(numbers).tolist(), radii):
        image = _draw_object(rng, image, mask, number, max(radius, 4))
    return _finish(rng, image), mask


def _draw_files(root, settings):
    names = [f"sample_{index:06d}" for index in range(settings["count"])]
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        os.makedirs(os.path.join(root, folder))
    for index, name in enumerate(names):
        image, mask = draw_image(settings["size"], settings["seed"], index)
        photograph = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        with open(os.path.join(root, "JPEGImages", f"{name}.jpg"), "wb") as file:
            file.write(photograph)
        palette_image = Image.fromarray(mask)
        palette_image.putpalette(SAMPLE.palette().tobytes())
        palette_image.save(os.path.join(root, "SegmentationClass", f"{name}.png"))
    for split, chosen in (("train", [n for i, n in enumerate(names) if i % 5 != 4]), ("val", names[4::5])):
        with open(os.path.join(root, "ImageSets", "Segmentation", f"{split}.txt"), "w", encoding="utf-8") as file:
            file.writelines(f"{name}\n" for name in chosen)
    SAMPLE.save(os.path.join(root, "labels.yaml"))


def _background(rng, height, width):
    """(H, W, 3) float32 BGR 0..255: a muted gradient with clouds and sometimes a faint pattern."""
    colors = [_color(rng.uniform(0, 180), rng.uniform(15, 110), rng.uniform(70, 215)) for _ in range(3)]
    blend = _gradient(rng, height, width)[..., None]
    clouds = sum(_noise(rng, height, width, cell) * weight for cell, weight in ((48, 0.55), (17, 0.3), (6, 0.15)))
    image = colors[0] * (1 - blend) + colors[1] * blend
    strength = rng.uniform(0.2, 0.8) * clouds[..., None]
    image = image * (1 - strength) + colors[2] * strength
    if rng.random() < 0.5:
        pattern = TEXTURES[rng.integers(len(TEXTURES))](rng, height, width, rng.uniform(14, 40))
        image += rng.uniform(8, 26) * (pattern[..., None] - 0.5)
    return image.astype(np.float32)


def _draw_object(rng, image, mask, number, radius):
    """Paint one object: returns the new image; `mask` is changed in place."""
    height, width = mask.shape
    centre = rng.uniform((0.08 * width, 0.08 * height), (0.92 * width, 0.92 * height))
    outline = [points * radius @ _pose(rng) + centre for points in _outline(SAMPLE.names[number])]
    cover = _fill(outline, mask.shape, 255, cv2.LINE_AA)[..., None] / np.float32(255)
    offset = np.array([0.08, 0.1]) * radius
    shadow = _fill([points + offset for points in outline], mask.shape, 255, cv2.LINE_AA)
    shadow = cv2.GaussianBlur(shadow, (0, 0), max(radius * 0.08, 0.8))[..., None] / np.float32(255)
    image = image * (1 - 0.35 * shadow)
    inside = _fill(outline, mask.shape, 1, cv2.LINE_8)
    kernel = np.ones((3, 3), np.uint8)
    border = cv2.dilate(inside, kernel) != cv2.erode(inside, kernel)
    mask[inside == 1] = number
    mask[border] = SAMPLE.ignore_label
    return image * (1 - cover) + _surface(rng, number, height, width, radius) * cover


def _surface(rng, number, height, width, radius):
    """(H, W, 3) float32 BGR 0..255: the object's texture in two tones, shaded."""
    texture = number - 1 if rng.random() < USUAL_TEXTURE else rng.integers(len(TEXTURES))
    pattern = TEXTURES[texture](rng, height, width, np.clip(radius * rng.uniform(0.22, 0.4), 4, 40))[..., None]
    hue = HUES[SAMPLE.names[number]] + rng.normal(0, 13)
    value = rng.uniform(140, 250)
    light = _color(hue, rng.uniform(70, 220), value)
    dark = _color(hue + rng.normal(0, 8), rng.uniform(90, 230), value * rng.uniform(0.35, 0.6))
    shade = rng.uniform(0.75, 0.95) + 0.3 * _gradient(rng, height, width)[..., None]
    return ((light * pattern + dark * (1 - pattern)) * shade).astype(np.float32)


def _finish(rng, image):
    """Light and sensor: a slight vignette and noise; (H, W, 3) float -> uint8."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1:1:height * 1j, -1:1:width * 1j]
    image = image * (1 - rng.uniform(0, 0.2) * (x * x + y * y)[..., None] / 2)
    image = image + rng.normal(0, rng.uniform(1, 5), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _outline(name):
    """Closed polygons (K, 2) of a shape of radius 1; a second one is a hole."""
    circle = _polygon(72)
    if name == "disc":
        return [circle]
    if name == "ring":
        return [circle, circle * 0.52]
    if name == "square":
        return [_polygon(4)]
    if name == "triangle":
        return [_polygon(3) * 1.1]
    if name == "star":
        star = _polygon(10) * 1.12
        star[1::2] *= 0.45
        return [star]
    a, b = 0.34, 1.0
    return [np.array([(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a),
                      (-a, -a)])]


def _polygon(corners):
    angle = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.sin(angle), -np.cos(angle)], 1)


def _pose(rng):
    """Random rotation and slight stretch, (2, 2)."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    stretch = rng.uniform(0.82, 1.0)
    return turn @ np.diag([stretch, 1.0]) @ turn.T @ turn


def _fill(outline, shape, value, line):
    """Polygons in pixels -> (H, W) uint8, filled even-odd."""
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [np.rint(points * 16).astype(np.int32) for points in outline], value, line, shift=4)
    return canvas


def _color(hue, saturation, value):
    """OpenCV's HSV (0..180, 0..255, 0..255) -> (3,) float32 BGR."""
    pixel = np.array([[[hue % 180, min(saturation, 255), min(value, 255)]]]).astype(np.uint8)
    return cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def _grid(rng, height, width):
    """Two (H, W) float32 coordinates in pixels, rotated and shifted at random."""
    angle, (dx, dy) = rng.uniform(0, np.pi), rng.uniform(0, 100, 2)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return np.cos(angle) * x + np.sin(angle) * y + dx, np.cos(angle) * y - np.sin(angle) * x + dy


def _gradient(rng, height, width):
    """(H, W) 0..1 along a random direction."""
    along, _ = _grid(rng, height, width)
    return (along - along.min()) / max(np.ptp(along), 1)


def _noise(rng, height, width, cell):
    """(H, W) float32 0..1, smooth over `cell` pixels."""
    coarse = rng.random((int(height // cell) + 3, int(width // cell) + 3), np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def _wave(distance, period, sharpness=2.5):
    """Soft-edged bands, 0..1."""
    return 0.5 + 0.5 * np.tanh(sharpness * np.sin(2 * np.pi * distance / period))


def _dots(rng, height, width, period):
    u, v = _grid(rng, height, width)
    return 0.5 + 0.5 * np.tanh(3 * (np.cos(2 * np.pi * u / period) + np.cos(2 * np.pi * v / period) - 0.6))


def _checks(rng, height, width, period):
    u, v = _grid(rng, height, width)
    return 0.5 + 0.5 * np.tanh(5 * np.sin(np.pi * u / period) * np.sin(np.pi * v / period))


def _stripes(rng, height, width, period):
    return _wave(_grid(rng, height, width)[0], period)


def _speckle(rng, height, width, period):
    return 0.5 + 0.5 * np.tanh(6 * (_noise(rng, height, width, max(period / 4, 2)) - 0.5))


def _bricks(rng, height, width, period):
    u, v = _grid(rng, height, width)
    row = np.floor(v / (0.6 * period))
    joint = np.minimum(np.abs(v / (0.6 * period) - row - 0.5), np.abs((u / (1.4 * period) + row / 2) % 1 - 0.5))
    return np.clip(8 * joint, 0, 1)


def _waves(rng, height, width, period):
    u, v = _grid(rng, height, width)
    return _wave(u + 0.35 * period * np.sin(2 * np.pi * v / (1.7 * period)), 0.9 * period)


# The usual texture of class number n is TEXTURES[n - 1].
TEXTURES = (_dots, _checks, _stripes, _speckle, _bricks, _waves)
