"""The verb inspect: a data set -> its contents, its problems, and a contact sheet of pictures."""

import collections
import dataclasses
import functools
import hashlib
import heapq
import json
import math
import os
import zlib
from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from mindfcn.commands.prepare import changed_since, list_samples
from mindfcn.config import InspectConfig, PrepareConfig, check_bounds
from mindfcn.console import SILENT, Console
from mindfcn.data.class_counts import ClassCounts, count_inner, histogram
from mindfcn.data.multilabel import decode_multilabel
from mindfcn.data.records.integrity import count_records
from mindfcn.data.records.mindrecord import read_manifest, read_records
from mindfcn.data.records.records import describe_file, hidden_class
from mindfcn.data.samples import check_mask, decode_mask, in_threads
from mindfcn.data.sources.folder import Layout, open_roots, read_list
from mindfcn.errors import UserError
from mindfcn.labels import VOC, LabelSet
from mindfcn.report.evaluation import save_json
from mindfcn.report.overlays import contact_sheet, write_picture
from mindfcn.report.tables import text_table
from mindfcn.storage.files import read_bytes
from mindfcn.storage.images import check_complete, dark_note, decode_image, image_size, orientation

SPLITS = ("train", "val")


class Kind(NamedTuple):
    """A kind of finding.

    Attributes:
        title: what was found.
        broken: whether it breaks training or distorts the metrics.
        cure: what to do about it.
    """
    title: str
    broken: bool
    cure: str


KINDS = {
    "missing": Kind("a photograph or its mask is missing", True,
                    "add the file, name the folders (--image_dir, --mask_dir, --mask_suffix), or take it off the "
                    "list"),
    "unreadable": Kind("files that cannot be read, or masks with unknown colours", True,
                       "save the file again, add its colour to labels.yaml, as a class or under ignore, or set "
                       "--mask_encoding"),
    "size": Kind("mask and photograph differ in size", True,
                 "export the mask at the photograph's size, by nearest neighbour"),
    "classes": Kind("numbers of no class", True,
                    "fix the mask, or give the number a name, or an entry of ignore, in labels.yaml"),
    "leak": Kind("photographs in both training and validation", True,
                 "keep each in one list; --group_by keeps photographs of one thing in one split"),
    "stale": Kind("records that were made from other data than their source holds now", False,
                  "mindfcn prepare --overwrite"),
    "twice": Kind("photographs twice in a split", False, "remove one"),
    "ignored": Kind("masks without a labelled pixel", False, "label them, or take them off the list"),
    "one class": Kind("masks with a single class", False, "nothing if it is true; look at the sheet"),
    "void": Kind("an ignore label that may hide a class", False,
                 "nothing if labels.yaml ignores it on purpose; else give it a name there"),
    "turned": Kind("masks that may lie on their side: the photograph has an EXIF tag, the mask has none", False,
                   "turn the mask as its photograph is shown, or nothing if the sheet shows that they fit"),
    "dark": Kind("photographs of 16 bits that use few of them", False, "--bits of prepare and predict, --data.bits of "
                 "train"),
    "unvalidated": Kind("no photograph is held out for validation", False,
                        "--val_fraction 0.2, unless metrics are not needed"),
    "absent": Kind("classes missing from a split", False,
                   "add photographs of them, or merge or ignore them in labels.yaml")}
# Names or findings listed in one message.
MAX_LISTED = 3


@dataclasses.dataclass(frozen=True)
class Pair:
    """A photograph and its mask, still on disk.

    Attributes:
        split: train, val, or a record file's name.
        name: of the photograph.
        files: (photograph, mask) for messages.
        load: function without arguments -> (encoded photograph, mask uint8, (H, W) or bands (H, W, C)).
    """
    split: str
    name: str
    files: tuple
    load: Callable


@dataclasses.dataclass(frozen=True)
class Finding:
    """A problem to fix, or something to check.

    Attributes:
        kind: a key of KINDS.
        split: name of the split.
        name: name of the photograph or class.
        message: one line.
    """
    kind: str
    split: str
    name: str
    message: str

    @property
    def broken(self):
        """Whether it breaks training or distorts the metrics."""
        return KINDS[self.kind].broken


