"""What a mask file shows without a labels file, and greys that are shades instead of numbers."""

import cv2
import numpy as np
import pytest
from helpers import read_mask
from PIL import Image

from mindfcn.data.masks import mask_reader, scan_mask
from mindfcn.data.samples import check_mask
from mindfcn.errors import UserError
from mindfcn.labels import LabelMap, LabelSet

COLORS = np.array([(0, 0, 0), (200, 30, 40), (40, 180, 60), (90, 90, 250)], np.uint8)


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
    big = COLORS[mask.repeat(factor, 0).repeat(factor, 1)]
    return cv2.resize(cv2.GaussianBlur(big, (0, 0), 2), mask.shape[::-1], interpolation=cv2.INTER_AREA)


def test_every_encoding_is_recognised_from_the_file(tmp_path):
    mask = blobs()
    mask[:3] = 255
    palette = Image.fromarray(mask)
    palette.putpalette(COLORS.tobytes() + bytes(3 * 252))
    table = np.zeros((256, 3), np.uint8)
    table[:4], table[255] = COLORS, (224, 224, 192)
    for name, picture in (("p.png", palette), ("g.png", Image.fromarray(mask)), ("c.png", Image.fromarray(table[mask])),
                          ("d.png", Image.fromarray(mask.astype(np.uint16))), ("t.tif", Image.fromarray(mask))):
        picture.save(tmp_path / name)
    for name, encoding in (("p.png", "palette"), ("g.png", "grey"), ("d.png", "grey"), ("t.tif", "grey")):
        found = scan_mask(tmp_path / name)
        assert (found.encoding, found.pixels, found.blurred) == (encoding, counts(mask), False), name
    shown = {number: tuple(color) for number, color in enumerate(COLORS.tolist())}
    assert scan_mask(tmp_path / "p.png").colors == {**shown, 255: (0, 0, 0)}
    found = scan_mask(tmp_path / "c.png")
    expected = {tuple(table[number].tolist()): pixels for number, pixels in counts(mask).items()}
    assert (found.encoding, found.pixels, found.blurred) == ("rgb", expected, False)
    assert scan_mask(tmp_path / "p.png", "rgb").pixels.keys() >= set(map(tuple, COLORS.tolist()))


def test_smoothed_outlines_and_jpegs_are_blurred(tmp_path):
    colors = smooth(blobs())
    Image.fromarray(colors).save(tmp_path / "smooth.png")
    Image.fromarray(COLORS[blobs()]).save(tmp_path / "jpeg.jpg", quality=95)
    Image.open(tmp_path / "jpeg.jpg").save(tmp_path / "was_jpeg.png")
    Image.fromarray(cv2.cvtColor(colors, cv2.COLOR_RGB2GRAY)).save(tmp_path / "grey.png")
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
    colored = LabelSet(["ground", "sky"], [(0, 0, 0), (9, 200, 9)])
    assert (read_mask(tmp_path / "a.png", colored) == mask * 255).all()
    assert (read_mask(tmp_path / "a.png", shades, "grey") == mask * 255).all()
    Image.fromarray(mask).save(tmp_path / "numbers.png")
    assert (read_mask(tmp_path / "numbers.png", shades) == mask).all(), "1 is no shade of the labels"


def test_numbers_beyond_a_byte_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 1000]], np.uint16)).save(tmp_path / "objects.png")
    with pytest.raises(UserError, match="objects.png: class number 1000"):
        scan_mask(tmp_path / "objects.png")


BLACK_WHITE = LabelSet(("ground", "roof"), ((0, 0, 0), (255, 255, 255)))
THREE = LabelSet(("a", "b", "c"), ((255, 255, 255), (128, 128, 128), (0, 0, 0)))


def row(path, values, bits=8):
    """A grey mask of one row; PNG with fewer bits where asked."""
    image = Image.fromarray(np.array([values], np.uint8))
    if bits == 1:
        image = Image.fromarray(np.array([values], np.uint8) * 255).convert("1")
    image.save(path)
    return str(path)


@pytest.mark.parametrize("labels, masks, expected", [
    # 1 in one mask: numbers in all of them, and 255 is the ignore label in all of them.
    (BLACK_WHITE, ([0, 255], [0, 1, 255]), ([0, 255], [0, 1, 255])),
    (BLACK_WHITE, ([0, 255], [0, 0], [255]), ([0, 1], [0, 0], [1])),
    (THREE, ([0, 255], [128, 128], [0, 128, 255]), ([2, 0], [1, 1], [2, 1, 0])),
    (THREE, ([0, 0], [1, 2], [255]), ([0, 0], [1, 2], [255]))])
def test_grey_values_mean_the_same_in_every_mask(tmp_path, labels, masks, expected):
    paths = [row(tmp_path / f"{number}.png", values) for number, values in enumerate(masks)]
    for order in (paths, paths[::-1]):
        read = mask_reader(order, labels)
        assert [read(path)[0].tolist() for path in paths] == list(expected)


def test_masks_of_one_bit_are_read_as_those_of_eight_next_to_them(tmp_path):
    few, many = row(tmp_path / "a.png", [0, 1], 1), row(tmp_path / "b.png", [0, 255])
    white_first = LabelSet(("roof", "ground"), ((255, 255, 255), (0, 0, 0)))
    for labels, expected in ((BLACK_WHITE, [0, 1]), (white_first, [1, 0])):
        read = mask_reader([few, many], labels)
        assert read(few)[0].tolist() == read(many)[0].tolist() == expected
    assert mask_reader([few], BLACK_WHITE)(few)[0].tolist() == [0, 1]


