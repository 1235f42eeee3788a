"""Pictures of masks: palette PNG files, overlays on the photograph, and masks side by side."""

import io
import math

import cv2
import numpy as np
from PIL import Image

from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.report.canvas import (
    PAPER,
    draw_legend,
    draw_text,
    enlarge,
    font_size,
    hstack,
    pad,
    panel,
    text_width,
    vstack,
)
from mindfcn.report.overlaps import IGNORED, as_drawn
from mindfcn.storage.files import atomic_path

LONGEST_NAME = 40
# The JPEG format's limit, pixels.
LONGEST_JPEG_SIDE = 65500


def encode_palette_png(mask, labels, transparency=None):
    """(H, W) uint8 class numbers -> the bytes of a palette PNG: pixels hold the numbers, the palette the colours.

    `transparency` is the number of a class that viewers leave out.

    Raises:
        UserError: the mask is not (H, W) uint8.
    """
    _check_mask(mask)
    picture = Image.fromarray(mask)
    picture.putpalette(labels.palette().tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=transparency)
    return buffer.getvalue()


def write_palette_png(path, mask, labels):
    """Write `encode_palette_png` to `path`. Raises UserError if the mask is wrong or the file cannot be written."""
    encoded = encode_palette_png(mask, labels)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(encoded)


def overlay(image: np.ndarray, mask: np.ndarray, labels: LabelSet, alpha: float = 0.5,
            show_ignore: bool = False) -> np.ndarray:
    """Tint a photograph with the class colours, more strongly along outlines; the background (class 0) stays as it is.

    Args:
        image: (H, W, 3) uint8 RGB
        mask: (H, W) uint8 class numbers
        labels: LabelSet
        alpha: share of the class colour inside the outlines, 0..1
        show_ignore: tint pixels of the ignore label too

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: wrong shapes or types, or alpha outside 0..1.
    """
    _check_pair(image, mask)
    if not 0 <= alpha <= 1:
        raise UserError(f"overlay: alpha is {alpha}; choose a number from 0 to 1")
    shown = mask if show_ignore else np.where(mask == labels.ignore_label, 0, mask).astype(np.uint8)
    colors = labels.colorize(shown)
    tinted = _blend(image, colors, alpha)
    outlined = _blend(image, colors, min(1, alpha + 0.4))
    drawn = shown > 0
    picture = np.where(drawn[..., None], tinted, image)
    edge = drawn & _edges(shown)
    picture[edge] = outlined[edge]
    return picture


def overlay_with_legend(image: np.ndarray, mask: np.ndarray, labels: LabelSet, alpha: float = 0.5,
                        show_ignore: bool = False) -> np.ndarray:
    """An overlay with a legend below: the classes found, their colours and their shares of the pixels in %.

    Ignored pixels do not count in the shares. Tiny pictures are enlarged by an integer factor. Where classes overlap,
    the mask is bands (H, W, C), and the legend has their combinations.

    Returns:
        (H', W', 3) uint8 RGB with H' > H and W' >= W.

    Raises:
        UserError: shapes or types do not fit.
    """
    (mask,), labels = as_drawn([mask], labels)
    picture = enlarge(overlay(image, mask, labels, alpha, show_ignore), 96)
    size = font_size(picture)
    entries = _share_entries(mask, labels)
    if show_ignore and (mask == labels.ignore_label).any():
        entries.append(("ignored", labels.palette()[labels.ignore_label]))
    return vstack([picture, draw_legend(entries, picture.shape[1], size)])


def side_by_side(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, labels: LabelSet,
                 title: str = "") -> np.ndarray:
    """Photograph, true mask and predicted mask in a row, with headings, a title and a legend.

    Large photographs are reduced to 800 pixels a panel, tiny ones enlarged by an integer factor.

    Args:
        image: (H, W, 3) uint8 RGB
        truth: (H, W) uint8 class numbers; ignored pixels appear in the ignore label's colour
        prediction: (H, W) uint8 class numbers
        labels: LabelSet
        title: a line above the pictures

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        UserError: shapes or types do not fit.
    """
    return masks_in_a_row(image, {"truth": truth, "prediction": prediction}, labels, title)


