"""The operations on one photograph: the course's numbers, and the same input in every verb."""

import colorsys
import dataclasses

import cv2
import numpy as np
import pytest
from mindspore import nn
from PIL import Image

from mindfcn.config import AugmentConfig
from mindfcn.data import transforms
from mindfcn.data.dataset import SegDataset
from mindfcn.data.records.mindrecord import write_records
from mindfcn.data.samples import Sample
from mindfcn.inference.network import Segmenter
from mindfcn.labels import VOC
from mindfcn.preprocess import COURSE, Preprocess
from mindfcn.storage.images import read_palette_mask

CROPS = AugmentConfig(crop_size=32, min_scale=0.5, max_scale=2.0)


def photograph(height, width, seed=1):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (height, width, 3), np.uint8)
    mask = random.integers(0, 21, (height, width)).astype(np.uint8)
    mask[random.uniform(size=mask.shape) < 0.1] = 255
    return cv2.GaussianBlur(image, (5, 5), 2), mask


def course(image, mask, random, crop_size, min_scale, max_scale, mean, std, ignore_label):
    """The course's steps in its order: resize, normalise and pad the whole image, then crop and flip."""
    mean, std = np.array(mean, np.float32), np.array(std, np.float32)
    factor = random.uniform(min_scale, max_scale)
    height, width = int(factor * image.shape[0]), int(factor * image.shape[1])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    image = (image - mean) / std
    bottom, right = max(0, crop_size - height), max(0, crop_size - width)
    image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=0)
    mask = cv2.copyMakeBorder(mask, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=ignore_label)
    top = random.randint(0, image.shape[0] - crop_size + 1)
    left = random.randint(0, image.shape[1] - crop_size + 1)
    image = image[top:top + crop_size, left:left + crop_size]
    mask = mask[top:top + crop_size, left:left + crop_size]
    if random.uniform(0.0, 1.0) > 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return image.transpose(2, 0, 1), mask.astype(np.int32)


@pytest.mark.parametrize("size", [(40, 30), (25, 90), (90, 25), (64, 64), (9, 7)])
def test_crops_are_the_courses_bit_by_bit(size):
    image, mask = photograph(*size)
    for seed in range(12):
        got = transforms.augment(image, mask, np.random.RandomState(seed), CROPS, COURSE, 255)
        expected = course(image, mask, np.random.RandomState(seed), 32, 0.5, 2.0, COURSE.mean, COURSE.std, 255)
        for ours, theirs in zip(got, expected):
            assert ours.dtype == theirs.dtype and ours.flags.c_contiguous
            np.testing.assert_array_equal(ours, theirs)


def test_a_crop_is_written_into_a_given_array():
    """Nothing of the array's earlier content remains."""
    image, mask = photograph(40, 20)
    for seed in range(8):
        out = np.full((3, 32, 32), np.nan, np.float32), np.full((32, 32), -1, np.int32)
        got = transforms.augment(image, mask, np.random.RandomState(seed), CROPS, COURSE, 255, out=out)
        new = transforms.augment(image, mask, np.random.RandomState(seed), CROPS, COURSE, 255)
        for given, ours, expected in zip(out, got, new):
            assert ours is given
            np.testing.assert_array_equal(ours, expected)


def test_preprocess_dataset_draws_from_numpys_global_generator_as_the_course_does(tmp_path):
    """Encoded bytes in, the course's own call and seed."""
    image, mask = photograph(45, 38)
    encoded = [np.frombuffer(cv2.imencode(suffix, array)[1].tobytes(), np.uint8)
               for suffix, array in ((".jpg", image), (".png", mask))]
    dataset = SegDataset([100.0, 110, 120], [50.0, 60, 70], records_of(tmp_path, image, mask), 1, 32, 1.5, 0.75)
    decoded = cv2.imdecode(encoded[0], cv2.IMREAD_COLOR)
    for seed in range(5):
        np.random.seed(seed)
        got = dataset.preprocess_dataset(*encoded)
        after = np.random.uniform()
        np.random.seed(seed)
        expected = course(decoded, mask, np.random, 32, 0.75, 1.5, [100, 110, 120], [50, 60, 70], 255)
        assert after == np.random.uniform(), "as many numbers drawn"
        for ours, theirs in zip(got, expected):
            np.testing.assert_array_equal(ours, theirs)


def test_what_is_beyond_the_photograph_is_mean_color_and_ignored():
    image, mask = photograph(10, 12)
    mask[:] = 4
    unscaled = AugmentConfig(crop_size=24, min_scale=1, max_scale=1)
    for seed in range(6):
        crop, labels = transforms.augment(image, mask, np.random.RandomState(seed), unscaled, COURSE, 77)
        inside = labels != 77
        assert inside.sum() == 120 and inside[:10].any() and not inside[10:].any()
        assert (crop[:, ~inside] == 0).all() and (labels[inside] == 4).all()