def test_palettes_of_one_set_agree(tmp_path):
    paths, labels = [], LabelSet(("ground", "roof"), ((0, 0, 0), (200, 10, 10)))
    for number, color in enumerate(((9, 9, 9), (9, 9, 9), (8, 8, 8))):
        image = Image.fromarray(np.array([[0, 1]], np.uint8))
        image.putpalette([0, 0, 0, *color])
        paths.append(str(tmp_path / f"{number}.png"))
        image.save(paths[-1])
    read = mask_reader(paths, labels)
    assert [read(path)[0].tolist() for path in paths[:2]] == [[0, 1], [0, 1]]
    with pytest.raises(UserError, match="number 1 is .*0.png but .*2.png; .*--mask_encoding palette"):
        read(paths[2])
    assert mask_reader(paths, labels, "palette")(paths[2])[0].tolist() == [0, 1]


def test_masks_of_floating_point_numbers_are_refused(tmp_path):
    Image.fromarray(np.array([[0.0, 0.7, 1.0]], np.float32)).save(tmp_path / "a.tif")
    for encoding in ("auto", "grey", "rgb"):
        with pytest.raises(UserError, match="a.tif is a mask of floating point numbers"):
            read_mask(tmp_path / "a.tif", BLACK_WHITE, encoding)


# What masks hold: road, sky, cat, dog in order, then 250, an ignored number; white is an ignored colour.
HELD = LabelSet(("road", "sky", "cat", "dog"), tuple(map(tuple, COLORS.tolist())))
MAPPED = LabelMap.of(HELD, {"animal": ["cat", "dog"]}, ["sky", 250, [255, 255, 255]]).labels()


def of_palette(path, numbers, colors):
    """A palette mask of one row, shown in {number: colour}."""
    image, palette = Image.fromarray(np.array([numbers], np.uint8)), np.zeros((256, 3), np.uint8)
    for number, color in colors.items():
        palette[number] = color
    image.putpalette(palette.tobytes())
    image.save(path)
    return str(path)


def test_every_encoding_is_merged_and_ignored_alike(tmp_path):
    shown = {**dict(enumerate(HELD.colors)), 7: (255, 255, 255), 250: (3, 3, 3), 255: (224, 224, 192)}
    palette = of_palette(tmp_path / "p.png", [0, 1, 2, 3, 7, 250, 255], shown)
    grey = row(tmp_path / "g.png", [0, 1, 2, 3, 255, 250, 255])
    rgb = str(tmp_path / "c.png")
    Image.fromarray(np.array([[*HELD.colors, (255, 255, 255), (224, 224, 192), (224, 224, 192)]], np.uint8)).save(rgb)
    for path, encodings in ((palette, ("auto",)), (grey, ("auto", "grey")), (rgb, ("auto", "rgb"))):
        for encoding in encodings:
            assert mask_reader([path], MAPPED, encoding)(path)[0].tolist() == [0, 255, 1, 1, 255, 255, 255], encoding
    assert mask_reader([palette], MAPPED, "palette")(palette)[0].tolist() == [0, 255, 1, 1, 7, 255, 255]


def test_shades_are_ignored_by_colour_and_by_number(tmp_path):
    held = LabelSet(("roof", "ground"), ((255, 255, 255), (0, 0, 0)))
    path = row(tmp_path / "a.png", [0, 255, 128, 64])
    for ignore in ([[128, 128, 128], [64, 64, 64]], [128, 64]):
        labels = LabelMap.of(held, {}, ignore).labels()
        assert mask_reader([path], labels)(path)[0].tolist() == [1, 0, 255, 255]
    assert LabelMap.of(held, {}, ["roof", 128, 64]).labels().names == ("ground",)


def test_numbers_shown_in_an_ignored_colour_are_no_class(tmp_path):
    held = LabelSet(("sky", "tree"), ((1, 1, 200), (1, 200, 1)))
    labels = LabelMap.of(held, {}, [[0, 0, 0]]).labels()
    palette = of_palette(tmp_path / "p.png", [0, 1], {1: (1, 200, 1)})
    for path in (palette, row(tmp_path / "g.png", [0, 1])):
        with pytest.raises(UserError, match=r"shows 0 \(sky\) in \(0, 0, 0\), which labels.yaml ignores; ignore the "
                                            "class by its name"):
            mask_reader([path], labels)(path)
    assert mask_reader([palette], labels, "palette")(palette)[0].tolist() == [0, 1]


def test_two_names_of_one_colour_are_explained_unless_they_are_merged(tmp_path):
    path = str(tmp_path / "c.png")
    Image.fromarray(np.array([[(9, 8, 7), (1, 2, 3)]], np.uint8)).save(path)
    held = LabelSet(("cat", "dog", "sky"), ((9, 8, 7), (9, 8, 7), (1, 2, 3)))
    with pytest.raises(UserError, match="'cat' and 'dog' share the colour .*cannot tell them apart; keep one of the "
                                        "names, merge the two"):
        mask_reader([path], held)(path)
    for merge, ignore in (({"pet": ["cat", "dog"]}, []), ({"dog": ["cat"]}, [])):
        labels = LabelMap.of(held, merge, ignore).labels()
        assert mask_reader([path], labels)(path)[0].tolist() == [0, 1]
    assert mask_reader([path], LabelMap.of(held, {}, ["cat", "dog"]).labels())(path)[0].tolist() == [255, 0]


def test_unknown_numbers_and_colours_stay_unknown(tmp_path):
    for path, words in ((row(tmp_path / "g.png", [0, 4]), "holds 4 at row 0, column 1: not a class of 0..3 .*e: .4."),
                        (row(tmp_path / "h.png", [3, 254]), "holds 254")):
        with pytest.raises(UserError, match=words):
            check_mask(mask_reader([path], MAPPED)(path), MAPPED, path)
