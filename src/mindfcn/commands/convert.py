"""The verb convert: what an annotation tool has exported -> your own folder: images/, masks/, labels.yaml, lists."""

import collections
import dataclasses
import glob
import json
import os
import shlex
import shutil

from mindfcn.config import ConvertConfig, check_bounds
from mindfcn.console import SILENT, Console
from mindfcn.data.class_counts import ClassCounts, histogram
from mindfcn.data.image_paths import output_names
from mindfcn.data.samples import check_mask, in_threads
from mindfcn.data.sources.annotations import BACKGROUND, IGNORED, paint, read_json
from mindfcn.data.sources.cityscapes import list_cityscapes
from mindfcn.data.sources.coco import is_coco, list_coco
from mindfcn.data.sources.folder import IMAGE_SUFFIXES
from mindfcn.data.sources.labelmap import list_labelmap
from mindfcn.data.sources.labelme import list_labelme
from mindfcn.data.sources.roboflow import list_roboflow
from mindfcn.data.sources.yolo import list_yolo
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet, given_names
from mindfcn.report.overlays import encode_palette_png
from mindfcn.report.tables import text_table
from mindfcn.storage.files import empty_folder, partial_folder, write_text
from mindfcn.storage.images import check_complete, image_size

REPORT = "conversion.json"
IMPORTERS = {
    "labelmap": lambda config, names: list_labelmap(config.source, config.images),
    "cityscapes": lambda config, names: list_cityscapes(config.source),
    "roboflow": lambda config, names: list_roboflow(config.source),
    "yolo": lambda config, names: list_yolo(config.source, names),
    "coco": lambda config, names: list_coco(config.source, config.images),
    "labelme": lambda config, names: list_labelme(config.source, config.images, names)}
# Files that only an export of this format has; formats of JSON files are recognised by their contents.
TYPICAL_FILES = {"labelmap": ("labelmap.txt",), "cityscapes": ("leftImg8bit",),
                 "roboflow": ("_classes.csv", "*/_classes.csv"),
                 "yolo": ("data.yaml", "data.yml", "dataset.yaml", "classes.txt")}
# Photographs and annotations that were left out, listed in the notes.
MAX_LISTED = 3


@dataclasses.dataclass
class ConvertResult:
    """Results of `convert`.

    Attributes:
        out: the folder.
        format: format of the export.
        labels: LabelSet of the masks.
        photographs: number of photographs converted.
        left_out: (file or entry, reason) of everything that was not converted.
        table: shapes, images and share of the pixels of each class, as text.
        notes: lines of text with remarks.
    """
    out: str
    format: str
    labels: LabelSet
    photographs: int
    left_out: list
    table: str
    notes: list


@dataclasses.dataclass
class _Totals:
    """Totals over the converted photographs."""
    classes: ClassCounts
    shapes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    several: int = 0
    overlapping: int = 0
    ignored: int = 0
    empty: int = 0
    lists: dict = dataclasses.field(default_factory=dict)


def convert(config: ConvertConfig, console: Console = SILENT) -> ConvertResult:
    """Read an export, paint its shapes, and write photographs, masks, labels and lists into a new folder.

    Photographs are copied as they are; masks are palette PNG files of class numbers. A photograph that cannot be read,
    or whose annotation is wrong, is left out, and so is an annotation without an area; both are named in the result
    and in conversion.json.

    Args:
        config: ConvertConfig.
        console: Console that shows progress and notes.

    Returns:
        ConvertResult.

    Raises:
        UserError: no such export, no photograph that can be converted, more than 255 classes, or a folder that exists.
    """
    check_bounds(config)
    _check_out(config)
    kind = config.format if config.format != "auto" else recognise(config.source)
    export = IMPORTERS[kind](config, given_names(config.names))
    if config.overlap == "auto":
        config = dataclasses.replace(config, overlap=export.overlap)
    labels = export.labels or _labels(export, config)
    with partial_folder(config.out) as folder:
        empty_folder(folder)
        made = os.path.join(folder, "converted")
        totals = _write(export, labels, made, config, console)
        result = _result(config, kind, export, labels, totals, made)
        if os.path.isdir(config.out):
            shutil.rmtree(config.out)
        os.replace(made, os.path.abspath(config.out))
    return result


