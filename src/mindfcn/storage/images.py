"""Read untrusted image files: incomplete ones and those above a size limit are refused."""

import functools
import importlib.util
import io

import cv2
import numpy as np
from PIL import Image, ImageOps, features

from mindfcn.errors import UserError
from mindfcn.memory import is_out_of_memory
from mindfcn.storage.files import read_bytes

MAX_PIXELS = 2 ** 27
# Pillow reads many more formats, some of which start other programs (EPS) or have a history of vulnerabilities.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
# Formats of phones, which Pillow reads by itself (AVIF, in newer releases) or with its plugin pillow-heif.
HEIF_SUFFIXES = (".heic", ".heif", ".avif")
HEIF_REMEDY = "pip install pillow-heif, to read HEIC and AVIF"
# TIFF's tags: bits of a band, number of bands, meaning of bands after the colours (1 and 2 are alpha). EXIF's tag.
BITS, BANDS, EXTRA, ORIENTATION = 258, 277, 338, 274


@functools.cache
def _heif_formats():
    """Pillow's names of the formats of phones that can be read here."""
    Image.init()
    # Older releases of Pillow do not know the feature.
    found = ["AVIF"] if "AVIF" in Image.OPEN and features.check("avif") else []
    if importlib.util.find_spec("pillow_heif"):
        importlib.import_module("pillow_heif").register_heif_opener()
        found.append("HEIF")
    return tuple(found)


def extra_suffixes():
    """Suffixes of the formats of phones that can be read here."""
    formats = _heif_formats()
    return tuple(suffix for suffix in HEIF_SUFFIXES if ("AVIF" if suffix == ".avif" else "HEIF") in formats)


def decode_image(data, where, bits=0):
    """Decode a photograph: encoded bytes -> (H, W, 3) uint8 BGR, rotated upright according to its EXIF tag.

    Grey, alpha and 16-bit images are converted to 8-bit BGR too.

    Args:
        data: the bytes.
        where: names the file in messages.
        bits: bits that a 16-bit image uses, such as 12: 2^bits - 1 becomes 255, as does everything above; 0 is 16.

    Raises:
        UserError: not an image; its bands are neither grey nor three colours (alpha is allowed); its values are not
            whole numbers of 8 or 16 bits; or its header announces more than MAX_PIXELS.
    """
    opened = _open(data, where)
    deep = bits and _has_16_bits(opened, data)
    if _is_heif(data) or _needs_pillow(opened, deep):
        _check_bands(opened, where)
        _load(opened, data, where)
        upright = ImageOps.exif_transpose(opened)
        return np.ascontiguousarray(np.asarray(upright.convert("RGB"))[..., ::-1])
    image = _decode(opened, data, cv2.IMREAD_COLOR | (cv2.IMREAD_ANYDEPTH if deep else 0), where)
    if image is None:
        raise UserError(f"cannot decode {where}; give a JPEG, PNG, BMP, TIFF or WebP image")
    if deep:
        image = np.rint(np.minimum(image / np.float32(2 ** bits - 1), 1) * 255).astype(np.uint8)
    return image


def _is_heif(data):
    """Whether encoded bytes are of one of the formats of phones."""
    return bytes(data[4:8]) == b"ftyp"


def _needs_pillow(image, deep):
    """Whether OpenCV would change an opened image: it turns no WebP upright, and darkens a TIFF by its alpha."""
    return image.format == "WEBP" or image.format == "TIFF" and image.mode in ("RGBA", "LA") and not deep


def used_bits(data, where):
    """Bits of the largest value in a 16-bit image; 8 for other images. Raises UserError."""
    opened = _open(data, where)
    if not _has_16_bits(opened, data):
        return 8
    image = _decode(opened, data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, where)
    return 8 if image is None else int(image.max()).bit_length()


def with_8_bits(data, where, bits):
    """A 16-bit image as an 8-bit PNG, scaled as by `decode_image`; other bytes unchanged. Raises UserError."""
    if not _has_16_bits(_open(data, where), data):
        return data
    check_complete(data, where)
    return cv2.imencode(".png", decode_image(data, where, bits))[1].tobytes()


def dark_note(data, where):
    """A note on a 16-bit image that uses so few bits that it is nearly black; else "". Raises UserError."""
    bits = used_bits(data, where)
    if not 8 < bits < 15:
        return ""
    return (f"{where} uses {bits} of its 16 bits, so it is nearly black; scale such photographs with --bits {bits}, in "
            "training and in prediction alike")


def orientation(data, where):
    """The EXIF tag of an image: 1 is upright, 2 to 4 keep width and height, 5 to 8 swap them. Raises UserError."""
    return _orientation(_open(data, where))


