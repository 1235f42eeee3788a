"""Reading of mask files that store classes as palette numbers, grey values or colours, with or without labels."""

import dataclasses
import functools
import threading

import numpy as np

from mindfcn.data.samples import in_threads
from mindfcn.errors import UserError
from mindfcn.labels import voc_palette
from mindfcn.storage.files import size_and_times
from mindfcn.storage.images import read_mask_image

# A file with fewer outline-only values than this may have classes of thin lines instead of smoothed outlines.
MIN_OUTLINE_VALUES = 8
GREY_MODES = ("L", "LA", "I", "I;16", "I;16B", "I;16L")


@dataclasses.dataclass(frozen=True)
class MaskScan:
    """Contents of a mask file, read without labels.

    Attributes:
        encoding: palette, grey or rgb.
        pixels: {value: number of pixels}; a value is a number, or (R, G, B) if the encoding is rgb.
        colors: {number: (R, G, B)} of the file's palette; empty for other encodings.
        outline_values: number of values that nowhere fill 2x2 pixels, like the mixed colours of smoothed outlines.
        jpeg: whether the file is a JPEG, whose compression changes the values.
    """
    encoding: str
    pixels: dict
    colors: dict
    outline_values: int
    jpeg: bool

    @property
    def blurred(self):
        """Whether outlines are smoothed by anti-aliasing, scaling or JPEG: many and most values occur on outlines."""
        return self.jpeg or (self.outline_values >= MIN_OUTLINE_VALUES
                             and 2 * self.outline_values > len(self.pixels))


def scan_mask(path, encoding="auto"):
    """Scan a mask file without labels: path -> MaskScan.

    Raises:
        UserError: the file is unreadable or not in the given encoding, or a number is over 255.
    """
    mask = read_mask_image(path)
    kind = _kind(mask) if encoding == "auto" else encoding
    values = _pack(np.asarray(mask.convert("RGB"))) if kind == "rgb" else _numbers(mask, kind, path)
    pixels = _histogram(values)
    solid = (values[1:, 1:] == values[:-1, 1:]) & (values[1:, 1:] == values[1:, :-1]) & (
        values[1:, 1:] == values[:-1, :-1])
    outline_values = len(pixels) - len(_histogram(values[1:, 1:][solid]))
    colors = {}
    if kind == "rgb":
        pixels = {_unpack(code): count for code, count in pixels.items()}
    elif mask.mode == "P":
        palette = mask.getpalette("RGB")
        colors = {number: tuple(palette[3 * number:3 * number + 3]) for number in pixels
                  if 3 * number + 3 <= len(palette)}
    return MaskScan(kind, pixels, colors, outline_values, mask.format == "JPEG")


def _histogram(values):
    """{value: count} of an integer array; sorts runs of equal pixels, which masks have few of, instead of pixels."""
    values = values.ravel()
    if not values.size:
        return {}
    starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    found, indices = np.unique(values[starts], return_inverse=True)
    counts = np.bincount(indices, np.diff(starts, append=values.size))
    return dict(zip(found.tolist(), counts.astype(np.int64).tolist()))


