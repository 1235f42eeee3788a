"""The drawn sample set."""

import json
import os
import pathlib

import cv2
import numpy as np
import pytest
from PIL import Image

from mindfcn.data.sources.voc import list_voc
from mindfcn.data.synthetic.shapes import SAMPLE, draw_image, draw_sample_set
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet


def contents(root):
    return {os.path.relpath(os.path.join(folder, name), root): pathlib.Path(os.path.join(folder, name)).read_bytes()
            for folder, _, names in os.walk(root) for name in names}


def test_the_same_seed_draws_the_same_bytes(tmp_path):
    draw_sample_set(tmp_path / "a", 10, 64, 3)
    draw_sample_set(tmp_path / "b" / "c", 10, 64, 3)
    draw_sample_set(tmp_path / "d", 10, 64, 4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b" / "c")
    assert contents(tmp_path / "a") != contents(tmp_path / "d")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "d"]


def test_layout_is_vocs(tmp_path):
    draw_sample_set(tmp_path / "set", 30, 96, 1)
    assert LabelSet.load(tmp_path / "set" / "labels.yaml") == SAMPLE
    train, val = list_voc(tmp_path / "set", "train"), list_voc(tmp_path / "set", "val")
    assert len(train) == 24 and len(val) == 6
    assert not {sample.name for sample in train} & {sample.name for sample in val}
    shapes, seen = set(), {"train": set(), "val": set()}
    for split, listed in (("train", train), ("val", val)):
        for sample in listed:
            photograph, mask = cv2.imread(sample.image), Image.open(sample.label)
            assert mask.mode == "P" and mask.getpalette()[:21] == np.ravel(SAMPLE.colours).tolist()
            numbers = np.array(mask)
            assert photograph.shape[:2] == numbers.shape and max(numbers.shape) == 96
            assert set(np.unique(numbers)) <= {*range(7), 255}
            shapes.add(numbers.shape)
            seen[split] |= set(np.unique(numbers))
    assert len(shapes) >= 3
    assert seen["train"] == {*range(7), 255} and seen["val"] == {*range(7), 255}


def test_mask_agrees_with_the_photograph():
    """The drawn edge is where the mask has it: colours change far more across the border than elsewhere."""
    across, along = [], []
    for index in range(40):
        image, mask = draw_image(160, 2, index)
        edges = cv2.morphologyEx(cv2.GaussianBlur(image, (0, 0), 1.0), cv2.MORPH_GRADIENT, np.ones((3, 3))).max(2)
        across.append(edges[mask == 255].mean())
        along.append(edges[mask == 0].mean())
    assert np.mean(across) > 3 * np.mean(along)


def test_the_border_is_thin_and_surrounds_every_object():
    for index in range(20):
        _, mask = draw_image(160, 5, index)
        border = mask == 255
        assert 0.005 < border.mean() < 0.25
        thickness = cv2.distanceTransform(border.astype(np.uint8), cv2.DIST_L2, 3)
        assert np.percentile(thickness[border], 90) <= 2.5
        for a, b in ((mask[:, 1:], mask[:, :-1]), (mask[1:], mask[:-1])):
            assert not ((a != b) & (a != 255) & (b != 255)).any()


def test_colour_alone_does_not_give_the_class():
    """A class by the nearest mean colour is right for few pixels only."""
    pixels, numbers = [], []
    for index in range(60):
        image, mask = draw_image(128, 1, index)
        keep = mask != 255
        pixels.append(image[keep][::7].astype(np.float32))
        numbers.append(mask[keep][::7])
    pixels, numbers = np.concatenate(pixels), np.concatenate(numbers)
    means = np.stack([pixels[numbers == number].mean(0) for number in range(7)])
    nearest = ((pixels[:, None] - means) ** 2).sum(2).argmin(1)
    iou = [((nearest == n) & (numbers == n)).sum() / ((nearest == n) | (numbers == n)).sum() for n in range(7)]
    assert np.mean(iou) < 0.4


def test_a_finished_set_stays_and_anything_else_is_refused(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    draw_sample_set(root, 5, 48, 1)
    before = {name: os.stat(os.path.join(root, name)).st_mtime_ns for name in contents(root)}
    draw_sample_set(root, 5, 48, 1)
    assert before == {name: os.stat(os.path.join(root, name)).st_mtime_ns for name in contents(root)}
    with pytest.raises(UserError, match="other settings"):
        draw_sample_set(root, 6, 48, 1)
    (root / "sample.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        draw_sample_set(root, 5, 48, 1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(UserError):
            draw_sample_set(taken, 5, 48, 1)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_leftovers_of_a_killed_run_are_not_part_of_the_set(tmp_path):
    leftover = tmp_path / ".partial-set" / "set" / "JPEGImages"
    leftover.mkdir(parents=True)
    (leftover / "old.jpg").write_bytes(b"half")
    draw_sample_set(tmp_path / "set", 5, 48, 1)
    assert sorted(os.listdir(tmp_path)) == ["set"] and "JPEGImages/old.jpg" not in contents(tmp_path / "set")
    assert json.loads((tmp_path / "set" / "sample.json").read_text())["count"] == 5


@pytest.mark.parametrize("count, size, seed", [(4, 64, 1), (10, 8, 1), (10, 64, -1), (10, 10 ** 6, 1)])
def test_settings_out_of_range(tmp_path, count, size, seed):
    with pytest.raises(UserError, match="must be a whole number"):
        draw_sample_set(tmp_path / "set", count, size, seed)
    assert os.listdir(tmp_path) == []
