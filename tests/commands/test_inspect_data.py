"""The verb inspect: every kind of fault is found in its place, and figures are those of the masks."""

import json
import os
import shlex
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from mindfcn.cli.main import main
from mindfcn.cli.parser import parse
from mindfcn.commands.inspect_data import KINDS, inspect
from mindfcn.commands.prepare import prepare
from mindfcn.config import InspectConfig, PrepareConfig
from mindfcn.errors import UserError
from mindfcn.labels import LabelMap, LabelSet

LABELS = LabelSet(["ground", "roof", "tree", "pond"], [(0, 0, 0), (200, 10, 10), (10, 200, 10), (10, 10, 200)])
TRAIN, VAL = [f"t{number}" for number in range(8)], [f"v{number}" for number in range(3)]


def photograph(number):
    return np.random.default_rng(number).integers(0, 256, (20 + number, 30, 3), np.uint8)


def mask(number):
    found = np.zeros((20 + number, 30), np.uint8)
    found[:5 + number], found[12:15], found[-1] = 1, 2, 255
    return found


@pytest.fixture
def folder(tmp_path):
    """A folder without faults, except that class 3 occurs in no mask."""
    root = tmp_path / "mine"
    for inner in ("images", "masks"):
        (root / inner).mkdir(parents=True)
    for number, name in enumerate(TRAIN + VAL):
        Image.fromarray(photograph(number)).save(root / "images" / f"{name}.png")
        Image.fromarray(mask(number)).save(root / "masks" / f"{name}.png")
    (root / "train.txt").write_text("\n".join(TRAIN))
    (root / "val.txt").write_text("\n".join(VAL))
    LABELS.save(root / "labels.yaml")
    return root


def inspected(data, **options):
    return inspect(InspectConfig(str(data), out=str(data) + "-out", **options))


def kinds(result):
    return sorted((one.kind, one.split, one.name) for one in result.findings if one.kind != "absent")


def test_figures_are_those_of_the_masks(folder):
    result = inspected(folder)
    assert kinds(result) == [] and not result.broken
    assert [(found.kind, found.name) for found in result.findings] == 2 * [("absent", "pond")]
    written = json.loads((folder.parent / "mine-out" / "inspection.json").read_text())
    assert written == json.loads(result.to_json()) and written["source"] == "folder"
    masks = [mask(number) for number in range(8)]
    train = written["splits"]["train"]
    assert train["pairs"] == 8 and written["splits"]["val"]["pairs"] == 3
    for number, row in enumerate(train["classes"]):
        assert row["pixels"] == sum((one == number).sum() for one in masks)
        assert row["images"] == sum((one == number).any() for one in masks)
    total = sum((one != 255).sum() for one in masks)
    assert train["classes"][1]["share"] == pytest.approx(train["classes"][1]["pixels"] / total)
    assert train["ignored share"] == pytest.approx(8 * 30 / (total + 8 * 30))
    assert {(size["width"], size["height"]) for size in train["sizes"]} == {(30, 20 + number) for number in range(8)}
    output = result.to_text()
    assert "30x20" in output and "30x27" in output and "nothing to fix" in output
    sheet = np.asarray(Image.open(result.sheet))
    assert sheet.ndim == 3 and sheet.shape[0] > 400 and sheet.shape[1] > 400


def test_figures_of_a_map_are_those_of_its_classes(folder):
    plain = inspected(folder).to_dict()["splits"]["train"]["classes"]
    LabelMap.of(LABELS, {"plant": ["tree", "pond"]}, ["roof"]).save(folder / "labels.yaml")
    result = inspected(folder)
    rows = result.to_dict()["splits"]["train"]["classes"]
    assert {row["class"]: row["pixels"] for row in rows} == {"ground": plain[0]["pixels"], "plant": plain[2]["pixels"]}
    assert "labels.yaml: plant is tree, pond; ignored: roof" in result.to_text()
    assert [one.kind for one in result.findings] == ["void", "void"]
    colors = np.array([*LABELS.colors, (255, 255, 255)], np.uint8)
    for number, name in enumerate(TRAIN + VAL):
        Image.fromarray(colors[np.minimum(mask(number), 4)]).save(folder / "masks" / f"{name}.png")
    LABELS.save(folder / "labels.yaml")
    message = inspected(folder).broken[0].message
    assert "colour (255, 255, 255)" in message and "as a class or under ignore" in message
    LabelMap.of(LABELS, {"plant": ["tree", "pond"]}, ["roof", [255, 255, 255]]).save(folder / "labels.yaml")
    assert inspected(folder).to_dict()["splits"]["train"]["classes"] == rows


