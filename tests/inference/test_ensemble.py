"""Ensembles by their two rules."""

import numpy as np
import pytest

from mindfcn.data.transforms import to_input
from mindfcn.inference.ensemble import Ensemble, combine, renormalise
from mindfcn.inference.predictor import Predictor
from mindfcn.logits import argmax, softmax
from mindfcn.preprocess import CAFFE, COURSE, TORCHVISION


class Linear(Predictor):
    """A segmenter that mixes the channels of an image whatever its normalisation."""

    def __init__(self, preprocess, seed):
        self.preprocess, self.net = preprocess, None
        self.weight = np.random.default_rng(seed).standard_normal((4, 3)).astype(np.float32) / 100

    def logits(self, batch):
        pixels = batch.transpose(0, 2, 3, 1) * np.float32(self.preprocess.std) + np.float32(self.preprocess.mean)
        pixels = pixels if self.preprocess.order == "BGR" else pixels[..., ::-1]
        return (pixels @ self.weight.T).transpose(0, 3, 1, 2)


def scores(seed=1):
    return 3 * np.random.default_rng(seed).standard_normal((4, 6, 5)).astype(np.float32)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_an_ensemble_of_a_map_with_itself_is_itself(times):
    np.testing.assert_allclose(softmax(combine([scores()] * times)), softmax(scores()), rtol=1e-5)


def test_a_product_of_a_map_with_itself_has_its_classes():
    """Where any score is above zero: the rest are cut off."""
    positive = np.abs(scores())
    np.testing.assert_array_equal(argmax(combine([positive, positive], "product")), argmax(positive))


def test_the_mean_is_of_probabilities():
    maps = [scores(1), scores(2), scores(3)]
    expected = np.mean([np.exp(one) / np.exp(one).sum(0) for one in np.float64(maps)], 0)
    np.testing.assert_allclose(softmax(combine(maps)), expected, rtol=1e-5)
    assert np.isfinite(combine([np.float32([[[200.0]], [[-200.0]]])] * 2)).all()


def test_the_product_is_of_scores_cut_off_at_zero_but_the_first():
    maps = [scores(1), scores(2)]
    np.testing.assert_array_equal(combine(maps, "product"), maps[0] * np.where(maps[1] > 0, maps[1], 0))


@pytest.mark.parametrize("rule", ["mean", "product"])
def test_each_member_gets_the_photograph_normalised_for_its_weights(rule):
    image = np.random.default_rng(5).integers(0, 256, (6, 5, 3), np.uint8)
    members = [Linear(COURSE, 1), Linear(CAFFE, 2), Linear(TORCHVISION, 3)]
    alone = [member.logits(to_input(image, member.preprocess)[None])[0] for member in members]
    mask, probabilities = Ensemble(members, rule)(image, True)
    np.testing.assert_allclose(probabilities, softmax(combine(alone, rule)), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(mask, argmax(combine(alone, rule)))


def test_renormalising_equals_normalising_the_photograph_again():
    image = np.random.default_rng(5).integers(0, 256, (6, 5, 3), np.uint8)
    for before in (COURSE, CAFFE, TORCHVISION):
        for after in (COURSE, CAFFE, TORCHVISION):
            np.testing.assert_allclose(renormalise(to_input(image, before)[None], before, after),
                                       to_input(image, after)[None], rtol=1e-4, atol=1e-4)
