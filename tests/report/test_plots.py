import math
import os

import numpy as np
import pytest
from PIL import Image

from mindfcn.errors import UserError
from mindfcn.labels import VOC, LabelSet
from mindfcn.report.plots import curves, save_class_bars, save_confusion, save_curves, save_trimap, smooth

TWO = LabelSet(("thing", "背景 $\\frac{$"), ((250, 10, 20), (30, 200, 40)))


def drawn(save, path, *arguments):
    """The pixels of the PNG that `save` writes, (H, W, 3) uint8 RGB; nothing else is left in its folder."""
    save(path, *arguments)
    assert os.listdir(path.parent) == [path.name]
    picture = Image.open(path)
    assert picture.format == "PNG"
    return np.array(picture.convert("RGB"))


def differ(one, other):
    return one.shape != other.shape or (one != other).any()


def count(picture, color):
    return int((picture == np.uint8(color)).all(axis=-1).sum())


def steps(number):
    return [(step, 2 / step, 0.1 / step) for step in range(1, number + 1)]


def test_smooth_agrees_with_the_definition():
    values = np.random.default_rng(0).random(50)
    values[[0, 20, 21]] = np.nan
    expected = []
    for end in range(50):
        pairs = [(math.exp((place - end) / 7), values[place]) for place in range(end + 1)]
        # a value that is passed over takes no time
        seen = [value for _, value in pairs if not math.isnan(value)]
        weights = [math.exp(-age / 7) for age in range(len(seen) - 1, -1, -1)]
        expected.append(np.average(seen, weights=weights) if seen else math.nan)
    np.testing.assert_allclose(smooth(values, 7), expected)


def test_curves_do_not_depend_on_the_order_of_the_rows(tmp_path):
    evals = [(10, {"mIoU": 0.2}), (20, {"mIoU": 0.4, "loss": 1.5})]
    straight = drawn(save_curves, tmp_path / "a.png", steps(20), evals)
    turned = drawn(save_curves, tmp_path / "a.png", steps(20)[::-1], evals[::-1])
    assert not differ(straight, turned)


def test_the_last_row_of_a_step_counts(tmp_path):
    plain = drawn(save_curves, tmp_path / "a.png", steps(20), [])
    resumed = drawn(save_curves, tmp_path / "a.png", [(5, 99.0, 9.0)] + steps(20), [])
    assert not differ(plain, resumed)
    assert differ(plain, drawn(save_curves, tmp_path / "a.png", steps(20) + [(5, 99.0, 9.0)], []))


def test_curves_go_through_their_rows():
    train = [(step, 5.0 - step, 0.5 * step) for step in (1, 2, 3, 4, 5)]
    evals = [(2, {"mean IoU": 0.25}), (4, {"mean IoU": 0.5}), (5, {"mean IoU": 0.75})]
    # A row of a run that was resumed; the later row of step 3 counts.
    loss, rate, metrics = (axis.lines for axis in curves([(3, 99.0, 9.0), *train], evals).axes)
    assert loss[0].get_xydata().tolist() == [[step, value] for step, value, _ in train]
    assert rate[0].get_xydata().tolist() == [[step, value] for step, _, value in train]
    assert metrics[0].get_xydata().tolist() == [[2, 0.25], [4, 0.5], [5, 0.75]]
    assert metrics[0].get_label() == "mean IoU, last 0.75"


@pytest.mark.filterwarnings("error")
def test_curves_with_gaps_with_one_point_and_with_a_million(tmp_path):
    gaps = [(step, np.nan if step % 3 == 0 else 1 / step, 0.1) for step in range(1, 10)]
    loss = curves(gaps, [(9, {"mean IoU": np.nan})]).axes[0].lines[0]
    assert np.isnan(loss.get_ydata()).tolist() == [step % 3 == 0 for step in range(1, 10)]
    drawn(save_curves, tmp_path / "a.png", [(1, 2.0, 0.1)], [])
    drawn(save_curves, tmp_path / "a.png", [(step, 1 / step, 0.1) for step in range(1, 10 ** 5)], [])
    assert os.path.getsize(tmp_path / "a.png") < 1e5


