"""Metrics against scikit-learn, SciPy and numbers by hand, and inside Model.eval."""

import warnings

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
import scipy.ndimage
from mindspore import nn
from mindspore.train import Model

from mindfcn import metrics
from mindfcn.errors import UserError
from mindfcn.logits import argmax
from mindfcn.metrics import (
    SIZES,
    BinaryCounts,
    ConfusionMatrix,
    ObjectSizes,
    PixelAccuracy,
    Trimap,
    boundary_distance,
    segmentation_metrics,
)

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
    expected = np.bincount(6 * truth[mask] + prediction[mask], minlength=36).reshape(6, 6)
    np.testing.assert_array_equal(counts, expected)
    ious = np.diag(expected) / (expected.sum(1) + expected.sum(0) - np.diag(expected))
    frequency = expected.sum(1) / expected.sum()
    assert list(matrix.compute().values()) == pytest.approx([
        np.diag(expected).sum() / expected.sum(), np.nanmean(np.diag(expected) / expected.sum(1)), np.nanmean(ious),
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


def test_what_cannot_be_counted_is_reported_in_one_line():
    matrix = ConfusionMatrix(3)
    square = np.arange(6).reshape(2, 3) % 3
    for prediction, truth, words in (([0, 1], [0], "(2,) but true classes (1,)"), ([0, 3], [0, 0], "0..2"),
                                     ([-1, 0], [0, 0], "-1"), (square.T, square, "(3, 2) but true classes (2, 3)"),
                                     (square, square.ravel(), "(2, 3) but true classes (6,)"),
                                     ([0.0, 1.0], [0, 1], "predictions are float64"),
                                     ([0, 1], [0.0, np.nan], "true classes are float64"), ([], [], "float64")):
        with pytest.raises(UserError) as error:
            matrix.update(np.array(prediction), np.array(truth))
        assert words in str(error.value) and "\n" not in str(error.value)
    assert matrix.counts.sum() == 0
    matrix.update(np.array([9, 1]), np.array([255, 1]))
    assert matrix.counts.sum() == 1, "what is predicted where nothing counts does not matter"
    for dtype in (bool, np.uint8, np.uint64, np.int64):
        matrix.clear()
        matrix.update(np.array([0, 1, 1], dtype), np.array([1, 1, 0], dtype))
        assert matrix.counts[:2, :2].tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("shape, truth, words", [
    ((2, 2, 4, 5), (2, 4, 5), "(2, 2, 4, 5), but there are 3 classes"), ((2, 3, 4, 5), (2, 5, 4), "(2, 5, 4)"),
    ((2, 4, 5), (2, 5, 4), "(2, 5, 4)")])
def test_logits_and_masks_of_other_shapes_are_refused(shape, truth, words):
    """Of as many pixels, they would be counted in the wrong places."""
    logits = np.zeros(shape, np.float32 if len(shape) == 4 else np.int32)
    with pytest.raises(UserError) as caught:
        PixelAccuracy(3).update(ms.Tensor(logits), ms.Tensor(np.zeros(truth, np.int32)))
    assert words in str(caught.value)


@pytest.mark.parametrize("excluded", [["void"], [9], [-1]])
@pytest.mark.parametrize("counts", [ConfusionMatrix, BinaryCounts])
def test_an_excluded_number_that_is_no_class_is_refused(counts, excluded):
    with pytest.raises(UserError, match=r"classes are the numbers 0\.\.2"):
        counts(3, excluded)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 21, 256, 300])
