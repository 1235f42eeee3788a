"""Reading photographs and number masks, against Pillow and hand-made files."""

import io
import itertools
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from mindfcn.data import samples
from mindfcn.data.samples import check_mask, check_names, in_threads
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.storage.files import partial_folder
from mindfcn.storage.images import check_complete, decode_image, image_size, read_palette_mask

RED_BLUE = np.array([[[250, 10, 20]] * 16] * 8 + [[[10, 20, 240]] * 16] * 8, np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind, options, tolerance", [
    ("PNG", {}, 0), ("BMP", {}, 0), ("TIFF", {}, 0), ("WEBP", {"lossless": True}, 0),
    ("JPEG", {"quality": 98, "subsampling": 0}, 12)])
def test_every_kind_decodes_to_bgr(kind, options, tolerance):
    image = decode_image(encoded(Image.fromarray(RED_BLUE), kind, **options), "x")
    assert image.dtype == np.uint8 and image.shape == (16, 16, 3)
    assert np.abs(image.astype(int) - RED_BLUE[..., ::-1]).max() <= tolerance


def test_grey_alpha_and_16_bit_become_three_channels():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert (decode_image(encoded(Image.fromarray(grey)), "x") == grey[..., None]).all()
    alpha = np.dstack([RED_BLUE, np.full((16, 16), 90, np.uint8)])
    assert (decode_image(encoded(Image.fromarray(alpha)), "x") == RED_BLUE[..., ::-1]).all()
    deep = decode_image(encoded(Image.fromarray(grey.astype(np.uint16) * 257)), "x")
    assert deep.dtype == np.uint8 and np.abs(deep.astype(int) - grey[..., None]).max() <= 1


def test_exif_turns_the_image_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(RED_BLUE[:, :8])
    upright = decode_image(encoded(image, "JPEG", quality=98, exif=exif), "x")
    assert upright.shape == (8, 16, 3)
    assert upright[4, 14, 2] > 200 and upright[4, 2, 0] > 200


@pytest.mark.parametrize("kind, mode, options", [
    ("JPEG", "RGB", {}), ("JPEG", "L", {}), ("JPEG", "CMYK", {}), ("JPEG", "RGB", {"progressive": True}),
    ("PNG", "RGBA", {}), ("BMP", "RGB", {}), ("TIFF", "L", {}), ("WEBP", "RGB", {})])
def test_the_size_is_that_of_the_decoded_image(kind, mode, options):
    data = encoded(Image.fromarray(RED_BLUE[:, :7]).convert(mode), kind, **options)
    assert image_size(data, "x") == decode_image(data, "x").shape[:2] == (16, 7)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_size_is_that_of_the_upright_image(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(RED_BLUE[:, :7]), kind, exif=exif)
    assert image_size(data, "x") == decode_image(data, "x").shape[:2]


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xe0 broken"])
def test_files_that_are_not_images_are_named(data):
    for read in (decode_image, image_size):
        with pytest.raises(UserError, match="there.jpg"):
            read(data, "there.jpg")


def test_a_huge_announced_size_is_refused_before_decoding():
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data += struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    with pytest.raises(UserError, match="pixels"):
        decode_image(data, "bomb.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_file_that_breaks_off_is_noticed(kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, kind)
    check_complete(data, "x")
    with pytest.raises(UserError, match="incomplete"):
        check_complete(data[:len(data) // 2], "x")


def test_palette_masks_keep_their_numbers(tmp_path):
    numbers = np.array([[0, 1, 2], [20, 255, 7]], np.uint8)
    mask = Image.fromarray(numbers)
    mask.save(tmp_path / "grey.png")
    mask.putpalette(bytes(range(256)) * 3)
    mask.save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
        assert (read_palette_mask(tmp_path / name) == numbers).all()
    Image.fromarray(RED_BLUE).save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match="rgb.png"):
        read_palette_mask(tmp_path / "rgb.png")
    with pytest.raises(UserError, match="absent.png"):
        read_palette_mask(tmp_path / "absent.png")


@pytest.mark.parametrize("depth, rows", [(1, [0b10100000]), (2, [0b00011011]), (4, [0x0f, 0x31])])
def test_grey_masks_of_few_bits_keep_their_numbers(tmp_path, depth, rows):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    header = struct.pack(">IIBBBBB", 4, 1, depth, 0, 0, 0, 0)
    path = tmp_path / "mask.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes([0, *rows])))
                     + chunk(b"IEND", b""))
    expected = {1: [1, 0, 1, 0], 2: [0, 1, 2, 3], 4: [0, 15, 3, 1]}[depth]
    assert read_palette_mask(path).tolist() == [expected]


@pytest.mark.parametrize("names, message", [
    (["a", "b", "a"], "twice"), (["../a"], "image name"), (["a/b"], "image name"), (["a\\b"], "image name"),
    ([], "no image")])
def test_bad_lists_are_refused(names, message):
    with pytest.raises(UserError, match=message):
        check_names(names, "train.txt")


def test_partial_folder_is_removed_and_held_by_one(tmp_path):
    with partial_folder(tmp_path / "thing") as folder:
        assert os.path.isdir(folder)
        with pytest.raises(UserError, match="another run"), partial_folder(tmp_path / "thing"):
            pass
        assert os.path.isdir(folder)
    assert os.listdir(tmp_path) == []
    with pytest.raises(KeyError), partial_folder(tmp_path / "thing") as folder:
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_a_killed_run_leaves_no_lock(tmp_path):
    code = ("import os, sys; from mindfcn.storage.files import partial_folder\n"
            "with partial_folder(sys.argv[1]) as f: open(f + '/x', 'w').close(); os._exit(9)")
    environment = dict(os.environ, PYTHONPATH=os.path.dirname(os.path.dirname(os.path.dirname(samples.__file__))))
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "thing")], env=environment)
    assert os.listdir(tmp_path) == [".partial-thing"]
    with partial_folder(tmp_path / "thing") as folder:
        assert os.listdir(folder) == ["x"]


def test_threads_keep_the_order_and_take_no_more_than_they_need():
    taken = []

    def numbers():
        for number in itertools.count():
            taken.append(number)
            yield number

    results = in_threads(lambda number: number ** 2, numbers(), 3)
    assert list(itertools.islice(results, 100)) == [number ** 2 for number in range(100)] and len(taken) < 200
    with pytest.raises(UserError, match="no 2"):
        list(in_threads(_refuse_two, range(5)))


def _refuse_two(number):
    if number == 2:
        raise UserError("no 2")
    return number


def test_a_mask_holds_classes_and_the_ignore_label_only():
    labels = LabelSet(["a", "b"], [(0, 0, 0), (1, 1, 1)], ignore_label=9)
    check_mask(np.array([[0, 1, 9]], np.uint8), labels, "m.png")
    with pytest.raises(UserError, match="m.png holds 2 at row 1, column 0: not a class of 0..1 nor the ignore label 9"):
        check_mask(np.array([[0, 9], [2, 7]], np.uint8), labels, "m.png")
