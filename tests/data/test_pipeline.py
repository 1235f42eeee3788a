"""An albumentations pipeline on training crops: aligned planes, ignored borders, the same crops after a resumption."""

import concurrent.futures
import os

import numpy as np
import pytest
from helpers import one_line

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
albumentations = pytest.importorskip("albumentations", reason="pip install albumentations")

from mindfcn.config import AugmentConfig  # noqa: E402
from mindfcn.data.dataset import SegDataset  # noqa: E402
from mindfcn.data.pipeline import Pipeline  # noqa: E402
from mindfcn.data.synthetic.shapes import SAMPLE  # noqa: E402
from mindfcn.errors import UserError  # noqa: E402
from mindfcn.preprocess import COURSE  # noqa: E402

TURN = albumentations.Affine(rotate=(30, 30), mask_interpolation=1, p=1)


def written(path, *steps):
    albumentations.save(albumentations.Compose(steps), path, data_format="yaml")
    return str(path)


def crop(height=40, width=50):
    random = np.random.default_rng(1)
    mask = np.kron(random.integers(0, 21, (height // 5, width // 5)), np.ones((5, 5))).astype(np.uint8)
    return np.repeat(mask[..., None] * 10, 3, -1), mask


def test_an_image_is_transformed_as_by_albumentations_itself(tmp_path):
    """In its own order of colours, RGB."""
    steps = albumentations.ToGray(p=1), albumentations.HorizontalFlip(p=1)
    image, mask = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8), crop(20, 30)[1]
    got, labels = Pipeline(written(tmp_path / "a.yaml", *steps), 255, COURSE, 24)(image, mask, np.random.RandomState(1))
    theirs = albumentations.Compose(steps)(image=np.ascontiguousarray(image[..., ::-1]), mask=mask)
    np.testing.assert_array_equal(got, theirs["image"][..., ::-1])
    np.testing.assert_array_equal(labels, theirs["mask"])


@pytest.mark.parametrize("ignore_label", [255, 0])
def test_planes_and_masks_move_alike_and_what_comes_from_outside_is_ignored(tmp_path, ignore_label):
    image, mask = crop()
    mask[mask == ignore_label] = 1
    planes = {"image": image, "depth": 1000 + mask.astype(np.uint16), "hha": image}
    pipeline = Pipeline(written(tmp_path / "a.yaml", TURN), ignore_label, COURSE.to("rgb_hha"), 24)
    moved, masks = pipeline(planes, np.stack([mask, mask], -1), np.random.RandomState(1))
    np.testing.assert_array_equal(masks[..., 0], masks[..., 1])
    outside = masks[..., 0] == ignore_label
    assert 0.05 < outside.mean() < 0.5 and set(np.unique(masks)) <= {ignore_label, *np.unique(mask)}
    np.testing.assert_array_equal(moved["depth"], np.where(outside, 0, 1000 + masks[..., 0].astype(np.uint16)))
    assert (moved["hha"][outside] == (132, 94, 118)).all()
    theirs = albumentations.Compose([albumentations.Affine(rotate=(30, 30), p=1)])(image=image, mask=mask + 1)["mask"]
    np.testing.assert_array_equal(masks[..., 0][~outside], theirs[~outside] - 1)


def test_decisions_follow_from_the_crops_random_numbers_and_are_independent(tmp_path):
    path = written(tmp_path / "a.yaml", albumentations.HorizontalFlip(p=0.5), albumentations.VerticalFlip(p=0.5))
    pipeline, (image, mask) = Pipeline(path, 255, COURSE, 24), crop()

    def made(seed):
        return pipeline(image, mask, np.random.RandomState(seed))[1].tobytes()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(made, [*range(60), *range(60)]))
    assert results[:60] == results[60:]
    assert len(set(results)) == 4


def test_a_resumed_data_set_draws_the_same_crops(sample_records, tmp_path):
    path = written(tmp_path / "a.yaml", TURN, albumentations.RandomBrightnessContrast(p=0.7))
    records = str(sample_records / "records" / "train.mindrecord")
    options = AugmentConfig(crop_size=32, batch_size=4, workers=2, pipeline=path, rotate=20, rare_crops=0.5,
                            vertical_flip=True)

    def batches(**start):
        data = SegDataset.for_training(records, options, SAMPLE, COURSE, 1)
        for name, value in start.items():
            setattr(data, name, value)
        rows = data.get_dataset().create_tuple_iterator(num_epochs=2, output_numpy=True)
        return [tuple(part.tobytes() for part in row) for _ in range(2) for row in rows]

    complete = batches()
    assert complete[4:6] == batches(first_epoch=1, skip_batches=1)[:2] and len(set(complete)) == 6


@pytest.mark.parametrize("text, words", [
    ("hello\n", ["a.yaml", "no albumentations pipeline"]), ("transform: {p: 1}\n", ["no albumentations pipeline"]),
    ("transform: {__class_fullname__: Nothing, p: 1}\n", ["Nothing"]),
    ("transform: {__class_fullname__: Affine, p: 7}\n", ["no albumentations pipeline"]),
    ("a: [", ["a.yaml, line", "not YAML"])])
def test_a_file_that_is_no_pipeline_is_refused_in_one_line(tmp_path, text, words):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        Pipeline(str(tmp_path / "a.yaml"), 255, COURSE, 24)
    one_line(error, *words)


@pytest.mark.parametrize("step, words", [
    (albumentations.RandomSizedBBoxSafeCrop(8, 8, p=1), ["a.yaml", "bboxes"]),
    (albumentations.RandomCrop(8, 9, p=1), ["24x24", "9x8", "--augment"])])
def test_what_crops_cannot_give_or_keep_is_refused_before_training(tmp_path, step, words):
    with pytest.raises(UserError) as error:
        Pipeline(written(tmp_path / "a.yaml", step), 255, COURSE, 24)
    one_line(error, *words)