def test_crops_are_cut_from_photographs_of_the_shorter_side():
    image, mask = photograph(40, 60)
    whole = AugmentConfig(crop_size=30, shorter_side=20, min_scale=1, max_scale=1, flip=False)
    crop, labels = transforms.augment(image, mask, np.random.RandomState(1), whole, COURSE, 255)
    expected = cv2.resize(image, (30, 20), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(crop[:, :20], transforms.to_input(expected, COURSE))
    np.testing.assert_array_equal(labels[:20], mask[::2, ::2])
    assert (labels[20:] == 255).all()


def test_masks_are_never_blended():
    image, mask = photograph(30, 30)
    mask[:] = np.where(np.arange(30) < 15, 3, 11)
    for factor in (0.37, 0.9, 1.7):
        scaled_image, scaled = transforms.scale(image, mask, factor)
        assert scaled.shape == scaled_image.shape[:2] == (int(30 * factor),) * 2
        assert set(np.unique(scaled)) == {3, 11}
    assert transforms.scale(image[:1, :2], mask[:1, :2], 0.5)[0].shape == (1, 1, 3)


def test_crop_flip():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert transforms.crop(array, 1, 2, 5).tolist() == [[6, 7], [10, 11]]
    assert transforms.flip(array)[0].tolist() == [3, 2, 1, 0]


def test_mean_and_deviation_become_zero_and_one():
    image = np.uint8([[[103, 116, 124]]])
    value = transforms.to_input(image, Preprocess("BGR", (100, 116, 120), (3, 1, 8)))
    np.testing.assert_array_equal(value, np.float32([[[1]], [[0]], [[0.5]]]))
    swapped = transforms.to_input(image, Preprocess("RGB", (120, 116, 100), (8, 1, 3)))
    np.testing.assert_array_equal(swapped, np.float32([[[0.5]], [[0]], [[1]]]))


def records_of(tmp_path, image, mask):
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    sample = Sample("a", str(tmp_path / "a.png"), str(tmp_path / "m.png"), read_palette_mask)
    write_records([sample], tmp_path / "records", VOC)
    return str(tmp_path / "records")


class Keep(nn.Cell):
    """A network that stores its input."""

    def __call__(self, batch):
        assert not self.training
        self.input = batch.asnumpy()
        return batch


@pytest.mark.parametrize("preprocess", [COURSE, Preprocess("RGB", (123.0, 116.5, 104.25), (58.0, 57.0, 57.5))])
def test_training_evaluation_and_prediction_feed_the_same_numbers(tmp_path, preprocess):
    image, mask = photograph(32, 32)
    path = records_of(tmp_path, image, mask)
    evaluated = next(SegDataset(data_file=path, training=False, preprocess=preprocess).get_dataset()
                     .create_tuple_iterator(num_epochs=1, output_numpy=True))
    net = Keep()
    Segmenter(net, preprocess)(image)
    np.testing.assert_array_equal(net.input, evaluated[0])
    np.testing.assert_array_equal(evaluated[1][0], mask)
    flips = set()
    for seed in range(8):
        dataset = SegDataset(data_file=path, batch_size=1, crop_size=32, min_scale=1, max_scale=1, seed=seed,
                             preprocess=preprocess)
        trained, labels = next(dataset.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True))
        flipped = not np.array_equal(labels[0], mask)
        flips.add(flipped)
        np.testing.assert_array_equal(trained[..., ::-1] if flipped else trained, evaluated[0])
        np.testing.assert_array_equal(labels[..., ::-1] if flipped else labels, evaluated[1])
    assert flips == {True, False}


# ------------------------------------------------------------------------------------------- colours, and class shares

class Draws:
    """A random generator with given numbers: those of `uniform` as shares of the upper bound, those of `randint`."""

    def __init__(self, uniform, randint):
        self.shares, self.numbers = list(uniform), list(randint)

    def uniform(self, low, high):
        assert low == -high
        return self.shares.pop(0) * high

    def randint(self, below):
        assert below == 2
        return self.numbers.pop(0)