def masks_in_a_row(image, masks, labels, title="", max_side=800):
    """A photograph and any number of its masks in a row, with headings, a title and a legend.

    Args:
        image: (H, W, 3) uint8 RGB
        masks: {heading: (H, W) uint8 class numbers, or bands (H, W, C) of overlapping classes}
        labels: LabelSet
        title: a line above the pictures
        max_side: longest side of a panel, pixels

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        UserError: shapes or types do not fit.
    """
    drawn, labels = as_drawn(list(masks.values()), labels)
    masks = dict(zip(masks, drawn))
    for mask in masks.values():
        _check_pair(image, mask)
    pictures = {"photograph": panel(image, cv2.INTER_AREA, max_side=max_side)}
    pictures |= {heading: labels.colorize(panel(mask, cv2.INTER_NEAREST, max_side=max_side))
                 for heading, mask in masks.items()}
    size = font_size(pictures["photograph"])
    row = hstack([vstack([draw_text(heading, size), picture]) for heading, picture in pictures.items()], size // 2)
    legend = draw_legend(_found_entries(masks.values(), labels), row.shape[1], size)
    return vstack(([draw_text(title, round(1.2 * size))] if title else []) + [row, legend])


def contact_sheet(pairs, labels, shares, title="", columns=2, max_side=360):
    """Many photographs with their overlays on one sheet, with one legend of all classes below.

    Args:
        pairs: iterable of (image (H, W, 3) uint8 RGB, mask (H, W) uint8 class numbers or bands (H, W, C) of overlapping
            classes, a line of text above both); ignored pixels appear in the ignore label's colour
        labels: LabelSet
        shares: (n,) share of each class in all pixels of the data set, 0..1, for the legend
        title: a line above everything
        columns: pairs in a row
        max_side: longest side of a photograph, pixels

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        UserError: shapes or types do not fit.
    """
    tiles = [_tile(image, mask, labels, text, max_side) for image, mask, text in pairs]
    width = max((tile.shape[1] for tile in tiles), default=2 * max_side)
    rows = [hstack([pad(tile, tile.shape[0], width) for tile in tiles[at:at + columns]], max_side // 15)
            for at in range(0, len(tiles), columns)]
    # Overlays leave class 0 untinted, but not the first of overlapping classes.
    colors = [*labels.colors] if labels.multilabel else [PAPER, *labels.palette()[1:len(labels)]]
    entries = [(f"{class_name(number, labels)}  {_legend_percent(share)}", color)
               for number, (share, color) in enumerate(zip(shares, colors))]
    entries.append(("ignored", labels.palette()[IGNORED if labels.multilabel else labels.ignore_label]))
    size = max_side // 22
    legend = draw_legend(entries, rows[0].shape[1] if rows else width, size)
    return vstack(([draw_text(title, round(1.4 * size))] if title else []) + rows + [legend])


def _tile(image, mask, labels, text, max_side):
    """A photograph next to its overlay, below a line of text cut to their width."""
    (mask,), labels = as_drawn([mask], labels)
    _check_pair(image, mask)
    # Resize before drawing, so that outlines keep their thickness.
    image = panel(image, cv2.INTER_AREA, max_side // 2, max_side)
    mask = panel(mask, cv2.INTER_NEAREST, max_side // 2, max_side)
    pictures = hstack([image, overlay(image, mask, labels, 0.45, show_ignore=True)], 4)
    size = max_side // 25
    while text and text_width(text, size) > pictures.shape[1] - size:
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    return vstack([draw_text(text, size), pictures])


def write_picture(path, picture):
    """Write (H, W, 3) uint8 RGB as JPEG, reduced if it is longer than the format allows.

    Raises:
        UserError: the file cannot be written.
    """
    picture = Image.fromarray(picture)
    picture.thumbnail((LONGEST_JPEG_SIDE, LONGEST_JPEG_SIDE))
    # Encode in memory: Pillow does not notice a write that a full disk cuts short.
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(buffer.getbuffer())


def display_name(name):
    """A class name for one line of a picture: whitespace collapsed, long names cut short."""
    name = " ".join(name.split())
    return name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME - 1] + "…"


def class_name(number, labels):
    """The display name of a class number, or "class N" if the labels have no such class."""
    return display_name(labels.names[number]) if number < len(labels) else f"class {number}"


def found_classes(masks, labels):
    """Sorted class numbers in any of the (H, W) masks, without the ignore label."""
    return sorted({number for mask in masks for number in np.unique(mask).tolist()} - {labels.ignore_label})


def _check_mask(mask):
    if mask.ndim != 2 or mask.dtype != np.uint8 or mask.size == 0:
        raise UserError(f"mask is {mask.shape} {mask.dtype}; it must be (H, W) uint8 class numbers")


def _check_pair(image, mask):
    _check_mask(mask)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UserError(f"image is {image.shape} {image.dtype}; it must be (H, W, 3) uint8 RGB")
    if image.shape[:2] != mask.shape:
        raise UserError(f"image has height and width {image.shape[:2]} but its mask {mask.shape}; they must agree")


def _blend(image, colors, alpha):
    """Mix two (H, W, 3) uint8 pictures."""
    return cv2.addWeighted(np.ascontiguousarray(image), 1 - alpha, colors, alpha, 0)


def _edges(mask):
    """(H, W) bool: pixels near another class; the outline is wider in larger pictures."""
    reach = max(1, round(math.sqrt(mask.size) / 500))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)


def _share_entries(mask, labels):
    """[(text, colour)] of the classes in a mask, the largest first."""
    counts = np.bincount(mask.ravel(), minlength=256)
    counts[labels.ignore_label] = 0
    total = max(1, counts.sum())
    order = [number for number in np.argsort(-counts, kind="stable") if counts[number]]
    # An overlay leaves the background untinted, so its swatch is white.
    colors = labels.palette()
    colors[0] = PAPER
    return [(f"{class_name(number, labels)}  {_legend_percent(counts[number] / total)}", colors[number])
            for number in order]


def _found_entries(masks, labels):
    """[(name, colour)] of the classes in any of the masks, in the order of their numbers."""
    entries = [(class_name(number, labels), labels.palette()[number]) for number in found_classes(masks, labels)]
    if any((mask == labels.ignore_label).any() for mask in masks):
        entries.append(("ignored", labels.palette()[labels.ignore_label]))
    return entries


def _legend_percent(share):
    return "<0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"