def test_argmax_equals_numpys_also_for_ties(dtype, classes):
    """Logits of a few values, so that most pixels have several highest; negative ones and infinities among them."""
    logits = np.random.default_rng(classes).integers(-3, 2, (2, classes, 9, 7)).astype(dtype)
    logits[:, :, 0] = -np.inf
    logits[:, classes // 2, 1] = np.inf
    found = argmax(logits, 1)
    np.testing.assert_array_equal(found, logits.argmax(1))
    assert found.dtype == (np.uint8 if classes <= 256 else np.uint16)
    np.testing.assert_array_equal(argmax(logits[1]), logits[1].argmax(0))
    np.testing.assert_array_equal(argmax(logits[0, :, 2:-1, 1:5]), logits[0, :, 2:-1, 1:5].argmax(0), "a crop")


def test_argmax_distinguishes_float64_values_beyond_float32_and_leaves_its_input_unchanged():
    logits = np.array([1, 1 + 1e-12, 1 - 1e-12])[:, None, None]
    before = logits.copy()
    assert argmax(logits).tolist() == [[1]] and (logits == before).all()


def test_argmax_compares_as_a_loop_does_also_with_nan():
    logits = np.random.default_rng(5).choice([-1, 0, 1, np.nan, np.inf, -np.inf], (4, 2000))
    expected = []
    for scores in logits.T:
        best = 0
        for number in range(1, 4):
            if scores[number] > scores[best]:
                best = number
        expected.append(best)
    for dtype in (np.float16, np.float32, np.float64):
        assert argmax(logits.astype(dtype)).tolist() == expected


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


# ------------------------------------------------------------------------------------------------- boundaries, sizes

def blocks(seed, height=40, width=50, classes=3):
    """A random truth of rectangles with an ignored frame around some, and a prediction that is right in most."""
    random = np.random.default_rng(seed)
    truth, prediction = np.zeros((2, height, width), np.uint8)
    for mask in (truth, prediction):
        for _ in range(6):
            top, left = random.integers(0, height - 4), random.integers(0, width - 4)
            below, right = top + random.integers(2, 20), left + random.integers(2, 20)
            if mask is truth:
                mask[max(0, top - 1):below + 1, max(0, left - 1):right + 1] = 255
            mask[top:below, left:right] = random.integers(0, classes)
    agree = random.random(truth.shape) < 0.5
    prediction[agree & (truth != 255)] = truth[agree & (truth != 255)]
    return prediction, truth


def brute_band(truth, width):
    """The band by its definition: every pixel against every boundary pixel."""
    height, across = truth.shape
    edge = [(row, column) for row in range(height) for column in range(across)
            if any(0 <= row + down < height and 0 <= column + right < across
                   and truth[row + down, column + right] != truth[row, column]
                   for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)))]
    band = np.zeros(truth.shape, bool)
    for row, column in np.ndindex(*truth.shape):
        nearest = min(((row - y) ** 2 + (column - x) ** 2 for y, x in edge), default=10 ** 9)
        band[row, column] = nearest <= (width - 1) ** 2 and truth[row, column] != 255
    return band


@pytest.mark.parametrize("seed", range(3))
def test_bands_are_the_pixels_near_a_boundary(seed):
    prediction, truth = blocks(seed, 24, 30)
    trimap = Trimap(3)
    trimap.update(prediction, truth)
    for width, matrix in enumerate(trimap.matrices(), 1):
        band = brute_band(truth, width)
        expected = ConfusionMatrix(3)
        expected.update(prediction[band], truth[band])
        np.testing.assert_array_equal(matrix.counts, expected.counts)
        assert trimap.mean_ious()[width - 1] == expected.mean_iou()


def test_distances_equal_scipys():
    _, truth = blocks(1, 90, 120)
    edge = np.zeros(truth.shape, bool)
    edge[1:] |= truth[1:] != truth[:-1]
    edge[:-1] |= truth[1:] != truth[:-1]
    edge[:, 1:] |= truth[:, 1:] != truth[:, :-1]
    edge[:, :-1] |= truth[:, 1:] != truth[:, :-1]
    np.testing.assert_allclose(boundary_distance(truth), scipy.ndimage.distance_transform_edt(~edge), atol=1e-4)


def test_a_band_by_hand():
    """Two halves of 3x8: the band of width 1 is a column on each side, that of width 2 two; no edge at the border."""
    truth = np.repeat([[0, 1]], 4, 1).repeat(3, 0)
    prediction = truth.copy()
    prediction[:, 4] = 0
    trimap = Trimap(2)
    trimap.update(prediction, truth)
    assert trimap.matrices()[0].counts.tolist() == [[3, 0], [3, 0]]
    assert trimap.matrices()[1].counts.tolist() == [[6, 0], [3, 3]]
    assert trimap.matrices()[9].counts.tolist() == [[12, 0], [3, 9]]
    assert trimap.mean_ious()[:2].tolist() == [3 / 6 / 2, (6 / 9 + 3 / 6) / 2]