def recognise(source):
    """Format of an export, by its files. Raises UserError."""
    if not os.path.exists(source):
        raise UserError(f"no {source}; give the file or folder that the annotation tool exported")
    if os.path.isfile(source) and source.lower().endswith((".yaml", ".yml")):
        return "yolo"
    for kind, patterns in TYPICAL_FILES.items():
        if any(glob.glob(os.path.join(glob.escape(source), pattern)) for pattern in patterns):
            return kind
    found = [source] if os.path.isfile(source) else sorted(
        glob.glob(os.path.join(glob.escape(source), "**", "*.json"), recursive=True))
    for path in found:
        content = read_json(path)
        if is_coco(content):
            return "coco"
        if isinstance(content, dict) and "shapes" in content:
            return "labelme"
    raise UserError(f"{source} is of no known format: neither JSON files of LabelMe or COCO, nor labelmap.txt, "
                    "data.yaml, classes.txt, _classes.csv or leftImg8bit/; name it with --format, or see "
                    "docs/own_data.md")


def _check_out(config):
    """Raise UserError if the folder to write exists, unless it was converted before and is to be replaced."""
    if not os.path.lexists(config.out):
        return
    if os.path.isdir(config.out) and not os.listdir(config.out):
        return
    if not os.path.isfile(os.path.join(config.out, REPORT)):
        raise UserError(f"{config.out} exists and was not written by mindfcn convert; choose another --out")
    if not config.overwrite:
        raise UserError(f"{config.out} exists; choose another --out, or replace it with --overwrite")


def _labels(export, config):
    """LabelSet of an export of shapes: background first, if it is a class, then the classes in their order."""
    used = {shape.label for one in export.photographs for shape in one.shapes}
    background = config.rest == "background" or used.intersection(BACKGROUND)
    names = ["background"] * bool(background) + [name for name in export.names if name not in (*BACKGROUND, IGNORED)]
    if not names:
        raise UserError("the export has no class; annotate an object first")
    return LabelSet.from_dict({"names": names}, config.source)


def _write(export, labels, folder, config, console):
    """Write photographs, masks, labels and lists. Returns _Totals. Raises UserError if nothing can be converted."""
    for inner in ("images", "masks"):
        os.makedirs(os.path.join(folder, inner))
    numbers = {name: number for number, name in enumerate(labels.names)}
    outside = numbers.get("background", labels.ignore_label) if config.rest == "background" else labels.ignore_label
    numbers.update(dict.fromkeys(BACKGROUND, numbers.get("background", outside)), **{IGNORED: labels.ignore_label})
    painting = numbers, outside, labels.ignore_label, config.overlap, config.crowd == "ignore"

    def write(job):
        one, name = job
        try:
            return one, name, *_write_pair(one, name, folder, labels, painting)
        except UserError as error:
            return one, name, error, 0

    jobs = _without_repeats(export)
    totals = _Totals(ClassCounts(len(labels)))
    for one, name, counts, several in console.track(in_threads(write, jobs), len(jobs)):
        if isinstance(counts, UserError):
            export.left_out.append((one.image, str(counts)))
            continue
        totals.classes.add(counts)
        totals.shapes.update(shape.label for shape in one.shapes)
        totals.several += several
        totals.overlapping += several > 0
        totals.ignored += int(counts[labels.ignore_label])
        totals.empty += not one.shapes and one.read_mask is None
        totals.lists.setdefault({"valid": "val"}.get(one.split, one.split), []).append(name)
    if not totals.classes.masks:
        raise UserError(f"no photograph can be converted; the last: {export.left_out[-1][1]}")
    labels.save(os.path.join(folder, "labels.yaml"))
    if len(totals.lists) > 1:
        for split, names in totals.lists.items():
            if split:
                write_text(os.path.join(folder, f"{split}.txt"), "".join(f"{name}\n" for name in names))
    return totals


def _without_repeats(export):
    """[(Annotated, name of its files)]; a photograph that occurs again is left out."""
    found = {}
    for one in export.photographs:
        first = found.setdefault(os.path.realpath(one.image), one)
        if first is not one:
            export.left_out.append((one.where, f"{one.image} is annotated in {first.where}, too"))
    return list(zip(found.values(), output_names([one.image for one in found.values()])))


