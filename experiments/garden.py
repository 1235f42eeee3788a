"""Draws a data set other than VOC: photographs of a garden bed and their masks, as a labelling tool writes them.

    python experiments/garden.py FOLDER [--images 160] [--size 192] [--encoding rgb] [--seed 1]

FOLDER/images/*.jpg and FOLDER/masks/*.png, without lists or a labels file, which docs/own_data.md creates. Four
classes of very different size: soil, leaf, fruit and, in two images of five, a beetle or two of about 100 pixels each.
Stones look like beetles and are soil.

With --encoding bands, the masks are TIFFs with a band for each of leaf, fruit and beetle, also where another one covers
it, and labels.yaml says that the classes overlap.
"""

import argparse
import os

import cv2
import numpy as np
from PIL import Image

NAMES = ("soil", "leaf", "fruit", "beetle")
COLORS = np.array([(0, 0, 0), (60, 180, 75), (230, 60, 40), (70, 110, 250)], np.uint8)
BORDER, BORDER_COLOR = 255, (224, 224, 192)
BEETLES = 0.4


def main():
    """Draw the images and masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--size", type=int, default=192, help="longer side, pixels")
    parser.add_argument("--encoding", choices=("rgb", "palette", "grey", "bands"), default="rgb")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for folder in ("images", "masks"):
        os.makedirs(os.path.join(options.folder, folder), exist_ok=True)
    for number in range(options.images):
        bands = np.zeros((len(NAMES) - 1, options.size * 3 // 4, options.size), np.uint8)
        image, mask = draw(options.size, np.random.default_rng([options.seed, number]), bands)
        name = f"bed_{number + 1:04d}"
        cv2.imwrite(os.path.join(options.folder, "images", f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        path = os.path.join(options.folder, "masks", name)
        if options.encoding == "bands":
            write_bands(f"{path}.tif", bands)
        else:
            encode(mask, options.encoding).save(f"{path}.png")
    if options.encoding == "bands":
        write_labels(os.path.join(options.folder, "labels.yaml"))
    print(f"{options.images} photographs and {options.encoding} masks in {options.folder}")


def draw(size, random, bands=None):
    """One photograph (H, W, 3) uint8 BGR and its mask (H, W) uint8, 255 along outlines; W is `size`.

    `bands` (classes but soil, H, W) uint8, if given, gets 1 wherever a class is, also below another one.
    """
    height, width = size * 3 // 4, size
    bands = np.zeros((len(NAMES) - 1, height, width), np.uint8) if bands is None else bands
    image = soil(height, width, random)
    mask = np.zeros((height, width), np.uint8)
    unit = size / 192
    for _ in range(random.integers(3, 8)):
        paint(image, mask, 0, ellipse(random, random.uniform(4, 9) * unit, random.uniform(0.6, 0.9), mask.shape),
              tone(random, (55, 60, 65), 25), random)
    for _ in range(random.integers(2, 6)):
        paint(image, mask, 1, leaf(random, random.uniform(18, 42) * unit, mask.shape), tone(random, (50, 140, 60), 30),
              random, bands[0])
    for _ in range(random.integers(0, 4)):
        paint(image, mask, 2, ellipse(random, random.uniform(8, 16) * unit, random.uniform(0.85, 1), mask.shape),
              tone(random, (40, 60, 215), 30), random, bands[1])
    if random.random() < BEETLES:
        for _ in range(random.integers(1, 3)):
            paint(image, mask, 3, beetle(random, random.uniform(7, 9) * unit, mask.shape),
                  tone(random, (60, 35, 40), 15), random, bands[2])
    noise = random.normal(0, 5, image.shape)
    return np.clip(image * random.uniform(0.75, 1.15) + noise, 0, 255).astype(np.uint8), mask


def encode(mask, encoding):
    """(H, W) uint8 -> a PIL image that holds the classes as colours, palette numbers or grey numbers."""
    if encoding == "rgb":
        table = np.zeros((256, 3), np.uint8)
        table[:len(COLORS)], table[BORDER] = COLORS, BORDER_COLOR
        return Image.fromarray(table[mask])
    picture = Image.fromarray(mask)
    if encoding == "palette":
        picture.putpalette(COLORS.tobytes() + bytes(3 * (BORDER - len(COLORS))) + bytes(BORDER_COLOR))
    return picture


def write_bands(path, bands):
    """Write (C, H, W) uint8 as a TIFF of C bands, 255 where there was 1."""
    import tifffile
    tifffile.imwrite(path, 255 * bands, photometric="minisblack", planarconfig="separate", compression="zlib")


def write_labels(path):
    """Write the labels file of the bands."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"names: [{', '.join(NAMES[1:])}]\ncolours: {COLORS[1:].tolist()}\nmultilabel: true\n")