def test_panels_without_rows_are_left_out(tmp_path):
    evals = [(10, {"mIoU": 0.2})]
    heights = [len(drawn(save_curves, tmp_path / "a.png", *rows)) for rows in
               ((steps(9), evals), (steps(9), []), ([], evals))]
    assert heights == sorted(set(heights), reverse=True)


@pytest.mark.filterwarnings("error")
def test_losses_that_are_not_finite_leave_gaps(tmp_path):
    train = [(step, math.nan if step % 2 else math.inf, 0.1) for step in range(9)]
    drawn(save_curves, tmp_path / "a.png", train, [(3, {"mIoU": math.nan})])
    drawn(save_curves, tmp_path / "a.png", steps(1), [])


def test_nothing_to_draw_is_reported(tmp_path):
    with pytest.raises(UserError, match="a.png"):
        save_curves(tmp_path / "a.png", [], [])
    assert os.listdir(tmp_path) == []


def test_confusion_is_divided_by_its_rows(tmp_path):
    matrix = np.array([[6, 2], [1, 9]], np.int64)
    picture = drawn(save_confusion, tmp_path / "a.png", matrix, TWO)
    assert not differ(picture, drawn(save_confusion, tmp_path / "a.png", matrix * [[1000], [7]], TWO))
    assert differ(picture, drawn(save_confusion, tmp_path / "a.png", matrix.T, TWO))


def test_a_class_without_true_pixels_has_a_grey_row(tmp_path):
    grey = (224, 224, 224)
    picture = drawn(save_confusion, tmp_path / "a.png", np.array([[6, 2], [0, 0]], np.int64), TWO)
    rows = (picture == np.uint8(grey)).all(axis=-1).sum(axis=1)
    # as wide as two cells, as high as one
    assert (rows > 100).sum() == pytest.approx(rows.max() / 2, rel=0.05)
    assert count(drawn(save_confusion, tmp_path / "a.png", np.array([[6, 2], [0, 1]], np.int64), TWO), grey) < 50


@pytest.mark.parametrize("number", [1, 21, 60])
def test_confusion_of_few_and_many_classes(tmp_path, number):
    labels = LabelSet([f"class {place}" for place in range(number)], [(place, 0, 0) for place in range(number)])
    picture = drawn(save_confusion, tmp_path / "a.png", np.eye(number, dtype=np.int64), labels)
    # wide enough for the names: 8 points are 13 pixels
    assert min(picture.shape[:2]) > 20 * number


def test_a_matrix_of_other_classes_is_refused(tmp_path):
    with pytest.raises(UserError, match="21 classes"):
        save_confusion(tmp_path / "a.png", np.eye(3, dtype=np.int64), VOC)


def test_bars_are_as_long_as_the_scores(tmp_path):
    picture = drawn(save_class_bars, tmp_path / "a.png", np.array([0.8, 0.2]), TWO)
    assert count(picture, TWO.colors[0]) / count(picture, TWO.colors[1]) == pytest.approx(4, rel=0.1)


@pytest.mark.filterwarnings("error")
def test_absent_classes_have_no_bar_and_do_not_count_in_the_mean(tmp_path):
    picture = drawn(save_class_bars, tmp_path / "a.png", np.array([0.8, np.nan]), TWO)
    assert count(picture, TWO.colors[0]) > 1000 and count(picture, TWO.colors[1]) == 0
    drawn(save_class_bars, tmp_path / "a.png", np.full(21, np.nan), VOC)


def test_scores_of_other_classes_are_refused(tmp_path):
    with pytest.raises(UserError, match="21 classes"):
        save_class_bars(tmp_path / "a.png", np.zeros(3), VOC)


def test_bands_with_and_without_figures(tmp_path):
    bands = np.linspace(0.2, 0.5, 10)
    plain = drawn(save_trimap, tmp_path / "a.png", bands, 0.6)
    assert differ(plain, drawn(save_trimap, tmp_path / "a.png", bands[::-1], 0.6))
    assert differ(plain, drawn(save_trimap, tmp_path / "a.png", bands, 0.5))
    drawn(save_trimap, tmp_path / "a.png", np.full(10, np.nan), np.nan)
