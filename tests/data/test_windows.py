"""Objects of masks, and the windows of both stages of DeconvNet's training, through MindRecord and back."""

import collections
import dataclasses

import cv2
import numpy as np
import pytest
from PIL import Image

from mindfcn.commands.prepare import prepare
from mindfcn.config import PrepareConfig
from mindfcn.data.records.mindrecord import read_records
from mindfcn.data.regions.windows import MAX_COPIES, find_objects, window_samples
from mindfcn.data.samples import decode_mask
from mindfcn.data.sources.voc import list_voc
from mindfcn.errors import UserError
from mindfcn.labels import VOC

CAT, DOG = 8, 12
contrib = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="OpenCV here is without contrib: install "
                             "opencv-contrib-python<4.12 in the place of opencv-python")


def mask_of_three():
    """Two cats that touch by a corner, and a dog with a void border."""
    mask = np.zeros((120, 160), np.uint8)
    mask[10:40, 10:40] = CAT
    mask[40:60, 40:70] = CAT
    mask[70:110, 90:150] = 255
    mask[75:105, 95:145] = DOG
    return mask


@pytest.fixture
def root(tmp_path):
    """A VOC folder with one training and one validation photograph, and no masks of objects."""
    folder = tmp_path / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    mask = mask_of_three()
    image = VOC.colorize(np.where(mask == 255, 0, mask).astype(np.uint8))
    for name in ("a", "b"):
        Image.fromarray(image).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        Image.fromarray(mask).save(folder / "SegmentationClass" / f"{name}.png")
    (folder / "ImageSets/Segmentation/train.txt").write_text("a\n")
    (folder / "ImageSets/Segmentation/val.txt").write_text("b\n")
    return folder


def test_connected_parts_of_a_class_are_objects():
    found = find_objects(mask_of_three(), 255)
    assert [(one.label, one.box) for one in found] == [(CAT, (10, 10, 70, 60)), (DOG, (95, 75, 145, 105))]
    assert (found[1].pixels == (mask_of_three() == DOG)).all()


def test_voc_object_masks_separate_touching_objects(tmp_path):
    numbers = np.zeros((120, 160), np.uint8)
    numbers[10:40, 10:40], numbers[40:60, 40:70], numbers[70:110, 90:150] = 1, 2, 3
    numbers[0:3, 0:3] = 4
    Image.fromarray(numbers).save(tmp_path / "objects.png")
    found = find_objects(mask_of_three(), 255, str(tmp_path / "objects.png"))
    assert [(one.label, one.box) for one in found] == [
        (CAT, (10, 10, 40, 40)), (CAT, (40, 40, 70, 60)), (DOG, (95, 75, 145, 105))]
    with pytest.raises(UserError, match="objects.png is .160, 120. pixels"):
        find_objects(mask_of_three()[1:], 255, str(tmp_path / "objects.png"))


def test_stage_1_labels_the_object_in_the_middle_alone(root):
    settings = PrepareConfig(records=str(root / "records"), source="voc", root=str(root), instances="boxes",
                             instance_size=50, duplicate_rare=False)
    result = prepare(settings)
    assert (result.train.written, result.val.written) == (2, 1)
    rows = [(name, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), decode_mask(label, name))
            for name, data, label in read_records(result.train_path)]
    # The largest object first; its window is 1.2 times its box.
    assert [name for name, _, _ in rows] == ["a_0", "a_1"]
    whole = mask_of_three()
    boxes = ((4, 5, 76, 65), (90, 72, 150, 108))
    for (_, image, mask), label, other, (left, top, right, bottom) in zip(rows, (CAT, DOG), (0, 255), boxes):
        assert image.shape == (50, 50, 3) and set(np.unique(mask)) == {label, other}
        expected = cv2.resize(whole[top:bottom, left:right], (50, 50), interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(mask, expected)
        # The photograph was warped with its mask.
        assert np.abs(image[mask == label].mean(0)[::-1] - VOC.palette()[label]).max() < 25
    # A second call writes nothing; another size is another set of records.
    assert prepare(settings).train.reused
    with pytest.raises(UserError, match="instance_size is 50 there and 60 here"):
        prepare(dataclasses.replace(settings, instance_size=60))


def test_other_objects_in_a_window_are_background(root):
    """With the dog's box drawn around the cats."""
    mask = mask_of_three()
    mask[70:110, 0:150] = DOG
    Image.fromarray(mask).save(root / "SegmentationClass" / "a.png")
    samples = window_samples(list_voc(root, "train"), "boxes", VOC, 100)
    windows = {sample.label_of_window: sample.window(np.zeros((120, 160, 3), np.uint8), mask)[1] for sample in samples}
    assert set(np.unique(windows[CAT])) == {0, CAT} and set(np.unique(windows[DOG])) == {0, DOG}
    left, top, right, bottom = samples[0].window.box
    assert CAT in mask[top:bottom, left:right] or CAT in mask[samples[1].window.box[1]:, :]


def test_rare_classes_are_repeated_up_to_the_median(root):
    mask = np.zeros((120, 160), np.uint8)
    for number in range(8):
        mask[10 * (number // 4) * 2:10 * (number // 4) * 2 + 10, 30 * (number % 4):30 * (number % 4) + 12] = CAT
    for left in (0, 40, 80):
        mask[60:75, left:left + 15] = DOG
    mask[90:110, 20:60] = 3
    Image.fromarray(mask).save(root / "SegmentationClass" / "a.png")
    samples = window_samples(list_voc(root, "train"), "boxes", VOC, 32)
    assert collections.Counter(sample.label_of_window for sample in samples) == {CAT: 8, DOG: 3, 3: 3}
    assert len({sample.name for sample in samples}) == len(samples) and MAX_COPIES >= 3
    assert len(window_samples(list_voc(root, "train"), "boxes", VOC, 32, duplicate_rare=False)) == 12
    assert len(window_samples(list_voc(root, "train"), "boxes", VOC, 32, per_image=2, duplicate_rare=False)) == 2


def test_a_set_without_objects_is_refused(root):
    Image.fromarray(np.zeros((120, 160), np.uint8)).save(root / "SegmentationClass" / "a.png")
    with pytest.raises(UserError, match="no boxes in 1 photographs"):
        window_samples(list_voc(root, "train"), "boxes", VOC)


@contrib
def test_stage_2_takes_proposals_that_lie_on_an_object_with_all_labels(root):
    settings = PrepareConfig(records=str(root / "records"), source="voc", root=str(root), instances="proposals",
                             instance_size=64)
    result = prepare(settings)
    assert result.train.written > 2
    masks = [decode_mask(label, name) for name, _, label in read_records(result.train_path)]
    assert all(mask.shape == (64, 64) and mask.any() for mask in masks)
    assert {CAT, DOG} <= {label for mask in masks for label in np.unique(mask)}


def test_stage_2_without_contrib_is_refused_at_once(root, monkeypatch):
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    with pytest.raises(UserError, match="opencv-contrib-python"):
        prepare(PrepareConfig(records=str(root / "records"), source="voc", root=str(root), instances="proposals"))
    assert not (root / "records").exists()
