"""One HTML page about a run or a comparison: figures, bars, confusion matrix, curves and pictures in a single file.

The page loads no other files and needs no network. Its plots are those of `report.plots`. Photographs and masks are
reduced to SIDE pixels; pictures beyond MAX_BYTES in all are left out, and the page shows how many.
"""

import base64
import dataclasses
import functools
import io
import itertools
import os
import re
import time
from typing import Any, Optional

import cv2
import numpy as np
from PIL import Image

from mindfcn.report.overlaps import as_drawn
from mindfcn.report.overlays import class_name, display_name, encode_palette_png, found_classes
from mindfcn.report.plots import MAX_NUMBERED_CLASSES, row_percent
from mindfcn.storage.files import read_bytes, write_text

REPORT = "report.html"
# Name of the layer below the masks.
PHOTOGRAPH = "photograph"
SIDE, MAX_BYTES = 512, 4 * 2 ** 20
# Classes listed below a picture, and confusions listed below the matrix.
MAX_CHIPS, MAX_CONFUSIONS = 12, 5


@dataclasses.dataclass
class Picture:
    """A photograph and its masks, encoded for the page.

    Attributes:
        name: file name.
        note: a short text shown next to the name.
        layers: {heading: data URI}, the photograph first; in masks, pixels of class 0 are transparent.
        behind: (R, G, B) of class 0.
        classes: [(name, (R, G, B), IoU or None)] of the classes in its masks.
    """
    name: str
    note: str
    layers: dict
    classes: list
    behind: tuple


@dataclasses.dataclass
class Page:
    """The contents of a page; empty parts are left out.

    Attributes:
        path: HTML file to write.
        title: heading.
        labels: LabelSet of `matrix`.
        facts: {name: text} below the title.
        notes: sentences below the facts.
        matrix: ConfusionMatrix, or BinaryCounts where classes overlap.
        sizes: {size: {"mean IoU", "mean pixel accuracy", "objects"}}, as ObjectSizes.compute returns it.
        trimap: path of the picture that `save_trimap` wrote.
        curves: path of the picture that `save_curves` wrote.
        scores: {name: mean IoU, 0..1} of several networks.
        class_scores: {name: (n,) class IoUs, 0..1 or NaN} of several networks with the classes of `labels`.
        table: (header, [(cells, whether the row is a published one, shown in small grey type)]).
        galleries: {heading: list of Picture}.
        details: {heading: {name: value}}, collapsed at first.
    """
    path: str
    title: str
    labels: Any
    facts: dict = dataclasses.field(default_factory=dict)
    notes: list = dataclasses.field(default_factory=list)
    matrix: Any = None
    sizes: dict = dataclasses.field(default_factory=dict)
    trimap: str = ""
    curves: str = ""
    scores: dict = dataclasses.field(default_factory=dict)
    class_scores: dict = dataclasses.field(default_factory=dict)
    table: Optional[tuple] = None
    galleries: dict = dataclasses.field(default_factory=dict)
    details: dict = dataclasses.field(default_factory=dict)


def write_page(page):
    """Write a Page to its path; the file appears once it is complete. Raises UserError if it cannot be written."""
    galleries, left_out = _fitting(page.galleries)
    write_text(page.path, _template().render(
        page=page, written=time.strftime("%Y-%m-%d %H:%M"), classes=page.matrix and _class_rows(page),
        figures=list(page.matrix.by_class()) if page.matrix else [], compared=_compared(page),
        confusion=page.matrix and not page.labels.multilabel and _confusion(page), sizes=_sizes(page),
        trimap=_plot(page.trimap), curves=_plot(page.curves), galleries=galleries, left_out=left_out))


def picture(name, image, masks, labels, note="", iou=None):
    """Encode a photograph and its masks for the page.

    Args:
        name: file name
        image: (H, W, 3) uint8 RGB
        masks: {heading: (H, W) uint8 class numbers, or bands (H, W, C)}; no heading is PHOTOGRAPH
        labels: LabelSet
        note: a short text shown next to the name
        iou: (n,) class IoUs in this image, 0..1 or NaN; None if there are several masks to score

    Returns:
        Picture.

    Raises:
        UserError: a mask is not (H, W) uint8.
    """
    if labels.multilabel:
        drawn, labels = as_drawn(list(masks.values()), labels)
        # The IoUs are those of single classes, not of combinations.
        masks, iou = dict(zip(masks, drawn)), None
    height, width = image.shape[:2]
    factor = min(1, SIDE / max(height, width))
    size = max(1, round(factor * width)), max(1, round(factor * height))
    layers = {PHOTOGRAPH: data_uri("jpeg", _jpeg(cv2.resize(image, size, interpolation=cv2.INTER_AREA)))}
    for heading, mask in masks.items():
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        layers[heading] = data_uri("png", encode_palette_png(mask, labels, transparency=0))
    found = found_classes(masks.values(), labels)
    classes = [(class_name(number, labels), labels.palette()[number].tolist(),
                None if iou is None or number >= len(iou) or np.isnan(iou[number]) else float(iou[number]))
               for number in found]
    return Picture(name, note, layers, classes, tuple(labels.palette()[0].tolist()))


