"""Sliding windows give the result of the whole photograph."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from helpers import one_line
from mindcv.models.layers.squeeze_excite import SqueezeExcite
from mindspore import nn

from mindfcn.console import Console
from mindfcn.errors import UserError
from mindfcn.inference.ensemble import Ensemble
from mindfcn.inference.instance_wise import InstanceWise
from mindfcn.inference.network import Segmenter
from mindfcn.inference.predictor import Predictor
from mindfcn.inference.sliding_window import AutomaticWindows, SlidingWindow, spans
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE

pytestmark = pytest.mark.usefixtures("uncompiled", "pynative")


def photograph(height, width):
    return np.random.default_rng(2).integers(0, 256, (height, width, 3), np.uint8)


def logits_of(tiled, image):
    """The logits of all windows, put together."""
    whole = np.full((3, *image.shape[:2]), np.nan, np.float32)
    for rows, columns, logits in tiled.blocks(image):
        assert np.isnan(whole[:, rows.first:rows.last, columns.first:columns.last]).all(), "blocks overlap"
        whole[:, rows.first:rows.last, columns.first:columns.last] = logits
    return whole


def whole_logits(segmenter, image):
    from mindfcn.data.transforms import to_input
    return segmenter.logits(to_input(image, COURSE)[None])[0]


@pytest.mark.parametrize("name, padding, window, size", [
    ("fcn8s_vgg16", "same", 576, (70, 700)), ("fcn32s_vgg16_bn", "pad100", 512, (600, 40)),
    ("fcn16s_alexnet", "same", 512, (33, 650)), ("fcn_r18b_d8", None, 1024, (32, 1600))])
def test_no_seam_anywhere(tiny, scramble, name, padding, window, size):
    net = tiny(name, padding=padding) if padding else scramble(create_model(name, 3, width=0.125))
    segmenter, image = Segmenter(net, COURSE), photograph(*size)
    tiled = SlidingWindow(segmenter, window)
    assert len(list(tiled.blocks(image))) > 1
    expected = whole_logits(segmenter, image)
    found = logits_of(tiled, image)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    mask, probabilities = tiled(image, True)
    plain_mask, plain = segmenter(image, True)
    assert (mask == plain_mask).mean() > 0.9999
    np.testing.assert_allclose(probabilities, plain, atol=1e-4)


def test_equal_within_the_reach_and_not_at_the_seams_of_too_small_an_overlap(tiny):
    """Pixels further from a window's inner edge than the network's reach are right for any overlap."""
    segmenter, image = Segmenter(tiny("fcn32s_alexnet"), COURSE), photograph(40, 1000)
    tiled, reach = SlidingWindow(segmenter, 640, 64), segmenter.net.reach
    difference = np.abs(logits_of(tiled, image) - whole_logits(segmenter, image)).max((0, 1))
    columns = spans(1000, 640, 64, 32)
    inner = [edge for span in columns for edge in (span.start, span.stop) if 0 < edge < 1000]
    distance = np.abs(np.arange(1000)[:, None] - inner).min(1)
    assert len(columns) == 2 and (distance > reach).any()
    assert difference[distance > reach].max() < 1e-5 < difference[distance <= 64].max()


@pytest.mark.parametrize("name", ["fcn8s_vgg16", "fcn16s_vgg16", "fcn32s_alexnet", "fcn32s_vgg16"])
@pytest.mark.parametrize("padding", ["same", "pad100"])
def test_nothing_beyond_the_reach_changes_a_pixel(tiny, name, padding):
    """A change just within the reach does change it: apart from rounding, the reach is as small as possible."""
    net = tiny(name, padding=padding)
    segmenter, image = Segmenter(net, COURSE), photograph(32, 1024)
    changed = image.copy()
    changed[:, 512:] = 255 - changed[:, 512:]
    difference = np.abs(whole_logits(segmenter, changed) - whole_logits(segmenter, image)).max((0, 1))
    first = np.flatnonzero(difference > 0)[0]
    assert 512 - net.reach <= first <= 512 - net.reach + net.stride + 12


@pytest.mark.parametrize("size", [1, 31, 64, 65, 200, 1000, 1023, 1024])
@pytest.mark.parametrize("window, overlap", [(64, 0), (64, 32), (256, 96), (1024, 512)])
def test_spans_cover_every_pixel_once(size, window, overlap):
    found = spans(size, window, overlap, 32)
    covered = np.concatenate([np.arange(span.first, span.last) for span in found])
    np.testing.assert_array_equal(covered, np.arange(size))
    for span in found:
        assert span.start % 32 == 0 and span.start <= span.first < span.last <= span.stop <= span.start + window
        assert span.first == 0 or span.first - span.start >= overlap // 2
        assert span.last == size or span.stop - span.last >= overlap // 2


def test_impossible_windows_are_refused(tiny):
    segmenter = Segmenter(tiny("fcn8s_vgg16"), COURSE)
    with pytest.raises(UserError, match=r"--window 256: must be larger than the overlap, 544 pixels; take --window"):
        SlidingWindow(segmenter, 256)
    with pytest.raises(UserError, match="larger than the overlap"):
        SlidingWindow(segmenter, 256, 256)
    with pytest.raises(UserError, match="larger than the overlap"):
        SlidingWindow(segmenter, 256, -32)
    with pytest.raises(UserError, match="--overlap"):
        SlidingWindow(lambda image, probabilities=False: None, 512)


@pytest.mark.long
def test_a_photograph_of_12_megapixels_in_bounded_memory(tmp_path):
    """Its probabilities alone would take a GB; the process stays below that beyond what MindSpore takes itself."""
    script = tmp_path / "large.py"
    script.write_text("""
