"""The losses against their definitions in float64 and against PyTorch, with gradients, and patchwise training."""

import functools
import math

import mindspore as ms
import numpy as np
import pytest

from mindfcn.losses import BinaryCrossEntropy, Bootstrapped, CrossEntropy, Dice, Focal


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


@functools.lru_cache(maxsize=4)
def differentiated(loss):
    """The same function for the same loss: in graph mode it is compiled once for each size."""
    return ms.value_and_grad(loss)


def step(loss, logits, labels):
    value, gradient = differentiated(loss)(ms.Tensor(logits), ms.Tensor(labels))
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
    """Also with logits so far apart that their exponentials overflow."""
    torch = pytest.importorskip("torch")
    logits, labels = batch(4, scale=scale)
    value, gradient = value_and_gradient(logits, labels, reduction=reduction)
    theirs = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(theirs, torch.tensor(labels, dtype=torch.long), ignore_index=255,
                                             reduction=reduction)
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("reduction, weights", [("sum", None), ("mean", [0.5, 2.0, 0.0, 1.0, 3.0])])
def test_smoothed_labels_equal_pytorchs(mode, reduction, weights):
    torch = pytest.importorskip("torch")
    logits, labels = batch(8, classes=5)
    value, gradient = step(CrossEntropy(255, reduction, class_weights=weights, smoothing=0.2), logits, labels)
    theirs = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.CrossEntropyLoss(weights and torch.tensor(weights), ignore_index=255, reduction=reduction,
                                     label_smoothing=0.2)(theirs, torch.tensor(labels, dtype=torch.long))
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), rtol=1e-4, atol=1e-5)
    assert abs(value - step(CrossEntropy(255, reduction, class_weights=weights), logits, labels)[0]) > 0.01


@pytest.mark.parametrize("loss", [CrossEntropy, Dice])
@pytest.mark.parametrize("labels", [(1, 2, 8), (1, 8, 2), (4, 4)])
def test_labels_of_another_shape_are_refused(mode, loss, labels):
    """With as many pixels, each logit would meet another pixel's label."""
    with pytest.raises(ValueError, match=r"logits have shape \(1, 3, 4, 4\) and labels"):
        loss()(ms.Tensor(np.zeros((1, 3, 4, 4), np.float32)), ms.Tensor(np.zeros(labels, np.int32)))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_and_gradient_are_zero_without_counted_pixels(mode, reduction):
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
    loss = CrossEntropy()
    value, gradient = step(loss, logits, labels)
    assert value == pytest.approx(expected, rel=1e-4)
    assert gradient.dtype == np.float16 and np.isfinite(gradient).all()
    equal, _ = step(loss, np.zeros_like(logits), labels)
    assert equal == pytest.approx(math.log(21), rel=1e-6), "float16 has four digits of it"


@pytest.mark.parametrize("options, words", [({"reduction": "none"}, "mean or sum"), ({"keep": 0.0}, "keep 0.0"),
                                            ({"keep": 1.5}, "keep 1.5"),
                                            ({"smoothing": 1.0}, "smoothing 1.0")])
def test_impossible_settings_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        CrossEntropy(**options)


# ------------------------------------------------------------------------------------------------- weighted classes

WEIGHTS = np.array([0.02, 1.0, 0.3, 40.0, 0.0, 7.0], np.float32)


def weighted(labels, ignore_label=255):
    """(N, H, W) float64: the weight of each pixel."""
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
def test_loss_and_gradient_are_zero_where_all_weights_are_zero(mode, label):
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
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="class weights"):
        CrossEntropy(class_weights=weights)


# ------------------------------------------------------------------------------------------------- patchwise training

def kept_pixels(loss, size, seed=1):
    """(N, H, W) bool: which pixels of a batch have a gradient."""
    logits = np.random.default_rng(seed).standard_normal((size[0], 2, *size[1:])).astype(np.float32)
    return step(loss, logits, np.zeros(size, np.int32))[1].any(axis=1)


def test_a_sampled_loss_is_that_of_the_kept_pixels(mode):
    """Gradients show which cells were kept; the others are treated as ignored."""
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


# ---------------------------------------------------------------------------------------- bootstrapped, focal and Dice

