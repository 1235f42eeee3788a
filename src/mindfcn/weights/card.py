"""The card of a network: the description that is stored in a checkpoint and in every file exported from it."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Optional

from mindfcn.combinations import inputs
from mindfcn.console import FilePath
from mindfcn.errors import UserError
from mindfcn.labels import VOC, LabelSet
from mindfcn.preprocess import COURSE, MODALITIES, Preprocess
from mindfcn.weights.naming import AT_ONCE

# Name of the entry in a file that holds the card.
CARD = "mindfcn_card"
# Cards use other names for the option `padding` and its values, as the first checkpoints did.
_PADDING = {"same": "padded", "pad100": "paper"}
# Options of a network: their type and the check of their value. None is the default.
_OPTIONS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "width": ((int, float), lambda value: 0 < value <= 4),
    "fc_width": (int, lambda value: 1 <= value <= 2 ** 16),
    "skip_scales": (list, lambda value: [type(one) in (int, float) for one in value] == [True, True]),
    "geometry": (str, bool), "output_stride": (int, lambda value: 1 <= value <= 32),
    "side": (int, lambda value: 32 <= value <= 4096 and value % 32 == 0),
    "decoder_width": ((int, float), lambda value: 0 < value <= 1),
    "bands": (int, lambda value: 1 <= value <= 1000),
    "modality": (str, lambda value: value in MODALITIES), "geometric": (int, lambda value: 1 <= value <= 255),
    "upsampling": (str, bool), "dropout": ((int, float), lambda value: 0 <= value < 1),
    "auxiliary": ((int, float), lambda value: 0 <= value <= 10)}


@dataclasses.dataclass
class Card:
    """The description of a network.

    Attributes:
        model: name of the network and its options: {"name", "width", "fc_width", "skip_scales", "geometry", ...}.
        labels: its classes.
        preprocess: how its input is normalised.
        records: the validation records of its run.
        training: epoch and step at which it was saved, the best metrics until then, and the settings of the run.
        metrics: the four metrics of exactly these weights on `records`, by name; empty if they were not evaluated.
        geometric: classes of its second head, or None.
        data: the records of its run: {"identity", "source"} as in `Records`; empty if they are not recorded.
        shorter_side: side that photographs are resized to before they are segmented, pixels; 0 keeps their size.
    """
    model: dict
    labels: LabelSet = VOC
    preprocess: Preprocess = COURSE
    records: str = ""
    training: dict = dataclasses.field(default_factory=dict)
    metrics: dict = dataclasses.field(default_factory=dict)
    geometric: Optional[LabelSet] = None
    data: dict = dataclasses.field(default_factory=dict)
    shorter_side: int = 0

    @property
    def skip_scales(self):
        """The fixed factors on pool4 and pool3: those in the card, or the defaults of the network's name."""
        return tuple(self.model.get("skip_scales") or (AT_ONCE if "_atonce_" in self.model["name"] else (1.0, 1.0)))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of its input, heads and overlapping classes in `mindfcn.combinations`."""
        return inputs(self.preprocess.modality, bool(self.geometric), self.labels.multilabel)

    @property
    def source_name(self) -> str:
        """The source of its records without the folder, such as voc; "" if it is not recorded."""
        return self.data.get("source", "").split(" ")[0]

    @staticmethod
    def model_entry(name: str, options: dict[str, Any]) -> dict[str, Any]:
        """The entry `model` of a card, from a network's name and its options for `create_model`."""
        entry = {"name": name, **options}
        if "padding" in entry:
            entry["geometry"] = _PADDING[entry.pop("padding")]
        return entry

    def options(self) -> dict[str, Any]:
        """The options for `create_model` that build this network."""
        found = {name: value for name, value in self.model.items() if name != "name"}
        if "geometry" in found:
            names = {entry: name for name, entry in _PADDING.items()}
            found["padding"] = names.get(found["geometry"], found["geometry"])
            del found["geometry"]
        return found

    def to_json(self) -> str:
        """The card as one line of JSON."""
        return json.dumps({"model": self.model, "labels": self.labels.to_dict(),
                           "preprocess": self.preprocess.to_dict(), "records": self.records,
                           "training": self.training, "metrics": self.metrics,
                           **({"geometric": self.geometric.to_dict()} if self.geometric else {}),
                           **({"data": self.data} if self.data else {}),
                           **({"shorter_side": self.shorter_side} if self.shorter_side else {})}, ensure_ascii=True)

    def check(self) -> None:
        """Raise ValueError if an entry has the wrong type, or an option is unknown or out of range."""
        for name, (kind, fine) in _OPTIONS.items():
            value = self.model.get(name)
            if value is not None and not (isinstance(value, kind) and fine(value)):
                raise ValueError(name)
        texts, dicts = (self.model["name"], self.records), (self.training, self.metrics, self.data)
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(entry, dict) for entry in dicts):
            raise ValueError
        if set(self.model) - {"name", *_OPTIONS}:
            raise ValueError("options")
        if type(self.shorter_side) is not int or not 0 <= self.shorter_side <= 8192:
            raise ValueError("shorter_side")

    @classmethod
    def from_json(cls, text: str, where: FilePath) -> "Card":
        """Read the line that `to_json` wrote; `where` names the file in messages. Raises UserError: no valid card."""
        try:
            entries = json.loads(text)
            card = cls(entries["model"], LabelSet.from_dict(entries["labels"], where),
                       Preprocess(**entries["preprocess"]), entries["records"], entries["training"],
                       # Older checkpoints have no metrics.
                       entries.get("metrics", {}),
                       LabelSet.from_dict(entries["geometric"], where) if "geometric" in entries else None,
                       entries.get("data", {}), entries.get("shorter_side", 0))
            card.check()
            return card
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(f"{where}: its card cannot be read; the file is damaged or was written by a newer "
                            "release") from None