import resource
import numpy as np
from mindfcn import Segmenter, create_model
from mindfcn.inference.sliding_window import SlidingWindow
from mindfcn.preprocess import COURSE
from mindfcn.runtime import set_up
set_up("CPU")
segmenter = Segmenter(create_model("fcn8s_vgg16", 21, width=0.125, fc_width=8), COURSE)
tiled = SlidingWindow(segmenter, 1024)
tiled(np.zeros((1024, 1024, 3), np.uint8))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mask, _ = tiled(np.random.default_rng(1).integers(0, 256, (3000, 4000, 3), np.uint8))
assert mask.shape == (3000, 4000)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
""")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    # MB: the photograph is 36, its mask 12; whole, the probabilities alone are 1,008.
    assert float(run.stdout.split()[-1]) < 500


class Blur(Predictor):
    """Two classes: the mean brightness of 5x5 pixels, and a constant; it notes the sizes that it sees."""
    preprocess, reach = COURSE, 2

    def __init__(self):
        self.seen = []

    def logits(self, batch):
        self.seen.append(batch.shape[2:])
        blurred = cv2.blur(batch[0].mean(0), (5, 5), borderType=cv2.BORDER_CONSTANT)
        return np.stack([blurred, np.zeros_like(blurred)])[None]


def test_photographs_too_large_for_the_memory_are_cut_by_themselves():
    image, said = photograph(200, 150), []
    segmenter = Blur()
    expected, whole = segmenter(image, True)
    automatic = AutomaticWindows(segmenter, Console(said.append))
    assert automatic.largest >= 2 ** 20
    automatic.largest = 96 * 96
    segmenter.seen.clear()
    for _ in range(2):
        mask, probabilities = automatic(image, True)
        np.testing.assert_array_equal(mask, expected)
        np.testing.assert_allclose(probabilities, whole, atol=1e-6)
    assert len(segmenter.seen) > 8 and max(height * width for height, width in segmenter.seen) <= 96 * 96
    assert len(said) == 1 and "150x200 pixels" in said[0] and "windows of 96" in said[0]
    segmenter.seen.clear()
    automatic(photograph(96, 96))
    assert segmenter.seen == [(96, 96)]


@pytest.mark.parametrize("changes", [{"reach": None}, {"window_problem": "it averages"}, {"reach": 48},
                                     {"classes": 1}])
def test_windows_that_would_change_the_result_are_never_chosen(changes):
    segmenter = Blur()
    vars(segmenter).update(changes)
    automatic = AutomaticWindows(segmenter)
    automatic.largest = 96 * 96
    automatic(photograph(200, 150))
    assert segmenter.seen == [(200, 150)]


def test_networks_that_see_more_than_a_window_refuse_windows(tiny):
    """Squeeze-and-excitation averages over the image, DeconvNet resizes it, proposals are windows themselves."""
    segmenter = Segmenter(tiny("deconvnet_vgg16", side=32, decoder_width=0.125), COURSE)
    plain = Segmenter(nn.SequentialCell(nn.Conv2d(3, 3, 1)), COURSE)
    excited = Segmenter(nn.SequentialCell(nn.Conv2d(3, 8, 1), SqueezeExcite(8)), COURSE)
    for refused, word in ((segmenter, "square"), (excited, "squeeze"), (InstanceWise(plain, None), "proposals"),
                          (Ensemble([plain, excited]), "squeeze")):
        with pytest.raises(UserError) as caught:
            SlidingWindow(refused, 512, 64)
        one_line(caught, "--window", word)
    assert SlidingWindow(plain, 512, 64).overlap == 64


def test_an_ensemble_has_the_largest_reach_and_a_common_stride():
    first, second = Blur(), Blur()
    second.reach, second.stride, first.stride = 40, 8, 12
    for order in ([first, second], [second, first]):
        both = Ensemble(order)
        assert (both.reach, both.stride) == (40, 24)
        assert SlidingWindow(both, 256).overlap == 96
    second.reach = None
    assert Ensemble([first, second]).reach is None
