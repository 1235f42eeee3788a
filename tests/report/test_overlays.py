import io
import os

import cv2
import numpy as np
import pytest
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from mindfcn.errors import UserError
from mindfcn.labels import VOC, LabelSet
from mindfcn.report.canvas import _cjk_fonts, font_file
from mindfcn.report.overlays import (
    contact_sheet,
    encode_palette_png,
    overlay,
    overlay_with_legend,
    side_by_side,
    write_palette_png,
)

RNG = np.random.default_rng(0)


def photograph(height, width):
    return RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)


def halves(height=40, width=40, left=0, right=15):
    mask = np.full((height, width), left, np.uint8)
    mask[:, width // 2:] = right
    return mask


def written(picture, text, size=12):
    """Whether the text is drawn somewhere in the picture, exactly as rendered here."""
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
    canvas = Image.new("RGB", (round(font.getlength(text)) + 2, 2 * size), (255, 255, 255))
    ImageDraw.Draw(canvas).text((0, size), text, (30, 30, 30), font, anchor="lm")
    wanted = np.array(canvas)[4:-4]
    if any(side < least for side, least in zip(picture.shape, wanted.shape)):
        return False
    return cv2.matchTemplate(picture, wanted, cv2.TM_SQDIFF).min() < 1e5


def test_palette_png_holds_numbers_and_colors():
    mask = np.array([[0, 1, 20], [15, 255, 7]], np.uint8)
    encoded = encode_palette_png(mask, VOC)
    picture = Image.open(io.BytesIO(encoded))
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.array(picture), mask)
    assert cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].tolist() == [
        [[0, 0, 0], [128, 0, 0], [0, 64, 128]], [[192, 128, 128], [224, 224, 192], [128, 128, 128]]]


def test_palette_png_is_written_whole(tmp_path):
    write_palette_png(tmp_path / "деревья" / "a.png", halves(), VOC)
    assert os.listdir(tmp_path / "деревья") == ["a.png"]
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "деревья" / "a.png")), halves())


@pytest.mark.parametrize("mask", [
    np.zeros((2, 2), np.int32), np.zeros((2, 2, 1), np.uint8), np.zeros((0, 2), np.uint8)])
def test_other_masks_are_refused(mask):
    with pytest.raises(UserError, match="must be"):
        encode_palette_png(mask, VOC)


def test_overlay_leaves_background_tints_classes_and_draws_outlines():
    image, mask = photograph(40, 40), halves()
    picture = overlay(image, mask, VOC, alpha=0.5)
    np.testing.assert_array_equal(picture[:, :20], image[:, :20])
    person = np.array([192, 128, 128])
    np.testing.assert_allclose(picture[:, 25:], 0.5 * image[:, 25:] + 0.5 * person, atol=1)
    np.testing.assert_allclose(picture[:, 20], 0.1 * image[:, 20] + 0.9 * person, atol=1)


def test_overlay_does_not_change_its_input():
    image, mask = photograph(9, 9), halves(9, 9)
    before = image.copy(), mask.copy()
    overlay(image, mask, VOC)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])


def test_overlay_takes_a_reversed_view():
    image, mask = photograph(9, 9), halves(9, 9)
    np.testing.assert_array_equal(overlay(image[..., ::-1], mask, VOC), overlay(image[..., ::-1].copy(), mask, VOC))


def test_ignored_pixels_are_tinted_only_when_asked():
    image, mask = photograph(40, 40), halves(right=255)
    np.testing.assert_array_equal(overlay(image, mask, VOC), image)
    asked = overlay(image, mask, VOC, show_ignore=True)
    np.testing.assert_allclose(asked[:, 25:], 0.5 * image[:, 25:] + 0.5 * np.array([224, 224, 192]), atol=1)


@pytest.mark.parametrize("arguments, words", [
    ((photograph(4, 4), halves(4, 6), VOC), "agree"),
    ((photograph(4, 4)[..., 0], halves(4, 4), VOC), "RGB"),
    ((photograph(4, 4).astype(np.float32), halves(4, 4), VOC), "uint8"),
    ((photograph(4, 4), halves(4, 4), VOC, 1.5), "alpha"),
])
def test_inputs_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(UserError, match=words) as caught:
        overlay(*arguments)
    assert "\n" not in str(caught.value)


