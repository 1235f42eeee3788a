"""LabelMe's JSON files: every kind of shape, their order, embedded photographs, and what is left out."""

import json

import cv2
import numpy as np
import pytest
from annotation_files import SIZE, inside_and_near, labelme, photograph, png_text
from helpers import one_line

from mindfcn.data.sources.annotations import paint
from mindfcn.data.sources.labelme import list_labelme
from mindfcn.errors import UserError

NUMBERS = {"background": 0, "_background_": 0, "__ignore__": 255, "cat": 1, "dog": 2}
TRIANGLE = [(3.2, 2.4), (33.7, 8.1), (12.5, 26.3)]


def mask_of(one, size=SIZE):
    return paint(one.shapes, *size, NUMBERS, 0, 255, "order")[0]


def drawn(tmp_path, *shapes):
    """The mask of one photograph with these shapes."""
    photograph(tmp_path / "a.jpg")
    labelme(tmp_path / "a.json", shapes, "a.jpg")
    return mask_of(list_labelme(str(tmp_path)).photographs[0])


def test_a_polygon_is_its_area_with_its_outline(tmp_path):
    found = drawn(tmp_path, ("cat", "polygon", TRIANGLE)) == 1
    inside, near = inside_and_near(TRIANGLE, reach=1.5)
    assert inside.sum() > 200 and (found[~near] == inside[~near]).all()
    # At whole corners OpenCV's fill, which includes the outline, covers the same pixels along straight lines.
    box = [(4, 5), (20, 5), (20, 17), (4, 17)]
    expected = cv2.fillPoly(np.zeros(SIZE, np.uint8), [np.array(box)], 1)
    assert (drawn(tmp_path, ("cat", "polygon", box)) == expected).all()
    assert (drawn(tmp_path, ("cat", "rectangle", [(20, 17), (4, 5)])) == expected).all()
    assert (drawn(tmp_path, ("cat", "oriented_rectangle", box)) == expected).all()


def test_a_circle_has_its_centre_and_a_point_on_its_edge(tmp_path):
    found = drawn(tmp_path, ("dog", "circle", [(20, 15), (28, 15)])) == 2
    rows, columns = np.indices(SIZE)
    distance = np.hypot(rows - 15, columns - 20)
    assert found[distance < 7.5].all() and not found[distance > 8.5].any()


def test_a_mask_lies_in_its_box(tmp_path):
    inner = np.random.default_rng(3).integers(0, 2, (6, 9)).astype(bool)
    entry = {"label": "cat", "shape_type": "mask", "points": [[7, 4], [15, 9]], "mask": png_text(inner)}
    expected = np.zeros(SIZE, np.uint8)
    expected[4:10, 7:16] = inner
    assert (drawn(tmp_path, entry) == expected).all()
    entry["points"] = [[-2, 27], [6, 32]]
    expected = np.zeros(SIZE, np.uint8)
    expected[27:, :7] = inner[:3, 2:]
    assert (drawn(tmp_path, entry) == expected).all()


def test_later_shapes_cover_earlier_ones_so_that_holes_are_shapes_of_background(tmp_path):
    whole, hole, dot = ([(x, y), (X, y), (X, Y), (x, Y)] for x, y, X, Y in ((2, 2, 30, 25), (8, 8, 20, 20),
                                                                           (12, 12, 14, 14)))
    found = drawn(tmp_path, ("cat", "polygon", whole), ("_background_", "polygon", hole), ("dog", "polygon", dot),
                  ("__ignore__", "rectangle", [(0, 0), (1, 29)]))
    expected = np.zeros(SIZE, np.uint8)
    expected[2:26, 2:31], expected[8:21, 8:21], expected[12:15, 12:15], expected[:, :2] = 1, 0, 2, 255
    assert (found == expected).all()


def test_photographs_are_found_by_paths_of_windows_or_in_the_file_itself(tmp_path):
    for folder in ("photos", "other"):
        photograph(tmp_path / folder / "a.jpg")
    labelme(tmp_path / "json" / "a.json", [("cat", "polygon", TRIANGLE)], "..\\photos\\a.jpg")
    found, = list_labelme(str(tmp_path)).photographs
    assert found.image.endswith("photos/a.jpg") and found.size == SIZE
    data = photograph(tmp_path / "gone.png")
    (tmp_path / "gone.png").unlink()
    labelme(tmp_path / "b" / "b.json", [("dog", "polygon", TRIANGLE)], "gone.png", data)
    found, = list_labelme(str(tmp_path / "b")).photographs
    assert found.read_image(found.image) == data


def test_names_are_sorted_or_given_and_everything_left_out_is_named(tmp_path):
    for name in "abc":
        photograph(tmp_path / f"{name}.jpg")
    labelme(tmp_path / "a.json", [("dog", "polygon", TRIANGLE), ("cat", "polygon", TRIANGLE),
                                  ("cat", "point", [(1, 1)]), ("cat", "linestrip", TRIANGLE)], "a.jpg")
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "other.json").write_text(json.dumps({"version": 1}))
    export = list_labelme(str(tmp_path))
    assert export.names == ["cat", "dog"] and len(export.photographs[0].shapes) == 2
    told = dict(export.left_out)
    assert "no area" in told[f"{tmp_path}/a.json, shape 3"] and "no area" in told[f"{tmp_path}/a.json, shape 4"]
    assert "not JSON" in told[f"{tmp_path}/b.json"]
    assert [where for where, reason in export.left_out if "no JSON file" in reason] == [f"{tmp_path}/b.jpg",
                                                                                        f"{tmp_path}/c.jpg"]
    assert list_labelme(str(tmp_path), names=["_background_", "dog", "cat"]).names == ["dog", "cat"]
    with pytest.raises(UserError) as told:
        list_labelme(str(tmp_path), names=["dog"])
    one_line(told, "'cat'", "--names")


@pytest.mark.parametrize("shape, words", [
    (("cat", "polygon", [(1, 1), (5, 5)]), "2 points"),
    (("cat", "polygon", [(1, 1), (5, 5), (1e9, 3)]), "outside the photograph"),
    (("cat", "polygon", [(1, 1), (5, 5), (float("nan"), 3)]), "outside the photograph"),
    (("cat", "polygon", [(1, 1), (5, 5), ("x", 3)]), "not pairs"),
    (("cat", "circle", [(1, 1), (5, 5), (7, 7)]), "a circle has 2 points"),
    ({"label": "cat", "shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "%%%"}, "not an image")])
def test_wrong_shapes_are_named(shape, words, tmp_path):
    with pytest.raises(UserError) as told:
        drawn(tmp_path, shape)
    one_line(told, "a.json, shape 1", words)