def test_without_a_boundary_there_is_no_band():
    trimap = Trimap(2)
    trimap.update(np.zeros((5, 5), int), np.ones((5, 5), int))
    assert not trimap.counts.any() and np.isnan(trimap.mean_ious()).all()


def brute_sizes(prediction, truth, classes, background):
    """{(size, class): [true, found, false, objects]} by SciPy's components and loops."""
    near = np.ones((3, 3))
    counted = {}

    def row(area, number):
        size = "small" if area < 1024 else "medium" if area <= 9216 else "large"
        return counted.setdefault((size, number), [0, 0, 0, 0])

    for number in set(range(classes)) - {background}:
        objects, count = scipy.ndimage.label(truth == number, near)
        areas = {item: int((objects == item).sum()) for item in range(1, count + 1)}
        for item, area in areas.items():
            entry = row(area, number)
            entry[0] += area
            entry[1] += int(((objects == item) & (prediction == number)).sum())
            entry[3] += 1
        blobs, count = scipy.ndimage.label(prediction == number, near)
        for blob in range(1, count + 1):
            inside = (blobs == blob) & (truth != 255)
            wrong = int((inside & (truth != number)).sum())
            overlaps = {item: int((inside & (objects == item)).sum()) for item in areas}
            best = max(overlaps, key=overlaps.get, default=None)
            area = areas[best] if best and overlaps[best] else int(inside.sum())
            if wrong:
                row(area, number)[2] += wrong
    return counted


@pytest.mark.parametrize("background", [0, None])
@pytest.mark.parametrize("seed", range(3))
def test_objects_by_size_are_those_of_a_plain_count(seed, background):
    prediction, truth = (np.kron(mask, np.ones((6, 6), np.uint8)) for mask in blocks(seed + 4))
    found = ObjectSizes(3, background)
    found.update(prediction, truth)
    expected = brute_sizes(prediction, truth, 3, background)
    for place, size in enumerate(SIZES):
        for number in range(3):
            counts = [int(array[place, number]) for array in (found.true, found.found, found.false, found.objects)]
            assert counts == expected.get((size, number), [0, 0, 0, 0]), (size, number)
    assert found.objects.sum() >= 2 and found.false.any()


def test_the_sizes_add_up_to_the_confusion_matrix():
    sizes, matrix = ObjectSizes(3, None), ConfusionMatrix(3)
    for seed in range(5):
        prediction, truth = (np.kron(mask, np.ones((4, 4), np.uint8)) for mask in blocks(seed))
        sizes.update(prediction, truth)
        matrix.update(prediction, truth)
    np.testing.assert_array_equal(sizes.true.sum(0), matrix.counts.sum(1))
    np.testing.assert_array_equal(sizes.found.sum(0), np.diag(matrix.counts))
    np.testing.assert_array_equal(sizes.false.sum(0), matrix.counts.sum(0) - np.diag(matrix.counts))


def test_objects_by_size_by_hand():
    """A small and a large object of class 1; what is predicted around the small one, and a blob of its own."""
    truth = np.zeros((200, 300), np.uint8)
    truth[10:20, 10:20] = 1
    truth[40:190, 100:200] = 1
    prediction = np.zeros_like(truth)
    prediction[10:20, 10:25] = 1
    prediction[40:190, 100:150] = 1
    prediction[0:40, 250:290] = 1
    sizes = ObjectSizes(3)
    sizes.update(prediction, truth)
    assert sizes.objects[:, 1].tolist() == [1, 0, 1] and sizes.objects.sum() == 2
    assert sizes.class_ious()[0, 1] == 100 / 150 and sizes.class_ious()[2, 1] == 0.5
    assert sizes.false[1, 1] == 1600 and np.isnan(sizes.class_ious()[1, 1]), "a blob alone is of its own size"
    assert sizes.compute()["small"] == {"mean IoU": 100 / 150, "mean pixel accuracy": 1.0, "objects": 1}
    assert np.isnan(sizes.compute()["medium"]["mean IoU"])