def _write_pair(one, name, folder, labels, painting):
    """Write a photograph and its mask. Returns (histogram of the mask, pixels in several classes). Raises UserError."""
    data = one.read_image(one.image)
    kind = check_complete(data, one.image).format
    height, width = image_size(data, one.image)
    if one.size and tuple(one.size) != (height, width):
        raise UserError(f"{one.where} is of {one.size[1]}x{one.size[0]} pixels but the photograph of {width}x{height}: "
                        "it was resized or rotated after it was annotated")
    mask, several = (one.read_mask(), 0) if one.read_mask else paint(one.shapes, height, width, *painting)
    if mask.shape != (height, width):
        raise UserError(f"{one.where} is {mask.shape[1]}x{mask.shape[0]} pixels but its photograph is {width}x{height}")
    check_mask(mask, labels, one.where)
    suffix = os.path.splitext(one.image)[1].lower()
    suffix = suffix if suffix in IMAGE_SUFFIXES else {"JPEG": ".jpg", "TIFF": ".tif"}.get(kind, f".{kind.lower()}")
    picture = encode_palette_png(mask, labels)
    for path, content in ((("images", name + suffix), data), (("masks", f"{name}.png"), picture)):
        with open(os.path.join(folder, *path), "wb") as file:
            file.write(content)
    return histogram(mask), several


def _result(config, kind, export, labels, totals, folder):
    """ConvertResult, also written as conversion.json."""
    shares, counts = totals.classes.shares(), totals.classes
    drawn = {**totals.shapes, "background": sum(totals.shapes[name] for name in BACKGROUND)}
    rows = [(number, name, "-" if export.labels else drawn.get(name, 0), int(counts.images[number]),
             f"{100 * shares[number]:.2f}") for number, name in enumerate(labels.names)]
    table = text_table(("number", "class", "shapes", "images", "share of pixels %"), rows)
    report = {"source": config.source, "format": kind, "photographs": counts.masks, "rest": config.rest,
              "overlap": config.overlap, "pixels in several classes": totals.several, "ignored pixels": totals.ignored,
              "classes": [{"class": name, "shapes": drawn.get(name, 0), "images": int(counts.images[number]),
                           "pixels": int(counts.pixels[number])} for number, name in enumerate(labels.names)],
              "lists": {split: len(names) for split, names in totals.lists.items()},
              "left out": [list(entry) for entry in export.left_out]}
    write_text(os.path.join(folder, REPORT), json.dumps(report, indent=1, ensure_ascii=False))
    return ConvertResult(config.out, kind, labels, counts.masks, export.left_out, table,
                         _notes(config, export, totals))


def _notes(config, export, totals):
    notes, pixels = [], int(totals.classes.pixels.sum()) + totals.ignored
    if totals.several:
        done = {"order": "later shapes cover earlier ones", "area": "smaller shapes cover larger ones",
                "ignore": "they get the ignore label"}[config.overlap]
        notes.append(f"{100 * totals.several / pixels:.2f} % of the pixels, in {totals.overlapping} photographs, lie "
                     f"in several classes: {done} (--overlap)")
    if totals.ignored:
        notes.append(f"{100 * totals.ignored / pixels:.2f} % of the pixels have the ignore label")
    if totals.empty:
        notes.append(f"{totals.empty} photographs have no shape: they are {config.rest} alone")
    if len(totals.lists) > 1:
        notes.append("lists: " + ", ".join(f"{len(names)} {split or 'in none'}"
                                           for split, names in totals.lists.items()))
    if len(totals.lists) > 1 and "train" in totals.lists and "val" not in totals.lists:
        other = next(split for split in totals.lists if split != "train")
        notes.append(f"there is no list val: give --val_split {other} to inspect and prepare, or write val.txt")
    if export.left_out:
        notes.append(f"left out: {len(export.left_out)}")
        notes += [f"  {where}: {reason}" for where, reason in export.left_out[:MAX_LISTED]]
        if len(export.left_out) > MAX_LISTED:
            notes.append(f"  and {len(export.left_out) - MAX_LISTED} more, in {os.path.join(config.out, REPORT)}")
    notes.append(f"next: mindfcn inspect {shlex.quote(config.out)}")
    return notes
