"""Masks of overlapping classes: files, records, crops, pictures."""

import dataclasses

import cv2
import numpy as np
import pytest
from helpers import one_line
from PIL import Image

from mindfcn.commands.prepare import prepare
from mindfcn.config import AugmentConfig, PrepareConfig
from mindfcn.data import transforms
from mindfcn.data.bands import write_bands
from mindfcn.data.class_counts import histogram
from mindfcn.data.dataset import SegDataset
from mindfcn.data.masks import MaskReader
from mindfcn.data.multilabel import decode_multilabel, encode_multilabel, read_multilabel
from mindfcn.data.records.mindrecord import read_manifest
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.preprocess import COURSE
from mindfcn.report.overlaps import as_drawn

tifffile = pytest.importorskip("tifffile", reason="pip install tifffile")
NAMES = ["leaf", "rust", "hole", "vein", "edge"]
LABELS = LabelSet.from_dict({"names": NAMES, "multilabel": True}, "labels.yaml")


def bands(seed=1, height=20, width=24, classes=5, ignored=0.1):
    """(H, W, C) uint8 of 0, 1 and 254, independent of one another."""
    random = np.random.default_rng(seed)
    mask = (random.uniform(size=(height, width, classes)) < 0.4).astype(np.uint8)
    mask[random.uniform(size=mask.shape) < ignored] = 254
    return mask


def test_labels_say_that_classes_overlap(tmp_path):
    (tmp_path / "labels.yaml").write_text("names: [a, b]\nmultilabel: true\n")
    labels = LabelSet.load(tmp_path / "labels.yaml")
    assert labels.multilabel and labels.ignore_label == 254 and (0, 0, 0) not in labels.colors
    labels.save(tmp_path / "again.yaml")
    assert LabelSet.load(tmp_path / "again.yaml") == labels
    other = LabelSet(labels.names, labels.colors, 254)
    assert "the classes overlap there and do not overlap here" in labels.difference(other)
    for entries, words in (({"names": ["a"]}, ["1 overlapping classes", "2 to 64"]),
                           ({"names": ["a", "b"], "merge": {"c": ["a", "b"]}}, ["leave them out with `multilabel`"])):
        with pytest.raises(UserError) as error:
            LabelSet.from_dict({**entries, "multilabel": True}, "labels.yaml")
        one_line(error, "labels.yaml", *words)
    with pytest.raises(UserError) as error:
        LabelSet.from_dict({"names": ["a", "b"], "multilabel": "yes"}, "labels.yaml")
    one_line(error, "must be true or false")


@pytest.mark.parametrize("stored", [{"planarconfig": "contig"}, {"planarconfig": "separate"}])
@pytest.mark.parametrize("inside", [1, 255])
def test_files_of_bands_are_read(tmp_path, stored, inside):
    mask = bands()
    array = np.where(mask == 1, inside, mask).astype(np.uint8)
    array = array if stored["planarconfig"] == "contig" else np.moveaxis(array, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", **stored)
    np.testing.assert_array_equal(read_multilabel(str(tmp_path / "a.tif"), LABELS), mask)


def test_channels_of_a_png_are_bands_and_255_may_be_the_ignore_label(tmp_path):
    labels = LabelSet(("a", "b", "c"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)), 255, multilabel=True)
    mask = np.where((found := bands(classes=3)) == 254, 255, found).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_multilabel(str(tmp_path / "a.png"), labels), mask)


@pytest.mark.parametrize("array, words", [
    (np.zeros((8, 9, 4), np.uint8), ["4 bands", "5 overlapping classes"]),
    (np.zeros((8, 9), np.uint8), ["several bands", "labels.yaml says multilabel"]),
    (np.full((8, 9, 5), 7, np.uint8), ["holds 7 at row 0, column 0 of band 1 (leaf)", "do not count are 254"]),
    (np.full((8, 9, 5), 0.5, np.float32), ["holds 0.5"]),
    (np.uint8([[[0, 1, 255, 0, 0]]]).repeat(8, 0).repeat(9, 1), ["both 1 and 255", "ignore_label: 255"])])
