"""Small files that announce, or unpack to, more than a machine holds: refused before the memory is asked for.

They are opened in a process whose address space ends 3 GB above what it began with (reader.py).
"""

import io
import json
import struct
import zlib
from functools import partial

import mindspore  # noqa: F401  (refuses to be imported after protobuf, which onnx uses)
import numpy as np
import pytest
from damage import MOST_MB, helper
from PIL import Image

from mindfcn.cli.main import main
from mindfcn.data.synthetic.shapes import SAMPLE
from mindfcn.storage.images import MAX_PIXELS

Caffe = helper("caffe_files").Caffe
HUGE = 100_000


def png(width=HUGE, height=HUGE, color=2):
    """A PNG of a few rows that announces (height, width); colour 2 is RGB, 3 a palette, 0 grey."""
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    palette = chunk(b"PLTE", bytes(range(9))) if color == 3 else b""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)) + palette
            + chunk(b"IDAT", zlib.compress(bytes(width * 3 + 1))) + chunk(b"IEND", b""))


def patched(suffix, width=60_000, height=60_000):
    """A small image of another format with its size overwritten."""
    image, buffer = Image.new("RGB", (7, 5)), io.BytesIO()
    image.save(buffer, {"jpg": "JPEG", "bmp": "BMP", "tif": "TIFF", "gif": "GIF"}[suffix])
    data = buffer.getvalue()
    old, new = {"jpg": (">HH", (5, 7)), "bmp": ("<ii", (7, 5)), "gif": ("<HH", (7, 5))}.get(suffix, ("<HHI", None)), 0
    if suffix == "tif":
        for tag, small, size in ((256, 7, width), (257, 5, height)):
            entry = struct.pack("<HHII", tag, 4, 1, small)
            assert entry in data
            data = data.replace(entry, struct.pack("<HHII", tag, 4, 1, size))
        return data
    form, sizes = old
    assert new == 0 and struct.pack(form, *sizes) in data
    return data.replace(struct.pack(form, *sizes), struct.pack(form, height, width))


