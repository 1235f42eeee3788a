"""COCO's JSON: polygons and run lengths of both spellings, crowds, splits, and what is left out."""

import json

import numpy as np
import pytest
from annotation_files import SIZE, coco, inside_and_near, photograph
from helpers import one_line

from mindfcn.data.sources.annotations import paint
from mindfcn.data.sources.coco import list_coco
from mindfcn.errors import UserError

pytest.importorskip("pycocotools", reason="pycocotools is not installed: pip install pycocotools")
TRIANGLE = [3.2, 2.4, 33.7, 8.1, 12.5, 26.3]
CATEGORIES = {7: "cat", 3: "dog"}


def mask_of(one, ignore_crowds=False):
    return paint(one.shapes, *SIZE, {"dog": 1, "cat": 2}, 0, 255, "area", ignore_crowds)[0]


def drawn(tmp_path, *annotations, ignore_crowds=False):
    photograph(tmp_path / "a.jpg")
    coco(tmp_path / "set.json", {1: "a.jpg"}, CATEGORIES, [(1, *one) for one in annotations])
    return mask_of(list_coco(str(tmp_path / "set.json")).photographs[0], ignore_crowds)


def runs(mask):
    """Run lengths down the columns, beginning with zeros, as COCO's plain spelling has them."""
    pixels = mask.ravel("F").astype(int)
    ends = np.flatnonzero(np.diff(pixels)) + 1
    lengths = np.diff([0, *ends, pixels.size]).tolist()
    return {"size": list(mask.shape), "counts": lengths if pixels[0] == 0 else [0, *lengths]}


def compressed(mask):
    """The same in COCO's text: differences to the run length two before, 5 bits a character."""
    counts, text = runs(mask)["counts"], ""
    for place, value in enumerate(counts):
        value -= counts[place - 2] if place > 2 else 0
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr(48 + (bits | 32 if more else bits))
    return {"size": list(mask.shape), "counts": text}


def test_polygons_are_their_areas_and_may_have_several_parts(tmp_path):
    found = drawn(tmp_path, (7, [TRIANGLE])) == 2
    inside, near = inside_and_near(np.reshape(TRIANGLE, (-1, 2)))
    assert inside.sum() > 200 and (found[~near] == inside[~near]).all()
    expected = np.zeros(SIZE, np.uint8)
    expected[5:9, 4:10] = expected[20:25, 30:38] = 1
    parts = [[4, 5, 10, 5, 10, 9, 4, 9], [30, 20, 38, 20, 38, 25, 30, 25]]
    assert (drawn(tmp_path, (3, parts)) == expected).all()


@pytest.mark.parametrize("spelling", [runs, compressed])
def test_run_lengths_are_the_mask_that_they_were_made_from(spelling, tmp_path):
    mask = np.random.default_rng(5).random(SIZE) < 0.4
    mask[:, 10:] = np.repeat(mask[:6, 10:], 5, axis=0)
    assert (drawn(tmp_path, (3, spelling(mask))) == mask).all()


def test_small_shapes_cover_large_ones_and_crowds_may_be_ignored_below_them(tmp_path):
    crowd, large, small = np.zeros((3, *SIZE), bool)
    crowd[:20, :20], large[5:25, 5:30], small[10:15, 10:15] = True, True, True
    expected = np.zeros(SIZE, np.uint8)
    expected[crowd], expected[large], expected[small] = 255, 2, 1
    annotations = (3, runs(small)), (7, runs(large)), (7, runs(crowd), True)
    assert (drawn(tmp_path, *annotations, ignore_crowds=True) == expected).all()
    expected[expected == 255] = 2
    assert (drawn(tmp_path, *annotations) == expected).all()


def test_a_hole_of_run_lengths_stays(tmp_path):
    ring = np.zeros(SIZE, bool)
    ring[5:25, 5:30], ring[10:15, 10:15] = True, False
    assert (drawn(tmp_path, (3, compressed(ring))) == ring).all()


