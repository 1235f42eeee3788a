"""PNG files of a run's curves, the confusion matrix, and the score of every class."""

import warnings

import numpy as np

from mindfcn.errors import UserError
from mindfcn.report.canvas import font_file
from mindfcn.report.overlays import display_name
from mindfcn.storage.files import atomic_path

MAX_POINTS = 4000
MAX_NUMBERED_CLASSES = 30


def save_curves(path, train, evals):
    """Draw loss, learning rate and evaluation metrics over the training steps.

    If a step occurs twice, as after a resumed run, its last row counts. Panels without rows are left out.

    Args:
        path: PNG file to write
        train: [(step, loss, learning rate)]; a loss that is not finite leaves a gap
        evals: [(step, {metric: value})]

    Raises:
        UserError: there is no row at all, or the file cannot be written.
    """
    if not train and not evals:
        raise UserError(f"{path}: no training step and no evaluation is logged yet; train first, then draw the curves")
    _save(curves(train, evals), path)


def curves(train, evals):
    """The matplotlib Figure that `save_curves` writes; at least one of the two lists has a row."""
    train, evals = by_step(train), by_step(evals)
    panels = [(_draw_loss, train), (_draw_rate, train)] if train else []
    panels += [(_draw_metrics, evals)] if evals else []
    height = 1 + 2.4 * len(panels)
    # A training run draws them often: matplotlib's search for margins would take half of the time.
    figure = _figure((8, height), None)
    figure.subplots_adjust(left=0.1, right=0.98, bottom=0.55 / height, top=1 - 0.3 / height, hspace=0.15)
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axis, (draw, rows) in zip(axes, panels):
        draw(axis, rows)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("step")
    return figure


def save_confusion(path, matrix, labels):
    """Draw a confusion matrix normalised by row: how the pixels of each true class were predicted, in %.

    Rows of classes without true pixels are grey. With up to 30 classes, the cells show numbers.

    Args:
        path: PNG file to write
        matrix: (n, n) int64 pixel counts; rows are the truth, columns the prediction
        labels: LabelSet of n classes

    Raises:
        UserError: matrix and labels differ in their number of classes, or the file cannot be written.
    """
    count = len(labels)
    if matrix.shape != (count, count):
        raise UserError(f"{path}: the confusion matrix is {matrix.shape} but there are {count} classes; "
                        "use the labels it was counted with")
    percent = row_percent(matrix)
    side = 2.2 + max(2.6, 0.34 * count) if count <= MAX_NUMBERED_CLASSES else 2.2 + 0.2 * count
    figure = _figure((side + 1, side))
    axis = figure.subplots()
    _draw_cells(figure, axis, percent)
    if count <= MAX_NUMBERED_CLASSES:
        _number_cells(axis, percent)
    _name_ticks(axis.xaxis, labels, rotation=90 if count > 4 else 0)
    _name_ticks(axis.yaxis, labels)
    axis.set(xlabel="predicted", ylabel="true")
    _save(figure, path)


def save_class_bars(path, iou, labels):
    """Draw the IoU of every class as a bar in the class's colour, the best at the top, and the mean as a line.

    The mean leaves out the labels' excluded classes.

    Args:
        path: PNG file to write
        iou: (n,) intersection over union, 0..1; NaN for classes that do not occur
        labels: LabelSet of n classes

    Raises:
        UserError: scores and labels differ in their number of classes, or the file cannot be written.
    """
    iou = np.asarray(iou, np.float64)
    if iou.shape != (len(labels),):
        raise UserError(f"{path}: the scores have shape {iou.shape} but there are {len(labels)} classes; "
                        "use the labels they were computed with")
    order = np.argsort(-iou, kind="stable")
    figure = _figure((7, 1.2 + 0.26 * len(labels)))
    axis = figure.subplots()
    _draw_bars(axis, 100 * iou[order], labels.palette()[order] / 255)
    _name_ticks(axis.yaxis, labels, order)
    axis.set(xlim=(0, 108), ylim=(len(order) - 0.4, -0.6), xlabel="IoU, %")
    axis.spines[["top", "right"]].set_visible(False)
    kept = np.delete(iou, labels.excluded_numbers())
    if not np.isnan(kept).all():
        mean = 100 * np.nanmean(kept)
        axis.axvline(mean, color="0.3", linestyle="--", linewidth=1, zorder=0)
        axis.set_title(f"mean IoU {mean:.2f} %", fontsize=10)
    _save(figure, path)


def save_trimap(path, bands, overall):
    """Draw the mean IoU near boundaries over the width of the band around them, and of all pixels as a line.

    Args:
        path: PNG file to write
        bands: (n,) mean IoU, 0..1 or NaN, in bands of 1 to n pixels
        overall: mean IoU of all pixels, 0..1 or NaN

    Raises:
        UserError: the file cannot be written.
    """
    figure = _figure((6, 3.6))
    axis = figure.subplots()
    widths = np.arange(1, len(bands) + 1)
    axis.plot(widths, 100 * np.asarray(bands), marker="o", markersize=4, linewidth=1.6, label="near boundaries")
    if np.isfinite(overall):
        axis.axhline(100 * overall, color="0.3", linestyle="--", linewidth=1,
                     label=f"all pixels, {100 * overall:.1f} %")
    axis.set(xlabel="pixels on either side of the boundary", ylabel="mean IoU, %", xticks=widths)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=10)
    _save(figure, path)