def _orientation(image):
    """The EXIF tag of an opened image, 1 to 8; 1 is upright, also without a tag."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    # Pillow fails with many kinds of exceptions on damaged tags.
    except Exception:  # noqa: BLE001
        return 1
    return found if found in range(1, 9) else 1


def _has_16_bits(image, data):
    """Whether an opened image stores whole numbers of 16 bits."""
    if image.format == "PNG":
        return data[24] == 16
    return image.format == "TIFF" and set(image.tag_v2.get(BITS, (8,))) == {16}


def _check_bands(image, where):
    """Raise UserError if an opened image has bands that OpenCV would drop, or numbers that it would clip."""
    if image.mode in ("F", "I"):
        raise UserError(f"{where} holds {'floating point' if image.mode == 'F' else '32-bit'} numbers; save it as "
                        "whole numbers of 8 or 16 bits")
    if image.format != "TIFF":
        return
    bands = image.tag_v2.get(BANDS, 1)
    if bands > 4 or bands == 4 and image.mode != "CMYK" and image.tag_v2.get(EXTRA, (0,))[0] not in (1, 2):
        raise UserError(f"{where} has {bands} bands; networks of photographs take the three of colours: save those as "
                        "a file of their own, or train on all with --data.bands and --model.modality bands")


def _decode(opened, data, kind, where):
    """The array that OpenCV decodes from the bytes of an opened image; None if it cannot. Raises UserError."""
    _check_bands(opened, where)
    announced = opened.size
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), kind)
    except cv2.error as error:
        if is_out_of_memory(error):
            raise UserError(f"the memory does not suffice for {where}, {announced[0]}x{announced[1]} pixels; make it "
                            "smaller") from None
        return None
    # EXIF may rotate it; any other difference means that Pillow and OpenCV read the file differently.
    return image if image is not None and sorted(image.shape[:2]) == sorted(announced) else None


def check_complete(data, where):
    """Raise UserError if encoded image bytes are cut short: OpenCV would fill the rest with grey.

    Returns:
        PIL.Image, loaded; a JPEG in grey at an eighth of its size.
    """
    image = _open(data, where)
    # At an eighth of a JPEG's size all of its bytes are read, but few pixels are computed.
    image.draft("L", (1, 1))
    _load(image, data, where)
    return image


def image_size(data, where):
    """(height, width) of the result of `decode_image`, for a JPEG from its header only. Raises UserError likewise."""
    image = _open(data, where)
    if image.format == "JPEG" and "exif" not in image.info:
        return image.height, image.width
    # Which formats can be read, and how they are rotated, depends on OpenCV.
    return decode_image(data, where).shape[:2]


def read_mask_image(path):
    """Read a mask file with Pillow, grey values as they are stored, upright by its EXIF tag: path -> PIL.Image, loaded.

    Raises:
        UserError: unreadable, damaged, or its header announces more than MAX_PIXELS.
    """
    data = read_bytes(path)
    mask = _open(data, path)
    _load(mask, data, path)
    bands = mask.tag_v2.get(BANDS, 1) if mask.format == "TIFF" else 1
    # Of a TIFF with bands that are no colours, Pillow may read the first one alone.
    if bands > 1 and bands != len(mask.getbands()):
        raise UserError(f"{path} is a mask of {bands} bands; if they are of {bands} classes that may overlap, write "
                        "multilabel: true in labels.yaml, else save one class a pixel")
    if mask.mode == "F":
        raise UserError(f"{path} is a mask of floating point numbers; save it as whole numbers of 8 or 16 bits")
    depth = data[24] if mask.format == "PNG" else 8
    kind = mask.format
    if _orientation(mask) != 1:
        mask = ImageOps.exif_transpose(mask)
    if mask.mode == "1":
        mask = _few_bits(np.asarray(mask).astype(np.uint8), 1)
    elif mask.mode == "L" and depth < 8:
        # Pillow scales 2 and 4 bit grey to 0..255, but a mask holds class numbers, not brightness.
        mask = _few_bits(np.asarray(mask) // (255 // (2 ** depth - 1)), depth)
    mask.format = kind
    return mask


def _few_bits(values, bits):
    """A grey image of values of 1, 2 or 4 bits, whose `info` has the number of `bits`."""
    image = Image.fromarray(values)
    image.info["bits"] = bits
    return image


def read_palette_mask(path):
    """Read a palette or 8-bit grey mask: path -> (H, W) uint8 of the stored numbers.

    Raises:
        UserError: unreadable, or the mask holds colours instead of class numbers.
    """
    return palette_numbers(read_mask_image(path), path)


def palette_numbers(mask, path):
    """The stored numbers of a mask read by `read_mask_image` from `path`. Raises UserError as `read_palette_mask`."""
    if mask.mode not in ("P", "L"):
        raise UserError(f"{path} is a mask of mode {mask.mode}, not palette or 8-bit grey; "
                        "use a folder source with labels.yaml for masks of colours")
    return np.array(mask)


def _open(data, where):
    """Open encoded image bytes without decoding their pixels. Raises UserError: not an image, or too large."""
    try:
        image = Image.open(io.BytesIO(data), formats=_heif_formats() if _is_heif(data) else FORMATS)
        width, height = image.size
    except Image.DecompressionBombError:
        width = height = MAX_PIXELS
    except Exception:
        if bytes(data[:4]) in (b"II*\0", b"MM\0*"):
            raise UserError(f"{where} is a TIFF of bands or numbers that cannot be read; save it with the three bands "
                            "of colours, as whole numbers of 8 or 16 bits; a mask with a band for each class needs "
                            "multilabel: true in labels.yaml") from None
        if _is_heif(data):
            raise UserError(f"{where} is a HEIC or AVIF image, which cannot be read; {HEIF_REMEDY}, or save it as "
                            "JPEG") from None
        raise UserError(f"{where} is not an image; remove or replace it") from None
    if width * height > MAX_PIXELS:
        raise UserError(f"{where} has more than {MAX_PIXELS} pixels; make it smaller")
    return image


def _load(image, data, where):
    """Decode the pixels of an opened image. Raises UserError if they are damaged or incomplete."""
    try:
        if image.format == "PNG":
            # Pillow decodes the pixels without checking their checksums.
            Image.open(io.BytesIO(data), formats=("PNG",)).verify()
        image.load()
    except MemoryError:
        raise UserError(f"the memory does not suffice for {where}, {image.width}x{image.height} pixels; make it smaller"
                        ) from None
    except Exception:
        raise UserError(f"{where} is damaged or incomplete; fetch it again") from None


def decode_photograph(data, where, bits=0):
    """As `decode_image`. Raises UserError also if the bytes are cut short."""
    check_complete(data, where)
    return decode_image(data, where, bits)
