"""SBD's masks and the arithmetic of the 10,582 training images."""

import pathlib

import numpy as np
import pytest
import scipy.io
from helpers import sample_names

from mindfcn.data.sources.sbd import list_sbd, read_sbd_mask, trainaug
from mindfcn.errors import UserError

LISTS = pathlib.Path(__file__).parents[2].parent / "shared" / "data" / "lists"


def make_lists(folder, lists):
    folder.mkdir(parents=True, exist_ok=True)
    for name, names in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{n}\n" for n in names))


def make_sets(root, voc, sbd, year=2012):
    make_lists(root / f"VOCdevkit/VOC{year}/ImageSets/Segmentation", voc)
    for name in ("img", "cls"):
        (root / "benchmark_RELEASE/dataset" / name).mkdir(parents=True)
    make_lists(root / "benchmark_RELEASE/dataset", sbd)


def save_mat(path, mask):
    scipy.io.savemat(path, {"GTcls": {"Segmentation": mask, "Boundaries": 0}})


def test_mask_is_gtcls_segmentation(tmp_path):
    mask = np.random.default_rng(0).integers(0, 21, (7, 5)).astype(np.uint8)
    save_mat(tmp_path / "a.mat", mask)
    found = read_sbd_mask(tmp_path / "a.mat")
    assert found.dtype == np.uint8 and (found == mask).all()


def test_damaged_masks_are_named(tmp_path):
    (tmp_path / "a.mat").write_bytes(b"nothing")
    scipy.io.savemat(tmp_path / "b.mat", {"other": 1})
    save_mat(tmp_path / "c.mat", np.array([[300, 1]]))
    for name in ("a.mat", "b.mat", "c.mat", "absent.mat"):
        with pytest.raises(UserError, match=name):
            read_sbd_mask(tmp_path / name)


def test_root_may_be_any_of_three_folders(tmp_path):
    make_sets(tmp_path, {}, {"train": ["b", "a"], "val": ["c"]})
    for root in (tmp_path, tmp_path / "benchmark_RELEASE", tmp_path / "benchmark_RELEASE/dataset"):
        assert sample_names(list_sbd(root, check=False)) == ["b", "a", "c"]
    assert sample_names(list_sbd(tmp_path, ["val"], check=False)) == ["c"]
    for splits, message in ((["train"], "4 files"), (["test"], "test.txt"), (["val", "val"], "twice")):
        with pytest.raises(UserError, match=message):
            list_sbd(tmp_path, splits)
    with pytest.raises(UserError, match="no SBD"):
        list_sbd(tmp_path / "VOCdevkit")


def test_trainaug_keeps_validation_out_and_takes_vocs_masks(tmp_path):
    make_sets(tmp_path, {"train": ["v1", "both"], "trainval": ["v1", "both", "val1", "val2"], "val": ["val1", "val2"]},
              {"train": ["s1", "both", "val1"], "val": ["s2", "val2"]})
    for split in ("train", "trainval"):
        samples = trainaug(tmp_path, tmp_path, train_split=split, check=False)
        assert sample_names(samples) == ["v1", "both", "s1", "s2"]
        assert [sample.label[-4:] for sample in samples] == [".png", ".png", ".mat", ".mat"]


def test_voc_2007_names_are_recognised_in_sbd(tmp_path):
    make_sets(tmp_path, {"train": ["000032"], "val": ["000042"]},
              {"train": ["2007_000032", "2007_000042", "2008_000001"]}, year=2007)
    samples = trainaug(tmp_path, tmp_path, year=2007, sbd_splits=["train"], check=False)
    assert sample_names(samples) == ["000032", "2008_000001"]


@pytest.mark.skipif(not LISTS.is_dir(), reason="the official lists are not next to the repository")
def test_official_lists_give_10582(tmp_path):
    train, val, aug = ((LISTS / f"voc2012_{name}.txt").read_text().split() for name in ("train", "val", "trainaug"))
    only_sbd = sorted(set(aug) - set(train))
    sbd = only_sbd + (val + train)[:8498 + 2857 - len(only_sbd)]
    assert len(sbd) == 11355
    make_sets(tmp_path, {"train": train, "val": val}, {"train": sbd[:8498], "val": sbd[8498:]})
    samples = trainaug(tmp_path, tmp_path, check=False)
    assert len(samples) == 10582 and set(sample_names(samples)) == set(aug)
    assert not set(sample_names(samples)) & set(val)

    make_lists(tmp_path / "benchmark_RELEASE/dataset", {"val": sbd[8498:-1] + ["2009_999999"]})
    with pytest.raises(UserError, match="10583 training images instead of 10582"):
        trainaug(tmp_path, tmp_path, check=False)
