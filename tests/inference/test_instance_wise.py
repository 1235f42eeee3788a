"""Instance-wise prediction: aggregation by its equations, and windows through a network."""

import itertools

import cv2
import mindspore as ms
import numpy as np
import pytest

from mindfcn.data.transforms import to_input
from mindfcn.inference import instance_wise
from mindfcn.inference.instance_wise import InstanceWise, aggregate
from mindfcn.inference.network import Segmenter, resized
from mindfcn.logits import softmax
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE

pytestmark = pytest.mark.usefixtures("uncompiled", "pynative")


@pytest.fixture(scope="module")
def segmenter(scramble):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    return Segmenter(scramble(create_model("deconvnet_vgg16", 4, width=0.125, fc_width=8, side=32)), COURSE)


def photograph(height=50, width=70, seed=1):
    small = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def some_windows(count=5, height=50, width=70):
    random = np.random.default_rng(2)
    lefts, tops = random.integers(0, width - 24, count), random.integers(0, height - 20, count)
    return [(int(left), int(top), int(left + random.integers(10, 24)), int(top + random.integers(8, 20)))
            for left, top in zip(lefts, tops)]


def test_one_proposal_of_the_whole_photograph_is_a_plain_forward_pass(segmenter):
    image = photograph()
    expected_mask, expected = segmenter(image, True)
    for boxes in ([(0, 0, 70, 50)], []):
        instances = InstanceWise(segmenter, lambda _, boxes=boxes: np.array(boxes).reshape(-1, 4))
        mask, probabilities = instances(image, True)
        np.testing.assert_array_equal(mask, expected_mask)
        np.testing.assert_array_equal(probabilities, expected)
    assert len(np.unique(expected_mask)) > 1


def test_a_plain_forward_pass_is_the_network_on_the_warped_photograph(segmenter):
    image = photograph()
    warped = cv2.resize(to_input(image, COURSE).transpose(1, 2, 0), (32, 32), interpolation=cv2.INTER_LINEAR)
    logits = segmenter.net.set_train(False)(ms.Tensor(warped.transpose(2, 0, 1)[None])).asnumpy()[0]
    expected = cv2.resize(logits.transpose(1, 2, 0), (70, 50), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)
    np.testing.assert_allclose(segmenter(image, True)[1], softmax(expected), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rule", ["max", "sum"])
def test_aggregation_is_its_equation_and_does_not_depend_on_the_order(rule):
    random = np.random.default_rng(1)
    found = [(box, random.standard_normal((3, 16, 16)).astype(np.float32)) for box in some_windows(4)]
    maps = np.zeros((len(found), 3, 50, 70), np.float32)
    for whole, ((left, top, right, bottom), scores) in zip(maps, found):
        whole[:, top:bottom, left:right] = cv2.resize(
            scores.transpose(1, 2, 0), (right - left, bottom - top)).transpose(2, 0, 1)
    expected = maps.max(0) if rule == "max" else maps.sum(0)
    assert (expected < 0).any() == (rule == "sum")
    for order in itertools.islice(itertools.permutations(found), 0, 24, 5):
        result = aggregate(order, 3, 50, 70, rule)
        if rule == "max":
            np.testing.assert_array_equal(result, expected)
        else:
            np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_windows_in_batches_give_the_results_of_single_windows(segmenter, monkeypatch):
    monkeypatch.setattr(instance_wise, "BATCH", 3)
    image, boxes = photograph(), some_windows(8)
    instances = InstanceWise(segmenter, lambda _: boxes)
    inputs = to_input(image, COURSE)
    single = [(box, segmenter.logits(resized(inputs[None, :, box[1]:box[3], box[0]:box[2]], 32, 32))[0])
              for box in boxes]
    sizes, logits = [], segmenter.logits
    monkeypatch.setattr(segmenter, "logits", lambda batch: sizes.append(len(batch)) or logits(batch))
    scores = instances.scores(inputs, boxes)
    assert sizes == [3, 3, 3]
    expected = aggregate(single, 4, 50, 70)
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(instances.logits(inputs[None])[0], scores, rtol=1e-3, atol=1e-4 * np.abs(scores).max())


def test_pixels_of_no_window_are_background(segmenter):
    mask, probabilities = InstanceWise(segmenter, lambda _: [(10, 10, 40, 40), (20, 5, 50, 30)])(photograph(), True)
    assert not mask[45:].any() and not mask[:, 60:].any()
    np.testing.assert_allclose(probabilities[:, 45:], 0.25)


def test_a_network_without_a_side_of_its_own_gets_windows_of_224(scramble, monkeypatch):
    net = scramble(create_model("fcn32s_vgg16", 3, width=0.125, fc_width=8))
    segmenter, shapes = Segmenter(net, COURSE), []
    logits = segmenter.logits
    monkeypatch.setattr(segmenter, "logits", lambda batch: shapes.append(batch.shape) or logits(batch))
    InstanceWise(segmenter, lambda _: [(10, 10, 40, 40)])(photograph())
    assert shapes == [(1, 3, 224, 224)]
