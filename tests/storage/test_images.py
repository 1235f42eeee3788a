"""Photographs of many depths and bands, and turned masks: read right, or refused in one line."""

import io
import struct

import cv2
import numpy as np
import pytest
from helpers import one_line
from PIL import Image, ImageOps

from mindfcn.errors import UserError
from mindfcn.storage.images import (
    dark_note,
    decode_image,
    decode_photograph,
    image_size,
    read_mask_image,
    used_bits,
    with_8_bits,
)

RANDOM = np.random.default_rng(1)
WHOLE, SIGNED, FLOAT = 1, 2, 3


def tiff(array, extra=(), kind=WHOLE):
    """Uncompressed TIFF bytes of (H, W, bands): colours or grey first; `extra` is the tag of the other bands."""
    height, width, bands = array.shape
    pixels = array.astype(array.dtype.newbyteorder("<")).tobytes()
    tags = {256: [width], 257: [height], 258: [8 * array.itemsize] * bands, 259: [1], 262: [2 if bands > 2 else 1],
            273: [0], 277: [bands], 278: [height], 279: [len(pixels)], 284: [1],
            **({338: list(extra)} if extra else {}), 339: [kind] * bands}
    start = 8 + 2 + 12 * len(tags) + 4
    tails = {tag: struct.pack(f"<{len(values)}I", *values) for tag, values in tags.items() if len(values) > 1}
    tags[273] = [start + sum(map(len, tails.values()))]
    entries, at = b"", start
    for tag, values in tags.items():
        entries += struct.pack("<HHII", tag, 4, len(values), at if tag in tails else values[0])
        at += len(tails.get(tag, b""))
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + b"".join(tails.values()) + pixels)


def values(bands, most, dtype, size=(6, 8)):
    array = RANDOM.integers(0, most, (*size, bands)).astype(dtype)
    array[0, 0] = most - 1
    return array


@pytest.mark.parametrize("array, extra, kind", [
    (values(5, 256, np.uint8), (0, 0), WHOLE), (values(4, 256, np.uint8), (0,), WHOLE),
    (values(4, 256, np.uint8), (), WHOLE), (values(4, 4096, np.uint16), (0,), WHOLE),
    (values(1, 2, np.float32), (), FLOAT), (values(3, 2, np.float32), (), FLOAT), (values(1, 9, np.int32), (), SIGNED)])
def test_bands_and_numbers_that_would_be_dropped_are_refused(array, extra, kind):
    with pytest.raises(UserError) as caught:
        decode_image(tiff(array, extra, kind), "a.tif")
    one_line(caught, "a.tif", "bands" if array.shape[2] > 1 else "numbers", "save")


@pytest.mark.parametrize("bands, extra", [(3, ()), (4, (1,)), (4, (2,)), (1, ())])
def test_colours_grey_and_alpha_are_read(bands, extra):
    array = values(bands, 256, np.uint8)
    array[..., 3:] = 255
    expected = np.repeat(array, 3, 2) if bands == 1 else array[..., 2::-1]
    np.testing.assert_array_equal(decode_image(tiff(array, extra), "a.tif"), expected)


def with_alpha(kind, array):
    """Bytes of an image of (H, W, 4) uint8 RGBA."""
    if kind == "tiff":
        return tiff(array, (2,))
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **({"lossless": True, "exact": True} if kind == "webp" else {}))
    return file.getvalue()


@pytest.mark.parametrize("alpha", [0, 20, 255])
@pytest.mark.parametrize("kind", ["png", "webp", "tiff"])
def test_alpha_changes_no_colour(kind, alpha):
    """In every format, so that one picture has one mask."""
    array = values(4, 256, np.uint8)
    array[..., 3] = alpha
    np.testing.assert_array_equal(decode_photograph(with_alpha(kind, array), "a"), array[..., 2::-1])


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff", "webp", "jpeg"])
def test_a_photograph_is_turned_upright_in_every_format(kind, tag):
    """As Pillow turns it."""
    stored = Image.fromarray(np.repeat(np.repeat(values(3, 256, np.uint8, (2, 3)), 16, 0), 16, 1))
    exif = Image.Exif()
    exif[0x0112] = tag
    file = io.BytesIO()
    stored.save(file, kind, exif=exif, **{"webp": {"lossless": True}, "jpeg": {"quality": 100}}.get(kind, {}))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))[..., ::-1]
    found = decode_photograph(file.getvalue(), "a")
    assert found.shape == expected.shape == (*image_size(file.getvalue(), "a"), 3)
    # Two decoders of JPEG round differently.
    np.testing.assert_allclose(found.astype(int), expected, atol=8 if kind == "jpeg" else 0)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("encode", [tiff, lambda array: cv2.imencode(".png", array)[1].tobytes()])
def test_photographs_of_10_to_16_bits(bits, bands, encode):
    array = values(bands, 2 ** bits, np.uint16)
    data = encode(array)
    assert used_bits(data, "a") == bits
    assert bool(dark_note(data, "a")) == (bits < 15) and (bits == 16 or f"--bits {bits}" in dark_note(data, "a"))
    expected = np.rint(array / (2 ** bits - 1) * 255).astype(np.uint8)
    found = decode_photograph(data, "a", bits)
    expected = np.repeat(expected, 3, 2) if bands == 1 else expected
    # A PNG of cv2.imencode has the array's channels as BGR, the TIFF as RGB.
    assert (found == expected).all() or (found == expected[..., ::-1]).all()
    np.testing.assert_array_equal(decode_image(with_8_bits(data, "a", bits), "a"), found)


def test_scaling_leaves_photographs_of_8_bits_alone():
    data = cv2.imencode(".png", values(3, 256, np.uint8))[1].tobytes()
    np.testing.assert_array_equal(decode_image(data, "a", 12), decode_image(data, "a"))
    assert used_bits(data, "a") == 8 and dark_note(data, "a") == "" and with_8_bits(data, "a", 12) is data


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("mode", ["P", "L", "1"])
def test_a_masks_own_exif_tag_is_obeyed_as_its_photographs(tmp_path, tag, suffix, mode):
    """The same picture with the same tag, as a mask and as a photograph, is turned the same way."""
    stored = Image.fromarray(RANDOM.integers(0, 2, (5, 7)).astype(np.uint8) * 255)
    exif = Image.Exif()
    exif[0x0112] = tag
    stored.convert("RGB").save(tmp_path / "photograph.png", exif=exif)
    mask = stored.convert(mode)
    mask.save(tmp_path / f"mask.{suffix}", exif=exif)
    photograph = decode_image((tmp_path / "photograph.png").read_bytes(), "photograph")
    found = read_mask_image(tmp_path / f"mask.{suffix}")
    np.testing.assert_array_equal(np.asarray(found).astype(bool) ^ (mode == "P" and np.asarray(mask)[0, 0] != 0),
                                  photograph[..., 0].astype(bool) ^ (mode == "P" and np.asarray(stored)[0, 0] != 0))
