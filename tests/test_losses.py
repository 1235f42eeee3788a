"""The loss against its definition in float64 and against PyTorch's, with gradients, and patchwise training by it."""

import math

import mindspore as ms
import numpy as np
import pytest

from mindfcn.losses import CrossEntropy


@pytest.fixture(params=["GRAPH", "PYNATIVE"])
def mode(request):
    ms.set_context(mode=getattr(ms, request.param + "_MODE"))
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


def batch(seed=1, classes=21, ignore_label=255, scale=3.0):
    """Logits (2, C, 5, 7) and labels of which about a fifth does not count."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, (2, 5, 7)).astype(np.int32)
    labels[random.uniform(size=labels.shape) < 0.2] = ignore_label
    return (scale * random.standard_normal((2, classes, 5, 7))).astype(np.float32), labels


def reference(logits, labels, ignore_label=255, reduction="mean"):
    """Mean or sum of -log softmax at the true class, and its gradient (softmax - one hot) (/ n), in float64."""
    logits = logits.astype(np.float64)
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    total, gradient, count = 0.0, np.zeros_like(logits), (labels != ignore_label).sum()
    count = max(1, count) if reduction == "mean" else 1
    for place in np.argwhere(labels != ignore_label):
        image, row, column = place
        pixel = softmax[image, :, row, column]
        total -= math.log(pixel[labels[tuple(place)]])
        gradient[image, :, row, column] = pixel / count
        gradient[image, labels[tuple(place)], row, column] -= 1 / count
    return total / count, gradient


def value_and_gradient(logits, labels, ignore_label=255, reduction="mean"):
    return step(CrossEntropy(ignore_label, reduction), logits, labels)


def step(loss, logits, labels):
    value, gradient = ms.value_and_grad(loss)(ms.Tensor(logits), ms.Tensor(labels))
    assert value.shape == () and value.dtype == ms.float32
    return float(value), gradient.asnumpy()


@pytest.mark.parametrize("classes, ignore_label, reduction", [
    (21, 255, "mean"), (21, 255, "sum"), (2, 2, "mean"), (1, 255, "mean"), (5, 77, "sum")])
def test_value_and_gradient_are_those_of_the_definition(mode, classes, ignore_label, reduction):
    logits, labels = batch(classes, classes, ignore_label)
    expected, by_logits = reference(logits, labels, ignore_label, reduction)
    value, gradient = value_and_gradient(logits, labels, ignore_label, reduction)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-7)
    # The exponentials of MindSpore on CPU are good to 1e-5.
    np.testing.assert_allclose(gradient, by_logits, rtol=1e-4, atol=2e-7)
    assert (gradient.transpose(0, 2, 3, 1)[labels == ignore_label] == 0).all()


@pytest.mark.parametrize("scale, reduction", [(1.0, "mean"), (1.0, "sum"), (200.0, "mean")])
def test_value_and_gradient_equal_pytorchs(scale, reduction):
    """With logits so far apart, too, that their exponentials overflow."""
    torch = pytest.importorskip("torch")
    logits, labels = batch(4, scale=scale)
    value, gradient = value_and_gradient(logits, labels, reduction=reduction)
    theirs = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(theirs, torch.tensor(labels, dtype=torch.long), ignore_index=255,
                                             reduction=reduction)
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_no_pixel_that_counts_is_no_loss_and_no_gradient(mode, reduction):
    logits, labels = batch(5)
    value, gradient = value_and_gradient(logits, np.full_like(labels, 255), reduction=reduction)
    assert value == 0 and gradient.shape == logits.shape and (gradient == 0).all()


def test_equal_logits_cost_ln_of_the_classes():
    _, labels = batch(6)
    assert value_and_gradient(np.full((2, 21, 5, 7), 3, np.float32), labels)[0] == pytest.approx(math.log(21), rel=1e-6)


def test_half_precision_logits(mode):
    """Summed in float32: a sum of 2 x 200 x 200 losses is beyond float16's range."""
    logits, labels = batch(7)
    logits = np.tile(logits, (1, 1, 40, 29)).astype(np.float16)
    labels = np.tile(labels, (1, 40, 29))
    counted = np.log(np.exp(logits.astype(np.float64)).sum(1)) - np.take_along_axis(
        logits.astype(np.float64), np.where(labels == 255, 0, labels)[:, None], 1)[:, 0]
    expected = counted[labels != 255].mean()
    assert counted[labels != 255].sum() > np.finfo(np.float16).max
    value, gradient = value_and_gradient(logits, labels)
    assert value == pytest.approx(expected, rel=1e-4)
    assert gradient.dtype == np.float16 and np.isfinite(gradient).all()
    equal, _ = value_and_gradient(np.zeros_like(logits), labels)
    assert equal == pytest.approx(math.log(21), rel=1e-6), "float16 knows four digits of it"


