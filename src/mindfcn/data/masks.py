"""How mask files hold classes, as palette numbers, grey numbers or colours; read by a labels file, or without."""

import dataclasses

import numpy as np

from mindfcn.errors import UserError
from mindfcn.labels import voc_palette
from mindfcn.storage.images import read_mask_image

# Fewer mixed colours than these in a file may be classes of thin lines.
SEAMS = 8
GREY_MODES = ("L", "LA", "I", "I;16", "I;16B", "I;16L")


@dataclasses.dataclass(frozen=True)
class MaskScan:
    """What a mask file holds, whatever the classes are called.

    Attributes:
        encoding: palette, grey or rgb.
        pixels: {value: pixels}; a value is a number, or of rgb an (R, G, B).
        colours: {number: (R, G, B)} by the file's palette; empty for other encodings.
        seams: values that fill no 2x2 pixels anywhere, as mixed colours along outlines do.
        jpeg: whether the file is a JPEG, which keeps no class as it was.
    """
    encoding: str
    pixels: dict
    colours: dict
    seams: int
    jpeg: bool

    @property
    def blurred(self):
        """Whether outlines are smoothed, by anti-aliasing, scaling or a JPEG: most values are seams, and many are."""
        return self.jpeg or self.seams >= SEAMS and 2 * self.seams > len(self.pixels)


def scan_mask(path, encoding="auto"):
    """Look into a mask file without knowing the classes: path -> MaskScan.

    Raises:
        UserError: unreadable, another encoding than told, a number over 255.
    """
    mask = read_mask_image(path)
    kind = _kind(mask) if encoding == "auto" else encoding
    values = _code(np.asarray(mask.convert("RGB"))) if kind == "rgb" else _numbers(mask, kind, path)
    pixels = _histogram(values)
    solid = (values[1:, 1:] == values[:-1, 1:]) & (values[1:, 1:] == values[1:, :-1]) & (
        values[1:, 1:] == values[:-1, :-1])
    seams = len(pixels) - len(_histogram(values[1:, 1:][solid]))
    colours = {}
    if kind == "rgb":
        pixels = {_color(code): count for code, count in pixels.items()}
    elif mask.mode == "P":
        palette = mask.getpalette("RGB")
        colours = {number: tuple(palette[3 * number:3 * number + 3]) for number in pixels
                   if 3 * number + 3 <= len(palette)}
    return MaskScan(kind, pixels, colours, seams, mask.format == "JPEG")


def _histogram(values):
    """{value: how often} of an integer array; masks are flat, so runs of equal pixels are sorted instead of pixels."""
    values = values.ravel()
    if not values.size:
        return {}
    starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    found, places = np.unique(values[starts], return_inverse=True)
    counts = np.bincount(places, np.diff(starts, append=values.size))
    return dict(zip(found.tolist(), counts.astype(np.int64).tolist()))


def read_mask(path, labels, encoding="auto"):
    """Read a mask: path -> (H, W) uint8 class numbers, the ignore label included.

    Args:
        path: mask file.
        labels: LabelSet; its colours are looked up for masks of colours. The ignore label's palette colour and
            VOC's border colour (224, 224, 192) stand for the ignore label.
        encoding: palette (numbers of a palette image, whatever its colours), grey (numbers as brightness), rgb
            (colours), or auto: what the file is. Grey is looked up as a colour, too, where all colours of the labels
            are greys and hold it: black and white masks have the classes (0, 0, 0) and (255, 255, 255).

    Raises:
        UserError: unreadable, another encoding than told, an unknown colour, a number over 255, or, of auto, a
            palette that shows a class in the colour of another.
    """
    mask = read_mask_image(path)
    kind = _kind(mask) if encoding == "auto" else encoding
    if kind == "rgb":
        return _class_of_color(np.asarray(mask.convert("RGB")), labels, path)
    numbers = _numbers(mask, kind, path)
    if encoding == "auto" and mask.mode == "P":
        _check_palette(mask.getpalette("RGB"), numbers, labels, path)
    if encoding == "auto" and kind == "grey" and _are_greys(numbers, labels):
        return _class_of_color(np.repeat(numbers[..., None], 3, axis=2), labels, path)
    return numbers


