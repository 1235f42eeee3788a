"""Masks decided on the device equal those that NumPy decides; here the device is the CPU."""

import mindspore as ms
import numpy as np
import pytest
import small_network  # noqa: F401  (its networks are compiled)

from mindfcn.inference import network as whole_image
from mindfcn.inference.ensemble import Ensemble
from mindfcn.inference.instance_wise import InstanceWise
from mindfcn.inference.network import Segmenter
from mindfcn.inference.sliding_window import AutomaticWindows, SlidingWindow
from mindfcn.logits import mask_of
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE

pytestmark = pytest.mark.usefixtures("pynative")


@pytest.fixture
def on_device(monkeypatch):
    """Function that lets the device decide the classes; before it is called, and on CPU in use, NumPy does."""
    return lambda: monkeypatch.setattr(whole_image, "NUMPY_DECIDES", ())


def photograph(height, width):
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)


def assert_same(found, expected):
    """Same values, shape and type, and memory that PNG encoders take."""
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype and found.flags.c_contiguous


class Pass(ms.nn.Cell):
    """A network whose logits are its input."""

    def construct(self, logits):
        return logits * 1


@pytest.mark.parametrize("classes", [1, 2, 21, 256, 300])
def test_ties_infinities_and_nan(classes):
    logits = np.random.default_rng(classes).integers(-3, 2, (2, classes, 12, 7)).astype(np.float32)
    logits[:, :, 0] = -np.inf
    logits[:, classes // 2, 1:4] = np.inf
    logits[:, 0, 2:5], logits[:, -1, 3:6], logits[:, classes // 3, 6], logits[:, :, 7] = np.nan, np.nan, np.nan, np.nan
    logits[:, :, 8:10] = -0.0
    logits[:, 1:, 9] = 0.0
    for multilabel in (False, True):
        found = Segmenter(Pass(), COURSE, multilabel).masks(logits)
        for mask, one in zip(found, logits):
            assert_same(mask, mask_of(one, multilabel))


@pytest.mark.parametrize("name, options, multilabel", [
    ("fcn8s_small_bn", {}, False), ("fcn8s_small_bn", {}, True), ("fcn16s_small", {"geometric": 2}, False),
    ("fcn32s_small_bn", {"geometric": 2}, True)])
@pytest.mark.parametrize("compiles", ["0", "1"])
def test_any_size_both_heads_and_overlapping_classes(tiny, on_device, monkeypatch, name, options, multilabel, compiles):
    monkeypatch.setenv("MINDFCN_COMPILE", compiles)
    segmenter = Segmenter(tiny(name, **options), COURSE, multilabel)
    images = [photograph(*size) for size in ((64, 64), (50, 41), (1, 1))[:3 - int(compiles)]]
    tasks = [segmenter, segmenter.geometric] if options else [segmenter]
    expected = [task(image) for task in tasks for image in images]
    on_device()
    monkeypatch.setattr(segmenter, "_logits", None)
    for found, mask in zip([task(image) for task in tasks for image in images], expected):
        assert_same(*((found[0], mask[0]) if isinstance(mask, tuple) else (found, mask)))
    assert len({int(number) for mask in expected for number in np.unique(mask[0])}) > 1


def test_dilated_and_other_networks_and_deconvnet_which_numpy_decides(tiny, scramble, on_device, monkeypatch):
    monkeypatch.setenv("MINDFCN_COMPILE", "0")
    nets = [scramble(create_model("fcn_r18b_d8", 3, width=0.125)), ms.nn.Conv2d(3, 4, 1),
            tiny("deconvnet_vgg16", side=32, decoder_width=0.125)]
    image = photograph(45, 37)
    segmenters = [Segmenter(net, COURSE) for net in nets]
    expected = [segmenter(image)[0] for segmenter in segmenters]
    on_device()
    monkeypatch.setattr(segmenters[2], "masks", None)
    for segmenter, mask in zip(segmenters, expected):
        assert_same(segmenter(image)[0], mask)


def test_everything_around_a_segmenter_gives_the_same(tiny, on_device, monkeypatch):
    monkeypatch.setenv("MINDFCN_COMPILE", "0")
    segmenter, other, image = (Segmenter(tiny("fcn8s_small_bn"), COURSE), Segmenter(tiny("fcn32s_small"), COURSE),
                               photograph(330, 340))
    automatic = AutomaticWindows(segmenter)
    automatic.largest = 320 * 320
    around = [segmenter, SlidingWindow(segmenter, 256, 64), automatic, Ensemble([segmenter, other], "product"),
              InstanceWise(segmenter, lambda image: [(0, 0, 64, 64), (5, 3, 60, 70)])]
    expected = [[each(image, probabilities) for each in around] for probabilities in (False, True)]
    on_device()
    masks = []
    decide = segmenter.masks
    monkeypatch.setattr(segmenter, "masks", lambda *given: masks.append(given[0].shape) or decide(*given))
    for probabilities, results in zip((False, True), expected):
        for each, (mask, likely) in zip(around, results):
            found = each(image, probabilities)
            assert_same(found[0], mask)
            assert (found[1] is None) == (not probabilities)
            if probabilities:
                np.testing.assert_array_equal(found[1], likely)
    # The whole photograph and every window of both ways of windows, without probabilities alone.
    crops = [len(list(tiled.crops(image))) for tiled in (around[1], automatic.windows(image))]
    assert len(masks) == 1 + sum(crops) and min(crops) > 1


def test_on_cpu_numpy_decides(tiny, monkeypatch):
    monkeypatch.setenv("MINDFCN_COMPILE", "0")
    segmenter = Segmenter(tiny("fcn32s_small"), COURSE)
    monkeypatch.setattr(segmenter, "masks", None)
    assert segmenter(photograph(20, 30))[0].shape == (20, 30)