def test_legend_names_the_classes_found_with_their_shares():
    mask = halves(200, 300)
    mask[:, :30] = 255
    picture = overlay_with_legend(photograph(200, 300), mask, VOC)
    # 120 columns of background and 150 of person; the 30 ignored ones do not count
    assert written(picture, "background  44.4 %") and written(picture, "person  55.6 %")
    assert not written(picture, "person  55.7 %") and not written(picture, "cat")
    assert (picture[200:] == np.uint8([192, 128, 128])).all(axis=-1).sum() > 60


def test_legend_writes_other_scripts():
    labels = LabelSet(("фон", "Bäume"), ((0, 0, 0), (9, 200, 9)))
    picture = overlay_with_legend(photograph(200, 300), halves(200, 300, right=1), labels)
    assert written(picture, "фон  50.0 %") and written(picture, "Bäume  50.0 %")


@pytest.mark.parametrize("text", ["person", "фон é", "背景", "\U0010fffd"])
def test_a_font_has_the_characters_or_is_the_default(text):
    default = font_manager.findfont("DejaVu Sans")
    if font_file(text) == default:
        return
    assert set(map(ord, text)) <= set(TTFont(font_file(text), fontNumber=0).getBestCmap())
    assert text not in ("person", "фон é")


@pytest.fixture
def cjk_fonts(monkeypatch, tmp_path):
    """Function ({file name: (weight, characters)}): installs only these CJK fonts, after matplotlib made its list."""
    from fontTools.fontBuilder import FontBuilder

    def install(fonts):
        for name, (weight, characters) in fonts.items():
            builder = FontBuilder(1000)
            builder.setupGlyphOrder([".notdef", *(f"g{number}" for number in range(len(characters)))])
            builder.setupCharacterMap({ord(one): f"g{number}" for number, one in enumerate(characters)})
            builder.setupGlyf({glyph: TTGlyphPen(None).glyph() for glyph in builder.font.getGlyphOrder()})
            builder.setupHorizontalMetrics(dict.fromkeys(builder.font.getGlyphOrder(), (500, 0)))
            builder.setupHorizontalHeader()
            builder.setupNameTable({"familyName": "Test CJK", "styleName": "Regular"})
            builder.setupOS2(usWeightClass=weight)
            builder.setupPost()
            builder.save(tmp_path / name)
        default = font_manager.findfont("DejaVu Sans")
        monkeypatch.setattr(font_manager.fontManager, "ttflist", [
            font for font in font_manager.fontManager.ttflist if font.fname == default])
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / name) for name in fonts])
        for cached in (_cjk_fonts, font_file):
            cached.cache_clear()
    yield install
    for cached in (_cjk_fonts, font_file):
        cached.cache_clear()


def test_a_cjk_font_of_regular_weight_is_found_without_matplotlibs_list(cjk_fonts):
    cjk_fonts({"a_bold.ttf": (700, "背景"), "b_regular.ttf": (400, "背景"), "c_light.ttf": (300, "背景"),
               "d_black.ttf": (900, "鸟")})
    assert os.path.basename(font_file("背景")) == "b_regular.ttf"
    assert os.path.basename(font_file("鸟")) == "d_black.ttf"
    assert font_file("person") == font_manager.findfont("DejaVu Sans")


def test_a_line_says_which_package_brings_a_font(cjk_fonts):
    cjk_fonts({})
    with pytest.warns(UserWarning, match="apt-get install fonts-wqy-microhei"):
        assert font_file("背景") == font_manager.findfont("DejaVu Sans")


def test_all_classes_at_once_fit_below_a_narrow_picture():
    mask = np.arange(21, dtype=np.uint8).repeat(20)[None].repeat(60, 0)
    picture = overlay_with_legend(photograph(*mask.shape), mask, VOC)
    assert all(written(picture, f"{name}  4.8 %") for name in VOC.names)