def soil(height, width, random):
    """(H, W, 3) float32 BGR: brown in clouds of several sizes."""
    clouds = sum(weight * cv2.resize(random.random((height // cell + 2, width // cell + 2), np.float32),
                                     (width, height), interpolation=cv2.INTER_CUBIC)
                 for cell, weight in ((40, 0.5), (12, 0.3), (3, 0.2)))
    return np.array(tone(random, (60, 85, 115), 15), np.float32) * (0.5 + clouds[..., None])


def tone(random, color, spread):
    """Random colour near `color`, (3,) floats."""
    return np.clip(np.array(color) + random.normal(0, spread / 2, 3), 0, 255)


def paint(image, mask, number, parts, color, random, band=None):
    """Lay closed outlines [(K, 2)] over image and mask: a shadow, the colour with light from one side, a border.

    `band` (H, W) gets 1 inside.
    """
    def fill(shift, value, line):
        canvas = np.zeros(mask.shape, np.uint8)
        for part in parts:
            cv2.fillPoly(canvas, [np.rint((part + shift) * 16).astype(np.int32)], value, line, shift=4)
        return canvas
    shadow = cv2.GaussianBlur(fill((2, 3), 255, cv2.LINE_AA), (0, 0), 2)[..., None] / 255
    cover = fill(0, 255, cv2.LINE_AA)[..., None] / 255
    y, x = np.indices(mask.shape)
    centre, reach = parts[0].mean(0), max(np.ptp(parts[0], 0).max(), 1)
    light = 1 + 0.5 * ((centre[0] - x) + (centre[1] - y))[..., None] / reach
    light = light + random.normal(0, 0.04, light.shape)
    image *= 1 - 0.45 * shadow
    image[:] = image * (1 - cover) + np.clip(color * light, 0, 255) * cover
    inside = fill(0, 1, cv2.LINE_8)
    if band is not None:
        band[inside == 1] = 1
    mask[inside == 1] = number
    if number:
        mask[cv2.dilate(inside, np.ones((2, 2), np.uint8)) != cv2.erode(inside, np.ones((2, 2), np.uint8))] = BORDER


def placed(random, points, shape):
    """Turn points (K, 2) by any angle and move them to anywhere in the picture."""
    angle = random.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return points @ turn + random.uniform(0.06, 0.94, 2) * shape[::-1]


def ellipse(random, radius, flat, shape):
    """Outline of a stone or a fruit."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return [placed(random, radius * np.stack([np.cos(angle), flat * np.sin(angle)], 1), shape)]


def leaf(random, length, shape):
    """A pointed oval."""
    along = np.linspace(-1, 1, 24)
    half = random.uniform(0.3, 0.45) * (1 - along ** 2)
    outline = np.concatenate([np.stack([along, half], 1), np.stack([along, -half], 1)[::-1]])
    return [placed(random, length * outline, shape)]


def beetle(random, length, shape):
    """A body and six legs."""
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    body = np.stack([np.cos(angle), 0.6 * np.sin(angle)], 1)
    legs = [np.array([(x - 0.1, 0), (x + 0.1, 0), (1.6 * x, side * 1.1)]) for x in (-0.5, 0, 0.5) for side in (-1, 1)]
    points = placed(random, length * np.concatenate([body, *legs]), shape)
    return [points[:32], *np.split(points[32:], 6)]


if __name__ == "__main__":
    main()
