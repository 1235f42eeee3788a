"""Read untrusted image files: incomplete ones and those above a size limit are refused."""

import io

import cv2
import numpy as np
from PIL import Image

from mindfcn.errors import UserError
from mindfcn.storage.files import read_bytes

MAX_PIXELS = 2 ** 27
# Pillow reads many more formats, some of which start other programs (EPS) or have a history of vulnerabilities.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")


def decode_image(data, where):
    """Decode a photograph: encoded bytes -> (H, W, 3) uint8 BGR, rotated upright according to its EXIF tag.

    Grey, alpha and 16-bit images are converted to 8-bit BGR too. `where` names the file in messages.

    Raises:
        UserError: not an image, or its header announces more than MAX_PIXELS.
    """
    image = _decode(data, cv2.IMREAD_COLOR, where)
    if image is None:
        raise UserError(f"cannot decode {where}; give a JPEG, PNG, BMP, TIFF or WebP image")
    return image


def _decode(data, kind, where):
    """The array that OpenCV decodes from encoded bytes; None if it cannot. Raises UserError as `_open` does."""
    announced = _open(data, where).size
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), kind)
    except cv2.error:
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
    """Read a mask file with Pillow, grey values as they are stored: path -> PIL.Image, loaded.

    Raises:
        UserError: unreadable, damaged, or its header announces more than MAX_PIXELS.
    """
    data = read_bytes(path)
    mask = _open(data, path)
    _load(mask, data, path)
    if mask.mode == "F":
        raise UserError(f"{path} is a mask of floating point numbers; save it as whole numbers of 8 or 16 bits")
    depth = data[24] if mask.format == "PNG" else 8
    if mask.mode == "1":
        return _few_bits(np.asarray(mask).astype(np.uint8), 1)
    if mask.mode == "L" and depth < 8:
        # Pillow scales 2 and 4 bit grey to 0..255, but a mask holds class numbers, not brightness.
        return _few_bits(np.asarray(mask) // (255 // (2 ** depth - 1)), depth)
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
    mask = read_mask_image(path)
    if mask.mode not in ("P", "L"):
        raise UserError(f"{path} is a mask of mode {mask.mode}, not palette or 8-bit grey; "
                        "use a folder source with labels.yaml for masks of colours")
    return np.array(mask)


def _open(data, where):
    """Open encoded image bytes without decoding their pixels. Raises UserError: not an image, or too large."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
    except Image.DecompressionBombError:
        width = height = MAX_PIXELS
    except Exception:
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
    except Exception:
        raise UserError(f"{where} is damaged or incomplete; fetch it again") from None


def decode_photograph(data, where):
    """Encoded bytes -> (H, W, 3) uint8 BGR. Raises UserError if they are not an image or are cut short."""
    check_complete(data, where)
    return decode_image(data, where)