class MaskReader:
    """Reads the masks of one data set; the meaning of `auto` is decided once for all of them.

    With auto, the mode of a file decides its encoding. Grey values are colours of the labels if all colours of the
    labels are grey and include every value of every mask of 8 or 16 bits: black and white masks need the classes
    (0, 0, 0) and (255, 255, 255). Otherwise they are class numbers. Palettes must show a number in one colour.

    Colours that `labels.map` ignores are also those of palettes, with auto, and of grey values.

    Args:
        paths: all mask files of the data set.
        labels: LabelSet; colour masks are decoded by its colours. The ignore label's palette colour and VOC's border
            colour (224, 224, 192) are read as the ignore label. Its map is applied to what a mask holds.
        encoding: palette (numbers of a palette image, whatever its colours), grey (grey values are numbers), rgb
            (colours), or auto.
    """

    def __init__(self, paths, labels, encoding="auto"):
        self.paths, self.labels, self.encoding = paths, labels, encoding
        self._shades, self._colors, self._lock = None, {}, threading.Lock()

    def __call__(self, path):
        """Read a mask: path -> (H, W) uint8 class numbers, including the ignore label.

        Raises:
            UserError: the file is unreadable or not in the given encoding, a colour is unknown, a number is over 255,
                or, with auto, palettes contradict one another or the labels.
        """
        numbers = self._stored(path)
        return self.labels.map.apply(numbers) if self.labels.map else numbers

    def _stored(self, path):
        """The class numbers of a mask before classes are merged and left out."""
        mask, auto = read_mask_image(path), self.encoding == "auto"
        kind = _kind(mask) if auto else self.encoding
        if kind == "rgb":
            return _decode_colors(np.asarray(mask.convert("RGB")), self.labels, path)
        numbers = _numbers(mask, kind, path)
        if auto and mask.mode == "P":
            palette = mask.getpalette("RGB")
            check_palette(palette, numbers, self.labels, path)
            self._check_same_palette(palette, _present(numbers, self.labels.in_masks), path)
            return self._without_ignored(numbers, lambda number: tuple(palette[3 * number:3 * number + 3]), path)
        if auto and kind == "grey" and self._are_shades():
            # Images of few bits are read as numbers; their shades are spread over 0..255.
            shades = numbers * (255 // (2 ** mask.info["bits"] - 1)) if "bits" in mask.info else numbers
            return _decode_colors(np.repeat(shades[..., None], 3, axis=2), self.labels, path)
        return self._without_ignored(numbers, lambda number: (number,) * 3, path) if kind == "grey" else numbers

    def _without_ignored(self, numbers, color_of, path):
        """The numbers with the ignore label where the file shows a colour that does not count.

        Raises UserError if the number is a class.
        """
        classes = self.labels.in_masks
        for number in _present(numbers).tolist() if self.labels.map and self.labels.map.colors else ():
            if (color := color_of(number)) not in self.labels.map.colors:
                continue
            if number < len(classes):
                raise UserError(f"{path} shows {number} ({classes.names[number]}) in {color}, which labels.yaml "
                                "ignores; ignore the class by its name, or, if the colours of a palette count, use "
                                "--mask_encoding rgb")
            numbers[numbers == number] = classes.ignore_label
        return numbers

    def __getstate__(self):
        """A copy for another process: what is decided once is decided now, and palettes are not compared there."""
        shades = self._are_shades() if self.encoding == "auto" else None
        return {"paths": [], "labels": self.labels, "encoding": self.encoding, "_shades": shades, "_colors": None}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())

    def compare(self, path, pixels):
        """Compare the palette of a mask that a copy has read with those before it.

        Args:
            path: the mask.
            pixels: (256,) int64, number of its pixels of each number, as the copy returned them.

        Raises:
            UserError: it shows a number in another colour.
        """
        mask = read_mask_image(path)
        if self.encoding == "auto" and mask.mode == "P":
            # Where classes are merged, only the file has its own numbers.
            numbers = (_present(_numbers(mask, "palette", path), self.labels.in_masks) if self.labels.map
                       else np.flatnonzero(pixels[:len(self.labels)]))
            self._check_same_palette(mask.getpalette("RGB"), numbers, path)

    def _are_shades(self):
        """Whether grey values of this data set are colours of the labels."""
        with self._lock:
            if self._shades is None:
                self._shades = self.labels.in_masks.all_grey and all(in_threads(self._fits, self.paths))
            return self._shades

    def _fits(self, path):
        """Whether a mask's grey values are colours of the labels; True for other masks and for unreadable files."""
        try:
            mask = read_mask_image(path)
        except UserError:
            return True
        if _kind(mask) != "grey" or "bits" in mask.info:
            return True
        values = np.unique(np.asarray(mask)[..., 0] if mask.mode == "LA" else np.asarray(mask))
        known = [*self.labels.in_masks.colors, *_ignored_colors(self.labels)]
        return bool(np.isin(values, [color[0] for color in known if len(set(color)) == 1]).all())

    def _check_same_palette(self, palette, numbers, path):
        if self._colors is None:
            return
        with self._lock:
            for number in numbers.tolist():
                color = tuple(palette[3 * number:3 * number + 3])
                before, file = self._colors.setdefault(number, (color, path))
                if before != color:
                    raise UserError(f"number {number} is {before} in the palette of {file} but {color} in that of "
                                    f"{path}; if the numbers are right, use --mask_encoding palette, if the colours "
                                    "are, rgb")


def mapped_reader(read, labels):
    """`read`, a function path -> mask numbers, with the labels' map applied. Raises UserError if it ignores colours."""
    if labels.map is None:
        return read
    if labels.map.colors:
        raise UserError(f"labels: ignore: {labels.map.colors[0]}: these masks hold numbers, not colours; give its "
                        "number")
    return functools.partial(_read_mapped, read, labels.map)


def _read_mapped(read, label_map, path):
    return label_map.apply(read(path))


def mask_reader(paths, labels, encoding="auto"):
    """The MaskReader of these files, the same for both splits of a data set until one of the files changes."""
    return _reader(tuple((path, *(size_and_times(path) or ())) for path in paths), labels, encoding)


