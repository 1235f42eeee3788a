"""The four metrics against scikit-learn, against numbers by hand, and inside Model.eval."""

import warnings

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import nn
from mindspore.train import Model

from mindfcn import metrics
from mindfcn.errors import UserError
from mindfcn.logits import argmax
from mindfcn.metrics import ConfusionMatrix, segmentation_metrics

KEYS = ["pixel accuracy", "mean pixel accuracy", "mean IoU", "frequency weighted IoU"]


def noisy(seed, classes=21, shape=(3, 20, 30), ignored=0.1):
    """Truth with 255 in it, and a prediction that is right in about half of the pixels."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, shape)
    prediction = np.where(random.uniform(size=shape) < 0.5, truth, random.integers(0, classes, shape))
    truth[random.uniform(size=shape) < ignored] = 255
    return prediction, truth


@pytest.mark.parametrize("classes", [2, 5, 21])
def test_equals_scikit_learn(classes):
    sklearn = pytest.importorskip("sklearn.metrics")
    prediction, truth = noisy(classes, classes)
    matrix = ConfusionMatrix(classes)
    for one, other in zip(prediction, truth):
        matrix.update(one, other)
    counted = truth != 255
    flat, labels = (truth[counted], prediction[counted]), range(classes)
    np.testing.assert_array_equal(matrix.counts, sklearn.confusion_matrix(*flat, labels=labels))
    np.testing.assert_allclose(matrix.class_ious(), sklearn.jaccard_score(*flat, labels=labels, average=None),
                               rtol=1e-12)
    np.testing.assert_allclose(matrix.class_accuracies(), sklearn.recall_score(*flat, labels=labels, average=None),
                               rtol=1e-12)
    assert matrix.compute() == pytest.approx({
        KEYS[0]: sklearn.accuracy_score(*flat),
        KEYS[1]: sklearn.balanced_accuracy_score(*flat),
        KEYS[2]: sklearn.jaccard_score(*flat, labels=labels, average="macro"),
        KEYS[3]: sklearn.jaccard_score(*flat, labels=labels, average="weighted")}, rel=1e-12)


def test_by_hand():
    """Truth 0 0 0 0 1 1 2 255, predicted 0 0 0 1 1 2 2 2."""
    matrix = ConfusionMatrix(3)
    new = matrix.update(np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 0, 0, 0, 1, 1, 2, 255]))
    assert new.tolist() == matrix.counts.tolist() == [[3, 1, 0], [0, 1, 1], [0, 0, 1]]
    ious = 3 / 4, 1 / 3, 1 / 2
    assert matrix.pixel_accuracy() == pytest.approx(5 / 7)
    assert matrix.mean_pixel_accuracy() == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert matrix.mean_iou() == pytest.approx(sum(ious) / 3)
    assert matrix.frequency_weighted_iou() == pytest.approx((4 * ious[0] + 2 * ious[1] + 1 * ious[2]) / 7)
    np.testing.assert_allclose(matrix.class_shares(), [4 / 7, 2 / 7, 1 / 7])
    assert list(matrix.compute()) == KEYS and "mean IoU 0.5278" in str(matrix)


def test_absent_classes():
    """Class 2 is predicted but never true: IoU 0. Class 3 is neither: left out. Both have no accuracy."""
    matrix = ConfusionMatrix(4)
    matrix.update(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(matrix.class_ious(), [1, 0.5, 0, np.nan])
    np.testing.assert_array_equal(matrix.class_accuracies(), [1, 0.5, np.nan, np.nan])
    assert matrix.mean_iou() == pytest.approx(0.5)
    assert matrix.mean_pixel_accuracy() == pytest.approx(0.75)
    assert matrix.frequency_weighted_iou() == pytest.approx(0.75)


def test_the_courses_formulas_where_every_class_appears():
    """As its cells compute them: row is truth, nanmean, and the sum over classes of positive frequency."""
    prediction, truth = noisy(3, 6)
    matrix = ConfusionMatrix(6)
    counts = matrix.update(prediction, truth)
    mask = (truth >= 0) & (truth < 6)
    theirs = np.bincount(6 * truth[mask] + prediction[mask], minlength=36).reshape(6, 6)
    np.testing.assert_array_equal(counts, theirs)
    ious = np.diag(theirs) / (theirs.sum(1) + theirs.sum(0) - np.diag(theirs))
    frequency = theirs.sum(1) / theirs.sum()
    assert list(matrix.compute().values()) == pytest.approx([
        np.diag(theirs).sum() / theirs.sum(), np.nanmean(np.diag(theirs) / theirs.sum(1)), np.nanmean(ious),
        (frequency[frequency > 0] * ious[frequency > 0]).sum()], rel=1e-12)


def test_nothing_counted_is_nan_without_warnings():
    matrix = ConfusionMatrix(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert np.isnan(list(matrix.compute().values())).all() and len(matrix.compute()) == 4
            matrix.update(np.zeros(4, int), np.full(4, 255))
    matrix.update(np.zeros(4, int), np.zeros(4, int))
    assert matrix.mean_iou() == 1
    matrix.clear()
    assert np.isnan(matrix.mean_iou())


def test_more_pixels_than_32_bits_count():
    matrix, small = ConfusionMatrix(2), ConfusionMatrix(2)
    assert matrix.counts.dtype == np.int64
    matrix.counts[:] = [[3 << 40, 1 << 40], [1 << 40, 5 << 40]]
    small.counts[:] = [[3, 1], [1, 5]]
    assert matrix.compute() == pytest.approx(small.compute(), rel=1e-12)
    matrix.counts[:] = [[2 ** 31 - 1, 0], [0, 0]]
    matrix.update(np.zeros(3, np.uint8), np.zeros(3, np.uint8))
    assert matrix.counts[0, 0] == 2 ** 31 + 2


def test_class_numbers_of_small_types_do_not_overflow():
    """20 * 21 + 20 does not fit into uint8."""
    matrix = ConfusionMatrix(21)
    matrix.update(np.full((2, 2), 20, np.uint8), np.full((2, 2), 20, np.uint8))
    assert matrix.counts[20, 20] == matrix.counts.sum() == 4


def test_what_cannot_be_counted_is_told_in_one_line():
    matrix = ConfusionMatrix(3)
    for prediction, truth, words in (([0, 1], [0], "2 predicted pixels but 1"), ([0, 3], [0, 0], "0..2"),
                                     ([-1, 0], [0, 0], "-1")):
        with pytest.raises(UserError) as error:
            matrix.update(np.array(prediction), np.array(truth))
        assert words in str(error.value) and "\n" not in str(error.value)
    assert matrix.counts.sum() == 0
    matrix.update(np.array([9, 1]), np.array([255, 1]))
    assert matrix.counts.sum() == 1, "what is predicted where nothing counts does not matter"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 21, 256, 300])
def test_argmax_is_numpys_also_among_equals(dtype, classes):
    """Logits of a few values, so that most pixels have several highest; negative ones and infinities among them."""
    logits = np.random.default_rng(classes).integers(-3, 2, (2, classes, 9, 7)).astype(dtype)
    logits[:, :, 0] = -np.inf
    logits[:, classes // 2, 1] = np.inf
    found = argmax(logits, 1)
    np.testing.assert_array_equal(found, logits.argmax(1))
    assert found.dtype == (np.uint8 if classes <= 256 else np.uint16)
    np.testing.assert_array_equal(argmax(logits[1]), logits[1].argmax(0))
    np.testing.assert_array_equal(argmax(logits[0, :, 2:-1, 1:5]), logits[0, :, 2:-1, 1:5].argmax(0), "a crop")


def test_argmax_tells_float64_apart_where_float32_could_not_and_changes_nothing():
    logits = np.array([1, 1 + 1e-12, 1 - 1e-12])[:, None, None]
    before = logits.copy()
    assert argmax(logits).tolist() == [[1]] and (logits == before).all()


class Pass(nn.Cell):
    """A network whose logits are its input."""

    def construct(self, logits):
        return logits * 1


def logits_of(prediction, classes):
    return np.float32(np.moveaxis(np.eye(classes)[prediction], -1, 1)) * 7 - 3


def evaluate(batches, chosen):
    dataset = ds.GeneratorDataset(batches, ["data", "label"], shuffle=False, python_multiprocessing=False)
    loss = nn.CrossEntropyLoss(ignore_index=255)
    return Model(Pass(), loss, metrics=chosen).eval(dataset, dataset_sink_mode=False)


def test_model_eval_gives_the_four_for_any_batch_and_size():
    """Batches and images of several sizes; every pixel is counted once, not once a metric."""
    batches, matrix = [], ConfusionMatrix(5)
    for seed, shape in enumerate(((3, 6, 7), (1, 9, 4), (2, 5, 5))):
        prediction, truth = noisy(seed, 5, shape)
        matrix.update(prediction, truth)
        batches.append((logits_of(prediction, 5), truth.astype(np.int32)))
    chosen = segmentation_metrics(5)
    assert list(chosen) == KEYS and len({id(view.matrix) for view in chosen.values()}) == 1
    for _ in range(2):
        result = evaluate(batches, chosen)
        assert result == pytest.approx(matrix.compute(), rel=1e-12) and list(result) == KEYS
        assert chosen["pixel accuracy"].matrix.counts.sum() == matrix.counts.sum()


@pytest.mark.parametrize("name, cls", [
    ("pixel accuracy", metrics.PixelAccuracy), ("mean pixel accuracy", metrics.PixelAccuracyClass),
    ("mean IoU", metrics.MeanIntersectionOverUnion),
    ("frequency weighted IoU", metrics.FrequencyWeightedIntersectionOverUnion)])
def test_each_metric_alone_as_in_the_course(name, cls):
    prediction, truth = noisy(8, 21, (4, 8, 8))
    expected = ConfusionMatrix(21)
    expected.update(prediction, truth)
    metric = cls()
    metric.clear()
    metric.update(ms.Tensor(logits_of(prediction, 21)), ms.Tensor(truth, ms.int32))
    assert metric.eval() == pytest.approx(expected.compute()[name], rel=1e-12)
    metric.clear()
    metric.update(ms.Tensor(prediction, ms.int32), ms.Tensor(truth, ms.int32))
    assert metric.eval() == pytest.approx(expected.compute()[name], rel=1e-12), "classes instead of logits"


def test_excluded_classes_are_in_no_mean():
    """SIFT Flow's protocol: a class that no image of the test has is left out, even where it is predicted."""
    truth, prediction = np.array([0, 0, 1, 1, 1, 3]), np.array([0, 2, 1, 1, 0, 3])
    matrix = ConfusionMatrix(4, excluded=[2])
    matrix.update(prediction, truth)
    # Class 2 is predicted once: with it, its IoU 0 would count among four.
    assert matrix.mean_iou() == pytest.approx((1 / 3 + 2 / 3 + 1) / 3)
    assert matrix.mean_pixel_accuracy() == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert matrix.pixel_accuracy() == pytest.approx(4 / 6)
    plain = ConfusionMatrix(4)
    plain.update(prediction, truth)
    assert plain.mean_iou() == pytest.approx((1 / 3 + 2 / 3 + 0 + 1) / 4)
    assert matrix.frequency_weighted_iou() == plain.frequency_weighted_iou()
