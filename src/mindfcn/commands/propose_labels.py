"""The verb labels: a folder of masks -> a labels file with their classes."""

import dataclasses
import itertools
import os

from mindfcn.config import LabelsConfig
from mindfcn.console import SILENT, Console
from mindfcn.data.masks import scan_mask
from mindfcn.data.samples import in_threads
from mindfcn.data.sources.folder import MASK_SUFFIXES, files_by_name
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet, given_names, voc_palette
from mindfcn.report.tables import text_table

IGNORE = 255
BORDER = tuple(voc_palette()[IGNORE].tolist())
# Limit of different values: more than a mask has classes, but few enough for the memory if the files are no masks.
MAX_VALUES = 4096
# Names or findings listed in one message.
MAX_LISTED = 3


@dataclasses.dataclass
class LabelsResult:
    """Results of `propose_labels`.

    Attributes:
        labels: LabelSet.
        encoding: palette, grey or rgb.
        masks: number of masks read.
        out: path of the labels file.
        table: number, name, colour and share of each class, as text.
        notes: lines of text with remarks and next steps.
    """
    labels: LabelSet
    encoding: str
    masks: int
    out: str
    table: str
    notes: list


class _Totals:
    """Totals over the masks of a folder: for each value its pixels, masks and first file."""

    def __init__(self):
        self.encodings, self.total, self.colors = {}, {}, {}
        self.blurred, self.blur = [], ""

    def add(self, path, scan):
        """Count a mask. Raises UserError if its palette contradicts that of an earlier mask."""
        self.encodings.setdefault(scan.encoding, []).append(path)
        if scan.blurred:
            cause = "in a JPEG" if scan.jpeg else f"{scan.outline_values} of them only along outlines"
            self.blur = self.blur or f"{path} holds {len(scan.pixels)} {_plural(scan.encoding)}, {cause}"
            self.blurred.append(path)
            return
        for value, pixels in scan.pixels.items():
            known = self.total.setdefault(value, [0, 0, path])
            known[0] += pixels
            known[1] += 1
        for number, color in scan.colors.items():
            before, file = self.colors.setdefault(number, (color, path))
            if before != color:
                raise UserError(f"number {number} is {before} in the palette of {file} but {color} in that of {path}; "
                                "if the colours are right, use --mask_encoding rgb, else give both one palette")
        if len(self.total) > MAX_VALUES:
            raise UserError(f"{path} and the masks before it hold more than {MAX_VALUES} {_plural(scan.encoding)}; "
                            "a mask holds at most 255 classes, and no object numbers")


def propose_labels(config: LabelsConfig, console: Console = SILENT) -> LabelsResult:
    """Read all masks of a folder and write a labels file with their classes.

    A labels file that is replaced keeps the order of its colours, what it merges and ignores and, unless others are
    given, its names; new colours follow.

    Args:
        config: LabelsConfig.
        console: Console that shows progress and notes.

    Returns:
        LabelsResult.

    Raises:
        UserError: no masks; blurred masks; several encodings; too many classes; a wrong number of names; the labels
            file exists.
    """
    out = config.out_file or os.path.normpath(os.path.join(config.masks, os.pardir, "labels.yaml"))
    if not out.endswith((".yaml", ".yml", ".json")):
        raise UserError(f"--out_file {out}: the name of a labels file ends in .yaml, .yml or .json")
    paths = _mask_files(config.masks)
    if os.path.exists(out) and not config.overwrite:
        raise UserError(f"{out} exists; keep it, choose another --out_file, or replace it with --overwrite")
    found, encoding = _scan(paths, config.mask_encoding, console)
    before = _before(out)
    rules = before and before.map
    classes, colors, ignored = _classes(found, encoding, before and before.in_masks, rules)
    names = _names(config.names, classes, colors, before and before.in_masks)
    labels = LabelSet(names, colors, IGNORE)
    (dataclasses.replace(rules, classes=labels) if rules else labels).save(out)
    return LabelsResult(labels, encoding, len(paths), out, _table(labels, classes, ignored, found),
                        _notes(labels, classes, found, encoding, config, out))


def _before(path):
    """LabelSet of the file that is replaced; None if there is none or it cannot be read."""
    try:
        return LabelSet.load(path) if os.path.exists(path) else None
    except UserError:
        return None


def _mask_files(folder):
    """Paths of all masks. Raises UserError if there are none, or if some are JPEGs."""
    if not os.path.isdir(folder):
        raise UserError(f"no folder {folder}; give the folder of the masks")
    jpegs = [name for name in sorted(os.listdir(folder)) if name.lower().endswith((".jpg", ".jpeg"))
             and not name.startswith(".")]
    if jpegs:
        raise UserError(f"{folder} holds {len(jpegs)} JPEG files ({_some(jpegs)}); JPEG blurs outlines and changes "
                        "colours: save masks as PNG, and photographs elsewhere")
    inner = os.path.join(folder, "masks")
    if os.path.isdir(inner):
        raise UserError(f"{folder} holds a folder of masks; did you mean {inner}?")
    paths = list(files_by_name(folder, MASK_SUFFIXES).values())
    if not paths:
        raise UserError(f"no masks in {folder} ({' '.join(MASK_SUFFIXES)}); give the folder of the masks")
    return paths