@dataclasses.dataclass
class PairCheck:
    """Results for one pair: findings, (height, width), pixels of each number, digest of the photograph, pixels of the
    ignore label away from outlines.

    The last four are empty if the pair cannot be read; the counts are also None if the two differ in size.
    """
    pair: Pair
    findings: list
    size: tuple = ()
    counts: Optional[np.ndarray] = None
    digest: bytes = b""
    inner: int = 0


@dataclasses.dataclass
class Split:
    """Totals of a split: ClassCounts, number of photographs of each (height, width), pairs, ignored pixels, and ignored
    pixels away from outlines. Where classes overlap, ignored pixels are the mean over the bands.
    """
    classes: ClassCounts
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    pairs: int = 0
    ignored: int = 0
    inner: int = 0

    @property
    def ignored_share(self):
        """Share of the ignore label in all pixels, 0..1."""
        return self.ignored / max(1, self.ignored + self.classes.labelled)


@dataclasses.dataclass
class Inspection:
    """Results of `inspect`.

    Attributes:
        data: folder or file.
        source: folder, voc or records.
        labels: LabelSet.
        splits: {name: Split}.
        findings: list of Finding.
        report: path of inspection.json.
        sheet: path of the contact sheet; empty if there are no pictures.
    """
    data: str
    source: str
    labels: LabelSet
    splits: dict
    findings: list
    report: str
    sheet: str = ""

    @property
    def broken(self):
        """The findings that break training or distort the metrics."""
        return [finding for finding in self.findings if finding.broken]

    def to_dict(self):
        """The results as plain dictionaries, lists and numbers."""
        return {"data": self.data, "source": self.source, "labels": self.labels.to_dict(),
                "map": str(self.labels.map or ""),
                "splits": {name: self._split(split) for name, split in self.splits.items()},
                "findings": [{**dataclasses.asdict(finding), "broken": finding.broken, "cure": KINDS[finding.kind].cure}
                             for finding in self.findings],
                "broken": len(self.broken), "sheet": self.sheet}

    def _split(self, split):
        classes, weights = split.classes, split.classes.median_frequency()
        rows = [{"class": name, "pixels": int(classes.pixels[number]), "share": float(classes.shares()[number]),
                 "images": int(classes.images[number]), "median frequency weight": float(weights[number])}
                for number, name in enumerate(self.labels.names)]
        return {"pairs": split.pairs, "ignored share": split.ignored_share,
                "sizes": [{"width": width, "height": height, "photographs": count}
                          for (height, width), count in split.sizes.most_common()], "classes": rows}

    def to_json(self):
        """The dictionary as text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def to_text(self):
        """Tables for a terminal."""
        parts = [text_table(("split", "pairs", "smallest", "most frequent", "largest", "ignored pixels %"),
                            [_size_row(name, split) for name, split in self.splits.items()]), self._classes()]
        if self.labels.map:
            parts.append(f"labels.yaml: {self.labels.map}")
        parts += [_summary(kind, [finding for finding in self.findings if finding.kind == kind]) for kind in KINDS]
        found = "nothing to fix" if not self.broken else f"{len(self.broken)} to fix"
        parts.append(f"{self.data}: {found}, {len(self.findings) - len(self.broken)} to check\n"
                     f"all results    {self.report}" + (f"\ncontact sheet  {self.sheet}" if self.sheet else ""))
        return "\n\n".join(filter(None, parts))

    def _classes(self):
        columns = {}
        for name, split in self.splits.items():
            columns[f"{name} pixels %"] = [f"{100 * share:.2f}" for share in split.classes.shares()]
            columns[f"{name} images"] = split.classes.images.tolist()
        weights = next(iter(self.splits.values())).classes.median_frequency()
        if not self.labels.multilabel:
            columns["weight"] = [f"{weight:.3g}" for weight in weights]
        return text_table(("number", "class", *columns),
                          list(zip(range(len(self.labels)), self.labels.names, *columns.values())))


def inspect(config: InspectConfig, console: Console = SILENT) -> Inspection:
    """Check every photograph and mask of a data set, in threads, and write inspection.json and sheet.jpg.

    Args:
        config: InspectConfig.
        console: Console that shows progress and notes.

    Returns:
        Inspection.

    Raises:
        UserError: there is no such data set or labels file, or the results cannot be written.
    """
    check_bounds(config)
    source, labels, pairs, total, findings = _open_data(config, SILENT if config.json else console)
    splits: dict[str, Split] = {}
    digests: dict[bytes, Any] = {}
    chosen = _Selection(config.pictures, len(labels))
    checks = in_threads(lambda pair: check_pair(pair, labels), pairs)
    for found in console.track(checks, total):
        split = splits.setdefault(found.pair.split, Split(ClassCounts(len(labels))))
        split.pairs += 1
        findings += found.findings
        if found.counts is None:
            continue
        ignored = int(found.counts[labels.ignore_label]) // (len(labels) if labels.multilabel else 1)
        split.classes.add(found.counts, math.prod(found.size) - ignored if labels.multilabel else None)
        split.sizes[found.size] += 1
        split.ignored += ignored
        split.inner += found.inner
        findings += _duplicate(digests, found)
        chosen.offer(found)
    findings += _absent(splits, labels)
    for name, split in splits.items():
        if line := hidden_class(labels, split.classes.pixels.tolist(), split.ignored, split.inner):
            findings.append(Finding("void", name, "", f"{name}: {line}"))
    result = Inspection(config.data, source, labels, splits, findings, os.path.join(config.out, "inspection.json"))
    shown = chosen.pairs()
    if shown:
        result.sheet = os.path.join(config.out, "sheet.jpg")
        write_picture(result.sheet, _sheet(result, shown))
    save_json(result.report, result.to_dict())
    return result


def check_pair(pair, labels):
    """Read a pair and check it. Returns PairCheck."""
    wrong = []

    def note(kind, error):
        wrong.append(Finding(kind, pair.split, pair.name, str(error)))

    gone = [file for file in pair.files if file and not os.path.exists(file)]
    if gone:
        are = "is" if len(gone) == 1 else "are"
        note("missing", f"{' and '.join(gone)} {are} missing{_jpeg_hint(pair.files[1])}")
        return PairCheck(pair, wrong)
    photograph = pair.files[0] or f"photograph {pair.name}"
    try:
        data, mask = pair.load()
        picture = check_complete(data, photograph)
        height, width = image_size(data, photograph)
    except UserError as error:
        note("unreadable", error)
        return PairCheck(pair, wrong)
    counts, where = histogram(mask, labels.ignore_label), pair.files[1] or f"of {pair.name}"
    try:
        if not labels.multilabel:
            check_mask(mask, labels, where)
    except UserError as error:
        note("classes", error)
    # Few photographs are turned: only then the mask's file is read again, for its own tag.
    turn = orientation(data, pair.name) if pair.files[1] else 1
    if turn > 1 and orientation(read_bytes(where), where) > 1:
        turn = 1
    if mask.shape[:2] != (height, width):
        note("size", f"mask {where} is {mask.shape[1]}x{mask.shape[0]} pixels but its photograph is {width}x{height}"
             + (", turned by its EXIF tag, which the mask lacks" if turn > 1 else ""))
    elif 1 < turn < 5 or turn > 1 and height == width:
        note("turned", f"mask {where} has no EXIF tag, but its photograph is turned by one; if the mask was drawn "
             "on the stored picture, turn it too")
    if dark := dark_note(data, photograph):
        note("dark", dark)
    kinds = np.flatnonzero(counts[:len(labels)])
    # Where classes overlap, a pixel may be of none.
    if not wrong and (mask == labels.ignore_label).all():
        note("ignored", f"mask {where} has no labelled pixel")
    elif kinds.size == 1 and not wrong and not labels.multilabel:
        note("one class", f"mask {where} is all {labels.names[kinds[0]]}")
    # The pixels of a JPEG are not decoded here, so hash its bytes.
    content = data if picture.format == "JPEG" else repr(picture.size).encode() + picture.tobytes()
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return PairCheck(pair, wrong, (height, width), counts if mask.shape[:2] == (height, width) else None, digest,
                     count_inner(mask, labels.ignore_label))


class _Selection:
    """Pairs for the contact sheet: some with findings, the two largest examples of each class, random others."""

    def __init__(self, count, num_classes):
        self.count, self.seen = count, 0
        self.odd, self.others = [], []
        self.best = [[] for _ in range(num_classes)]

    def offer(self, found):
        """Keep a pair if it is among the best candidates so far."""
        self.seen += 1
        text = f"{found.pair.split}: {found.pair.name}"
        # The checksum of the name serves as random number, so that every run selects the same pairs.
        entry = (zlib.crc32(text.encode("utf-8", "surrogateescape")), self.seen, found.pair, text)
        if found.findings and len(self.odd) < self.count // 3:
            self.odd.append((*entry[:3], f"{text}: {', '.join(finding.kind for finding in found.findings)}"))
        for number in np.flatnonzero(found.counts[:len(self.best)]):
            _push(self.best[number], (int(found.counts[number]) / int(found.counts.sum()), *entry), 2)
        _push(self.others, entry, self.count)

    def pairs(self):
        """[(Pair, text)]; among the examples of classes, rare classes come first."""
        heaps = sorted((sorted(heap, reverse=True) for heap in self.best if heap), key=lambda heap: heap[0])
        firsts, seconds = ([heap[place][1:] for heap in heaps if len(heap) > place] for place in range(2))
        order = {}
        for _, seen, pair, text in [*self.odd, *firsts, *seconds, *sorted(self.others, reverse=True)]:
            order.setdefault(seen, (pair, text))
        return list(order.values())[:self.count]


def _push(heap, entry, limit):
    """Add an entry to a heap of at most `limit` entries, the largest ones."""
    if len(heap) < limit:
        heapq.heappush(heap, entry)
    elif limit:
        heapq.heappushpop(heap, entry)


def _sheet(result, chosen):
    """The contact sheet, (H, W, 3) uint8 RGB; photographs are read one at a time."""
    pictures = ((*_rgb_and_mask(pair), text) for pair, text in chosen)
    pixels = sum(split.classes.pixels for split in result.splits.values())
    labelled = sum(split.classes.labelled for split in result.splits.values())
    pairs = ", ".join(f"{split.pairs} {name}" for name, split in result.splits.items())
    return contact_sheet(pictures, result.labels, pixels / max(1, labelled), f"{result.data}: {pairs}")


def _rgb_and_mask(pair):
    data, mask = pair.load()
    return np.ascontiguousarray(decode_image(data, pair.name)[..., ::-1]), mask


def _open_data(config, console):
    """(source, LabelSet, iterable of Pair, number of pairs or None, findings of the listing)."""
    if not os.path.exists(config.data):
        raise UserError(f"no {config.data}; give your folder, a VOC folder or records")
    records = _record_paths(config.data)
    if records:
        for path in records.values():
            console.say(f"using records {describe_file(path)}")
        labels = _record_labels(config, next(iter(records.values())))
        pairs = (pair for split, path in records.items() for pair in _record_pairs(split, path, labels))
        findings = [Finding("stale", split, "", found) for split, path in records.items()
                    if (found := changed_since(path))]
        return "records", labels, pairs, sum(map(count_records, records.values())), findings
    source = "folder" if os.path.isdir(os.path.join(config.data, config.image_dir)) else "voc"
    if source == "voc" and not any(os.path.isdir(os.path.join(config.data, name))
                                   for name in ("ImageSets", f"VOC{config.year}", "VOCdevkit")):
        raise UserError(f"{config.data} is no data set: it has neither images/ and masks/, as your own folder, nor "
                        "VOC's ImageSets/, nor records; see docs/own_data.md")
    labels, train, val = list_samples(PrepareConfig(
        source=source, root=config.data, year=config.year, labels=config.labels, mask_encoding=config.mask_encoding,
        train_split=config.train_split, val_split=config.val_split, val_fraction=config.val_fraction, skip_bad=True,
        more_roots=config.more_roots, **dataclasses.asdict(Layout.of(config))))
    pairs = [Pair(split, sample.name, (sample.image, sample.label), functools.partial(_read, sample))
             for split, samples in zip(SPLITS, (train, val)) for sample in samples]
    listed = {pair.name for pair in pairs}
    findings = [] if val else [Finding("unvalidated", "", "", "training will have no metrics and keep the last epoch's "
                                       "weights")]
    if source == "folder":
        layout = Layout.of(config)
        for root in open_roots([config.data, *config.more_roots], layout):
            findings += [*_unpaired_masks(config, root, listed), *_in_two_lists(config, root, layout)]
    return source, labels, pairs, len(pairs), findings


def _read(sample):
    return sample.read_image(sample.image), sample.read_label(sample.label)


def _record_paths(data):
    """{split: path} of the MindRecord file `data`, or of the MindRecord files in the folder `data`; empty if none."""
    if os.path.isfile(data):
        return {os.path.basename(data).split(".")[0]: data}
    found = {split: os.path.join(data, f"{split}.mindrecord") for split in SPLITS}
    return {split: path for split, path in found.items() if os.path.isfile(path) or os.path.isfile(path + ".json")}


def _record_labels(config, path):
    """The labels of the records, else those of the settings, else VOC's. Raises UserError if the first two differ."""
    manifest = read_manifest(path)
    recorded = LabelSet.from_dict(manifest["labels"], path) if manifest else None
    given = LabelSet.load(config.labels) if config.labels else None
    if recorded and given and (found := recorded.difference(given)):
        raise UserError(f"{path} has other classes than {config.labels}: {found}; leave out --labels, or make the "
                        "records again with mindfcn prepare --overwrite")
    return recorded or given or VOC


