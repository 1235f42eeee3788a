"""Layout of pictures made of smaller ones: rows, stacks, headings, legends, and a font for every script."""

import contextlib
import functools
import math
import os
import re
import warnings

import cv2
import numpy as np
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont

# The first code point of the CJK blocks.
FIRST_CJK = 0x2E80
INK, PAPER, FRAME = (30, 30, 30), (255, 255, 255), (120, 120, 120)
CJK_FAMILIES = re.compile(
    r"CJK|Source Han|WenQuanYi|YaHei|SimHei|SimSun|PingFang|Hiragino|Heiti|Songti|Fallback|Arial Unicode")


@functools.lru_cache(maxsize=1024)
def font_file(text):
    """Path of a font that has every character of `text`: DejaVu Sans, else an installed CJK font, else DejaVu Sans.

    Warns where a CJK character will be drawn as a box.
    """
    dejavu = font_manager.findfont("DejaVu Sans")
    needed = {ord(character) for character in text if not character.isspace()}
    if needed <= _characters(dejavu):
        return dejavu
    found = next((path for path in _cjk_fonts() if needed <= _characters(path)), None)
    if found is None and max(needed) >= FIRST_CJK:
        warnings.warn("no installed font has these Chinese, Japanese or Korean characters, so pictures show boxes; "
                      "on Debian and Ubuntu: apt-get install fonts-wqy-microhei", stacklevel=2)
    return found or dejavu


def font_size(picture):
    """Height of the letters in pixels, in proportion to the picture."""
    return max(12, round(0.028 * math.sqrt(picture.shape[0] * picture.shape[1])))


def draw_legend(entries, width, size):
    """Colour swatches with their texts in columns: [(text, colour)] -> (H, W, 3) uint8 RGB, W at least `width`."""
    if not entries:
        return draw_text("no labelled pixels", size)
    cell = math.ceil(max(text_width(text, size) for text, _ in entries) + 2.7 * size)
    columns = max(1, min(len(entries), width // cell))
    line = round(1.6 * size)
    rows = math.ceil(len(entries) / columns)
    canvas = Image.new("RGB", (max(width, columns * cell), rows * line + size), PAPER)
    draw = ImageDraw.Draw(canvas)
    for place, (text, color) in enumerate(entries):
        column, row = divmod(place, rows)
        _draw_entry(draw, column * cell + size // 2, size // 2 + row * line + line // 2, size, text, color)
    return np.array(canvas)


def _draw_entry(draw, left, middle, size, text, color):
    """One swatch and its text, vertically centred on `middle`."""
    half = round(0.55 * size)
    box = (left, middle - half, left + 2 * half, middle + half)
    draw.rectangle(box, fill=tuple(int(value) for value in color), outline=FRAME, width=max(1, size // 14))
    draw.text((left + round(1.6 * size), middle), text, INK, _font(font_file(text), size), anchor="lm")


def draw_text(text, size):
    """One line of text, left-aligned: (H, W, 3) uint8 RGB."""
    text = " ".join(text.split())
    canvas = Image.new("RGB", (math.ceil(text_width(text, size)) + size, round(1.8 * size)), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((size // 2, canvas.height // 2), text, INK, _font(font_file(text), size), anchor="lm")
    return np.array(canvas)


def enlarge(picture, min_side):
    """Repeat pixels until the longer side has at least `min_side` pixels."""
    factor = math.ceil(min_side / max(picture.shape[:2]))
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def panel(picture, interpolation, min_side=200, max_side=800):
    """Bring the longer side of a photograph or mask to `min_side`..`max_side` pixels."""
    factor = max_side / max(picture.shape[:2])
    if factor >= 1:
        return enlarge(picture, min_side)
    height, width = (max(1, round(side * factor)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=interpolation)


def vstack(pictures):
    """Pictures (H, W, 3) uint8 RGB of any sizes below one another on white, left-aligned."""
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([pad(picture, picture.shape[0], width) for picture in pictures])


def hstack(pictures, gap):
    """Pictures (H, W, 3) uint8 RGB of any sizes side by side on white, `gap` pixels apart."""
    height = max(picture.shape[0] for picture in pictures)
    widths = [picture.shape[1] + gap for picture in pictures[:-1]] + [pictures[-1].shape[1]]
    return np.concatenate([pad(picture, height, width) for picture, width in zip(pictures, widths)], axis=1)


def pad(picture, height, width):
    """Add white below and at the right, up to `height` and `width`."""
    below, right = height - picture.shape[0], width - picture.shape[1]
    return cv2.copyMakeBorder(picture, 0, below, 0, right, cv2.BORDER_CONSTANT, value=PAPER)


def text_width(text, size):
    """Width of a line of text, pixels."""
    return _font(font_file(text), size).getlength(text)


@functools.lru_cache(maxsize=64)
def _font(path, size):
    return ImageFont.truetype(path, size)


@functools.lru_cache(maxsize=1)
def _cjk_fonts():
    """Paths of the installed fonts with Chinese, Japanese or Korean characters, the regular weights first."""
    fonts = font_manager.fontManager
    known = {os.path.realpath(font.fname) for font in fonts.ttflist}
    # matplotlib keeps its list of fonts in a file; those installed later are not in it.
    for path in font_manager.findSystemFonts():
        if os.path.realpath(path) not in known:
            with contextlib.suppress(OSError, RuntimeError):
                fonts.addfont(path)
    found = [font for font in fonts.ttflist if CJK_FAMILIES.search(font.name) and os.path.exists(font.fname)]
    return tuple(font.fname for font in sorted(found, key=lambda font: (_distance_from_regular(font), font.fname)))


def _distance_from_regular(font):
    """How far a FontEntry is from an upright font of weight 400."""
    weight = font_manager.weight_dict.get(font.weight, font.weight)
    return (font.style != "normal") * 1000 + abs(int(weight) - 400)


@functools.lru_cache(maxsize=16)
def _characters(path):
    """The code points a font can draw."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