@pytest.mark.parametrize("options, words", [({"reduction": "none"}, "mean or sum"), ({"keep": 0.0}, "keep 0.0"),
                                            ({"keep": 1.5}, "keep 1.5")])
def test_settings_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        CrossEntropy(**options)


# ------------------------------------------------------------------------------------------------- weighted classes

WEIGHTS = np.array([0.02, 1.0, 0.3, 40.0, 0.0, 7.0], np.float32)


def weighted(labels, ignore_label=255):
    """(N, H, W) float64: what each pixel counts for."""
    return np.where(labels == ignore_label, 0, WEIGHTS.astype(np.float64)[np.where(labels == ignore_label, 0, labels)])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_weighted_loss_is_the_weighted_mean_of_its_pixels(mode, reduction):
    """By the definition: the unweighted gradient of a pixel, softmax - one hot, times its weight."""
    logits, labels = batch(11, len(WEIGHTS))
    pixels = weighted(labels)
    whole = pixels.sum() if reduction == "mean" else 1
    softmax = np.exp(logits.astype(np.float64))
    softmax /= softmax.sum(1, keepdims=True)
    hot = np.where(labels == 255, 0, labels)[:, None]
    expected = -(np.log(np.take_along_axis(softmax, hot, 1))[:, 0] * pixels).sum() / whole
    by_logits = (softmax - (np.arange(len(WEIGHTS))[:, None, None] == hot)) * pixels[:, None] / whole
    value, gradient = step(CrossEntropy(reduction=reduction, class_weights=WEIGHTS), logits, labels)
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(gradient, by_logits, rtol=1e-4, atol=1e-6 * np.abs(by_logits).max())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_weighted_loss_equals_pytorchs(reduction):
    torch = pytest.importorskip("torch")
    logits, labels = batch(12, len(WEIGHTS))
    value, gradient = step(CrossEntropy(reduction=reduction, class_weights=WEIGHTS.tolist()), logits, labels)
    theirs = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(theirs, torch.tensor(labels, dtype=torch.long), ignore_index=255,
                                             weight=torch.tensor(WEIGHTS), reduction=reduction)
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-6 * np.abs(gradient).max())


@pytest.mark.parametrize("label", [255, 4])
def test_no_weight_at_all_is_no_loss_and_no_gradient(mode, label):
    """All pixels ignored, or all of a class of weight 0."""
    logits, labels = batch(13, len(WEIGHTS))
    value, gradient = step(CrossEntropy(class_weights=WEIGHTS), logits, np.full_like(labels, label))
    assert value == 0 and (gradient == 0).all()


def test_one_light_pixel_counts_in_full(mode):
    """The divisor is its own small weight, and not 1."""
    logits, labels = batch(14, len(WEIGHTS))
    alone = np.full_like(labels, 255)
    alone[0, 2, 3] = 0
    plain = step(CrossEntropy(), logits, alone)
    value, gradient = step(CrossEntropy(class_weights=WEIGHTS), logits, alone)
    assert value == pytest.approx(plain[0], rel=1e-6) and value > 0
    np.testing.assert_allclose(gradient, plain[1], rtol=1e-5, atol=1e-8)


def test_equal_weights_change_nothing(mode):
    logits, labels = batch(15, len(WEIGHTS))
    plain = step(CrossEntropy(), logits, labels)
    value, gradient = step(CrossEntropy(class_weights=np.full(len(WEIGHTS), 1.0)), logits, labels)
    assert value == plain[0] and (gradient == plain[1]).all()


def test_a_sampled_loss_is_weighted_too():
    logits, labels = batch(16, len(WEIGHTS))
    loss = CrossEntropy(keep=0.5, cell=2, class_weights=WEIGHTS).set_train()
    value, gradient = step(loss, logits, labels)
    kept = gradient.any(axis=1)
    assert 0.2 < kept.mean() < 0.8
    again, _ = step(CrossEntropy(class_weights=WEIGHTS), logits, np.where(kept, labels, 255))
    assert value == pytest.approx(again, rel=1e-5)


