"""The classes of a data set: names, colours and the ignore label."""

import dataclasses
import functools
import json
import operator
import os
from typing import Any, Optional

import numpy as np
import yaml

from mindfcn.console import FilePath
from mindfcn.errors import UserError
from mindfcn.storage.files import atomic_path, read_lines, read_yaml

# Keys of a labels file.
KEYS = ("names", "colours", "ignore_label", "excluded", "merge", "ignore", "multilabel")
# Number of pixels that do not count in masks of overlapping classes, where 255 may be a class, and their most classes.
MULTILABEL_IGNORE, MAX_MULTILABEL = 254, 64


def voc_palette(count=256):
    """The PASCAL VOC colour map, (count, 3) uint8 RGB: the bits of the index, dealt in turn to R, G and B."""
    index = np.arange(count)
    palette = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


def _integer(value):
    """A whole number, also NumPy's, as int. Raises TypeError for others, truth values and texts."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError
    return operator.index(value)


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """The classes of a data set.

    Attributes:
        names: class names; a class's index in the tuple is its number in the masks.
        colors: one (R, G, B) of 0..255 per class; its key in labels files and checkpoint cards is `colours`.
        ignore_label: mask number of pixels that count neither in the loss nor in the metrics.
        excluded: names of classes that the data set's protocol leaves out of means over classes.
        map: LabelMap of the masks that are read into these classes; None if masks hold the classes themselves.
        multilabel: whether a pixel may be of several classes, or of none. A mask is then (H, W, C) uint8, a band for
            each class: 0, 1 or the ignore label.
    """
    names: tuple
    colors: tuple
    ignore_label: int = 255
    excluded: tuple = ()
    map: Optional["LabelMap"] = None
    multilabel: bool = False

    def __post_init__(self):
        if not all(isinstance(name, (str, int, float)) for name in self.names):
            raise UserError("labels: every class name must be a text or a number")
        names = tuple(str(name) for name in self.names)
        for name in names:
            if not name.strip():
                raise UserError("labels: a class name is empty; give every class a name")
            if not name.isprintable():
                raise UserError(f"labels: the class name {name[:60]!r} holds characters that cannot be printed")
        try:
            colors = tuple(tuple(_integer(value) for value in color) for color in self.colors)
        except TypeError:
            raise UserError("labels: every colour must be three numbers of 0..255") from None
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "colors", colors)
        if not 1 <= len(names) <= 255:
            raise UserError(f"labels: {len(names)} classes; a mask holds 1 to 255")
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"labels: the class name {twice!r} appears twice; names must differ")
        if len(colors) != len(names):
            raise UserError(f"labels: {len(names)} names but {len(colors)} colours; give one colour per class")
        for name, color in zip(names, colors):
            if len(color) != 3 or not all(0 <= value <= 255 for value in color):
                raise UserError(f"labels: colour {list(color)} of {name!r} must be three numbers of 0..255")
        if type(self.ignore_label) is not int or not len(names) <= self.ignore_label <= 255:
            raise UserError(f"labels: ignore label {self.ignore_label!r} must be a number from {len(names)} to 255; a "
                            "class that does not count is listed by name under `ignore`")
        if self.multilabel and not 2 <= len(names) <= MAX_MULTILABEL:
            raise UserError(f"labels: {len(names)} overlapping classes; multilabel takes 2 to {MAX_MULTILABEL}; one "
                            "class and its background are an ordinary mask")
        object.__setattr__(self, "excluded", tuple(str(name) for name in self.excluded))
        for name in self.excluded:
            if name not in names:
                raise UserError(f"labels: the excluded class {name!r} is not among the names")

    def __len__(self) -> int:
        return len(self.names)

    def excluded_numbers(self) -> list[int]:
        """Mask numbers of the excluded classes."""
        return [self.names.index(name) for name in self.excluded]

    @property
    def background(self) -> Optional[int]:
        """Number of the class named background, which has no objects; None if there is none."""
        return self.names.index("background") if "background" in self.names else None

    @property
    def all_grey(self) -> bool:
        """Whether every colour is a grey."""
        return all(len(set(color)) == 1 for color in self.colors)

    @property
    def in_masks(self) -> "LabelSet":
        """The classes that mask files hold, before `map` merges them and leaves some out."""
        return self.map.classes if self.map else self

    def difference(self, other: "LabelSet") -> str:
        """The first difference between these classes ("there") and others ("here") in words; "" if they are the same.

        Names in their order, colours, the ignore label, the excluded classes and whether they overlap are compared, but
        not `map`.
        """
        if len(self) != len(other):
            more, less, where = (self, other, "there") if len(self) > len(other) else (other, self, "here")
            extra = next(name for name in more.names if name not in less.names)
            first, second = (f"({', '.join(one.names[:3])}{', ...' if len(one) > 3 else ''})" for one in (self, other))
            return f"{len(self)} classes {first} there, {len(other)} {second} here; {extra!r} is only {where}"
        for what, there, here in (("called", self.names, other.names), ("shown in", self.colors, other.colors)):
            for number, (one, two) in enumerate(zip(there, here)):
                if one != two:
                    return f"class {number} ({self.names[number]}) is {what} {one} there and {two} here"
        if self.multilabel != other.multilabel:
            words = ["overlap" if one.multilabel else "do not overlap" for one in (self, other)]
            return f"the classes {words[0]} there and {words[1]} here (multilabel)"
        if self.ignore_label != other.ignore_label:
            return f"the ignore label is {self.ignore_label} there and {other.ignore_label} here"
        if set(self.excluded) != set(other.excluded):
            return (f"the excluded classes are {', '.join(self.excluded) or 'none'} there and "
                    f"{', '.join(other.excluded) or 'none'} here")
        return ""

    def palette(self) -> np.ndarray:
        """(256, 3) uint8 RGB: the class colours, then VOC's colours for all higher numbers."""
        palette = voc_palette()
        palette[:len(self)] = self.colors
        return palette

    def colorize(self, mask: np.ndarray) -> np.ndarray:
        """Colour a mask of class numbers: (..., H, W) uint8 -> (..., H, W, 3) uint8 RGB."""
        return self.palette()[mask]

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of plain lists and numbers, as written to YAML and checkpoints."""
        return {"names": list(self.names), "colours": [list(color) for color in self.colors],
                "ignore_label": self.ignore_label, **({"excluded": list(self.excluded)} if self.excluded else {}),
                **({"multilabel": True} if self.multilabel else {})}

    def save(self, path: FilePath) -> None:
        """Write a labels file for `load`, without `map`: YAML, or JSON if the name ends in .json."""
        _write(self.to_dict(), path)

    @classmethod
    def from_dict(cls, entries: Any, where: FilePath) -> "LabelSet":
        """LabelSet of a dictionary with `names` and the other keys of a labels file, see `load`.

        `where` names their file in messages. Raises UserError.
        """
        if not isinstance(entries, dict) or not isinstance(entries.get("names"), list):
            raise UserError(f"{where}: expected a mapping with a list `names`; see docs/own_data.md")
        unknown = set(entries) - set(KEYS)
        if unknown:
            raise UserError(f"{where}: unknown key {sorted(map(str, unknown))[0]!r}; known are {', '.join(KEYS)}")
        names, multilabel = entries["names"], entries.get("multilabel", False)
        # VOC's first colour, black, is for a background, which overlapping classes do not have.
        colors = entries.get("colours", voc_palette()[multilabel is True:][:len(names)].tolist())
        if not isinstance(colors, list):
            raise UserError(f"{where}: `colours` must be a list of [R, G, B]")
        excluded = entries.get("excluded", [])
        if not isinstance(excluded, list):
            raise UserError(f"{where}: `excluded` must be a list of class names")
        if type(multilabel) is not bool:
            raise UserError(f"{where}: `multilabel` must be true or false, not {multilabel!r}")
        if multilabel and {"merge", "ignore"} & entries.keys():
            raise UserError(f"{where}: `merge` and `ignore` are for masks with one class a pixel; leave them out with "
                            "`multilabel`")
        try:
            ignore_label = entries.get("ignore_label", MULTILABEL_IGNORE if multilabel else 255)
            if not {"merge", "ignore"} & entries.keys():
                return cls(tuple(names), tuple(colors), ignore_label, tuple(excluded), multilabel=multilabel)
            found = cls(tuple(names), tuple(colors), ignore_label)
            return LabelMap.of(found, entries.get("merge", {}), entries.get("ignore", [])).labels(tuple(excluded))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    @classmethod
    def load(cls, path: FilePath) -> "LabelSet":
        """Read a labels file: YAML or JSON with `names`, and optionally `colours` (RGB), `ignore_label`, `excluded`,
        `multilabel`, `merge` and `ignore` (see LabelMap).

        A name is the text that is written, also if YAML takes it for a number or a truth value. Raises UserError.
        """
        entries = read_yaml(path)
        if isinstance(entries, dict):
            texts = read_yaml(path, text=True)
            entries |= {key: texts[key] for key, kind in (("names", list), ("excluded", list), ("merge", dict))
                        if isinstance(entries.get(key), kind)}
            # Numbers and colours keep their types; yes and ~ are names.
            if isinstance(ignored := entries.get("ignore"), list):
                entries["ignore"] = [entry if type(entry) in (int, list) else text
                                     for entry, text in zip(ignored, texts["ignore"])]
        return cls.from_dict(entries, path)


@dataclasses.dataclass(frozen=True)
class LabelMap:
    """What becomes of the classes, numbers and colours that masks hold: `merge` and `ignore` of a labels file.

    Attributes:
        classes: LabelSet of the masks.
        merge: ((class, (classes of the masks that become it, ...)), ...); it may be one of the masks' classes itself.
        names: classes of the masks that do not count.
        numbers: mask numbers that do not count, besides the classes'.
        colors: (R, G, B) that do not count, besides the classes'.
    """
    classes: LabelSet
    merge: tuple = ()
    names: tuple = ()
    numbers: tuple = ()
    colors: tuple = ()

    def __post_init__(self):
        known, into = self.classes.names, {}
        for member in (*(member for _, members in self.merge for member in members), *self.names):
            if member not in known:
                raise UserError(f"labels: merge or ignore names {member!r}, which is no class; write it as in `names`")
        for name, members in self.merge:
            if not members:
                raise UserError(f"labels: merge: {name!r} is merged from no class; list the classes that become it")
            for member in members:
                if member in into:
                    raise UserError(f"labels: merge: {member!r} is merged twice, into {into[member]!r} and into "
                                    f"{name!r}; keep one")
                into[member] = name
        for name, _ in self.merge:
            if name in known and into.setdefault(name, name) != name:
                raise UserError(f"labels: merge: {name!r} is itself merged into {into[name]!r}; merge all of them "
                                "there")
        for name in self.names:
            if name in into:
                raise UserError(f"labels: {name!r} is ignored and merged into {into[name]!r}; keep one")
        for what, listed in (("name", self.names), ("number", self.numbers), ("colour", self.colors)):
            if twice := [entry for entry in listed if listed.count(entry) > 1]:
                raise UserError(f"labels: ignore lists the {what} {twice[0]} twice; a colour is one entry, such as "
                                "[[255, 255, 255]]")
        self._check_numbers()
        if len(self.names) == len(known):
            raise UserError("labels: every class is ignored; leave at least one")

    def _check_numbers(self):
        """Raise UserError if a number or colour that does not count is a class's."""
        names, grey = self.classes.names, self.classes.all_grey
        for number in self.numbers:
            if not 0 <= number <= 255:
                raise UserError(f"labels: ignore: the number {number} must be from 0 to 255")
            if number < len(names):
                raise UserError(f"labels: ignore: the number {number} is the class {names[number]!r}: ignore it by "
                                "name, or, if the number stands before the first class, put a name for it first, such "
                                "as void")
        for color in (*self.colors, *((number,) * 3 for number in self.numbers if grey)):
            if color in self.classes.colors:
                raise UserError(f"labels: ignore: {color} is the colour of the class "
                                f"{names[self.classes.colors.index(color)]!r}; ignore it by name")

    @classmethod
    def of(cls, classes: LabelSet, merge: Any, ignore: Any) -> "LabelMap":
        """LabelMap of the entries of a labels file: {class: [class, ...]}, and names, numbers and [R, G, B].

        Raises UserError.
        """
        if not isinstance(merge, dict) or not all(isinstance(members, list) for members in merge.values()):
            raise UserError("labels: `merge` must be a mapping of lists, such as animal: [cat, dog]")
        if not isinstance(ignore, list):
            raise UserError("labels: `ignore` must be a list of class names, numbers and [R, G, B], such as "
                            "[sky, 254, [255, 255, 255]]")
        colors = [tuple(entry) for entry in ignore if isinstance(entry, list)]
        for color in colors:
            if len(color) != 3 or not all(type(value) is int and 0 <= value <= 255 for value in color):
                raise UserError(f"labels: ignore: the colour {list(color)} must be three numbers of 0..255")
        return cls(classes, tuple((str(name), tuple(map(str, members))) for name, members in merge.items()),
                   tuple(str(entry) for entry in ignore if type(entry) not in (int, list)),
                   tuple(entry for entry in ignore if type(entry) is int), tuple(colors))

    def __str__(self) -> str:
        merged = [f"{name} is {', '.join(members)}" for name, members in self.merge]
        ignored = ", ".join(map(str, (*self.names, *self.numbers, *self.colors)))
        return "; ".join([*merged, *([f"ignored: {ignored}"] if ignored else [])])

    @functools.cached_property
    def _targets(self):
        """{class of the masks: the class it becomes; None if it does not count}."""
        into = {member: name for name, members in self.merge for member in members}
        return {name: None if name in self.names else into.get(name, name) for name in self.classes.names}

    def same(self, one: int, two: int) -> bool:
        """Whether two numbers of the masks' classes become one class, or neither counts."""
        first, second = (self._targets[self.classes.names[number]] for number in (one, two))
        return first == second

    def labels(self, excluded: tuple = ()) -> LabelSet:
        """LabelSet of the classes that are left, in the masks' order.

        A merged class stands at the place of the first of its classes, in its own colour or in that of the first.
        """
        colors: dict[str, Any] = {}
        for name, color in zip(self.classes.names, self.classes.colors):
            if target := self._targets[name]:
                colors[target] = color if name == target else colors.get(target, color)
        return LabelSet(tuple(colors), tuple(colors.values()), self.classes.ignore_label, excluded, self)

    @functools.cached_property
    def _table(self):
        table, names = np.arange(256, dtype=np.uint8), self.labels().names
        for number, target in enumerate(self._targets.values()):
            table[number] = self.classes.ignore_label if target is None else names.index(target)
        table[list(self.numbers)] = self.classes.ignore_label
        return table

    def apply(self, mask: np.ndarray) -> np.ndarray:
        """Numbers of a mask file -> numbers of the classes that are left, (H, W) uint8; unknown numbers stay."""
        return self._table[mask]

    def to_dict(self) -> dict[str, Any]:
        """The entries of a labels file, without `excluded`."""
        return {**self.classes.to_dict(), "merge": {name: list(members) for name, members in self.merge},
                "ignore": [*self.names, *self.numbers, *map(list, self.colors)]}

    def save(self, path: FilePath) -> None:
        """Write a labels file for `LabelSet.load`."""
        _write(self.to_dict(), path)


def _write(entries, path):
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        if str(path).endswith(".json"):
            json.dump(entries, file, ensure_ascii=False)
        else:
            yaml.safe_dump(entries, file, sort_keys=False, allow_unicode=True, default_flow_style=None)


def given_names(names: Optional[list[str]]) -> Optional[list[str]]:
    """Class names as a setting gives them: a list, or one text file with one per line; None if it gives none."""
    return read_lines(names[0]) if names and len(names) == 1 and os.path.isfile(names[0]) else names


VOC = LabelSet(
    names=("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
           "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
           "tvmonitor"),
    colors=tuple(map(tuple, voc_palette(21).tolist())))