def by_step(rows):
    """Rows sorted by their first column, the step; if a step occurs twice, as after a resumed run, its last row."""
    return sorted({row[0]: row for row in rows}.values(), key=lambda row: row[0])


def row_percent(matrix):
    """(n, n) counts -> (n, n) float64 in % of the row; NaN in rows without counts."""
    sums = matrix.sum(axis=1, keepdims=True)
    return np.where(sums > 0, 100.0 * matrix / np.maximum(sums, 1), np.nan)


def smooth(values, span):
    """Exponential moving average whose weights fall to 1/e over `span` values.

    Args:
        values: (n,) floats; non-finite ones are skipped
        span: time constant, in values

    Returns:
        (n,) float64; NaN until the first finite value. Early averages are not biased towards zero.
    """
    keep = np.exp(-1 / span)
    total = weight = 0.0
    averages = np.full(len(values), np.nan)
    for place, value in enumerate(values):
        if np.isfinite(value):
            total, weight = keep * total + value, keep * weight + 1
        if weight:
            averages[place] = total / weight
    return averages


def _draw_loss(axis, rows):
    steps, losses = np.array([row[:2] for row in rows], np.float64).T
    losses[~np.isfinite(losses)] = np.nan
    thin = slice(None, None, -(-len(steps) // MAX_POINTS))
    axis.plot(steps[thin], losses[thin], color="C0", alpha=0.35, linewidth=0.8, label="every step", **_dot(steps))
    span = max(1, len(losses) / 40)
    axis.plot(steps[thin], smooth(losses, span)[thin], color="C0", linewidth=1.6, label="smoothed")
    axis.set_ylabel("training loss")
    axis.legend(frameon=False, fontsize=10)


def _draw_rate(axis, rows):
    steps, rates = np.array([(row[0], row[2]) for row in rows], np.float64).T
    axis.plot(steps, rates, color="C1", linewidth=1.4, **_dot(steps))
    axis.set_ylabel("learning rate")
    axis.set_ylim(bottom=0)
    axis.ticklabel_format(axis="y", scilimits=(-2, 3))


def _draw_metrics(axis, rows):
    names = list(dict.fromkeys(name for _, metrics in rows for name in metrics))
    for name in names:
        steps, values = zip(*[(step, metrics[name]) for step, metrics in rows if name in metrics])
        axis.plot(steps, values, marker="o", markersize=3, linewidth=1.4, label=f"{name}, last {values[-1]:.4g}")
    values = np.array([value for _, metrics in rows for value in metrics.values()], np.float64)
    if np.nanmin(values, initial=0) >= 0 and np.nanmax(values, initial=0) <= 1:
        axis.set_ylim(0, 1)
    axis.set_ylabel("evaluation")
    axis.legend(frameon=False, fontsize=10)


def _dot(steps):
    """A marker for a curve of one point, which would be invisible."""
    return {"marker": "o"} if len(steps) == 1 else {}


def _draw_cells(figure, axis, percent):
    """Draw the matrix as coloured cells separated by white lines, with a colour scale."""
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm
    colormap = colormaps["Blues"].with_extremes(bad="0.88")
    # The square root keeps confusions of a few per cent visible.
    drawn = axis.imshow(np.ma.masked_invalid(percent), cmap=colormap, norm=PowerNorm(0.5, 0, 100))
    scale = figure.colorbar(drawn, ax=axis, shrink=0.7, ticks=(0, 1, 5, 10, 25, 50, 100), format="%d")
    scale.set_label("% of the true class's pixels")
    lines = np.arange(len(percent) + 1) - 0.5
    axis.set_xticks(lines, minor=True)
    axis.set_yticks(lines, minor=True)
    axis.grid(which="minor", color="white", linewidth=0.6)
    axis.tick_params(which="minor", length=0)


def _number_cells(axis, percent):
    """Write percentages of 0.5 or more into their cells."""
    size = 7 if len(percent) > 6 else 11
    for row, column in zip(*np.nonzero(percent >= 0.5)):
        value = percent[row, column]
        axis.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=size,
                  color="white" if value > 35 else "black")


def _draw_bars(axis, percent, colors):
    """Horizontal bars from the top down, each with its value, or `absent` for NaN."""
    places = np.arange(len(percent))
    axis.barh(places, np.nan_to_num(percent), color=colors, edgecolor="0.5", linewidth=0.6)
    for place, value in zip(places, percent):
        text, color = ("absent", "0.5") if np.isnan(value) else (f"{value:.1f}", "black")
        axis.text(np.nan_to_num(value) + 1, place, text, va="center", fontsize=8, color=color,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})


def _name_ticks(axis, labels, order=None, rotation=0):
    """Write class names along an axis, each in a font that has its characters; `$` starts no formula."""
    from matplotlib.font_manager import FontProperties
    numbers = range(len(labels)) if order is None else order
    names = [display_name(labels.names[number]) for number in numbers]
    for tick, name in zip(axis.set_ticks(range(len(names)), names, parse_math=False), names):
        tick.label1.set(fontproperties=FontProperties(fname=font_file(name), size=8), rotation=rotation)


def _save(figure, path):
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # Characters without an installed font are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(temporary, format="png")


def _figure(size, layout="constrained"):
    """An empty figure, (width, height) in inches."""
    # Imported here because it takes a fifth of a second.
    from matplotlib.figure import Figure
    return Figure(figsize=size, dpi=120, layout=layout)