# Shares of brightness, contrast, saturation and hue; whether each happens; contrast last.
@pytest.mark.parametrize("shares, happens", [
    ((0.5, 0, 0, 0), (1, 0, 0, 0, 0)), ((-1, 0, 0, 0), (1, 1, 1, 1, 1)), ((0, 0.8, 0, 0), (1, 1, 0, 0, 0)),
    ((0, 0, -0.9, 0), (0, 0, 1, 0, 1)), ((0, 0, 0, 1), (0, 0, 0, 1, 0)), ((0.3, -0.5, 0.7, -0.4), (1, 1, 1, 1, 0)),
    ((0.3, -0.5, 0.7, -0.4), (1, 1, 1, 1, 1)), ((1, 1, 1, 1), (0, 0, 0, 0, 0))])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_colors_change_as_pythons_colorsys_changes_them(shares, happens, strength):
    image, _ = photograph(7, 9)
    got = transforms.jitter_colors(image, Draws(shares, happens), strength)
    brightness, contrast, saturation, hue = (
        strength * share * does for share, does in zip(shares, happens))
    expected = np.empty(image.shape)
    for place in np.ndindex(7, 9):
        blue, green, red = image[place] / 255
        pixel = [min(max(value + 32 / 255 * brightness, 0), 1) for value in (red, green, blue)]
        if not happens[4]:
            pixel = [min(value * (1 + 0.5 * contrast), 1) for value in pixel]
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        pixel = colorsys.hsv_to_rgb((h + hue / 10) % 1, min(s * (1 + 0.5 * saturation), 1), v)
        if happens[4]:
            pixel = [min(value * (1 + 0.5 * contrast), 1) for value in pixel]
        expected[place] = 255 * np.array(pixel[::-1])
    assert got.dtype == np.uint8
    assert np.abs(got - expected).max() < 0.51


def test_grey_stays_grey_in_saturation_and_hue():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    np.testing.assert_array_equal(transforms.jitter_colors(grey, Draws((0, 0, 0.9, 0.7), (0, 0, 1, 1, 0))), grey)


def test_colors_change_the_crop_alone_and_draw_after_it():
    """Without them no more numbers are drawn than in the course; masks and places are the same with them."""
    image, mask = photograph(60, 50)
    changed = 0
    jittered = dataclasses.replace(CROPS, photometric=1.0)
    for seed in range(12):
        random, other = np.random.RandomState(seed), np.random.RandomState(seed)
        plain = transforms.augment(image, mask, random, CROPS, COURSE, 255)
        colors = transforms.augment(image, mask, other, jittered, COURSE, 255)
        np.testing.assert_array_equal(plain[1], colors[1])
        # Padding beyond the photograph keeps the mean colour.
        assert (colors[0][:, plain[1] == 255] == 0).all() or (mask == 255).any()
        changed += not np.array_equal(plain[0], colors[0])
        again = transforms.augment(image, mask, np.random.RandomState(seed), jittered, COURSE, 255)
        np.testing.assert_array_equal(colors[0], again[0])
    assert changed >= 9, "nothing at all happens in one case of 16"


