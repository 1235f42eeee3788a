"""The verb convert: from an export to a folder that inspect and prepare take; names, lists, and what is reported."""

import json
import os

import numpy as np
import pytest
from annotation_files import coco, labelme, photograph
from helpers import one_line
from PIL import Image

from mindfcn.cli.main import main
from mindfcn.commands.convert import convert, recognise
from mindfcn.commands.inspect_data import inspect
from mindfcn.commands.prepare import list_samples
from mindfcn.config import ConvertConfig, InspectConfig, PrepareConfig
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet

BOXES = {"cat": [(2, 3), (18, 3), (18, 20), (2, 20)], "dog": [(10, 10), (30, 10), (30, 28), (10, 28)]}


@pytest.fixture
def export(tmp_path):
    """A folder of three photographs with LabelMe files, the last one without a shape, and a fourth without a file."""
    folder = tmp_path / "my export"
    for place, name in enumerate(("a.jpg", "b.png", "c.jpg", "d.jpg")):
        photograph(folder / name, seed=place)
        if name != "d.jpg":
            labelme(folder / f"{name[0]}.json", [(label, "polygon", points) for label, points in BOXES.items()
                                                 if name != "c.jpg"], name)
    return folder


def read(folder, name):
    return np.asarray(Image.open(os.path.join(folder, "masks", f"{name}.png")))


def test_the_folder_is_one_that_inspect_and_prepare_take(export, tmp_path):
    out = str(tmp_path / "out")
    result = convert(ConvertConfig(str(export), out))
    assert (result.format, result.photographs, len(result.left_out)) == ("labelme", 3, 1)
    assert LabelSet.load(f"{out}/labels.yaml") == result.labels
    assert result.labels.names == ("background", "cat", "dog")
    expected = np.zeros((30, 40), np.uint8)
    expected[3:21, 2:19], expected[10:29, 10:31] = 1, 2
    assert (read(out, "a") == expected).all() and (read(out, "b") == expected).all() and not read(out, "c").any()
    assert (tmp_path / "out/images/b.png").read_bytes() == (export / "b.png").read_bytes()
    labels, train, val = list_samples(PrepareConfig(source="folder", root=out))
    assert labels == result.labels and len(train) + len(val) == 3
    assert (train[0].read_label(train[0].label) == read(out, train[0].name)).all()
    assert not inspect(InspectConfig(out, str(tmp_path / "inspection"))).broken


def test_what_was_converted_is_counted_and_the_rest_is_named(export, tmp_path, capsys):
    assert main(["convert", str(export), "--out", str(tmp_path / "a folder")]) == 0
    told = capsys.readouterr().out
    rows = {line.split()[1]: line.split() for line in told.splitlines() if line[:6].strip().isdigit()}
    assert rows["cat"][2:4] == ["2", "2"] and rows["background"][2:4] == ["0", "3"]
    overlap = 2 * 11 * 9 / (3 * 30 * 40)
    assert f"{100 * overlap:.2f} % of the pixels, in 2 photographs" in told and "later shapes cover" in told
    assert "1 photographs have no shape" in told and f"{export}/d.jpg: the photograph has no JSON file" in told
    assert f"next: mindfcn inspect '{tmp_path}/a folder'" in told
    report = json.loads((tmp_path / "a folder/conversion.json").read_text())
    assert report["pixels in several classes"] == 198 and report["photographs"] == 3
    assert report["classes"][2]["pixels"] == 2 * 19 * 21


@pytest.mark.parametrize("rule, shared", [("order", 2), ("area", 1), ("ignore", 255)])
def test_the_rule_for_overlaps_can_be_chosen(rule, shared, export, tmp_path):
    convert(ConvertConfig(str(export), str(tmp_path / "out"), overlap=rule))
    mask = read(tmp_path / "out", "a")
    assert mask[15, 15] == shared and mask[5, 5] == 1 and mask[25, 25] == 2