def _scan(paths, encoding, console):
    """(_Totals, the encoding of all masks). Raises UserError if encodings differ or masks are blurred."""
    found = _Totals()
    scans = in_threads(lambda path: (path, scan_mask(path, encoding)), paths)
    for path, scan in console.track(scans, len(paths)):
        found.add(path, scan)
    if found.blurred:
        raise UserError(f"{len(found.blurred)} of {len(paths)} masks are blurred ({_some(found.blurred)}): "
                        f"{found.blur}; save masks without anti-aliasing, as PNG, and scale them by nearest neighbour")
    if len(found.encodings) > 1:
        each = ", ".join(f"{len(files)} {kind} ({_some(files)})" for kind, files in sorted(found.encodings.items()))
        choice = "palette reads both as numbers" if "rgb" not in found.encodings else "rgb reads all by their colours"
        raise UserError(f"masks of several encodings: {each}; give them one, or, if it fits, --mask_encoding {choice}")
    kind, = found.encodings
    return found, kind


def _classes(found, encoding, before=None, rules=None):
    """(values of the classes in order, their colours, values of the ignore label and of what `rules` ignores).

    The value of a class is None if its number occurs in no mask. Raises UserError if there are too many.
    """
    void = [BORDER, IGNORE, *(rules.colors if rules else ()), *(rules.numbers if rules else ())]
    if encoding == "rgb":
        values = {value: entry[0] for value, entry in found.total.items() if value not in void}
        # Black is the background; other colours are sorted by their number of pixels.
        known = list(before.colors) if before else []
        new = values.keys() - set(known)
        classes = known + sorted(new, key=lambda value: (value != (0, 0, 0), -values[value], value))
        colors = classes
    elif encoding == "grey" and _is_brightness(found.total):
        shades = {*rules.numbers, *(color[0] for color in rules.colors if len(set(color)) == 1)} if rules else set()
        classes = sorted(found.total.keys() - shades)
        return classes, [(value,) * 3 for value in classes], sorted(found.total.keys() & shades)
    else:
        numbers = [number for number in found.total if number not in void]
        classes = [number if number in found.total else None for number in range(max(numbers, default=-1) + 1)]
        colors = _distinct([found.colors.get(number, [None])[0] for number in range(len(classes))])
    if not 1 <= len(classes) <= IGNORE:
        raise UserError(f"the masks hold {len(classes)} classes besides the ignore label; a mask holds 1 to {IGNORE}")
    return classes, colors, [value for value in dict.fromkeys(void) if value in found.total]


def _is_brightness(values):
    """Whether grey values are shades, as in black and white masks, and not class numbers.

    Class numbers are dense; shades are at least 16 apart.
    """
    shades = sorted(values)
    if shades == [0, IGNORE]:
        return True
    numbers = [value for value in shades if value != IGNORE]
    return len(numbers) > 1 and min(b - a for a, b in zip(numbers, numbers[1:])) >= 16


def _distinct(colors):
    """The palette's colours, or VOC's colours if the palette has none or repeats some."""
    given = [color for color in colors if color is not None]
    spare = iter(color for color in map(tuple, voc_palette(IGNORE).tolist()) if color not in given)
    if len(set(given)) == len(given) and given:
        return [next(spare) if color is None else color for color in colors]
    return list(map(tuple, voc_palette(len(colors)).tolist()))


def _names(names, classes, colors, before=None):
    """The given names, or numbered ones. `names` is a list of names, or of one text file with one name per line."""
    names = given_names(names)
    if not names and before:
        known = before.names[:len(classes)]
        new = (name for name in (f"class_{number}" for number in itertools.count(len(known))) if name not in known)
        return [*known, *itertools.islice(new, len(classes) - len(known))]
    if not names:
        first = "background" if classes[0] is not None and colors[0] == (0, 0, 0) else "class_0"
        return [first] + [f"class_{number}" for number in range(1, len(classes))]
    if len(names) != len(classes):
        raise UserError(f"--names gives {len(names)} names ({', '.join(names)}), but the masks hold {len(classes)} "
                        "classes; leave it out to see them")
    return names


def _table(labels, classes, ignored, found):
    total = sum(pixels for pixels, _, _ in found.total.values())
    rows = []
    for number, value in [*enumerate(classes), *((labels.ignore_label, value) for value in ignored)]:
        pixels, masks, example = found.total.get(value, (0, 0, "-"))
        name = labels.names[number] if number < len(labels) else "(ignored)"
        color = value if isinstance(value, tuple) else labels.palette()[number].tolist()
        rows.append((number, name, "({}, {}, {})".format(*color), f"{100 * pixels / total:.2f}", masks,
                     os.path.basename(example)))
    return text_table(("number", "class", "colour", "share of pixels %", "masks", "first in"), rows)


def _notes(labels, classes, found, encoding, config, out):
    notes = []
    gaps = [str(number) for number, value in enumerate(classes) if value is None]
    if gaps:
        notes.append(f"no mask holds {', '.join(gaps)}: these numbers keep a name")
    if encoding == "grey" and labels.colors[-1] == (IGNORE,) * 3:
        notes.append(f"{IGNORE} is a class here, not the ignore label, because the greys are shades, not class numbers")
    if encoding == "rgb" and config.mask_encoding == "auto" and all(len(set(value)) == 1 for value in found.total):
        notes.append("all colours are greys: if they are class numbers, repeat this with --mask_encoding grey")
    if config.mask_encoding != "auto":
        notes.append(f"inspect and prepare also need --mask_encoding {config.mask_encoding}")
    if not config.names:
        notes.append(f"next: give the classes names in {out}, and list those that do not count, such as a white "
                     "outline, under ignore")
    folder = os.path.normpath(os.path.join(config.masks, os.pardir))
    if os.path.isdir(os.path.join(folder, "images")):
        notes.append(f"then: mindfcn inspect {folder}")
    return notes


def _plural(encoding):
    return "colours" if encoding == "rgb" else "numbers"


def _some(paths):
    """The first few file names."""
    names = [os.path.basename(path) for path in paths]
    return ", ".join(names[:MAX_LISTED]) + (", ..." if len(names) > MAX_LISTED else "")
