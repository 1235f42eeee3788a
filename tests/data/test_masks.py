"""What a mask file shows without a labels file, and greys that are shades instead of numbers."""

import cv2
import numpy as np
import pytest
from PIL import Image

from mindfcn.data.masks import read_mask, scan_mask
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet

COLOURS = np.array([(0, 0, 0), (200, 30, 40), (40, 180, 60), (90, 90, 250)], np.uint8)


def blobs(seed=1, height=90, width=120, classes=4):
    """(H, W) uint8: discs of every class on 0."""
    random, mask = np.random.default_rng(seed), np.zeros((height, width), np.uint8)
    for number in range(1, classes):
        cv2.circle(mask, random.integers(20, 70, 2).tolist(), int(random.integers(8, 18)), number, -1)
    return mask


def counts(mask):
    return dict(zip(*(part.tolist() for part in np.unique(mask, return_counts=True))))


def smooth(mask, factor=4):
    """The colours of a mask, reduced as by a drawing program."""
    big = COLOURS[mask.repeat(factor, 0).repeat(factor, 1)]
    return cv2.resize(cv2.GaussianBlur(big, (0, 0), 2), mask.shape[::-1], interpolation=cv2.INTER_AREA)


def test_every_encoding_is_recognised_from_the_file(tmp_path):
    mask = blobs()
    mask[:3] = 255
    palette = Image.fromarray(mask)
    palette.putpalette(COLOURS.tobytes() + bytes(3 * 252))
    table = np.zeros((256, 3), np.uint8)
    table[:4], table[255] = COLOURS, (224, 224, 192)
    for name, picture in (("p.png", palette), ("g.png", Image.fromarray(mask)), ("c.png", Image.fromarray(table[mask])),
                          ("d.png", Image.fromarray(mask.astype(np.uint16))), ("t.tif", Image.fromarray(mask))):
        picture.save(tmp_path / name)
    for name, encoding in (("p.png", "palette"), ("g.png", "grey"), ("d.png", "grey"), ("t.tif", "grey")):
        found = scan_mask(tmp_path / name)
        assert (found.encoding, found.pixels, found.blurred) == (encoding, counts(mask), False), name
    shown = {number: tuple(colour) for number, colour in enumerate(COLOURS.tolist())}
    assert scan_mask(tmp_path / "p.png").colors == {**shown, 255: (0, 0, 0)}
    found = scan_mask(tmp_path / "c.png")
    expected = {tuple(table[number].tolist()): pixels for number, pixels in counts(mask).items()}
    assert (found.encoding, found.pixels, found.blurred) == ("rgb", expected, False)
    assert scan_mask(tmp_path / "p.png", "rgb").pixels.keys() >= set(map(tuple, COLOURS.tolist()))


def test_smoothed_outlines_and_jpegs_are_blurred(tmp_path):
    colours = smooth(blobs())
    Image.fromarray(colours).save(tmp_path / "smooth.png")
    Image.fromarray(COLOURS[blobs()]).save(tmp_path / "jpeg.jpg", quality=95)
    Image.open(tmp_path / "jpeg.jpg").save(tmp_path / "was_jpeg.png")
    Image.fromarray(cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)).save(tmp_path / "grey.png")
    (tmp_path / "named.png").write_bytes((tmp_path / "jpeg.jpg").read_bytes())
    for name in ("smooth.png", "jpeg.jpg", "was_jpeg.png", "grey.png", "named.png"):
        found = scan_mask(tmp_path / name)
        assert found.blurred and len(found.pixels) > 20, name
    assert scan_mask(tmp_path / "named.png").jpeg and not scan_mask(tmp_path / "was_jpeg.png").jpeg


def test_many_classes_and_thin_lines_are_not_blurred(tmp_path):
    many = np.arange(60, dtype=np.uint8).reshape(6, 10).repeat(4, 0).repeat(4, 1)
    many[0, :10] = np.arange(100, 110)
    lines = blobs()
    lines[10], lines[:, 5], lines[40, 40] = 5, 6, 7
    for name, mask in (("many.png", many), ("lines.png", lines), ("dot.png", np.zeros((1, 1), np.uint8))):
        Image.fromarray(mask).save(tmp_path / name)
        found = scan_mask(tmp_path / name)
        assert found.pixels == counts(mask) and not found.blurred, name


def test_black_and_white_masks_are_read_by_grey_labels(tmp_path):
    mask = blobs(classes=2)
    Image.fromarray(mask * 255).save(tmp_path / "a.png")
    shades = LabelSet(["ground", "sky"], [(0, 0, 0), (255, 255, 255)])
    assert (read_mask(tmp_path / "a.png", shades) == mask).all()
    coloured = LabelSet(["ground", "sky"], [(0, 0, 0), (9, 200, 9)])
    assert (read_mask(tmp_path / "a.png", coloured) == mask * 255).all()
    assert (read_mask(tmp_path / "a.png", shades, "grey") == mask * 255).all()
    Image.fromarray(mask).save(tmp_path / "numbers.png")
    assert (read_mask(tmp_path / "numbers.png", shades) == mask).all(), "1 is no shade of the labels"


def test_numbers_beyond_a_byte_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 1000]], np.uint16)).save(tmp_path / "objects.png")
    with pytest.raises(UserError, match="objects.png: class number 1000"):
        scan_mask(tmp_path / "objects.png")