def test_pixels_in_no_shape_may_be_ignored_and_names_given(export, tmp_path):
    (tmp_path / "names.txt").write_text("dog\ncat\nbird\n")
    result = convert(ConvertConfig(str(export), str(tmp_path / "out"), names=[str(tmp_path / "names.txt")],
                                   rest="ignore"))
    assert result.labels.names == ("dog", "cat", "bird")
    mask = read(tmp_path / "out", "a")
    assert mask[0, 0] == 255 and mask[5, 5] == 1 and (read(tmp_path / "out", "c") == 255).all()


def test_lists_follow_the_splits_and_equal_names_stay_apart(tmp_path):
    pytest.importorskip("pycocotools", reason="pycocotools is not installed: pip install pycocotools")
    box = [np.ravel(BOXES["cat"]).tolist()]
    for place, split in enumerate(("train", "valid", "test")):
        photograph(tmp_path / "set" / split / "a.jpg", seed=place)
        coco(tmp_path / "set" / split / "_annotations.coco.json", {1: "a.jpg"}, {1: "cat"}, [(1, 1, box)])
    out = tmp_path / "out"
    assert convert(ConvertConfig(str(tmp_path / "set"), str(out))).format == "coco"
    lists = {split: (out / f"{split}.txt").read_text().split() for split in ("train", "val", "test")}
    assert lists == {"train": ["train_a"], "val": ["valid_a"], "test": ["test_a"]}
    assert all(read(out, name)[5, 5] == 1 for name, in lists.values())
    _, train, val = list_samples(PrepareConfig(source="folder", root=str(out)))
    assert [one.name for one in train + val] == ["train_a", "valid_a"]


def test_a_photograph_whose_annotation_does_not_fit_is_left_out(export, tmp_path):
    labelme(export / "a.json", [("cat", "polygon", BOXES["cat"])], "a.jpg", size=(40, 30))
    labelme(export / "b.json", [("cat", "polygon", [(1, 1), (2, 2)])], "b.png")
    labelme(export / "again.json", [("cat", "polygon", BOXES["cat"])], "c.jpg")
    result = convert(ConvertConfig(str(export), str(tmp_path / "out")))
    told = " ".join(reason for _, reason in result.left_out)
    assert result.photographs == 1 and sorted(os.listdir(tmp_path / "out/masks")) == ["c.png"]
    assert "30x40 pixels but the photograph of 40x30" in told and "2 points" in told and "annotated in" in told


def test_an_earlier_conversion_is_replaced_only_on_demand_and_other_folders_never(export, tmp_path):
    out = tmp_path / "out"
    convert(ConvertConfig(str(export), str(out)))
    (export / "a.json").unlink()
    with pytest.raises(UserError) as told:
        convert(ConvertConfig(str(export), str(out)))
    one_line(told, "exists", "--overwrite")
    assert convert(ConvertConfig(str(export), str(out), overwrite=True)).photographs == 2
    assert sorted(os.listdir(out / "images")) == ["b.png", "c.jpg"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("x")
    with pytest.raises(UserError) as told:
        convert(ConvertConfig(str(export), str(other), overwrite=True))
    one_line(told, "not written by mindfcn convert")
    assert os.listdir(other) == ["thesis.txt"]


def test_nothing_is_written_where_nothing_can_be_converted(export, tmp_path):
    for name in "abc":
        labelme(export / f"{name}.json", [("cat", "polygon", [(1, 1)])], f"{name}.{'png' if name == 'b' else 'jpg'}")
    with pytest.raises(UserError) as told:
        convert(ConvertConfig(str(export), str(tmp_path / "out")))
    one_line(told, "no photograph can be converted", "1 points")
    assert sorted(os.listdir(tmp_path)) == ["my export"]
    with pytest.raises(UserError) as told:
        recognise(str(tmp_path / "away"))
    one_line(told, "no ", "away")
    for name in "abc":
        (export / f"{name}.json").write_text("{}")
    with pytest.raises(UserError) as told:
        recognise(str(export))
    one_line(told, "no known format", "--format")