@pytest.mark.parametrize("weights", [[1.0, -1.0], [1.0, math.nan], [math.inf], [[1.0]]])
def test_weights_that_cannot_be(weights):
    with pytest.raises(ValueError, match="class weights"):
        CrossEntropy(class_weights=weights)


# ------------------------------------------------------------------------------------------------- patchwise training

def kept_pixels(loss, size, seed=1):
    """(N, H, W) bool: which pixels of a batch have a gradient."""
    logits = np.random.default_rng(seed).standard_normal((size[0], 2, *size[1:])).astype(np.float32)
    return step(loss, logits, np.zeros(size, np.int32))[1].any(axis=1)


def test_a_sampled_loss_is_that_of_the_kept_pixels(mode):
    """Gradients tell which cells were kept; the rest are as good as ignored."""
    random = np.random.default_rng(8)
    logits = random.standard_normal((2, 5, 23, 18)).astype(np.float32)
    labels = random.integers(0, 5, (2, 23, 18)).astype(np.int32)
    labels[random.uniform(size=labels.shape) < 0.1] = 255
    for reduction in ("mean", "sum"):
        value, gradient = step(CrossEntropy(reduction=reduction, keep=0.5, cell=8).set_train(), logits, labels)
        kept = gradient.any(axis=1)
        assert 0.2 < kept.mean() < 0.8
        expected, by_logits = reference(logits, np.where(kept, labels, 255), reduction=reduction)
        assert value == pytest.approx(expected, rel=1e-5)
        np.testing.assert_allclose(gradient, by_logits, rtol=1e-4, atol=1e-6)


def test_cells_are_kept_whole_with_the_given_probability():
    for probability in (0.25, 0.5, 0.9):
        kept = kept_pixels(CrossEntropy(keep=probability, cell=4).set_train(), (3, 4 * 40, 4 * 40))
        cells = kept.reshape(3, 40, 4, 40, 4)
        assert (cells.all((2, 4)) == cells.any((2, 4))).all()
        count = 3 * 40 * 40
        assert abs(kept.mean() - probability) < 4 * math.sqrt(probability * (1 - probability) / count)
        assert (cells[0] != cells[1]).any() and (cells[1] != cells[2]).any(), "each image draws its own"
    # 3 x 2 cells, the last ones cut by the border
    kept = np.stack([kept_pixels(loss, (1, 70, 45)) for loss in [CrossEntropy(keep=0.5).set_train()] for _ in range(9)])
    for rows in (slice(0, 32), slice(32, 64), slice(64, 70)):
        for columns in (slice(0, 32), slice(32, 45)):
            cells = kept[..., rows, columns].reshape(9, -1)
            assert (cells.all(1) == cells.any(1)).all() and 0 < cells.all(1).sum() < 9


def test_draws_follow_from_seed_and_step_in_both_modes():
    size, found = (2, 64, 64), {}
    for mode in ("GRAPH", "PYNATIVE"):
        ms.set_context(mode=getattr(ms, f"{mode}_MODE"))
        loss = CrossEntropy(keep=0.5, cell=8, seed=3).set_train()
        found[mode] = [kept_pixels(loss, size) for _ in range(4)]
        assert loss.step.asnumpy() == 4
    np.testing.assert_array_equal(found["GRAPH"], found["PYNATIVE"])
    draws = found["PYNATIVE"]
    assert all((one != other).any() for at, one in enumerate(draws) for other in draws[:at])
    resumed = CrossEntropy(keep=0.5, cell=8, seed=3).set_train()
    resumed.step.set_data(ms.Tensor([2], ms.int32))
    np.testing.assert_array_equal(kept_pixels(resumed, size), draws[2])
    assert (kept_pixels(CrossEntropy(keep=0.5, cell=8, seed=4).set_train(), size) != draws[0]).any()


def test_nothing_is_sampled_in_evaluation_or_where_all_are_kept(mode):
    logits, labels = batch(9)
    plain, gradient = value_and_gradient(logits, labels)
    whole = CrossEntropy(keep=1.0).set_train()
    assert not list(whole.get_parameters())
    for loss in (whole, CrossEntropy(keep=0.5, cell=2).set_train(False)):
        value, by_logits = step(loss, logits, labels)
        assert value == plain and (by_logits == gradient).all()
        assert all(parameter.asnumpy() == 0 for parameter in loss.get_parameters())
