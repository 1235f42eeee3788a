"""Masks to look at: palette PNG files, overlays on the photograph, legends, truth beside prediction."""

import functools
import io
import math
import re

import cv2
import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.storage.files import atomic_path

INK, PAPER, FRAME = (30, 30, 30), (255, 255, 255), (120, 120, 120)
CJK_FAMILIES = re.compile(
    r"CJK|Source Han|WenQuanYi|YaHei|SimHei|SimSun|PingFang|Hiragino|Heiti|Songti|Fallback|Arial Unicode")
LONGEST_NAME = 40
# What the JPEG format holds, pixels.
LONGEST_JPEG_SIDE = 65500


def encode_palette_png(mask, labels):
    """(H, W) uint8 class numbers -> the bytes of a PNG whose pixels are the numbers and whose palette the colours.

    Raises:
        UserError: the mask is not (H, W) uint8.
    """
    _check_mask(mask)
    picture = Image.fromarray(mask)
    picture.putpalette(labels.palette().tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_palette_png(path, mask, labels):
    """Write `encode_palette_png` to `path`. Raises UserError where the mask is wrong or the folder not writable."""
    encoded = encode_palette_png(mask, labels)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(encoded)


def overlay(image: np.ndarray, mask: np.ndarray, labels: LabelSet, alpha: float = 0.5,
            show_ignore: bool = False) -> np.ndarray:
    """Tint a photograph with the class colours; outlines are stronger, the background (class 0) stays as it is.

    Args:
        image: (H, W, 3) uint8 RGB
        mask: (H, W) uint8 class numbers
        labels: LabelSet
        alpha: share of the class colour inside the outlines, 0..1
        show_ignore: tint pixels of the ignore label too

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: shapes or types do not fit, or alpha is outside 0..1.
    """
    _check_pair(image, mask)
    if not 0 <= alpha <= 1:
        raise UserError(f"overlay: alpha is {alpha}; choose a number from 0 to 1")
    shown = mask if show_ignore else np.where(mask == labels.ignore_label, 0, mask).astype(np.uint8)
    colours = labels.colorize(shown)
    tinted = _blend(image, colours, alpha)
    outlined = _blend(image, colours, min(1, alpha + 0.4))
    drawn = shown > 0
    picture = np.where(drawn[..., None], tinted, image)
    edge = drawn & _edges(shown)
    picture[edge] = outlined[edge]
    return picture


def overlay_with_legend(image: np.ndarray, mask: np.ndarray, labels: LabelSet, alpha: float = 0.5,
                        show_ignore: bool = False) -> np.ndarray:
    """An overlay with a legend below: the classes found, their colours and their shares of the pixels in %.

    Ignored pixels do not count in the shares. A picture too small to see is enlarged by a whole factor.

    Returns:
        (H', W', 3) uint8 RGB with H' > H and W' >= W.

    Raises:
        UserError: shapes or types do not fit.
    """
    picture = _enlarge(overlay(image, mask, labels, alpha, show_ignore), 96)
    size = _text_size(picture)
    entries = _share_entries(mask, labels)
    if show_ignore and (mask == labels.ignore_label).any():
        entries.append(("ignored", labels.palette()[labels.ignore_label]))
    return _stack([picture, _legend(entries, picture.shape[1], size)])


def side_by_side(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, labels: LabelSet,
                 title: str = "") -> np.ndarray:
    """Photograph, true mask and predicted mask in a row, with headings, a title and a legend.

    Large photographs are reduced to 800 pixels a panel, tiny ones enlarged by a whole factor.

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


def masks_in_a_row(image, masks, labels, title="", most=800):
    """A photograph and any number of its masks in a row, as `side_by_side` shows two.

    Args:
        image: (H, W, 3) uint8 RGB
        masks: {heading: (H, W) uint8 class numbers}
        labels: LabelSet
        title: a line above the pictures
        most: longest side of a panel, pixels

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        UserError: shapes or types do not fit.
    """
    for mask in masks.values():
        _check_pair(image, mask)
    pictures = {"photograph": _panel(image, cv2.INTER_AREA, most=most)}
    pictures |= {heading: labels.colorize(_panel(mask, cv2.INTER_NEAREST, most=most))
                 for heading, mask in masks.items()}
    size = _text_size(pictures["photograph"])
    row = _row([_stack([_text_line(heading, size), picture]) for heading, picture in pictures.items()], size // 2)
    legend = _legend(_found_entries(masks.values(), labels), row.shape[1], size)
    return _stack(([_text_line(title, round(1.2 * size))] if title else []) + [row, legend])


def sheet(pictures):
    """Pictures (H, W, 3) uint8 RGB of any sizes below one another on one sheet."""
    return _stack(pictures)


def contact_sheet(pairs, labels, shares, title="", columns=2, most=360):
    """Photographs beside their overlays, many to a sheet, with one legend of all classes below.

    Args:
        pairs: iterable of (image (H, W, 3) uint8 RGB, mask (H, W) uint8 class numbers, a line of text above them);
            ignored pixels appear in the ignore label's colour
        labels: LabelSet
        shares: (n,) share of each class in the pixels of the whole set, 0..1, for the legend
        title: a line above all
        columns: pairs beside one another
        most: longest side of a photograph, pixels

    Returns:
        (H', W', 3) uint8 RGB.

    Raises:
        UserError: shapes or types do not fit.
    """
    tiles = [_tile(image, mask, labels, text, most) for image, mask, text in pairs]
    width = max((tile.shape[1] for tile in tiles), default=2 * most)
    rows = [_row([_pad(tile, tile.shape[0], width) for tile in tiles[at:at + columns]], most // 15)
            for at in range(0, len(tiles), columns)]
    entries = [(f"{class_name(number, labels)}  {_percent(share)}", colour) for number, (share, colour) in
               enumerate(zip(shares, [PAPER, *labels.palette()[1:len(labels)]]))]
    entries.append(("ignored", labels.palette()[labels.ignore_label]))
    size = most // 22
    legend = _legend(entries, rows[0].shape[1] if rows else width, size)
    return _stack(([_text_line(title, round(1.4 * size))] if title else []) + rows + [legend])


def _tile(image, mask, labels, text, most):
    """A photograph beside its overlay, and a line above them that is cut to their width."""
    _check_pair(image, mask)
    # Outlines are drawn at the size at which they are seen.
    image, mask = _panel(image, cv2.INTER_AREA, most // 2, most), _panel(mask, cv2.INTER_NEAREST, most // 2, most)
    pictures = _row([image, overlay(image, mask, labels, 0.45, show_ignore=True)], 4)
    size = most // 25
    while text and _text_width(text, size) > pictures.shape[1] - size:
        text = text[:-2].rstrip("…") + "…" if len(text) > 2 else ""
    return _stack([_text_line(text, size), pictures])


def write_picture(path, picture):
    """Write (H, W, 3) uint8 RGB as JPEG, reduced where it is longer than the format allows.

    Raises:
        UserError: the file cannot be written.
    """
    picture = Image.fromarray(picture)
    picture.thumbnail((LONGEST_JPEG_SIDE, LONGEST_JPEG_SIDE))
    # Into a file, Pillow's encoder takes no notice of a write that a full disk cuts short.
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(buffer.getbuffer())


@functools.lru_cache(maxsize=1024)
def font_file(text):
    """Path of a font that has every character of `text`: DejaVu Sans, else an installed CJK font, else DejaVu Sans."""
    dejavu = font_manager.findfont("DejaVu Sans")
    needed = {ord(character) for character in text if not character.isspace()}
    return next((path for path in (dejavu, *_cjk_fonts()) if needed <= _characters(path)), dejavu)


def display_name(name):
    """A class name fit for one line of a picture: whitespace folded, the end of a long name left out."""
    name = " ".join(name.split())
    return name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME - 1] + "…"


def class_name(number, labels):
    """The display name of a class, or of a number beyond them."""
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


def _blend(image, colours, alpha):
    """Mix two (H, W, 3) uint8 pictures."""
    return cv2.addWeighted(np.ascontiguousarray(image), 1 - alpha, colours, alpha, 0)


def _edges(mask):
    """(H, W) bool: pixels near another class; the line grows with the picture."""
    reach = max(1, round(math.sqrt(mask.size) / 500))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return cv2.dilate(mask, kernel) != cv2.erode(mask, kernel)


def _enlarge(picture, least):
    """Repeat pixels until the longer side has at least `least`."""
    factor = math.ceil(least / max(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def _panel(picture, interpolation, least=200, most=800):
    """Bring the longer side of a photograph or mask to `least`..`most` pixels."""
    factor = most / max(picture.shape[:2])
    if factor >= 1:
        return _enlarge(picture, least)
    height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=interpolation)


def _share_entries(mask, labels):
    """[(text, colour)] of the classes in a mask, the largest first."""
    counts = np.bincount(mask.ravel(), minlength=256)
    counts[labels.ignore_label] = 0
    total = max(1, counts.sum())
    order = [number for number in np.argsort(-counts, kind="stable") if counts[number]]
    # an overlay leaves the background untinted, so its swatch is paper
    colours = labels.palette()
    colours[0] = PAPER
    return [(f"{class_name(number, labels)}  {_percent(counts[number] / total)}", colours[number]) for number in order]


def _found_entries(masks, labels):
    """[(name, colour)] of the classes in any of the masks, in the order of their numbers."""
    entries = [(class_name(number, labels), labels.palette()[number]) for number in found_classes(masks, labels)]
    if any((mask == labels.ignore_label).any() for mask in masks):
        entries.append(("ignored", labels.palette()[labels.ignore_label]))
    return entries


def _percent(share):
    return "<0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def _text_size(picture):
    """Height of the letters in pixels, in proportion to the picture."""
    return max(12, round(0.028 * math.sqrt(picture.shape[0] * picture.shape[1])))


def _legend(entries, width, size):
    """Swatches and texts in columns: [(text, colour)] -> (H, W, 3) uint8 RGB, W at least `width`."""
    if not entries:
        return _text_line("no labelled pixels", size)
    cell = math.ceil(max(_text_width(text, size) for text, _ in entries) + 2.7 * size)
    columns = max(1, min(len(entries), width // cell))
    line = round(1.6 * size)
    rows = math.ceil(len(entries) / columns)
    canvas = Image.new("RGB", (max(width, columns * cell), rows * line + size), PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, (text, colour) in enumerate(entries):
        column, row = divmod(place, rows)
        _draw_entry(draw, column * cell + size // 2, size // 2 + row * line + line // 2, size, text, colour)
    return np.array(canvas)


def _draw_entry(draw, left, middle, size, text, colour):
    """One swatch and its text, centred on the height `middle`."""
    half = round(0.55 * size)
    box = (left, middle - half, left + 2 * half, middle + half)
    draw.rectangle(box, fill=tuple(int(value) for value in colour), outline=FRAME, width=max(1, size // 14))
    draw.text((left + round(1.6 * size), middle), text, INK, _font(font_file(text), size), anchor="lm")


def _text_line(text, size):
    """One line of text, left-aligned: (H, W, 3) uint8 RGB."""
    text = " ".join(text.split())
    canvas = Image.new("RGB", (math.ceil(_text_width(text, size)) + size, round(1.8 * size)), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((size // 2, canvas.height // 2), text, INK, _font(font_file(text), size), anchor="lm")
    return np.array(canvas)


def _stack(pictures):
    """Pictures below one another on paper, left-aligned."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([_pad(picture, picture.shape[0], width) for picture in pictures])


def _row(pictures, gap):
    """Pictures beside one another on paper, `gap` pixels apart."""
    height = max(picture.shape[0] for picture in pictures)
    widths = [picture.shape[1] + gap for picture in pictures[:-1]] + [pictures[-1].shape[1]]
    return np.concatenate([_pad(picture, height, width) for picture, width in zip(pictures, widths)], axis=1)


def _pad(picture, height, width):
    below, right = height - picture.shape[0], width - picture.shape[1]
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT, value=PAPER)


def _text_width(text, size):
    return _font(font_file(text), size).getlength(text)


@functools.lru_cache(maxsize=64)
def _font(path, size):
    return ImageFont.truetype(path, size)


@functools.lru_cache(maxsize=1)
def _cjk_fonts():
    """Paths of the installed fonts with Chinese, Japanese or Korean characters."""
    return tuple(sorted(font.fname for font in font_manager.fontManager.ttflist if CJK_FAMILIES.search(font.name)))


@functools.lru_cache(maxsize=16)
def _characters(path):
    """The code points a font can draw."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
