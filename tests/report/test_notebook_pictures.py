"""Pictures in notebooks: as wide as the page, in reading order, with readable letters and a legend."""

import io

import numpy as np
import pytest
from PIL import Image

from mindfcn.labels import LabelSet
from mindfcn.report import notebook

LABELS = LabelSet(("ground", "leaf"), ((0, 0, 0), (0, 200, 0)))
RED, BLUE = (np.full((30, 40, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))


@pytest.fixture
def shown(monkeypatch):
    """The pictures that are displayed, as PIL images."""
    pictures = []
    monkeypatch.setattr("IPython.display.display",
                        lambda image: pictures.append(Image.open(io.BytesIO(image.data)).convert("RGB")))
    return pictures


def colors_of(picture, row, rows, columns):
    """The colour in the middle of each picture of a row."""
    return [picture.getpixel((int((column + 0.5) * picture.width / columns),
                              int((row + 0.5) * picture.height / rows))) for column in range(columns)]


@pytest.mark.parametrize("columns, width", [(1, 360), (2, 720), (3, 1000), (8, 1000)])
def test_a_row_is_as_wide_as_the_page_and_no_picture_is_huge(shown, columns, width):
    notebook.show([RED] * columns)
    picture, = shown
    assert picture.width == width and abs(picture.height - width / columns * 0.75) < 12
    assert all(np.allclose(color, (255, 0, 0), atol=12) for color in colors_of(picture, 0, 1, columns))


def test_rows_keep_their_order_and_titles_and_a_legend_take_room(shown):
    notebook.show([[RED, BLUE, RED], [BLUE, RED, BLUE]])
    for row, expected in enumerate(((255, 0, 255), (0, 255, 0))):
        assert np.allclose([color[0] for color in colors_of(shown[0], row, 2, 3)], expected, atol=12)
    notebook.show([[RED, BLUE, RED], [BLUE, RED, BLUE]], ["a title of so many words that it needs two lines"], LABELS,
                  [0, 1, 255])
    assert shown[1].height > shown[0].height + 60


def test_maps_take_imshows_options(shown):
    notebook.show([np.eye(4), np.eye(4)], cmap="gray", vmin=0, vmax=2)
    assert np.allclose(shown[0].getpixel((45, 45)), 127, atol=12)


def test_the_legend_has_the_numbers_names_and_colors():
    texts = [(patch.get_label(), tuple(np.round(255 * np.array(patch.get_facecolor()[:3]))))
             for patch in notebook._swatches(LABELS, np.array([1, 255]))]
    assert texts[0] == ("1 leaf", (0, 200, 0)) and texts[1][0] == "255"


def test_letters_have_ten_points_at_a_hundred_dots_per_inch():
    import matplotlib
    with matplotlib.rc_context():
        notebook.set_up()
        assert matplotlib.rcParams["figure.dpi"] >= 100 and matplotlib.rcParams["font.size"] >= 10
        assert matplotlib.rcParams["font.family"][0] == "DejaVu Sans"
