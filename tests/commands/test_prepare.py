"""The verb prepare on every source."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
import scipy.io
from PIL import Image

from mindfcn.commands.prepare import list_samples, prepare
from mindfcn.config import PrepareConfig
from mindfcn.console import Console
from mindfcn.data.records.mindrecord import read_manifest, read_records, write_records
from mindfcn.data.sources.voc import list_voc
from mindfcn.data.synthetic.shapes import SAMPLE
from mindfcn.errors import UserError
from mindfcn.labels import VOC, LabelMap, LabelSet


def names(path):
    return [row[0] for row in read_records(path)]


def times(folder):
    return {name: os.stat(os.path.join(folder, name)).st_mtime_ns for name in os.listdir(folder)}


def sample_config(tmp_path, **changes):
    return PrepareConfig(**{**dict(records=str(tmp_path / "records"), source="sample",
                                   root=str(tmp_path / "set"), samples=10, size=48),
                            **changes})


def test_sample_and_a_second_run(tmp_path):
    messages = []
    result = prepare(sample_config(tmp_path), Console(messages.append))
    assert (result.train.written, result.val.written, result.labels) == (8, 2, SAMPLE)
    assert sorted(names(result.train_path) + names(result.val_path)) == [f"sample_{i:06d}" for i in range(10)]
    assert LabelSet.load(tmp_path / "records" / "labels.yaml") == SAMPLE
    assert len(messages) == 2 and "8 records" in messages[0]
    before = times(tmp_path / "records")
    again = prepare(sample_config(tmp_path))
    assert again.train.reused and again.val.reused and times(tmp_path / "records") == before


def test_a_deleted_sample_set_is_drawn_again_and_fits_its_records(tmp_path):
    prepare(sample_config(tmp_path))
    shutil.rmtree(tmp_path / "set")
    assert prepare(sample_config(tmp_path)).train.reused


def test_voc_folder_keeps_validation_out_of_training(tmp_path):
    prepare(sample_config(tmp_path))
    lists = tmp_path / "set" / "ImageSets" / "Segmentation"
    train, val = (lists / "train.txt").read_text(), (lists / "val.txt").read_text()
    (lists / "trainval.txt").write_text(train + val)
    config = sample_config(tmp_path, source="voc", records=str(tmp_path / "voc"), train_split="trainval")
    messages = []
    result = prepare(config, Console(messages.append))
    assert result.labels == VOC and "2 validation images" in messages[0]
    assert names(result.train_path) == train.split() and names(result.val_path) == val.split()
    with pytest.raises(UserError, match="splits that differ"):
        prepare(sample_config(tmp_path, source="voc", records=str(tmp_path / "same"), train_split="val"))
    own = sample_config(tmp_path, source="voc", records=str(tmp_path / "own"),
                        labels=str(tmp_path / "set" / "labels.yaml"))
    assert prepare(own).labels == SAMPLE
    first, *others = SAMPLE.names
    LabelMap.of(SAMPLE, {"thing": others}, [first]).save(tmp_path / "map.yaml")
    mapped = prepare(dataclasses.replace(own, labels=str(tmp_path / "map.yaml"), overwrite=True))
    pixels = read_manifest(mapped.train_path)["pixels"]
    plain = read_manifest(config.records + "/train.mindrecord")["pixels"]
    assert mapped.labels.names == ("thing",) and pixels[0] == sum(plain[1:7]) and pixels[255] == plain[0] + plain[255]
    LabelMap.of(SAMPLE, {}, [[9, 9, 9]]).save(tmp_path / "map.yaml")
    with pytest.raises(UserError, match="these masks hold numbers, not colours"):
        prepare(dataclasses.replace(own, labels=str(tmp_path / "map.yaml")))


def test_voc_with_sbd(tmp_path):
    prepare(sample_config(tmp_path))
    sbd = tmp_path / "benchmark_RELEASE" / "dataset"
    for folder in ("img", "cls"):
        (sbd / folder).mkdir(parents=True)
    for name in ("new_1", "sample_000000", "sample_000004"):
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(sbd / "img" / f"{name}.jpg")
        scipy.io.savemat(sbd / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": np.full((4, 6), 15, np.uint8)}})
    (sbd / "train.txt").write_text("new_1\nsample_000000\n")
    (sbd / "val.txt").write_text("sample_000004\n")
    config = sample_config(tmp_path, source="voc", records=str(tmp_path / "aug"), sbd=str(sbd.parent))
    result = prepare(config)
    assert result.train.written == 9 and names(result.train_path)[-1] == "new_1"
    assert "sample_000004" not in names(result.train_path) and "sample_000004" in names(result.val_path)


def make_own(root, count=6):
    labels = LabelSet(["ground", "roof"], [(0, 0, 0), (200, 10, 10)])
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        mask = np.zeros((8, 10), np.uint8)
        mask[:number + 1] = 1
        Image.fromarray(np.full((8, 10, 3), number, np.uint8)).save(root / "images" / f"p{number}.png")
        Image.fromarray(labels.colorize(mask)).save(root / "masks" / f"p{number}.png")
    labels.save(root / "labels.yaml")
    return labels


def test_own_folder(tmp_path):
    labels = make_own(tmp_path / "mine")
    config = PrepareConfig(records=str(tmp_path / "r"), source="folder", root=str(tmp_path / "mine"))
    result = prepare(config)
    assert result.labels == labels and result.train.written + result.val.written == 6
    assert sorted(names(result.train_path) + names(result.val_path)) == [f"p{i}" for i in range(6)]


def test_own_folder_with_a_missing_mask(tmp_path):
    make_own(tmp_path / "mine")
    config = PrepareConfig(records=str(tmp_path / "r"), source="folder", root=str(tmp_path / "mine"))
    _, train, _ = list_samples(config)
    os.remove(train[0].label)
    with pytest.raises(UserError, match="skip-bad"):
        prepare(config)
    config.skip_bad = True
    result = prepare(config)
    assert [entry[0] for entry in result.train.skipped] == [train[0].label]


def test_own_folder_without_labels_names_the_file(tmp_path):
    make_own(tmp_path / "mine")
    os.remove(tmp_path / "mine" / "labels.yaml")
    with pytest.raises(UserError, match="labels.yaml"):
        prepare(PrepareConfig(records=str(tmp_path / "r"), source="folder", root=str(tmp_path / "mine")))


def test_the_courses_record_is_used_as_it_came(tmp_path):
    prepare(sample_config(tmp_path))
    course = tmp_path / "course" / "dataset_fcn8s"
    writer_folder = tmp_path / "made"
    write_records(list_voc(str(tmp_path / "set"), "train"), writer_folder / "mindname.mindrecord", SAMPLE)
    os.remove(writer_folder / "mindname.mindrecord.json")
    shutil.copytree(writer_folder, course)
    result = prepare(PrepareConfig(records=str(tmp_path / "course"), download=["course"]))
    assert result.train_path == str(course / "mindname.mindrecord") and result.train.written == 8
    assert result.val is None and result.labels == VOC


def test_a_download_needs_a_folder(tmp_path):
    with pytest.raises(UserError, match="set sbd"):
        prepare(PrepareConfig(records=str(tmp_path / "r"), source="voc", download=["sbd"]))