def data_uri(kind, encoded):
    """The bytes of a picture as a data URI; `kind` is jpeg or png."""
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode('ascii')}"


def _plot(path):
    """The data URI of a PNG file, or "" without one."""
    return path and data_uri("png", read_bytes(path))


def _jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _fitting(galleries):
    """Galleries cut to MAX_BYTES, taking pictures from each in turn, and the number of pictures left out."""
    kept, room, left_out = {heading: [] for heading in galleries}, MAX_BYTES, 0
    for turn in itertools.zip_longest(*galleries.values()):
        for heading, shown in zip(galleries, turn):
            if shown is not None:
                room -= sum(map(len, shown.layers.values()))
                left_out += room < 0
                kept[heading] += [shown] * (room >= 0)
    return {heading: pictures for heading, pictures in kept.items() if pictures}, left_out


def _class_rows(page):
    """[(name, colour, [IoU and further figures])] in %, the highest IoU first; None for NaN."""
    figures = list(page.matrix.by_class().values())
    order = np.argsort(-figures[0], kind="stable")
    return [(class_name(number, page.labels), page.labels.palette()[number].tolist(),
             [_to_percent(values[number]) for values in figures]) for number in order]


def _compared(page):
    """Class IoUs of several networks: [(name, colour, [IoU %], second minus first)], the largest differences first.

    The difference is None unless there are two networks; NaN is None. Classes that never occur are left out.
    """
    if not page.class_scores:
        return []
    scores = np.array(list(page.class_scores.values()), np.float64)
    spread = scores.max(0) - scores.min(0)
    change = scores[1] - scores[0] if len(scores) == 2 else np.full(len(spread), np.nan)
    return [(class_name(number, page.labels), page.labels.palette()[number].tolist(),
             [_to_percent(value) for value in scores[:, number]], _to_percent(change[number]))
            for number in np.argsort(-spread, kind="stable") if not np.isnan(scores[:, number]).all()]


def _confusion(page):
    """The matrix for the template, as rows of cells, or as a picture if there are many, and the largest confusions."""
    counts, names = page.matrix.counts, [display_name(name) for name in page.labels.names]
    percent = row_percent(counts)
    others = np.where(np.eye(len(names), dtype=bool) | np.isnan(percent), 0, percent)
    largest = [np.unravel_index(place, others.shape)
            for place in np.argsort(-others, axis=None, kind="stable")[:MAX_CONFUSIONS]]
    confused = [(names[true], names[found], float(others[true, found])) for true, found in largest
                if others[true, found] >= 0.5]
    if len(names) > MAX_NUMBERED_CLASSES:
        return {"confused": confused, "rows": [], "names": names, "drawn": _drawn(percent)}
    rows = [(name, [(None if np.isnan(share) else float(share), int(count)) for share, count in zip(shares, row)])
            for name, shares, row in zip(names, percent, counts)]
    return {"confused": confused, "rows": rows, "names": names}


def _drawn(percent):
    """(n, n) % -> data URI of a picture, one pixel per cell: darker is more, rows without pixels are grey."""
    shade = 245 + np.sqrt(percent / 100)[..., None] * (np.array((29, 78, 216)) - 245)
    buffer = io.BytesIO()
    Image.fromarray(np.nan_to_num(shade, nan=200).astype(np.uint8)).save(buffer, "PNG")
    return data_uri("png", buffer.getvalue())


def _sizes(page):
    """[(size, range of areas, objects, IoU %, accuracy %)]; None where there are no such objects."""
    limits = {"small": "below 32²", "medium": "32² to 96²", "large": "above 96²"}
    return [(size, limits[size], row["objects"], _to_percent(row["mean IoU"]), _to_percent(row["mean pixel accuracy"]))
            for size, row in page.sizes.items()]


# ------------------------------------------------------------------------------------------------- template

def _breakable(text):
    """Escaped text that lines may break after the punctuation of paths and of networks' names."""
    from markupsafe import Markup, escape
    return Markup(re.sub(r"([/_.=])(?=\w)", r"\1<wbr>", str(escape(text))))


def _to_percent(share):
    """A share, 0..1, in %; None for NaN, for the template."""
    return None if np.isnan(share) else 100 * float(share)


@functools.lru_cache(maxsize=1)
def _template():
    """page.html, which includes page.css and page.js. Inserted text is escaped."""
    # Imported here to keep the import of this module fast.
    import jinja2
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(os.path.dirname(__file__)), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"MAX_CHIPS": MAX_CHIPS}
    environment.filters["breakable"] = _breakable
    return environment.get_template("page.html")