def one_sided(side=64):
    """A photograph nearly all of class 0, with class 1 in a corner and an ignored column."""
    mask = np.zeros((side, side), np.uint8)
    mask[:side // 3, :side // 3] = 1
    mask[:, side // 2] = 255
    return photograph(side, side)[0], mask


def test_crops_are_drawn_again_while_one_class_has_too_large_a_share():
    image, mask = one_sided()
    bound, few, many = 0.75, 0, 0
    settings = AugmentConfig(crop_size=16, min_scale=1.0, max_scale=1.0, flip=False)
    drawn_once = dataclasses.replace(settings, max_class_share=bound, crop_tries=1)
    drawn_again = dataclasses.replace(settings, max_class_share=bound, crop_tries=200)
    for seed in range(40):
        _, plain = transforms.augment(image, mask, np.random.RandomState(seed), settings, COURSE, 255)
        _, once = transforms.augment(image, mask, np.random.RandomState(seed), drawn_once, COURSE, 255)
        _, bounded = transforms.augment(image, mask, np.random.RandomState(seed), drawn_again, COURSE, 255)
        np.testing.assert_array_equal(plain, once)
        counted = plain[plain != 255]
        fine = max((counted == 0).mean(), (counted == 1).mean()) <= bound
        counted = bounded[bounded != 255]
        assert max((counted == 0).mean(), (counted == 1).mean()) <= bound
        if fine:
            np.testing.assert_array_equal(plain, bounded)
        few, many = few + fine, many + 1
    assert 0 < few < many / 2


def test_drawing_ends_where_no_crop_is_acceptable():
    image, mask = photograph(40, 40)[0], np.full((40, 40), 3, np.uint8)
    settings = AugmentConfig(crop_size=16, min_scale=1.0, max_scale=1.0, max_class_share=0.5, crop_tries=7)
    _, label = transforms.augment(image, mask, np.random.RandomState(1), settings, COURSE, 255)
    assert (label == 3).all()
    assert transforms.largest_share(np.full((4, 4), 255, np.uint8), 255) == 1
    assert transforms.largest_share(np.array([[0, 1, 1, 1], [255, 255, 255, 255]], np.uint8), 255) == 0.75


# ------------------------------------------------------------------------------------------------- rotation, placement

def whole_crop(image, mask, seed=1, preprocess=COURSE, ignore_label=255, **settings):
    """(mask of a crop that takes all of a square photograph, its normalised image)."""
    config = AugmentConfig(crop_size=mask.shape[0], **{"min_scale": 1, "max_scale": 1, "flip": False, **settings})
    data, label = transforms.augment(image, mask, np.random.RandomState(seed), config, preprocess, ignore_label)
    return label, data


def test_a_vertical_flip_moves_image_mask_and_padding():
    image, mask = photograph(10, 12)
    config = AugmentConfig(crop_size=24, min_scale=1, max_scale=1, flip=False, vertical_flip=True)
    flipped = 0
    for seed in range(20):
        data, label = transforms.augment(image, mask, np.random.RandomState(seed), config, COURSE, 255)
        turned = (label[:14] == 255).all()
        flipped += turned
        rows = slice(14, 24) if turned else slice(0, 10)
        np.testing.assert_array_equal(label[rows, :12], mask[::-1] if turned else mask)
        expected = transforms.to_input(image[::-1] if turned else image, COURSE)
        np.testing.assert_array_equal(data[:, rows, :12], expected)
        data[:, rows, :12] = 0
        assert not data.any()
    assert 4 < flipped < 16


def test_a_quarter_turn_is_numpys():
    image, mask = photograph(21, 21)
    turned, labels = transforms.rotate(image, mask, 90, COURSE, 255)
    np.testing.assert_array_equal(labels, np.rot90(mask))
    assert np.abs(turned.astype(int) - np.rot90(image)).max() <= 1


@pytest.mark.parametrize("degrees", [-30, 12.5, 170])
def test_a_rotation_equals_pillows(degrees):
    """Masks to the nearest pixel, where it is unambiguous; from outside the ignore label, and the mean colour."""
    image, mask = photograph(45, 61)
    mask[mask == 255] = 3
    turned, labels = transforms.rotate(image, mask, degrees, Preprocess("RGB", (10, 20, 30), (2, 2, 2)), 77)
    theirs = np.array(Image.fromarray(mask).rotate(degrees, Image.Resampling.NEAREST, fillcolor=77))
    assert (labels == theirs).mean() > 0.98 and (labels == 77).mean() > 0.02
    smooth = np.array(Image.fromarray(image).rotate(degrees, Image.Resampling.BICUBIC))
    inner = cv2.erode((theirs != 77).astype(np.uint8), np.ones((5, 5))) == 1
    assert np.abs(turned.astype(int) - smooth)[inner].mean() < 2
    outside = cv2.dilate((theirs != 77).astype(np.uint8), np.ones((5, 5))) == 0
    assert (turned[outside] == (30, 20, 10)).all()


def test_rotation_keeps_depth_and_second_masks_aligned():
    image, mask = photograph(40, 40)
    preprocess = COURSE.to("rgbd")
    planes = {"image": image, "depth": 1000 + mask.astype(np.uint16)}
    labels, data = whole_crop(planes, np.stack([mask, mask], -1), 4, preprocess, rotate=40)
    np.testing.assert_array_equal(labels[0], labels[1])
    known = data[3] != 0
    assert 0.02 < (~known).mean() < 0.3 and (labels[0][~known] == 255).all()
    depth = np.exp(data[3] * preprocess.std[3] + preprocess.mean[3])
    np.testing.assert_allclose(depth[known], 1000 + labels[0][known], atol=0.1)


def test_crops_around_a_class_choose_the_class_first_and_lie_anywhere_around_its_pixel():
    mask = np.zeros((80, 100), np.uint8)
    mask[70, 20], mask[:5] = 4, 255
    config = AugmentConfig(crop_size=16, rare_crops=0.8)
    random = np.random.RandomState(1)
    corners = [transforms.place(mask, random, config, 255) for _ in range(2000)]
    assert all(0 <= top <= 64 and 0 <= left <= 84 for top, left in corners)
    around = np.array([(top, left) for top, left in corners if 54 < top <= 70 and 4 < left <= 20])
    # 0.8 / 2 of the crops for class 4; of the others 16 x 10 of the 65 x 85 places, more near the edge.
    assert len(around) / 2000 == pytest.approx(0.4 + 0.6 * 0.03, abs=0.045)
    assert set(around[:, 0]) == set(range(55, 65)) and set(around[:, 1]) == set(range(5, 21))
    plain = [transforms.place(mask, random, AugmentConfig(crop_size=16), 255) for _ in range(500)]
    assert sum(54 < top <= 70 and 4 < left <= 20 for top, left in plain) < 40
    nothing = transforms.place(np.full((8, 9), 255, np.uint8), random, config, 255)
    assert nothing == [0, 0]
