"""Draws a data set of 12-band satellite tiles and their masks: fields of water, soil, crops, woods and artificial turf.

    python experiments/satellite.py FOLDER [--tiles 60] [--size 96] [--seed 1]

FOLDER/images/*.tif (16 bits, reflectance times 10,000, in the order of Sentinel-2's bands B1 to B12 without B10),
FOLDER/masks/*.png and FOLDER/labels.yaml. Turf and crops have the same colours and differ in the near infrared only.
"""

import argparse
import os

import numpy as np
import tifffile
from PIL import Image

from mindfcn.labels import LabelSet

LABELS = LabelSet(("water", "soil", "crop", "wood", "turf"),
                  ((40, 90, 200), (170, 120, 70), (120, 200, 70), (20, 100, 40), (200, 60, 160)))
# Reflectance in percent, rounded from the shape of published spectra: 443, 490, 560, 665, 705, 740, 783, 842, 865, 945,
# 1610 and 2190 nm.
SPECTRA = np.array([[9, 8, 6, 4, 3, 2, 2, 2, 2, 1, 1, 1], [9, 11, 15, 20, 23, 25, 27, 29, 31, 32, 38, 34],
                    [4, 5, 9, 6, 14, 34, 42, 44, 46, 45, 22, 11], [3, 3, 5, 4, 9, 22, 27, 28, 30, 29, 14, 6],
                    [4, 5, 9, 6, 8, 10, 11, 12, 13, 14, 20, 22]], float)
# Deviation of a field's reflectance from its class's, and of a pixel's from its field's, relative; haze, percent.
FIELD, PIXEL, HAZE = 0.18, 0.08, 1.5


def main():
    """Draw the tiles and masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--tiles", type=int, default=60)
    parser.add_argument("--size", type=int, default=96, help="side, pixels")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for folder in ("images", "masks"):
        os.makedirs(os.path.join(options.folder, folder), exist_ok=True)
    for number in range(options.tiles):
        bands, mask = draw(options.size, np.random.default_rng([options.seed, number]))
        name = f"tile_{number + 1:04d}"
        tifffile.imwrite(os.path.join(options.folder, "images", f"{name}.tif"), np.moveaxis(bands, -1, 0),
                         photometric="minisblack", planarconfig="separate")
        picture = Image.fromarray(mask)
        picture.putpalette(np.array(LABELS.colors, np.uint8).tobytes())
        picture.save(os.path.join(options.folder, "masks", f"{name}.png"))
    LABELS.save(os.path.join(options.folder, "labels.yaml"))
    print(f"{options.tiles} tiles of {SPECTRA.shape[1]} bands in {options.folder}")


def draw(size, random):
    """One tile (size, size, 12) uint16 and its mask (size, size) uint8: a field is what is nearest to its centre."""
    fields = random.integers(8, 20)
    centres, classes = random.uniform(0, size, (fields, 2)), random.integers(0, len(SPECTRA), fields)
    places = np.stack(np.mgrid[:size, :size], -1)[:, :, None] + random.normal(0, 0.5, (size, size, 1, 2))
    nearest = np.linalg.norm(places - centres, axis=-1).argmin(-1)
    tones = SPECTRA[classes] * random.normal(1, FIELD, (fields, 1)).clip(0.5, 1.5)
    bands = tones[nearest] * random.normal(1, PIXEL, (size, size, SPECTRA.shape[1])) + random.uniform(0, HAZE)
    return np.rint(100 * bands.clip(0, 100)).astype(np.uint16), classes[nearest].astype(np.uint8)


if __name__ == "__main__":
    main()
