"""The loss against its definition in float64 and against PyTorch's, with gradients."""

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


def reference(logits, labels, ignore_label=255):
    """Mean of -log softmax at the true class, and its gradient (softmax - one hot) / n, in float64."""
    logits = logits.astype(np.float64)
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    total, gradient, count = 0.0, np.zeros_like(logits), (labels != ignore_label).sum()
    for place in np.argwhere(labels != ignore_label):
        image, row, column = place
        pixel = softmax[image, :, row, column]
        total -= math.log(pixel[labels[tuple(place)]])
        gradient[image, :, row, column] = pixel / count
        gradient[image, labels[tuple(place)], row, column] -= 1 / count
    return total / count, gradient


def value_and_gradient(logits, labels, ignore_label=255):
    value, gradient = ms.value_and_grad(CrossEntropy(ignore_label))(ms.Tensor(logits), ms.Tensor(labels))
    assert value.shape == () and value.dtype == ms.float32
    return float(value), gradient.asnumpy()


@pytest.mark.parametrize("classes, ignore_label", [(21, 255), (2, 2), (1, 255), (5, 77)])
def test_value_and_gradient_are_those_of_the_definition(mode, classes, ignore_label):
    logits, labels = batch(classes, classes, ignore_label)
    expected, by_logits = reference(logits, labels, ignore_label)
    value, gradient = value_and_gradient(logits, labels, ignore_label)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-7)
    np.testing.assert_allclose(gradient, by_logits, rtol=1e-4, atol=1e-8)
    assert (gradient.transpose(0, 2, 3, 1)[labels == ignore_label] == 0).all()


@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_value_and_gradient_equal_pytorchs(scale):
    """With logits so far apart, too, that their exponentials overflow."""
    torch = pytest.importorskip("torch")
    logits, labels = batch(4, scale=scale)
    value, gradient = value_and_gradient(logits, labels)
    theirs = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(theirs, torch.tensor(labels, dtype=torch.long), ignore_index=255)
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_no_pixel_that_counts_is_no_loss_and_no_gradient(mode):
    logits, labels = batch(5)
    value, gradient = value_and_gradient(logits, np.full_like(labels, 255))
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