# Files are made in their tests: what is made on import, each process of a run of the tests would make.
IMAGES = {"rgb.png": png, "palette.png": partial(png, color=3), "grey.png": partial(png, color=0),
          **{f"x.{suffix}": partial(patched, suffix) for suffix in ("jpg", "bmp", "tif", "gif")},
          # just above the bound, in an image that would be decoded otherwise
          "row.png": partial(png, MAX_PIXELS // 4 + 1, 4)}


@pytest.mark.parametrize("kind", ["photograph", "mask"])
@pytest.mark.parametrize("name", IMAGES)
def test_images_of_gigapixels(reader, tmp_path, name, kind):
    path = tmp_path / name
    path.write_bytes(IMAGES[name]())
    assert path.stat().st_size < 400_000
    what, text, megabytes = reader(kind, path)
    assert what == "refused" and str(path) in text and f"more than {MAX_PIXELS} pixels" in text, text
    assert megabytes < 40


@pytest.mark.parametrize("verb", ["inspect", "prepare", "labels", "predict"])
def test_verbs_refuse_a_photograph_or_mask_of_gigapixels(tmp_path, capsys, color_net, verb):
    """On the real verbs: each names the file in one line and ends with a status."""
    for folder in ("images", "masks"):
        (tmp_path / "own" / folder).mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (20, 16), (number, 9, 9)).save(tmp_path / "own" / "images" / f"{number}.png")
        Image.fromarray(np.full((16, 20), number % 3, np.uint8)).save(tmp_path / "own" / "masks" / f"{number}.png")
    SAMPLE.save(tmp_path / "own" / "labels.yaml")
    foreign = tmp_path / "own" / ("masks" if verb == "labels" else "images") / "2.png"
    foreign.write_bytes(png(color=0 if verb == "labels" else 2))
    own, out = str(tmp_path / "own"), str(tmp_path / "out")
    status = main({"inspect": ["inspect", own, "--out", out],
                   "labels": ["labels", "--from", f"{own}/masks", "--out_file", f"{out}.yaml"],
                   "prepare": ["prepare", "--source", "folder", "--root", own, "--records", out],
                   "predict": ["predict", f"{own}/images", "--checkpoint", str(color_net), "--out", out]}[verb])
    output = capsys.readouterr()
    assert status == 1 and "Traceback" not in output.err
    line = next(line for line in (output.out + output.err).splitlines() if "more than" in line)
    assert "2.png" in line and f"more than {MAX_PIXELS} pixels" in line


def deflated(head, piece=b"", times=0, tail=b""):
    """A stream that unpacks to `head`, `piece` many times over, and `tail`: zlib takes seconds for half a gigabyte."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    # After a full flush, what follows needs nothing of what came before.
    first, once = (stream.compress(part) + stream.flush(zlib.Z_FULL_FLUSH) for part in (head, piece))
    return first + once * times + stream.compress(tail) + stream.flush()


def mat(body):
    """A .mat file with one compressed element."""
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(body)) + body


def matrix(kind, dims, inner=b"", name=b"GTcls"):
    def element(number, data):
        return struct.pack("<II", number, len(data)) + data + bytes(-len(data) % 8)
    return element(14, element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(dims)}i", *dims))
                   + element(1, name) + inner)


def nested(depth):
    """A cell array in a cell array in ..., of which SciPy's reader overflows the stack of its process."""
    head = matrix(1, (1, 1), name=b"")[8:]
    whole = matrix(9, (1, 1), struct.pack("<II", 2, 1) + bytes(8), b"")
    levels = [whole]
    size = len(whole)
    for _ in range(depth):
        levels.append(struct.pack("<II", 14, size + len(head)) + head)
        size += 8 + len(head)
    # SciPy passes over variables of other names
    return matrix(1, (1, 1), b"".join(reversed(levels)))


def zeros():
    """zlib's stream of half a gigabyte of zeros; their Adler-32 checksum has a 1 and their number modulo 65521."""
    return b"\x78\x9c" + deflated(b"", bytes(1 << 20), 1 << 9) + struct.pack(">HH", (1 << 29) % 65521, 1)


MATS = {"nested": lambda: zlib.compress(nested(100_000)), "unpacks": zeros,
        "cells": lambda: zlib.compress(matrix(1, (50_000, 50_000))),
        "structs": lambda: zlib.compress(matrix(2, (50_000, 50_000))),
        "numbers": lambda: zlib.compress(matrix(9, (60_000, 60_000), struct.pack("<II", 2, 0xFFFFFFF0)))}


@pytest.mark.parametrize("name", MATS)
def test_mat_files(reader, tmp_path, name):
    path = tmp_path / f"{name}.mat"
    path.write_bytes(mat(MATS[name]()))
    assert path.stat().st_size < 1_000_000
    what, text, megabytes = reader("mat", path)
    assert what == "refused" and str(path) in text, (what, text)
    assert megabytes < MOST_MB


def zipped(name, head, piece=b"", times=0, tail=b""):
    """A zip file of one file, with the content of `deflated`."""
    crc = zlib.crc32(head)
    for _ in range(times):
        crc = zlib.crc32(piece, crc)
    crc, body = zlib.crc32(tail, crc), deflated(head, piece, times, tail)
    size = len(head) + times * len(piece) + len(tail)
    entry = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(body), size, len(name), 0)
    local = b"PK\3\4" + entry + name + body
    central = b"PK\1\2" + struct.pack("<H", 20) + entry + bytes(14) + name
    return local + central + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local), 0)


def npy(shape):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def safetensors(entries, size=None):
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header) if size is None else size) + header