def _record_pairs(split, path, labels):
    for name, data, label in read_records(path):
        yield Pair(split, name, ("", ""), functools.partial(_decoded, data, label, labels, f"{name}'s mask"))


def _decoded(data, label, labels, where):
    return data, decode_multilabel(label, len(labels), where) if labels.multilabel else decode_mask(label, where)


def _unpaired_masks(config, root, listed):
    """Findings of masks without a photograph and without an entry in the lists."""
    return [Finding("missing", "", root.prefix + name, f"{path} has no photograph in {config.image_dir}")
            for name, path in root.masks.items() if name not in root.images and root.prefix + name not in listed]


def _in_two_lists(config, root, layout):
    """Findings of photographs that both lists name; training leaves them out."""
    paths = [os.path.join(root.path, f"{split}.txt") for split in (config.train_split, config.val_split)]
    if paths[0] == paths[1] or not all(map(os.path.isfile, paths)):
        return []
    train, val = (read_list(path, list(root.images), layout) for path in paths)
    held_out = set(val)
    return [Finding("leak", "train", name, f"{name} is in {paths[0]} and in {paths[1]}; remove it from one")
            for name in train if name in held_out]


def _jpeg_hint(mask):
    """A hint for the message if a missing mask exists as JPEG, else ""."""
    stem = os.path.splitext(mask)[0]
    found = next((stem + suffix for suffix in (".jpg", ".jpeg", ".JPG") if os.path.exists(stem + suffix)), None)
    return f"; {found} is a JPEG, which blurs classes: save masks as PNG" if found else ""