@pytest.mark.parametrize("area, size", [(1023, 0), (1024, 1), (9216, 1), (9217, 2)])
def test_size_limits_are_those_of_coco(area, size):
    truth = np.zeros((100, 100), np.uint8)
    truth.ravel()[:area] = 1
    sizes = ObjectSizes(2)
    sizes.update(truth, truth)
    assert np.flatnonzero(sizes.objects[:, 1]).tolist() == [size]


def test_an_object_split_by_the_ignore_label_is_two_objects_and_its_prediction_one_blob():
    truth = np.array([[1, 1, 255, 1, 1, 0]], np.uint8)
    prediction = np.array([[1, 1, 1, 1, 1, 1]], np.uint8)
    sizes = ObjectSizes(2)
    sizes.update(prediction, truth)
    assert sizes.objects[0, 1] == 2 and sizes.true[0, 1] == sizes.found[0, 1] == 4 and sizes.false[0, 1] == 1


def test_one_rule_for_excluded_classes():
    """Means over classes of the matrix, the bands, the sizes and the course's views are those without the class."""
    prediction, truth = (np.kron(array, np.ones((6, 6), int)) for array in noisy(3, 3, (9, 9), 0))
    matrix, trimap = ConfusionMatrix(3, [1]), Trimap(3, [1])
    sizes, views = ObjectSizes(3, None, [1]), segmentation_metrics(3, [1])
    for counter in (matrix, trimap, sizes, views["pixel accuracy"]):
        counter.update(prediction, truth)
    expected = matrix.class_ious()[[0, 2]].mean()
    assert matrix.mean_iou() == views["mean IoU"].eval() == pytest.approx(expected)
    assert matrix.mean_iou() != pytest.approx(matrix.class_ious().mean())
    for band, mean in zip(trimap.matrices(), trimap.mean_ious()):
        assert mean == pytest.approx(band.class_ious()[[0, 2]].mean())
    for size, row in zip(sizes.class_ious(), sizes.compute().values()):
        assert row["mean IoU"] == pytest.approx(np.nanmean(size[[0, 2]]), nan_ok=True)


def test_pixels_below_every_class_count_nowhere():
    """A label of -1 is no class: not the last one either."""
    truth = np.array([[0, 1, 2], [-1, -1, 2], [0, 0, -1]])
    prediction = np.array([[0, 1, 1], [2, 0, 2], [1, 0, 2]])
    for make in (ConfusionMatrix, Trimap, lambda classes: ObjectSizes(classes, None)):
        counters = make(3), make(3)
        counters[0].update(prediction, truth)
        counters[1].update(prediction, np.where(truth < 0, 255, truth))
        np.testing.assert_array_equal(counters[0].counts, counters[1].counts)


def test_counts_of_overlapping_classes_equal_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(5)
    truth, prediction = random.integers(0, 2, (2, 3, 20, 30, 4)).astype(np.uint8)
    truth[..., 3] = prediction[..., 3] = 0
    counts = BinaryCounts(4)
    for one, other in zip(prediction, truth):
        counts.update(one, other)
    flat = truth.reshape(-1, 4), prediction.reshape(-1, 4)
    np.testing.assert_array_equal(counts.counts, sklearn.multilabel_confusion_matrix(*flat))
    for found, score in ((counts.class_ious(), sklearn.jaccard_score), (counts.class_recalls(), sklearn.recall_score),
                         (counts.class_precisions(), sklearn.precision_score)):
        np.testing.assert_allclose(found[:3], score(*flat, average=None, zero_division=0)[:3])
        assert np.isnan(found[3])
    np.testing.assert_allclose(counts.class_shares(), flat[0].mean(0))
    assert counts.compute()["mean IoU"] == pytest.approx(counts.class_ious()[:3].mean())
    left_out = BinaryCounts(4, excluded=[0, 3])
    left_out.counts = counts.counts
    assert left_out.mean_iou() == pytest.approx(counts.class_ious()[1:3].mean())
    ignored = np.where(random.uniform(size=truth.shape) < 0.3, 254, truth)
    counts.clear()
    counts.update(prediction, ignored)
    for band in range(4):
        kept = ignored[..., band] != 254
        np.testing.assert_array_equal(counts.counts[band], sklearn.confusion_matrix(
            truth[kept, band], prediction[kept, band], labels=[0, 1]))
    with pytest.raises(UserError, match="must have 4 bands"):
        counts.update(prediction[..., :3], truth)