def weights(name):
    """The content of a file of weights, by its name."""
    caffe = Caffe()
    if name == "shape.caffemodel":
        shape = caffe.field(7, caffe.field(1, b"".join(map(caffe.varint, (HUGE, HUGE, HUGE)))))
        return caffe.layer("fc6", "InnerProduct", [caffe.field(5, bytes(4)) + shape])
    if name == "shape.ckpt":
        tensor = caffe.field(1, HUGE) + caffe.field(1, HUGE) + caffe.field(2, b"Float32") + caffe.field(3, bytes(4))
        return caffe.field(1, caffe.field(1, b"a") + caffe.field(2, tensor))
    entry = {"dtype": "F32", "shape": [HUGE, HUGE], "data_offsets": [0, 4 * HUGE * HUGE]}
    return {
        "unpacks.npz": lambda: zipped(b"a.npy", npy((1 << 27,)), bytes(1 << 20), 1 << 9),
        "announces.npz": lambda: zipped(b"a.npy", npy((HUGE, HUGE))),
        "announces.safetensors": lambda: safetensors({"a": entry}),
        "header.safetensors": lambda: safetensors({}, 1 << 60),
        "deep.safetensors": lambda: struct.pack("<Q", 200_000) + b"[" * 200_000,
        "length.caffemodel": lambda: caffe.varint(100 << 3 | 2) + caffe.varint(1 << 40) + b"x",
        "length.ckpt": lambda: caffe.varint(1 << 3 | 2) + caffe.varint(1 << 40) + b"x",
        "unpacks.pth": lambda: zipped(b"archive/data.pkl", b"\x80\x02", b"}0" * (1 << 19), 1 << 9,
                                      b"}.")}[name]()


@pytest.mark.parametrize("name", ["unpacks.npz", "announces.npz", "announces.safetensors", "header.safetensors",
                                  "deep.safetensors", "shape.caffemodel", "length.caffemodel", "length.ckpt",
                                  "shape.ckpt", "unpacks.pth"])
def test_weights(reader, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(weights(name))
    assert path.stat().st_size < 2_000_000
    what, text, megabytes = reader("weights", path)
    assert what == "refused" and str(path) in text and "\n" not in text, (what, text)
    assert megabytes < MOST_MB


BILLION = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + level)}: &{chr(98 + level)} [{','.join(['*' + chr(97 + level)] * 9)}]\n" for level in range(9))
TEXTS = {"aliases": BILLION + "names: [*j]", "deep": "names:\n" + "- " * 6_000, "date": "names: [2020-99-99]",
         "digits": "names: [" + "1" * 10_000 + "]", "infinite": "names: [a]\ncolours: [[.inf, 0, 0]]",
         "anchor to itself": "names: &n [*n]", "binary": "names: [!!binary 'x']", "set": "names: !!set {a, b}"}


@pytest.mark.parametrize("kind", ["labels", "settings"])
@pytest.mark.parametrize("name", TEXTS)
def test_yaml(reader, tmp_path, kind, name):
    path = tmp_path / f"{kind}.yaml"
    path.write_text(TEXTS[name])
    what, text, megabytes = reader(kind, path)
    assert what == "refused" and str(path) in text and "\n" not in text and len(text) < 1000, (what, text[:500])
    assert megabytes < MOST_MB


def test_an_upload_of_gigapixels(color_net):
    from mindfcn.errors import UserError
    from mindfcn.serve.app import segment_upload
    with pytest.raises(UserError, match="more than 40 million pixels"):
        segment_upload(None, png(), 40_000_000)


def test_a_card_of_a_network_of_any_size():
    """The network of a checkpoint's card is built before its weights are compared with it."""
    from mindfcn.errors import UserError
    from mindfcn.weights.card import Card
    for model in ({"width": 1e6}, {"fc_width": 2 ** 40}, {"width": "wide"}, {"pretrained": "/etc/passwd"},
                  {"skip_scales": [1]}, {"width": float("nan")}, {"name": ["fcn32s_vgg16"]}, {"form": "caffe"}):
        text = Card({"name": "fcn32s_vgg16", **model}, SAMPLE).to_json()
        with pytest.raises(UserError, match="net.ckpt: its card cannot be read"):
            Card.from_json(text, "net.ckpt")
