"""YOLO's polygons: both layouts, empty files, boxes, and the names of the classes."""

import numpy as np
import pytest
from annotation_files import inside_and_near, photograph
from helpers import one_line

from mindfcn.data.sources.annotations import paint
from mindfcn.data.sources.yolo import list_yolo
from mindfcn.errors import UserError

TRIANGLE = np.array([(3, 2), (33, 8), (12, 26)])


def line(number, points, size=(30, 40)):
    return " ".join([str(number), *(f"{value:.6f}" for value in (np.asarray(points) / size[::-1]).ravel())])


def write(root, name, *lines, split="train"):
    photograph(root / "images" / split / f"{name}.jpg")
    path = root / "labels" / split / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def mask_of(one):
    return paint(one.shapes, 30, 40, {"cat": 1, "dog": 2}, 0, 255, "area")[0]


def test_polygons_are_their_areas_and_the_smaller_one_is_on_top(tmp_path):
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n")
    box = [(10, 8), (16, 8), (16, 12), (10, 12)]
    write(tmp_path, "a", line(1, box), line(0, TRIANGLE))
    write(tmp_path, "b", split="val")
    export = list_yolo(str(tmp_path))
    assert export.names == ["cat", "dog"] and [one.split for one in export.photographs] == ["train", "val"]
    found = mask_of(export.photographs[0])
    inside, near = inside_and_near(TRIANGLE + 0.5)
    small = np.zeros((30, 40), bool)
    small[8:13, 10:17] = True
    assert (found[~near & ~small] == inside[~near & ~small]).all() and (found[small] == 2).all()
    assert not mask_of(export.photographs[1]).any()
    assert list_yolo(str(tmp_path / "data.yaml")).names == ["cat", "dog"]


def test_corners_of_five_decimals_are_the_pixels_that_they_were_written_for(tmp_path):
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    # 13 / 30 and 7 / 40 are rounded down, 20 / 30 is rounded up.
    write(tmp_path, "a", "0 0.17500 0.43333 0.50000 0.43333 0.50000 0.66667 0.17500 0.66667")
    expected = np.zeros((30, 40), np.uint8)
    expected[13:21, 7:21] = 1
    assert (mask_of(list_yolo(str(tmp_path)).photographs[0]) == expected).all()


def test_roboflows_paths_and_a_folder_without_data_yaml(tmp_path):
    for split in ("train", "valid"):
        photograph(tmp_path / split / "images" / "a.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "a.txt").write_text(line(0, TRIANGLE))
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['cat']\n")
    assert [one.split for one in list_yolo(str(tmp_path)).photographs] == ["train", "val"]
    other = tmp_path / "other"
    photograph(other / "images" / "a.jpg")
    (other / "labels").mkdir()
    (other / "labels" / "a.txt").write_text(line(1, TRIANGLE))
    (other / "classes.txt").write_text("cat\ndog\n")
    one, = list_yolo(str(other)).photographs
    assert one.split == "" and set(np.unique(mask_of(one))) == {0, 2}


def test_lists_of_paths(tmp_path):
    write(tmp_path, "a", line(0, TRIANGLE))
    (tmp_path / "train.txt").write_text("./images/train/a.jpg\n")
    (tmp_path / "data.yaml").write_text("train: train.txt\nnames: [cat]\n")
    assert len(list_yolo(str(tmp_path)).photographs) == 1


def test_what_is_left_out_is_named(tmp_path):
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    for name, content in (("box", "0 0.5 0.5 0.2 0.2"), ("class", line(3, TRIANGLE)), ("text", "cat 0.1 0.2"),
                          ("good", line(0, TRIANGLE))):
        write(tmp_path, name, content)
    photograph(tmp_path / "images" / "train" / "nothing.jpg")
    export = list_yolo(str(tmp_path))
    told = {where.rsplit("/")[-1]: reason for where, reason in export.left_out}
    assert len(export.photographs) == 1 and len(told) == 4
    assert "a box" in told["box.jpg"] and "below 1" in told["class.jpg"] and "there is no" in told["nothing.jpg"]


@pytest.mark.parametrize("content, words", [
    ("train: images/train\n", "no class names"), ("train: away\nnames: [cat]\n", "which is not there"),
    ("train: images/train\nnames: [cat]\n", "no photograph"), ("[1]", "no settings")])
def test_mistakes_are_reported_in_one_line(content, words, tmp_path):
    write(tmp_path, "box", "0 0.5 0.5 0.2 0.2")
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(UserError) as told:
        list_yolo(str(tmp_path))
    one_line(told, words)


def test_points_far_outside_are_refused(tmp_path):
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat]\n")
    write(tmp_path, "a", "0 0.1 0.1 0.5 0.1 1e6 0.5")
    with pytest.raises(UserError) as told:
        mask_of(list_yolo(str(tmp_path)).photographs[0])
    one_line(told, "a.txt, line 1", "outside")


def test_a_data_set_without_photographs_is_named(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\n")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError) as told:
        list_yolo(str(tmp_path))
    one_line(told, "has polygons")
