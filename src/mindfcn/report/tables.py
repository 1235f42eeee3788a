"""Results as aligned plain text, for terminals and log files, and as CSV."""

import csv
import io
import unicodedata

import numpy as np

ABSENT = "-"


def class_table(names, iou, accuracy, share):
    """One line per class, in %, with `-` for NaN: the class does not occur.

    Args:
        names: class names
        iou: (n,) intersection over union, 0..1 or NaN
        accuracy: (n,) share of the class's true pixels that were found, 0..1 or NaN
        share: (n,) share of the true pixels that belong to the class, 0..1 or NaN

    Returns:
        The table as one string without a newline at its end.
    """
    header = ("class", "IoU %", "accuracy %", "share of pixels %")
    columns = [[format_number(100 * value, 2) for value in values] for values in (iou, accuracy, share)]
    return text_table(header, list(zip(names, *columns)))


def overlapping_table(names, counts):
    """The same of overlapping classes, from their BinaryCounts: IoU, precision, recall and share of the pixels."""
    figures = counts.by_class()
    columns = [[format_number(100 * value, 2) for value in values] for values in figures.values()]
    return text_table(("class", *(f"{name} %" for name in figures)), list(zip(names, *columns)))


def text_table(header, rows):
    """Align cells in columns: numbers right, words left, two spaces between columns.

    Args:
        header: n column headings
        rows: lists of n cells, of any type with a `str`

    Returns:
        The table as one string without a newline at its end.

    Raises:
        ValueError: a row has more or fewer cells than the header.
    """
    lines = [[" ".join(str(cell).split()) for cell in line] for line in (header, *rows)]
    if any(len(line) != len(header) for line in lines):
        raise ValueError(f"every row of the table needs {len(header)} cells")
    widths = [max(map(_width, column)) for column in zip(*lines)]
    right = [len(lines) > 1 and all(map(_is_number, column[1:])) for column in zip(*lines)]
    texts = ["  ".join(map(_align, line, widths, right)).rstrip() for line in lines]
    return "\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]])


def format_number(value, digits):
    """A number as text with this many decimals; `-` for None and NaN."""
    return ABSENT if value is None or np.isnan(value) else f"{value:.{digits}f}"


def csv_text(header, rows):
    """The table as CSV; NaN and `-` become empty cells."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([header, *([("" if cell == ABSENT or cell != cell else cell) for cell in row] for row in rows)])
    return text.getvalue()


def _is_number(cell):
    if cell == ABSENT:
        return True
    try:
        float(cell.rstrip("% ").replace(",", ""))
    except ValueError:
        return False
    return True


def _align(cell, width, right):
    space = " " * (width - _width(cell))
    return space + cell if right else cell + space


def _width(text):
    """Width of a text in a terminal: two columns for wide East Asian characters, none for combining marks."""
    return sum(_character_width(character) for character in text)


def _character_width(character):
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
