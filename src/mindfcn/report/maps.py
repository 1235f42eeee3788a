"""Feature maps of a network, drawn next to its photograph."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

from mindfcn.report.canvas import font_file
from mindfcn.storage.files import atomic_path

COLUMNS = 4


def save_maps(path, image, maps, mask):
    """Draw maps in their order, between the photograph and its mask, each in its own range from dark to bright.

    Args:
        path: picture to write; its suffix chooses the format.
        image: (H, W, 3) uint8 RGB.
        maps: list of (title, (h, w) float32).
        mask: (H, W, 3) uint8 RGB: the classes' colours.

    Raises:
        UserError: the file cannot be written.
    """
    panels = [("photograph", image), *maps, ("classes", mask)]
    rows = math.ceil(len(panels) / COLUMNS)
    width = 3.0
    height = width * image.shape[0] / image.shape[1] + 0.35
    figure = Figure((COLUMNS * width, rows * height), layout="constrained")
    for number, (title, picture) in enumerate(panels, 1):
        axis = figure.add_subplot(rows, COLUMNS, number)
        axis.imshow(picture, cmap="inferno", interpolation="nearest", aspect="auto" if picture.ndim == 2 else "equal",
                    extent=(0, image.shape[1], image.shape[0], 0))
        axis.set_title(title + extent(picture), font=FontProperties(fname=font_file(title), size=8))
        axis.set_axis_off()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100)


def extent(picture):
    """The smallest and largest number of a map, as text; nothing for a picture."""
    return f"\n{np.min(picture):.3g} to {np.max(picture):.3g}" if picture.ndim == 2 else ""