def damage(root):
    """Put one fault of every kind into the folder; returns what must be found."""
    images, masks = root / "images", root / "masks"
    (masks / "t0.png").unlink()
    (images / "t1.png").unlink()
    whole = (images / "t2.png").read_bytes()
    (images / "t2.png").write_bytes(whole[:len(whole) // 2])
    Image.fromarray(mask(3)[:, ::2]).save(masks / "t3.png")
    wrong = mask(4)
    wrong[0, 0] = 9
    Image.fromarray(wrong).save(masks / "t4.png")
    Image.fromarray(np.full_like(mask(5), 255)).save(masks / "t5.png")
    Image.fromarray(np.full_like(mask(6), 2)).save(masks / "t6.png")
    # The same pixels in another file: recognised by content, in the other split and in its own.
    Image.fromarray(photograph(7)).save(images / "v0.png", compress_level=1)
    Image.fromarray(mask(7)).save(masks / "v0.png")
    shutil.copy(images / "v1.png", images / "v2.png")
    shutil.copy(masks / "v1.png", masks / "v2.png")
    Image.fromarray(mask(0)).save(masks / "lonely.png")
    return [("classes", "train", "t4"), ("ignored", "train", "t5"), ("leak", "val", "v0"), ("missing", "", "lonely"),
            ("missing", "train", "t0"), ("missing", "train", "t1"), ("one class", "train", "t6"),
            ("size", "train", "t3"), ("twice", "val", "v2"), ("unreadable", "train", "t2")]


def test_every_fault_is_found_once_where_it_is(folder):
    expected = damage(folder)
    result = inspected(folder)
    assert kinds(result) == sorted(expected)
    others = {"absent", "stale", "void", "turned", "dark", "unvalidated"}
    assert {kind for kind, _, _ in expected} | others == set(KINDS)
    for kind in {finding.kind for finding in result.findings}:
        assert f"  cure: {KINDS[kind][2]}" in result.to_text()
    assert {finding["cure"] for finding in result.to_dict()["findings"]} <= {cure for _, _, cure in KINDS.values()}
    assert sorted({finding.kind for finding in result.broken}) == ["classes", "leak", "missing", "size", "unreadable"]
    messages = {finding.kind: finding.message for finding in result.findings}
    assert "9 at row 0, column 0" in messages["classes"] and "t7" in messages["leak"] and "v1" in messages["twice"]
    assert "15x23" in messages["size"] and "30x23" in messages["size"]
    assert os.path.exists(result.sheet)


def test_the_command_prints_tables_or_json_and_fails_where_something_is_broken(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder.parent)
    assert main(["inspect", "mine"]) == 0
    output = capfd.readouterr()
    assert "pond" in output.out and "inspection/sheet.jpg" in output.out
    damage(folder)
    assert main(["inspect", "mine", "--json", "--pictures", "0", "--out", "other"]) == 1
    output = capfd.readouterr()
    assert json.loads(output.out)["broken"] == 7 and "7 problems to fix" in output.err
    assert os.listdir("other") == ["inspection.json"]
    assert main(["inspect", "mine"]) == 1
    assert "FIX" in capfd.readouterr().out


def test_voc_folders_and_records_hold_the_same(sample_records, tmp_path, monkeypatch):
    # The sheet's title names the folder, and a long one makes it wider.
    monkeypatch.chdir(sample_records)
    by_files = inspect(InspectConfig("source", out=str(tmp_path / "a"), labels="source/labels.yaml"))
    by_records = inspect(InspectConfig("records", out=str(tmp_path / "b")))
    one_file = inspect(InspectConfig("records/val.mindrecord", out=str(tmp_path / "c")))
    assert (by_files.source, by_records.source) == ("voc", "records")
    assert by_files.to_dict()["splits"] == by_records.to_dict()["splits"]
    assert one_file.to_dict()["splits"] == {"val": by_records.to_dict()["splits"]["val"]}
    assert (tmp_path / "a" / "sheet.jpg").exists() and not by_records.broken
    # The sheet shows the same pairs.
    first, second = (cv2.imread(str(tmp_path / name / "sheet.jpg")) for name in "ab")
    assert first.shape == second.shape


def test_the_weights_shown_are_those_of_the_training_records(sample_records, tmp_path):
    from mindfcn.data.dataset import SegDataset
    dataset = SegDataset(data_file=str(sample_records / "records" / "train.mindrecord"), training=False, num_classes=7)
    shown = inspect(InspectConfig(str(sample_records / "records"), out=str(tmp_path))).to_dict()["splits"]["train"]
    expected = dataset.class_counts().median_frequency()
    np.testing.assert_allclose([row["median frequency weight"] for row in shown["classes"]], expected)
    assert expected[0] < 0.2 < expected[1:].min(), "the background is everywhere"


def test_splits_are_those_of_prepare(folder, tmp_path):
    for name in ("train.txt", "val.txt"):
        (folder / name).unlink()
    result = inspected(folder, val_fraction=0.4)
    config = PrepareConfig(records=str(tmp_path / "r"), source="folder", root=str(folder), val_fraction=0.4)
    made = prepare(config)
    assert (result.splits["train"].pairs, result.splits["val"].pairs) == (made.train.written, made.val.written)


def test_a_photograph_in_both_lists_is_a_finding(folder):
    (folder / "val.txt").write_text("\n".join(["images/t1.png", *VAL]))
    result = inspected(folder)
    assert kinds(result) == [("leak", "train", "t1")] and len(result.broken) == 1
    assert "train.txt" in result.findings[0].message and "val.txt" in result.findings[0].message


def test_the_next_command_can_be_pasted(folder, capsys):
    root = folder.rename(folder.parent / "my beds")
    (root / "masks").rename(root / "my masks")
    shared = ["--mask_dir", "my masks", "--val_fraction", "0.5"]
    assert main(["inspect", str(root), "--out", str(folder) + "-out", *shared]) == 0
    line, = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next")]
    command, config = parse(shlex.split(line)[2:])
    assert command == "train" and (config.data.root, config.data.mask_dir) == (str(root), "my masks")
    assert config.data.val_fraction == 0.5 and config.data.image_dir == "images"


def test_masks_that_are_jpegs_are_reported(folder):
    Image.fromarray(mask(0)).save(folder / "masks" / "t0.jpg")
    (folder / "masks" / "t0.png").unlink()
    finding, = [finding for finding in inspected(folder).findings if finding.kind == "missing"]
    assert "t0.jpg is a JPEG" in finding.message


def test_mistakes_are_reported_in_one_line(folder, tmp_path):
    os.remove(folder / "labels.yaml")
    for data, options, words in ((folder, {}, "mindfcn labels --from"), (tmp_path / "away", {}, "no .*away"),
                                 (tmp_path, {}, "ImageSets"), (folder, {"pictures": -1}, "at least 0")):
        with pytest.raises(UserError, match=words) as error:
            inspected(data, **options)
        assert "\n" not in str(error.value)


def save_turned(path, image, tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(image).save(path, exif=exif)


@pytest.mark.parametrize("tag, size, kind", [(3, (20, 30), "turned"), (2, (20, 30), "turned"), (6, (24, 24), "turned"),
                                             (6, (30, 20), ""), (6, (20, 30), "size"), (1, (20, 30), "")])
def test_masks_without_the_tag_of_their_photograph_are_named_where_they_fit_both_ways(folder, tag, size, kind):
    """`size` is that of the mask. Tag 6 turns a photograph by a quarter, 3 by a half, 2 mirrors it."""
    stored = size[::-1] if tag == 6 and kind != "size" else size
    save_turned(folder / "images" / "t0.png", photograph(0)[:1].repeat(30, 0)[:stored[0], :stored[1]], tag)
    Image.fromarray(mask(0)[:1].repeat(30, 0)[:size[0], :size[1]]).save(folder / "masks" / "t0.png")
    found = [one for one in inspected(folder).findings if one.name == "t0" and one.kind in ("turned", "size")]
    assert [one.kind for one in found] == ([kind] if kind else [])
    assert all("EXIF" in one.message for one in found)
    save_turned(folder / "masks" / "t0.png", mask(0)[:1].repeat(30, 0)[:stored[0], :stored[1]], tag)
    assert not [one for one in inspected(folder).findings if one.kind in ("turned", "size")]


def test_dark_photographs_and_ignored_regions_are_named(folder):
    deep = np.full((20, 30), 4095, np.uint16)
    Image.fromarray(deep).save(folder / "images" / "t0.png")
    for number, name in enumerate(TRAIN):
        covered = mask(number)
        covered[:, :20] = 255
        Image.fromarray(covered).save(folder / "masks" / f"{name}.png")
    found = {(one.kind, one.split): one.message for one in inspected(folder).findings}
    assert "--bits 12" in found["dark", "train"] and "in whole regions" in found["void", "train"]
    assert ("void", "val") not in found and ("dark", "val") not in found


def test_outlines_of_the_ignore_label_are_no_region():
    from mindfcn.data.class_counts import count_inner
    outline = np.zeros((60, 60), np.uint8)
    outline[20:34], outline[:, 40:56] = 255, 255
    assert count_inner(outline, 255) == 0
    outline[10:50, 10:50] = 255
    # 40 - 16 on a side, in the middle of a square; what the stripes add lies within 8 pixels of another number.
    assert 24 * 24 <= count_inner(outline, 255) <= 40 * 40
    assert count_inner(np.full((3, 4), 255, np.uint8), 255) == 0
