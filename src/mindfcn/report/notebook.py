"""Pictures in notebooks: rows of photographs, masks and maps across the page, with titles and a legend of classes."""

import contextlib
import io
import textwrap
import warnings

from mindfcn.report.canvas import FIRST_CJK, font_file
from mindfcn.report.overlays import display_name

# Inches: of the page, and of a picture's width at most.
PAGE, LARGEST = 10, 3.6
DPI = 100
FONT_SIZE = 10


def set_up():
    """Set matplotlib's resolution and letters for a notebook; a Chinese font fills in where one is installed."""
    import matplotlib.pyplot as plt
    from matplotlib.font_manager import get_font
    with contextlib.suppress(OSError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        families = [get_font(font_file(text)).family_name for text in ("A", "中")]
        plt.rcParams["font.family"] = list(dict.fromkeys(families))
    # font_file has warned of them in one line.
    warnings.filterwarnings("ignore", message="Glyph .* missing")
    plt.rcParams.update({"figure.dpi": DPI, "font.size": FONT_SIZE, "axes.titlesize": FONT_SIZE})


def show(rows, titles=(), labels=None, classes=(), **options):
    """Show rows of pictures in a notebook, each row as wide as the page.

    Args:
        rows: one row, or a list of rows of equal length, of (H, W, 3) RGB pictures and (H, W) maps
        titles: above the pictures, in reading order; fewer titles than pictures leave the last without one
        labels: LabelSet whose colours a legend explains
        classes: class numbers of the legend, labels.ignore_label included
        options: further options of matplotlib's imshow, such as `cmap`
    """
    from IPython.display import Image, display
    from matplotlib.figure import Figure
    rows = rows if isinstance(rows[0], (list, tuple)) else [rows]
    width = min(PAGE / len(rows[0]), LARGEST)
    titles = [_wrap(title, width) for title in titles]
    heights = [width * max(picture.shape[0] / picture.shape[1] for picture in row) for row in rows]
    lines = max((title.count("\n") + 1 for title in titles), default=0)
    titled = -(-len(titles) // len(rows[0]))
    below = 0.25 * -(-len(classes) // 6) + 0.1 if len(classes) else 0
    height = sum(heights) + (0.2 * lines + 0.1) * titled + below
    figure = Figure((width * len(rows[0]), height), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False, gridspec_kw={"height_ratios": heights})
    for axis, picture in zip(axes.flat, [picture for row in rows for picture in row]):
        axis.imshow(picture, interpolation="nearest", **options)
        axis.axis("off")
    for axis, title in zip(axes.flat, titles):
        axis.set_title(title)
    if len(classes):
        figure.legend(handles=_swatches(labels, classes), ncols=6, frameon=False, loc="outside lower center")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="jpeg", pil_kwargs={"quality": 88})
    display(Image(drawn.getvalue(), format="jpeg"))


def show_legend(labels):
    """Show all classes of a LabelSet with their colours, and the ignore label."""
    import matplotlib.pyplot as plt
    classes = (*range(len(labels)), labels.ignore_label)
    figure, axis = plt.subplots(figsize=(PAGE, 0.25 * -(-len(classes) // 6) + 0.2))
    axis.axis("off")
    axis.legend(handles=_swatches(labels, classes), ncols=6, frameon=False, loc="center")
    plt.show()


def _swatches(labels, classes):
    """A legend's entries: colour, number and name of each class."""
    from matplotlib.patches import Patch
    names = [str(number) if number == labels.ignore_label else f"{number} {display_name(labels.names[number])}"
             for number in map(int, classes)]
    return [Patch(facecolor=labels.palette()[number] / 255, edgecolor="grey", label=name)
            for number, name in zip(map(int, classes), names)]


def _wrap(title, width):
    """A title in lines that fit above a picture `width` inches wide; warns where no font has its characters."""
    if title:
        font_file(title)
    per_inch = 7 if any(ord(character) >= FIRST_CJK for character in title) else 13
    return "\n".join(textwrap.fill(line, max(4, round(per_inch * width))) for line in title.split("\n"))