def softmax64(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def pixels_of(logits, labels):
    """(true class's probability, true class) of the pixels that count, (K,) each, for each image."""
    for probabilities, truth in zip(softmax64(logits), labels):
        true = truth[truth != 255]
        yield probabilities[:, truth != 255][true, np.arange(len(true))], true


def focal_by_definition(gamma, weights, reduction="mean"):
    def value(logits, labels):
        p, label = map(np.concatenate, zip(*pixels_of(logits, labels)))
        total = (-weights[label] * (1 - p) ** gamma * np.log(p)).sum()
        return total / weights[label].sum() if reduction == "mean" else total
    return value


def bootstrapped_by_definition(count, weights, reduction="mean"):
    def value(logits, labels):
        kept = np.concatenate([np.sort(-weights[label] * np.log(p))[::-1][:count]
                               for p, label in pixels_of(logits, labels)])
        return kept.sum() / (len(kept) if reduction == "mean" else 1)
    return value


def dice_by_definition(weights, reduction="mean"):
    def value(logits, labels):
        total = whole = 0
        for scores, truth in zip(softmax64(logits), labels):
            for number in set(truth.ravel().tolist()) - {255}:
                p, g = scores[number][truth != 255], truth[truth != 255] == number
                total += weights[number] * (1 - 2 * p[g].sum() / (p.sum() + g.sum()))
                whole += weights[number]
        return total / (whole if reduction == "mean" else 1)
    return value


def numerical_gradient(value, logits, step=1e-6):
    """By central differences in float64."""
    logits, found = logits.astype(np.float64), np.zeros(logits.shape)
    for place in np.ndindex(logits.shape):
        for sign in (1, -1):
            moved = logits.copy()
            moved[place] += sign * step
            found[place] += sign * value(moved) / (2 * step)
    return found


ALIKE, UNLIKE = np.ones(6), np.array([0.1, 1.0, 0.3, 4.0, 2.0, 0.7])
OTHERS = {
    "focal": (Focal, {"gamma": 2.0}, focal_by_definition),
    "focal 0": (Focal, {"gamma": 0.0}, focal_by_definition),
    "focal 1.5": (Focal, {"gamma": 1.5}, focal_by_definition),
    "9 hardest": (Bootstrapped, {"pixels": 9}, bootstrapped_by_definition),
    # More than count: the second image has few labelled pixels.
    "20 hardest": (Bootstrapped, {"pixels": 20}, bootstrapped_by_definition),
    # More than there are.
    "100 hardest": (Bootstrapped, {"pixels": 100}, bootstrapped_by_definition),
    "dice": (Dice, {}, dice_by_definition)}


def uneven(seed):
    """A batch of 6 classes, one of which does not occur in the second image; most of that one does not count."""
    logits, labels = batch(seed, 6)
    labels[1, :3] = 255
    labels[1][labels[1] == 2] = 3
    return logits, labels


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weights", [ALIKE, UNLIKE], ids=["alike", "weighted"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_losses_are_those_of_their_definitions(name, weights, reduction):
    kind, options, definition = OTHERS[name]
    expected = definition(*options.values(), weights, reduction)
    logits, labels = uneven(21)
    loss = kind(**options, reduction=reduction, class_weights=None if weights is ALIKE else weights)
    value, gradient = step(loss, logits, labels)
    assert value == pytest.approx(expected(logits.astype(np.float64), labels), rel=1e-5)
    by_logits = numerical_gradient(lambda moved: expected(moved, labels), logits)
    np.testing.assert_allclose(gradient, by_logits, rtol=2e-4, atol=2e-6 * max(1, np.abs(by_logits).max()))


def torch_focal(torch, scores, labels, weights, gamma):
    log_p = scores.log_softmax(1).permute(0, 2, 3, 1)[labels != 255]
    log_p = log_p.gather(1, labels[labels != 255][:, None])[:, 0]
    alpha = weights[labels[labels != 255]]
    return (-alpha * (1 - log_p.exp()) ** gamma * log_p).sum() / alpha.sum()


def torch_bootstrapped(torch, scores, labels, weights, pixels):
    losses = torch.nn.functional.cross_entropy(scores, labels, weights, ignore_index=255, reduction="none").flatten(1)
    kept = [image[flags][image[flags].argsort(descending=True)[:pixels]]
            for image, flags in zip(losses, (labels != 255).flatten(1))]
    return torch.cat(kept).mean()


def torch_dice(torch, scores, labels, weights):
    counts = (labels != 255)[:, None]
    p = scores.softmax(1) * counts
    g = torch.nn.functional.one_hot(torch.where(labels == 255, 0, labels), scores.shape[1]).permute(0, 3, 1, 2) * counts
    dice = 2 * (p * g).sum((2, 3)) / (p.sum((2, 3)) + g.sum((2, 3)))
    occurs = (g.sum((2, 3)) > 0) * weights
    return ((1 - dice) * occurs).sum() / occurs.sum()


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("name", OTHERS)
def test_other_losses_equal_pytorchs_autograd(name, scale):
    """Also at logits so far apart that the true class's probability is 0 or 1 in float32."""
    torch = pytest.importorskip("torch")
    kind, options, definition = OTHERS[name]
    theirs = {focal_by_definition: torch_focal, bootstrapped_by_definition: torch_bootstrapped,
              dice_by_definition: torch_dice}[definition]
    logits, labels = uneven(22)
    logits *= scale
    value, gradient = step(kind(**options, class_weights=UNLIKE), logits, labels)
    scores = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    expected = theirs(torch, scores, torch.tensor(labels, dtype=torch.long), torch.tensor(UNLIKE), **options)
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, scores.grad.numpy(), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("name", ["focal", "9 hardest", "dice"])
def test_other_losses_without_pixels_are_0_and_in_float16_finite(mode, name):
    """In both modes: the graph compiles, and operator by operator the numbers are the same."""
    kind, options, definition = OTHERS[name]
    logits, labels = uneven(23)
    loss = kind(**options)
    value, gradient = step(loss, logits, np.full_like(labels, 255))
    assert value == 0 and (gradient == 0).all()
    value, gradient = step(loss, logits, labels)
    assert value == pytest.approx(definition(*options.values(), ALIKE)(logits.astype(np.float64), labels), rel=1e-5)
    # Sums over 2 x 200 x 203 pixels are beyond float16's range.
    logits, labels = np.tile(logits, (1, 1, 40, 29)).astype(np.float16), np.tile(labels, (1, 40, 29))
    options = {"pixels": 9 * 40 * 29} if "pixels" in options else options
    value, gradient = step(kind(**options), logits, labels)
    assert gradient.dtype == np.float16 and np.isfinite(gradient).all()
    expected = definition(*options.values(), ALIKE)(logits.astype(np.float64), labels)
    assert value == pytest.approx(expected, rel=1e-4)


def test_bootstrapping_keeps_its_number_of_pixels_among_equal_losses():
    """As at the start of a training, where all scores are 0."""
    _, labels = uneven(24)
    value, gradient = step(Bootstrapped(9), np.zeros((2, 6, 5, 7), np.float32), labels)
    assert value == pytest.approx(math.log(6), rel=1e-5)
    assert gradient.any(axis=1).sum(axis=(1, 2)).tolist() == [9, 9]


def test_a_perfect_prediction_costs_dice_nothing_and_a_missed_class_all_of_it():
    labels = np.zeros((1, 4, 4), np.int32)
    labels[0, :, 2:] = 1
    hot = 60.0 * (labels[:, None] == np.arange(3)[None, :, None, None])
    assert step(Dice(), hot.astype(np.float32), labels)[0] == pytest.approx(0, abs=1e-6)
    background = np.zeros((1, 3, 4, 4), np.float32)
    background[:, 0] = 60
    # Background: 2 x 8 / (16 + 8); the other: 0.
    assert step(Dice(), background, labels)[0] == pytest.approx(1 - (2 / 3 + 0) / 2, rel=1e-6)


@pytest.mark.parametrize("name", ["focal", "9 hardest", "dice"])
def test_other_losses_of_sampled_pixels_are_those_of_the_rest_ignored(name):
    kind, options, _ = OTHERS[name]
    logits, labels = uneven(25)
    loss = kind(**options, keep=0.5, cell=2, seed=3).set_train()
    value, _ = step(loss, logits, labels)
    again = CrossEntropy(keep=0.5, cell=2, seed=3).set_train()
    kept = again.sampled(labels.shape).asnumpy()
    assert 0.2 < kept.mean() < 0.8
    assert value == pytest.approx(step(kind(**options), logits, np.where(kept, labels, 255))[0], rel=1e-6)


@pytest.mark.parametrize("weights", [None, UNLIKE], ids=["alike", "weighted"])
@pytest.mark.parametrize("name", ["focal", "9 hardest", "dice"])
def test_shares_of_a_batch_add_up_to_its_loss(name, weights):
    """Several processes rely on it: values of the parts, each times its count, divided by the total count."""
    kind, options, _ = OTHERS[name]
    logits, labels = uneven(26)
    loss = kind(**options, class_weights=weights)
    whole, parts = step(loss, logits, labels)[0], 0
    for image in range(2):
        mine = slice(image, image + 1)
        counted = float(loss.count(ms.Tensor(labels[mine]), 6))
        parts += step(loss, logits[mine], labels[mine])[0] * counted
    assert parts / float(loss.count(ms.Tensor(labels), 6)) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("made, words", [(lambda: Bootstrapped(0), "pixels 0"), (lambda: Focal(0.5), "gamma 0.5"),
                                         (lambda: Focal(-1), "gamma -1"), (lambda: Focal(math.nan), "gamma nan"),
                                         (lambda: Dice(keep=0.0), "keep 0.0")])
def test_impossible_settings_of_other_losses_are_refused(made, words):
    with pytest.raises(ValueError, match=words):
        made()


@pytest.mark.parametrize("make", [CrossEntropy, Focal, Dice, lambda: Bootstrapped(3),
                                  lambda: CrossEntropy(class_weights=[1.0, 2.0, 3.0])])
def test_labels_below_zero_do_not_count(make):
    random = np.random.default_rng(1)
    logits = ms.Tensor(random.standard_normal((2, 3, 4, 5)).astype(np.float32))
    labels = random.integers(0, 3, (2, 4, 5)).astype(np.int32)
    labels[0, :2], labels[1, 3] = -1, 255
    loss = make()
    assert float(loss(logits, ms.Tensor(labels))) == float(loss(logits, ms.Tensor(np.where(labels < 0, 255, labels))))


def overlapping(scale):
    """Logits (2, 5, 6, 7) and labels of 0, 1 and 254, of which about a fifth does not count."""
    random = np.random.default_rng(3)
    logits = (scale * random.standard_normal((2, 5, 6, 7))).astype(np.float32)
    labels = random.integers(0, 2, logits.shape).astype(np.int32)
    labels[random.uniform(size=labels.shape) < 0.2] = 254
    return logits, labels


@pytest.mark.parametrize("scale, reduction", [(1.0, "mean"), (1.0, "sum"), (200.0, "mean")])
def test_binary_cross_entropy_is_that_of_the_definition(mode, scale, reduction):
    """The logarithm of the probability of what is true, in float64; also of logits whose exponentials overflow."""
    logits, labels = overlapping(scale)
    loss = BinaryCrossEntropy(254, reduction)
    value, gradient = step(loss, logits, labels)
    counted, scores = labels != 254, logits.astype(np.float64)
    divisor = counted.sum() if reduction == "mean" else 1
    expected = np.logaddexp(0, np.where(labels == 1, -scores, scores))[counted].sum() / divisor
    assert value == pytest.approx(expected, rel=1e-5)
    slope = np.where(counted, np.exp(-np.logaddexp(0, -scores)) - labels, 0) / divisor
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)
    assert (gradient[~counted] == 0).all()
    nothing = step(loss, logits, np.full_like(labels, 254))
    assert nothing[0] == 0 and not nothing[1].any()


@pytest.mark.parametrize("scale, reduction", [(1.0, "mean"), (1.0, "sum"), (200.0, "mean")])
def test_binary_cross_entropy_equals_pytorchs_over_the_labels_that_count(scale, reduction):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    logits, labels = overlapping(scale)
    value, gradient = step(BinaryCrossEntropy(254, reduction), logits, labels)
    scores, counted = torch.tensor(logits, dtype=torch.float64, requires_grad=True), torch.tensor(labels != 254)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        scores[counted], torch.tensor(labels, dtype=torch.float64)[counted], reduction=reduction)
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, scores.grad.numpy(), rtol=1e-4, atol=1e-6)
