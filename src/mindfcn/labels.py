"""The classes of a data set: names, colours and the ignore label."""

import dataclasses
import json
import os
from typing import Any, Optional

import numpy as np
import yaml

from mindfcn.console import FilePath
from mindfcn.errors import UserError
from mindfcn.storage.files import atomic_path, read_lines, read_yaml


def voc_palette(count=256):
    """The PASCAL VOC colour map, (count, 3) uint8 RGB: the bits of the index, dealt in turn to R, G and B."""
    index = np.arange(count)
    palette = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """The classes of a data set.

    Attributes:
        names: class names; a class's index in the tuple is its number in the masks.
        colors: one (R, G, B) of 0..255 per class; its key in labels files and checkpoint cards is `colours`.
        ignore_label: mask number of pixels that count neither in the loss nor in the metrics.
        excluded: names of classes that the data set's protocol leaves out of means over classes.
    """
    names: tuple
    colors: tuple
    ignore_label: int = 255
    excluded: tuple = ()

    def __post_init__(self):
        if not all(isinstance(name, (str, int, float)) for name in self.names):
            raise UserError("labels: every class name must be a text or a number")
        names = tuple(str(name) for name in self.names)
        for name in names:
            if not name.isprintable():
                raise UserError(f"labels: the class name {name[:60]!r} holds characters that cannot be printed")
        try:
            colors = tuple(tuple(int(value) for value in color) for color in self.colors)
        except (TypeError, ValueError, OverflowError):
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
            raise UserError(f"labels: ignore label {self.ignore_label!r} must be a number from {len(names)} to 255")
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

    def difference(self, other: "LabelSet") -> str:
        """The first difference between these classes ("there") and others ("here") in words; "" if they are the same.

        Names in their order, colours, the ignore label and the excluded classes are compared.
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
                "ignore_label": self.ignore_label, **({"excluded": list(self.excluded)} if self.excluded else {})}

    def save(self, path: FilePath) -> None:
        """Write a labels file for `load`: YAML, or JSON if the name ends in .json."""
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            if str(path).endswith(".json"):
                json.dump(self.to_dict(), file, ensure_ascii=False)
            else:
                yaml.safe_dump(self.to_dict(), file, sort_keys=False, allow_unicode=True, default_flow_style=None)

    @classmethod
    def from_dict(cls, entries: Any, where: FilePath) -> "LabelSet":
        """LabelSet of a dictionary with `names` and optionally `colours`, `ignore_label` and `excluded`.

        `where` names their file in messages. Raises UserError.
        """
        if not isinstance(entries, dict) or not isinstance(entries.get("names"), list):
            raise UserError(f"{where}: expected a mapping with a list `names`; see docs/own_data.md")
        unknown = set(entries) - {"names", "colours", "ignore_label", "excluded"}
        if unknown:
            raise UserError(f"{where}: unknown key {sorted(map(str, unknown))[0]!r}; "
                            "known are names, colours, ignore_label, excluded")
        names = entries["names"]
        colors = entries.get("colours", voc_palette()[:len(names)].tolist())
        if not isinstance(colors, list):
            raise UserError(f"{where}: `colours` must be a list of [R, G, B]")
        excluded = entries.get("excluded", [])
        if not isinstance(excluded, list):
            raise UserError(f"{where}: `excluded` must be a list of class names")
        try:
            return cls(tuple(names), tuple(colors), entries.get("ignore_label", 255), tuple(excluded))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    @classmethod
    def load(cls, path: FilePath) -> "LabelSet":
        """Read a labels file: YAML or JSON with `names`, and optionally `colours` (RGB), `ignore_label`, `excluded`.

        A name is the text that is written, also if YAML takes it for a number or a truth value. Raises UserError.
        """
        entries = read_yaml(path)
        if isinstance(entries, dict):
            texts = read_yaml(path, text=True)
            entries |= {key: texts[key] for key in ("names", "excluded") if isinstance(entries.get(key), list)}
        return cls.from_dict(entries, path)


def given_names(names: Optional[list[str]]) -> Optional[list[str]]:
    """Class names as a setting gives them: a list, or one text file with one per line; None if it gives none."""
    return read_lines(names[0]) if names and len(names) == 1 and os.path.isfile(names[0]) else names


VOC = LabelSet(
    names=("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
           "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
           "tvmonitor"),
    colors=tuple(map(tuple, voc_palette(21).tolist())))
