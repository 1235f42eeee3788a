"""Real VOC 2012 and SBD pairs, where they are next to the repository."""

import io
import pathlib

import numpy as np
import pytest
import scipy.io
from PIL import Image

from mindfcn.commands.prepare import list_samples
from mindfcn.config import PrepareConfig
from mindfcn.data.records.mindrecord import read_records, write_records
from mindfcn.data.sources.sbd import list_sbd, trainaug
from mindfcn.data.sources.voc import list_voc
from mindfcn.labels import VOC

DATA = pathlib.Path(__file__).parents[2].parent / "shared" / "data"
VOC_FOLDER = DATA / "VOCdevkit" / "VOC2012"
SBD_FOLDER = DATA / "benchmark_RELEASE" / "dataset"
pytestmark = pytest.mark.skipif(not (VOC_FOLDER.is_dir() and SBD_FOLDER.is_dir()),
                                reason="no real data in ../shared/data")


def test_list_counts():
    assert [len(list_voc(DATA, split)) for split in ("train", "val")] == [311, 221]
    assert [len(list_sbd(DATA, [split])) for split in ("train", "val")] == [80, 40]


def test_trainaug_is_voc_train_and_all_of_sbd():
    samples = trainaug(DATA, SBD_FOLDER)
    found = {sample.name for sample in samples}
    lists = VOC_FOLDER / "ImageSets" / "Segmentation"
    voc_train, voc_val = ((lists / f"{split}.txt").read_text().split() for split in ("train", "val"))
    sbd = (SBD_FOLDER / "train.txt").read_text().split() + (SBD_FOLDER / "val.txt").read_text().split()
    assert len(samples) == len(found) == 431
    assert found == set(voc_train) | set(sbd) - set(voc_val) and not found & set(voc_val)
    labels, train, val = list_samples(PrepareConfig(source="voc", root=str(DATA), sbd=str(SBD_FOLDER)))
    assert labels == VOC and {sample.name for sample in train} == found and len(val) == 221


def test_records_hold_the_source_bytes(tmp_path):
    samples = list_voc(DATA, "val")[::10] + list_sbd(SBD_FOLDER)[::10]
    assert write_records(samples, tmp_path / "some.mindrecord", VOC).written == len(samples) == 35
    for sample, (name, data, label) in zip(samples, read_records(tmp_path / "some.mindrecord")):
        assert name == sample.name and data == pathlib.Path(sample.image).read_bytes()
        numbers = np.array(Image.open(io.BytesIO(label)))
        if sample.label.endswith(".mat"):
            expected = scipy.io.loadmat(sample.label, squeeze_me=True, struct_as_record=False)["GTcls"].Segmentation
        else:
            expected = np.array(Image.open(sample.label))
        assert numbers.dtype == np.uint8 and (numbers == expected).all()