def _duplicate(digests, found):
    """A list with the finding that the same photograph occurred before, under another name or in another split."""
    split, name = found.pair.split, found.pair.name
    before = digests.setdefault(found.digest, (split, name))
    if before == (split, name):
        return []
    kind = "twice" if before[0] == split else "leak"
    return [Finding(kind, split, name, f"{split}: {name} is the same photograph as {before[0]}: {before[1]}")]


def _absent(splits, labels):
    """Findings of classes that occur in no mask of a split."""
    return [Finding("absent", name, labels.names[number], f"{name} has no {labels.names[number]}")
            for name, split in splits.items() for number in np.flatnonzero(split.classes.pixels == 0).tolist()]


def _size_row(name, split):
    if not split.sizes:
        return name, split.pairs, "-", "-", "-", "-"
    ordered = sorted(split.sizes, key=lambda size: (size[0] * size[1], size))
    shown = [f"{width}x{height}" for height, width in (ordered[0], split.sizes.most_common(1)[0][0], ordered[-1])]
    return name, split.pairs, *shown, f"{100 * split.ignored_share:.2f}"


def _summary(kind, findings):
    """A heading and the first few findings of a kind, or ""."""
    if not findings:
        return ""
    about = KINDS[kind]
    lines = [f"{'FIX' if about.broken else 'check'}  {about.title}: {len(findings)}"]
    lines += [f"  {finding.message}" for finding in findings[:MAX_LISTED]]
    more = [f"  and {len(findings) - MAX_LISTED} more"] if len(findings) > MAX_LISTED else []
    return "\n".join([*lines, *more, f"  cure: {about.cure}"])