def test_other_masks_are_refused_in_one_line(tmp_path, array, words):
    planar = {"planarconfig": "contig"} if array.ndim == 3 else {}
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack", **planar)
    with pytest.raises(UserError) as error:
        read_multilabel(str(tmp_path / "a.tif"), LABELS)
    one_line(error, "a.tif", *words)


def test_a_palette_mask_is_no_mask_of_bands_and_bands_are_no_ordinary_mask(tmp_path):
    palette = Image.fromarray(np.zeros((8, 9), np.uint8), "L")
    palette.putpalette([0, 0, 0])
    palette.save(tmp_path / "a.png")
    with pytest.raises(UserError) as error:
        read_multilabel(str(tmp_path / "a.png"), LABELS)
    one_line(error, "a.png has 1 band,", "5 overlapping classes")
    write_bands(str(tmp_path / "b.tif"), bands())
    labels = LabelSet(LABELS.names, LABELS.colors)
    with pytest.raises(UserError) as error:
        MaskReader([str(tmp_path / "b.tif")], labels)(str(tmp_path / "b.tif"))
    one_line(error, "b.tif", "multilabel: true")


@pytest.mark.parametrize("classes", [2, 5, 9, 64])
def test_records_and_written_files_hold_every_band(tmp_path, classes):
    mask = bands(classes=classes)
    np.testing.assert_array_equal(decode_multilabel(encode_multilabel(mask), classes, "here"), mask)
    counts = histogram(mask, 254)
    assert counts[:classes].tolist() == [(mask[..., band] == 1).sum() for band in range(classes)]
    assert counts[254] == (mask == 254).sum()
    labels = LabelSet.from_dict({"names": [f"c{band}" for band in range(classes)], "multilabel": True}, "here")
    write_bands(str(tmp_path / "a.tif"), mask)
    assert tifffile.imread(tmp_path / "a.tif").shape == (classes, *mask.shape[:2])
    np.testing.assert_array_equal(read_multilabel(str(tmp_path / "a.tif"), labels), mask)
    with pytest.raises(UserError) as error:
        decode_multilabel(encode_multilabel(mask[:19, :, :1]), 7, "a mask here")
    one_line(error, "a mask here", "7 overlapping classes")


@pytest.mark.parametrize("settings", [{}, {"rotate": 90.0}, {"vertical_flip": True}, {"shorter_side": 30},
                                      {"min_scale": 0.2, "max_scale": 0.5}])
def test_crops_move_each_band_as_they_move_an_ordinary_mask(settings):
    image = np.random.default_rng(2).integers(0, 256, (20, 24, 3)).astype(np.uint8)
    mask = bands(classes=9)
    config = AugmentConfig(crop_size=16, **settings)
    for seed in range(6):
        _, crop = transforms.augment(image, mask, np.random.RandomState(seed), config, COURSE, 254)
        assert crop.shape == (9, 16, 16) and crop.dtype == np.int32
        for band in range(9):
            alone = transforms.augment(image, np.ascontiguousarray(mask[..., band]), np.random.RandomState(seed),
                                       config, COURSE, 254)[1]
            np.testing.assert_array_equal(crop[band], alone)


@pytest.fixture(scope="module")
def leaves(tmp_path_factory):
    """A folder of eight photographs and masks of five bands, and PrepareConfig of its records."""
    root = tmp_path_factory.mktemp("leaves")
    for inner in ("images", "masks"):
        (root / inner).mkdir()
    for number in range(8):
        image = np.random.default_rng(number).integers(0, 256, (20, 24, 3)).astype(np.uint8)
        cv2.imwrite(str(root / "images" / f"{number}.png"), image)
        write_bands(str(root / "masks" / f"{number}.tif"), bands(number))
    LABELS.save(root / "labels.yaml")
    config = PrepareConfig(records=str(root / "records"), source="folder", root=str(root))
    prepare(config)
    return root, config