def _kind(mask):
    """The encoding that a mask file has."""
    return "palette" if mask.mode in ("P", "PA") else "grey" if mask.mode in GREY_MODES else "rgb"


def _numbers(mask, kind, path):
    """The class numbers of a palette or grey mask: PIL.Image -> (H, W) uint8."""
    if kind == "palette":
        if mask.mode not in ("P", "L"):
            raise UserError(f"{path} is no palette mask but of mode {mask.mode}; choose another mask_encoding")
        return np.array(mask)
    return _class_of_grey(np.asarray(mask if mask.mode in GREY_MODES else mask.convert("RGB")), mask.mode, path)


def _check_palette(palette, numbers, labels, path):
    """Refuse a palette in which a number that occurs has the colour of another class: one of the two is wrong."""
    classes = {colour: number for number, colour in enumerate(labels.colours) if labels.colours.count(colour) == 1}
    for number in np.flatnonzero(np.bincount(numbers.ravel(), minlength=256)[:len(labels)]).tolist():
        colour = tuple(palette[3 * number:3 * number + 3])
        other = classes.get(colour, number)
        if other != number:
            raise UserError(f"{path}: its palette shows {number} ({labels.names[number]}) in {colour}, the colour of "
                            f"{other} ({labels.names[other]}) in the labels; if the numbers are right, say "
                            "--mask_encoding palette, if the colours are, rgb")


def _are_greys(numbers, labels):
    """Whether the labels' colours are all grey, and all numbers are among them."""
    colours = np.array(labels.colours)
    return (colours == colours[:, :1]).all() and bool(np.isin(numbers, colours[:, 0]).all())


def _class_of_grey(values, mode, path):
    """(H, W), (H, W, 2) grey with alpha or (H, W, 3) grey colours -> (H, W) uint8."""
    if values.ndim == 3 and values.shape[2] == 3 and (values != values[..., :1]).any():
        raise UserError(f"{path} is a mask of colours (mode {mode}), not grey; choose mask_encoding rgb or palette")
    values = values[..., 0] if values.ndim == 3 else values
    if values.size and not 0 <= values.min() <= values.max() <= 255:
        row, column = np.argwhere((values < 0) | (values > 255))[0]
        raise UserError(f"{path}: class number {values[row, column]} at row {row}, column {column} "
                        "is outside 0..255; mend the mask")
    return values.astype(np.uint8)


def _class_of_color(colours, labels, path):
    """(H, W, 3) uint8 RGB -> (H, W) uint8."""
    codes, numbers = _color_table(labels)
    pixels = _code(colours)
    places = np.searchsorted(codes, pixels).clip(max=len(codes) - 1)
    unknown = codes[places] != pixels
    if unknown.any():
        row, column = np.argwhere(unknown)[0]
        raise UserError(f"{path}: colour {tuple(map(int, colours[row, column]))} at row {row}, column {column} "
                        "is in no class; add it to labels.yaml or mend the mask")
    return numbers[places]


def _color_table(labels):
    """Sorted (K,) int64 colour codes and their (K,) uint8 class numbers."""
    table = {}
    for number, colour in enumerate(labels.colours):
        other = table.setdefault(int(_code(np.array(colour))), number)
        if other != number:
            raise UserError(f"labels: {labels.names[other]!r} and {labels.names[number]!r} share the colour "
                            f"{list(colour)}; masks of colours need one colour a class")
    for colour in (labels.palette()[labels.ignore_label], voc_palette()[255]):
        table.setdefault(int(_code(colour)), labels.ignore_label)
    codes = np.array(sorted(table), np.int64)
    return codes, np.array([table[code] for code in codes.tolist()], np.uint8)


def _code(colours):
    colours = np.asarray(colours, np.int64)
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]


def _color(code):
    return code >> 16, code >> 8 & 255, code & 255