@pytest.mark.parametrize("mask", [np.full((1, 1), 15, np.uint8), np.full((1, 1), 255, np.uint8), halves(1, 5)])
def test_tiny_pictures_are_enlarged(mask):
    picture = overlay_with_legend(photograph(*mask.shape), mask, VOC)
    assert picture.dtype == np.uint8 and picture.shape[1] >= 96


def test_letters_grow_with_the_picture():
    picture = overlay_with_legend(np.zeros((2000, 3000, 3), np.uint8), halves(2000, 3000), VOC)
    legend = picture[2000:]
    assert picture.shape[1] == 3000 and 100 < len(legend) < 600
    assert written(legend, "person  50.0 %", size=69)


def test_names_of_any_length_make_one_line():
    short = LabelSet(("a", "b"), ((0, 0, 0), (1, 1, 1)))
    long = LabelSet(("a", "b " * 500), ((0, 0, 0), (1, 1, 1)))
    pictures = [overlay_with_legend(np.zeros((400, 900, 3), np.uint8), halves(400, 900, right=1), labels)
                for labels in (short, long)]
    # the longer name may push the classes from one row into two, no further
    assert pictures[0].shape[1] == pictures[1].shape[1] == 900 and len(pictures[1]) < len(pictures[0]) + 40


def test_side_by_side_shows_the_three_pictures_in_order():
    image, truth, prediction = photograph(300, 400), halves(300, 400, 0, 8), halves(300, 400, 8, 255)
    picture = side_by_side(image, truth, prediction, VOC, "cat 7")
    top = next(row for row in range(len(picture)) if (picture[row:row + 300, :400] == image).all())
    panels = picture[top:top + 300]
    gap = (panels.shape[1] - 1200) // 2
    np.testing.assert_array_equal(panels[:, 400 + gap:800 + gap], VOC.colorize(truth))
    np.testing.assert_array_equal(panels[:, 800 + 2 * gap:], VOC.colorize(prediction))
    for text in ("photograph", "truth", "prediction", "background", "cat", "ignored"):
        assert written(picture, text), text


def test_side_by_side_of_any_size():
    for height, width in ((1, 1), (3, 300), (1500, 2000)):
        mask = halves(height, width)
        picture = side_by_side(photograph(height, width), mask, mask, VOC, "題 " * 5)
        assert 500 < picture.shape[1] < 2600 and picture.shape[0] < 1200


def places(picture, part):
    """(row, column) of everywhere that a picture holds another."""
    found = cv2.matchTemplate(picture, part, cv2.TM_SQDIFF)
    return np.argwhere(found < 1e-4 * found.max())


def test_a_contact_sheet_shows_photographs_beside_their_masks_with_one_legend():
    labels = LabelSet(["ground", "tree", "road"], [(0, 0, 0), (10, 200, 30), (200, 90, 10)])
    wide, high = photograph(200, 300), photograph(360, 200)
    mask = np.zeros((360, 200), np.uint8)
    mask[100:300, 50:150] = 2
    pairs = [(wide, np.zeros((200, 300), np.uint8), "one " + "long " * 90), (high, mask, "two"),
             (wide, halves(200, 300, 0, 255), "")]
    picture = contact_sheet(iter(pairs), labels, np.array([0.5, 0.0004, 0.4996]), "my data")
    assert picture.shape[1] < 3 * 2 * 300, "the long line is cut"
    for image in (wide, high):
        # An overlay without classes is the photograph once more.
        assert len(places(picture, image)) == (3 if image is wide else 1)
    row, column = places(picture, high)[0]
    np.testing.assert_array_equal(picture[row:row + 360, column + 204:column + 404],
                                  overlay(high, mask, labels, 0.45, show_ignore=True))
    for text, size in (("my data", 22), ("two", 14), ("tree  <0.1 %", 16), ("road  50.0 %", 16), ("ignored", 16)):
        assert written(picture, text, size), text
    empty = contact_sheet([], labels, np.zeros(3))
    assert written(empty, "ground  0.0 %", 16)
