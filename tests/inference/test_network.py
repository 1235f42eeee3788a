"""A Segmenter's logits are its network's own, whatever it folds, pads and compiles."""

import pathlib
import subprocess
import sys
import threading

import mindspore as ms
import numpy as np
import pytest
import small_network  # noqa: F401  (its networks are compiled)

from mindfcn import runtime
from mindfcn.inference import network as whole_image
from mindfcn.inference.network import Segmenter
from mindfcn.preprocess import COURSE

pytestmark = pytest.mark.usefixtures("pynative")


def images(height, width, count=1):
    return np.random.default_rng(2).standard_normal((count, 3, height, width)).astype(np.float32)


@pytest.fixture(scope="module")
def small(tiny):
    """A Segmenter for several tests: its graphs stay, its weights may have changed."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    return Segmenter(tiny("fcn8s_small_bn"), COURSE)


def assert_own(segmenter, batch):
    """The logits are the network's own, operator by operator."""
    logits = segmenter.logits(batch)
    training = segmenter.net.training
    expected = segmenter.net.set_train(False)(ms.Tensor(batch)).asnumpy()
    segmenter.net.set_train(training)
    assert logits.shape == expected.shape and logits.dtype == np.float32
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name, options, sizes", [
    ("fcn8s_small_bn", {}, [(64, 64), (50, 41), (33, 64), (1, 1)]), ("fcn32s_small", {}, [(50, 41), (1, 1)]),
    ("fcn8s_vgg16_bn", {}, [(50, 41)]), ("fcn16s_alexnet", {}, [(33, 64), (1, 1)]),
    ("fcn8s_vgg16_bn", {"padding": "pad100"}, [(50, 41)]), ("fcn16s_alexnet", {"padding": "pad100"}, [(33, 64)]),
    pytest.param("fcn32s_vgg16", {"padding": "pad100"}, [(1, 1)], marks=pytest.mark.long)])
def test_logits_are_the_networks_own_at_any_size(tiny, name, options, sizes):
    segmenter = Segmenter(tiny(name, **options), COURSE)
    for size in sizes:
        assert_own(segmenter, images(*size))
    if name == "fcn8s_small_bn":
        assert_own(segmenter, images(40, 64, 2))


def test_sizes_that_pad_alike_share_a_graph(small):
    small.logits(images(33, 64))
    graphs = len(small.folded.net.compile_cache)
    for size in ((40, 50), (64, 64), (64, 40)):
        small.logits(images(*size))
    assert len(small.folded.net.compile_cache) == graphs
    small.logits(images(65, 64))
    assert len(small.folded.net.compile_cache) == graphs + 1


def test_beyond_some_sizes_nothing_more_is_compiled(tiny, monkeypatch):
    monkeypatch.setattr(whole_image, "GRAPHS", 1)
    segmenter = Segmenter(tiny("fcn8s_small_bn"), COURSE)
    for size in ((64, 64), (65, 64), (64, 65), (50, 60)):
        assert_own(segmenter, images(*size))
    assert len(segmenter.folded.net.compile_cache) == 1


def test_the_environment_can_forbid_compiling(tiny, monkeypatch):
    monkeypatch.setenv("MINDFCN_COMPILE", "0")
    segmenter = Segmenter(tiny("fcn8s_small_bn"), COURSE)
    assert_own(segmenter, images(50, 41))
    assert not segmenter.folded.net.compile_cache
    runtime.graph_mode()
    assert ms.get_context("mode") == ms.PYNATIVE_MODE


@pytest.mark.parametrize("mode", [ms.PYNATIVE_MODE, ms.GRAPH_MODE])
def test_the_mode_stays_as_it_was(small, mode):
    ms.set_context(mode=mode)
    small.logits(images(32, 32))
    assert ms.get_context("mode") == mode


def test_weights_changed_by_training_are_used(small, scramble):
    batch = images(64, 64)
    first = small.logits(batch)
    # As after an epoch: changed weights, and the network in training mode.
    scramble(small.net, seed=3).set_train(True)
    assert_own(small, batch)
    assert np.abs(small.logits(batch) - first).max() > 1e-2 * np.abs(first).max()
    assert not small.net.training


def test_weights_loaded_outside_training_are_used_after_refreshing(small, scramble):
    small.logits(images(64, 64))
    scramble(small.net, seed=4)
    small.refresh()
    assert_own(small, images(64, 64))


def test_the_mask_is_the_best_class_and_probabilities_sum_to_one(tiny):
    segmenter = Segmenter(tiny("fcn16s_small_bn"), COURSE)
    image = np.random.default_rng(3).integers(0, 256, (37, 52, 3), np.uint8)
    mask, probabilities = segmenter(image, probabilities=True)
    logits = segmenter.net(ms.Tensor(COURSE.normalise(image).transpose(2, 0, 1)[None])).asnumpy()[0]
    np.testing.assert_array_equal(mask, logits.argmax(0))
    np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-5)
    exponentials = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(0), rtol=1e-3)
    assert segmenter(image)[1] is None


def test_any_other_network_runs_unchanged():
    net = ms.nn.Conv2d(3, 4, 1)
    batch = images(5, 7)
    np.testing.assert_array_equal(Segmenter(net, COURSE).logits(batch), net(ms.Tensor(batch)).asnumpy())


def test_a_size_that_comes_more_often_takes_the_place_of_the_least_used_graph(tiny, monkeypatch):
    """64 and 96 rows have graphs; 128 rows get one the second time, when 64, used twice, stays and 96 goes."""
    monkeypatch.setattr(whole_image, "GRAPHS", 2)
    segmenter = Segmenter(tiny("fcn8s_small_bn"), COURSE)
    for rows, kept in ((64, [64]), (96, [64, 96]), (64, [96, 64]), (128, [96, 64]), (128, [64, 128]), (96, [64, 128])):
        assert_own(segmenter, images(rows, 32))
        assert [shape[2] for shape in segmenter.graphs] == kept
        assert len(segmenter.folded.net.compile_cache) == len(kept)


def test_threads_compute_one_after_another(tiny):
    """MindSpore's mode and kernels are those of the process: two threads in it at once hang for good."""
    segmenter = Segmenter(tiny("fcn8s_small_bn"), COURSE)
    sizes = [(64, 64), (40, 33)]
    expected = [segmenter.logits(images(*size)) for size in sizes[:2]]
    found = {}

    def compute(number):
        for turn in range(3):
            found[number, turn] = segmenter.logits(images(*sizes[number]))

    threads = [threading.Thread(target=compute, args=(number,), daemon=True) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    for (number, _), logits in found.items():
        np.testing.assert_array_equal(logits, expected[number])
    assert len(found) == 6 and ms.get_context("mode") == ms.PYNATIVE_MODE


@pytest.mark.long
@pytest.mark.parametrize("network", ["fcn32s_vgg16", "fcn16s_vgg16"])
@pytest.mark.parametrize("task", ["training", "prediction"])
def test_memory_after_40_sizes_is_that_after_5(task, network):
    """Whatever MindSpore keeps for each size; the five largest come first."""
    worker = pathlib.Path(__file__).parents[2] / "benchmarks" / "speed" / "sizes" / "worker_memory.py"
    run = subprocess.run([sys.executable, worker, task, network], capture_output=True, text=True, check=True)
    few, many = map(int, run.stdout.split()[-2:])
    assert many <= 1.2 * few