def test_files_of_splits_are_one_set_and_photographs_are_searched(tmp_path):
    for folder in ("train2017", "val2017"):
        photograph(tmp_path / "images" / folder / "a.jpg")
        coco(tmp_path / "annotations" / f"instances_{folder}.json", {5: "a.jpg"}, CATEGORIES, [(5, 3, [TRIANGLE])])
    export = list_coco(str(tmp_path))
    assert [(one.split, one.image.split("/")[-2]) for one in export.photographs] == [("train", "train2017"),
                                                                                    ("val", "val2017")]
    assert export.names == ["dog", "cat"]
    photograph(tmp_path / "elsewhere" / "b.jpg")
    path = tmp_path / "one.json"
    coco(path, {1: "images\\b.jpg"}, CATEGORIES, [])
    assert list_coco(str(path), str(tmp_path / "elsewhere")).photographs[0].split == ""


def test_roboflows_category_above_the_others_is_no_class(tmp_path):
    for split in ("train", "valid"):
        photograph(tmp_path / split / "a.jpg")
        path = tmp_path / split / "_annotations.coco.json"
        coco(path, {0: "a.jpg"}, {1: "cat"}, [(0, 1, [TRIANGLE])])
        content = json.loads(path.read_text())
        content["categories"] = [{"id": 0, "name": "pets", "supercategory": "none"},
                                 {"id": 1, "name": "cat", "supercategory": "pets"}]
        path.write_text(json.dumps(content))
    export = list_coco(str(tmp_path))
    assert export.names == ["cat"] and [one.split for one in export.photographs] == ["train", "valid"]


def test_everything_left_out_is_named(tmp_path):
    photograph(tmp_path / "a.jpg")
    coco(tmp_path / "set.json", {1: "a.jpg", 2: "gone.jpg"}, CATEGORIES,
         [(1, 3, []), (9, 3, [TRIANGLE]), (2, 3, [TRIANGLE])])
    export = list_coco(str(tmp_path / "set.json"))
    told = [reason for _, reason in export.left_out]
    assert len(export.photographs) == 1 and len(told) == 3
    assert "no photograph gone.jpg" in told[0] and "a box" in told[1] and "no image 9" in told[2]
    for content, words in (({"images": []}, "no COCO file"), ([], "no COCO file")):
        (tmp_path / "wrong.json").write_text(json.dumps(content))
        with pytest.raises(UserError) as told:
            list_coco(str(tmp_path / "wrong.json"))
        one_line(told, words)


@pytest.mark.parametrize("segmentation, words", [
    ([[1, 1, 5, 5]], "2 points"), ([[1, 1, 5, 5, 1e9, 3]], "outside the photograph"), ([["x"] * 6], "not pairs"),
    ({"size": list(SIZE), "counts": [1, 2]}, "add up"), ({"size": list(SIZE), "counts": [-5, 1205]}, "add up"),
    ({"size": [4, 4], "counts": [16]}, "run lengths are of"), ({"size": list(SIZE), "counts": "11"}, "add up"),
    ({"size": list(SIZE), "counts": "12\u00ff"}, "damaged"), ({"counts": [1]}, "size")])
def test_wrong_areas_are_named(segmentation, words, tmp_path):
    with pytest.raises(UserError) as told:
        drawn(tmp_path, (3, segmentation))
    one_line(told, "set.json, annotation 1", words)


def test_an_annotation_of_an_unknown_category_is_left_out(tmp_path):
    photograph(tmp_path / "a.jpg")
    coco(tmp_path / "set.json", {1: "a.jpg"}, CATEGORIES, [(1, 7, [TRIANGLE]), (1, 9, [TRIANGLE])])
    export = list_coco(str(tmp_path / "set.json"))
    assert len(export.photographs[0].shapes) == 1
    assert [reason for _, reason in export.left_out] == ["there is no category 9"]