@functools.lru_cache(maxsize=4)
def _reader(files, labels, encoding):
    return MaskReader([path for path, *_ in files], labels, encoding)


def _kind(mask):
    """Encoding of a mask file, by its mode."""
    return "palette" if mask.mode in ("P", "PA") else "grey" if mask.mode in GREY_MODES else "rgb"


def _numbers(mask, kind, path):
    """Class numbers of a palette or grey mask: PIL.Image -> (H, W) uint8."""
    if kind == "palette":
        if mask.mode not in ("P", "L"):
            raise UserError(f"{path} is no palette mask but has mode {mask.mode}; choose another mask_encoding")
        return np.array(mask)
    return _decode_grey(np.asarray(mask if mask.mode in GREY_MODES else mask.convert("RGB")), mask.mode, path)


def check_palette(palette, numbers, labels, path):
    """Raise UserError if the palette shows a class of the mask in the colour of another: one of the two is wrong."""
    labels = labels.in_masks
    classes = {color: number for number, color in enumerate(labels.colors) if labels.colors.count(color) == 1}
    for number in _present(numbers, labels).tolist():
        color = tuple(palette[3 * number:3 * number + 3])
        other = classes.get(color, number)
        if other != number:
            raise UserError(f"{path}: its palette shows {number} ({labels.names[number]}) in {color}, the colour of "
                            f"{other} ({labels.names[other]}) in the labels; use --mask_encoding palette if the "
                            "numbers are right, or rgb if the colours are")


def _present(numbers, labels=None):
    """The numbers that occur in a mask, or only the classes among them, (K,) int64, sorted."""
    return np.flatnonzero(np.bincount(numbers.ravel(), minlength=256)[:len(labels) if labels else 256])


def _ignored_colors(labels):
    """Colours that the labels' map ignores; if all classes are grey, also its numbers, as greys."""
    if not labels.map:
        return []
    return [*labels.map.colors, *((number,) * 3 for number in labels.map.numbers if labels.in_masks.all_grey)]


def _decode_grey(values, mode, path):
    """Class numbers of grey values: (H, W), (H, W, 2) with alpha, or (H, W, 3) of equal channels -> (H, W) uint8."""
    if values.ndim == 3 and values.shape[2] == 3 and (values != values[..., :1]).any():
        raise UserError(f"{path} is a colour mask (mode {mode}), not grey; choose mask_encoding rgb or palette")
    values = values[..., 0] if values.ndim == 3 else values
    if values.size and not 0 <= values.min() <= values.max() <= 255:
        row, column = np.argwhere((values < 0) | (values > 255))[0]
        raise UserError(f"{path}: class number {values[row, column]} at row {row}, column {column} "
                        "is outside 0..255; fix the mask")
    return values.astype(np.uint8)


def _decode_colors(colors, labels, path):
    """Class numbers of colours: (H, W, 3) uint8 RGB -> (H, W) uint8."""
    codes, numbers = _color_table(labels)
    pixels = _pack(colors)
    indices = np.searchsorted(codes, pixels).clip(max=len(codes) - 1)
    unknown = codes[indices] != pixels
    if unknown.any():
        row, column = np.argwhere(unknown)[0]
        raise UserError(f"{path}: colour {tuple(map(int, colors[row, column]))} at row {row}, column {column} "
                        "is in no class; add it to labels.yaml, as a class or under ignore, or fix the mask")
    return numbers[indices]


def _color_table(labels):
    """Packed colours, sorted, (K,) int64, and their class numbers, (K,) uint8."""
    table, classes = {}, labels.in_masks
    for number, color in enumerate(classes.colors):
        other = table.setdefault(int(_pack(np.array(color))), number)
        if other != number and not (labels.map and labels.map.same(other, number)):
            raise UserError(f"labels: {classes.names[other]!r} and {classes.names[number]!r} share the colour "
                            f"{list(color)}, so masks of colours cannot tell them apart; keep one of the names, merge "
                            "the two, or give each its own colour")
    for color in (*_ignored_colors(labels), classes.palette()[classes.ignore_label], voc_palette()[255]):
        table.setdefault(int(_pack(color)), classes.ignore_label)
    codes = np.array(sorted(table), np.int64)
    return codes, np.array([table[code] for code in codes.tolist()], np.uint8)


def _pack(colors):
    """Pack (..., 3) R, G, B into (...) int64, R in the highest byte."""
    colors = np.asarray(colors, np.int64)
    return colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]


def _unpack(code):
    return code >> 16, code >> 8 & 255, code & 255