def test_records_give_batches_of_bands(leaves):
    root, config = leaves
    manifest = read_manifest(root / "records" / "train.mindrecord")
    labels = LabelSet.from_dict(manifest["labels"], "records")
    assert labels == LABELS
    data = SegDataset.for_training(root / "records" / "train.mindrecord", AugmentConfig(crop_size=16, batch_size=2),
                                   labels, COURSE, 1)
    image, label = next(data.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True))
    assert image.shape == (2, 3, 16, 16) and label.shape == (2, 5, 16, 16) and set(np.unique(label)) <= {0, 1, 254}
    names = data.names()
    expected = sum(histogram(bands(int(name)), 254) for name in names)
    assert manifest["pixels"] == expected.tolist() and data.class_counts().pixels.tolist() == expected[:5].tolist()
    for name, _, mask in data.samples(range(len(names))):
        np.testing.assert_array_equal(mask, bands(int(name)))
    for seen, (_, mask) in zip(names, SegDataset(data_file=data.path, training=False, num_classes=5, ignore_label=254,
                                                 multilabel=True).photographs()):
        np.testing.assert_array_equal(mask, bands(int(seen)))


def test_a_changed_band_and_other_settings_are_noticed(leaves, tmp_path):
    root, config = leaves
    before = read_manifest(root / "records" / "train.mindrecord")["identity"]
    name = next(iter(before["samples"]))
    path = str(root / "masks" / f"{name}.tif")
    mask = bands(int(name))
    mask[3, 4, 4] ^= 1
    write_bands(path, np.where(mask > 1, 254, mask).astype(np.uint8))
    with pytest.raises(UserError, match="changed, first the mask"):
        prepare(config)
    prepare(dataclasses.replace(config, overwrite=True))
    assert read_manifest(root / "records" / "train.mindrecord")["identity"]["hash"] != before["hash"]
    write_bands(path, bands(int(name)))
    prepare(dataclasses.replace(config, overwrite=True))
    for settings, words in (({"mask_encoding": "grey"}, ["mask_encoding grey", "multilabel"]),
                            ({"instances": "boxes"}, ["--instances boxes", "overlap"])):
        with pytest.raises(UserError) as error:
            prepare(dataclasses.replace(config, records=str(tmp_path / "other"), **settings))
        one_line(error, *words)


def test_pictures_have_a_number_for_each_combination():
    mask = np.zeros((4, 6, 5), np.uint8)
    mask[:2, :, 0] = 1
    mask[1, :3, 1] = 1
    mask[3, 5, 4] = 254
    (numbers, other), drawn = as_drawn([mask, np.zeros_like(mask)], LABELS)
    assert drawn.names == ("none", "leaf", "leaf + rust") and drawn.ignore_label == 255
    assert drawn.colors[2] == tuple(np.mean(LABELS.colors[:2], 0).astype(int))
    expected = np.array([[1] * 6, [2] * 3 + [1] * 3, [0] * 6, [0] * 5 + [255]])
    np.testing.assert_array_equal(numbers, expected)
    assert not other.any()
    many = np.unpackbits(np.arange(1, 512, dtype="<u2").view(np.uint8).reshape(-1, 1, 2), axis=-1,
                         bitorder="little")[..., :9]
    nine = LabelSet.from_dict({"names": ["none", *"abcdefgh"], "multilabel": True}, "here")
    (numbers,), drawn = as_drawn([many], nine)
    assert drawn.names[-1] == "other combinations" and len(drawn) == 255 and (numbers == 254).sum() == 511 - 253
    assert drawn.names[:4] == ("none", "none (1)", "a", "none + a")
    assert as_drawn([expected], LabelSet(("a",), ((0, 0, 0),)))[0][0] is expected
