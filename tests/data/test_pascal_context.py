"""PASCAL-Context: LabelMap's hundreds of labels -> 59 or 33 classes, with the published corrections of names."""

import cv2
import numpy as np
import pytest
import scipy.io

from mindfcn.commands.prepare import prepare
from mindfcn.config import PrepareConfig
from mindfcn.data.records.mindrecord import read_records
from mindfcn.data.samples import decode_mask
from mindfcn.data.sources.pascal_context import class_table, context_labels, list_context
from mindfcn.errors import UserError

# As on the data set's page: 59 names in their order.
CLASSES = """aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant
sheep sofa train tvmonitor bag bed bench book building cabinet ceiling clothes computer cup door fence floor flower food
grass ground keyboard light mountain mouse curtain platform sign plate road rock shelves sidewalk sky snow bedcloth
track tree truck wall water window wood""".split()
FULL_NAMES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth", "pottedplant": "potted plant",
              "tvmonitor": "tv monitor"}


@pytest.fixture
def context(tmp_path):
    """(annotations, VOC's folder, {name: LabelMap}, {class name: its number in labels.txt})."""
    rng = np.random.default_rng(1)
    root, voc = tmp_path / "context", tmp_path / "VOCdevkit" / "VOC2010"
    for folder in (root / "trainval", voc / "JPEGImages", voc / "ImageSets" / "Main"):
        folder.mkdir(parents=True)
    numbers = dict(zip(CLASSES, rng.permutation(np.arange(1, 541))[:59].tolist()))
    names = {number: f"thing {number}" for number in range(1, 541)}
    names |= {number: FULL_NAMES.get(name, name) for name, number in numbers.items()}
    (root / "labels.txt").write_text("".join(f"{number}: {name}\n" for number, name in names.items()))
    for count in (59, 33):
        (root / f"{count}_labels.txt").write_text(
            "".join(f"{place}: {name}\n" for place, name in enumerate(CLASSES[:count], 1)))
    maps = {}
    for name in ("2008_000001", "2008_000002", "2008_000003"):
        maps[name] = rng.choice([0, *range(1, 541), *list(numbers.values()) * 10], (40, 60)).astype(np.uint16)
        scipy.io.savemat(root / "trainval" / f"{name}.mat", {"LabelMap": maps[name]})
        cv2.imwrite(str(voc / "JPEGImages" / f"{name}.jpg"), rng.integers(0, 256, (40, 60, 3), np.uint8))
    # VOC's detection lists have images without annotations, too.
    (voc / "ImageSets/Main/train.txt").write_text("2008_000001\n2008_000009\n2008_000002\n")
    (voc / "ImageSets/Main/val.txt").write_text("2008_000003\n")
    return root, voc, maps, numbers


def by_hand(label_map, numbers, count):
    mask = np.zeros(label_map.shape, np.uint8)
    for place, name in enumerate(CLASSES[:count], 1):
        mask[label_map == numbers[name]] = place
    return mask


@pytest.mark.parametrize("count", [59, 33])
def test_labels_become_classes_and_all_others_background(context, tmp_path, count):
    root, voc, maps, numbers = context
    result = prepare(PrepareConfig(records=str(tmp_path / "records"), source="context", root=str(root),
                                   voc=str(tmp_path), classes=count))
    assert (result.train.written, result.val.written, len(result.labels)) == (2, 1, count + 1)
    assert result.labels.names == ("background", *CLASSES[:count])
    (name, _, label), = read_records(result.val_path)
    expected = by_hand(maps["2008_000003"], numbers, count)
    assert {11, 28} <= set(expected.ravel())
    np.testing.assert_array_equal(decode_mask(label, name), expected)
    assert [sample.name for sample in list_context(root, voc, "train", count)] == ["2008_000001", "2008_000002"]


def test_mistakes_are_reported(context, tmp_path):
    root, voc, _, _ = context
    with pytest.raises(UserError, match="12 classes: there are 59 and 33"):
        context_labels(root, 12)
    with pytest.raises(UserError, match="no split 'test'"):
        list_context(root, voc, "test")
    with pytest.raises(UserError, match="no VOC2010"):
        list_context(root, tmp_path / "context", "train")
    with pytest.raises(UserError, match="give their folder with --voc"):
        prepare(PrepareConfig(records=str(tmp_path / "r"), source="context", root=str(root)))
    scipy.io.savemat(root / "trainval" / "2008_000003.mat", {"LabelMap": np.full((40, 60), 541, np.uint16)})
    sample, = list_context(root, voc, "val")
    with pytest.raises(UserError, match="LabelMap holds 541, but labels.txt ends at 540"):
        sample.read_label(sample.label)
    with open(root / "59_labels.txt", "a", encoding="utf-8") as file:
        file.write("60: unicorn\n")
    with pytest.raises(UserError, match="no label 'unicorn' of 59_labels.txt"):
        class_table(root)
    (root / "59_labels.txt").write_text("aeroplane\n")
    with pytest.raises(UserError, match="59_labels.txt line 1"):
        class_table(root)
