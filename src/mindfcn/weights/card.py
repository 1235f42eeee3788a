"""The card of a network: what a checkpoint, and every file exported from it, says about itself."""

import dataclasses
import json
from typing import Optional

from mindfcn.errors import UserError
from mindfcn.labels import VOC, LabelSet
from mindfcn.preprocess import COURSE, Preprocess
from mindfcn.weights.importers import AT_ONCE

# Its name among the entries of a file.
CARD = "mindfcn_card"


@dataclasses.dataclass
class Card:
    """What a network is.

    Attributes:
        model: name of the network and its options: {"name", "width", "fc_width", "skip_scales", "geometry", ...}.
        labels: its classes.
        preprocess: how its input is normalised.
        records: the validation records of its run.
        training: epoch and step at which it was saved, the best metrics until then, and the settings of the run.
        metrics: the four metrics of these very weights on `records`, by name; empty where they were not evaluated.
        geometric: classes of its second head, or None.
    """
    model: dict
    labels: LabelSet = VOC
    preprocess: Preprocess = COURSE
    records: str = ""
    training: dict = dataclasses.field(default_factory=dict)
    metrics: dict = dataclasses.field(default_factory=dict)
    geometric: Optional[LabelSet] = None

    @property
    def skip_scales(self):
        """The fixed factors on pool4 and pool3: as given, or those of the network's name."""
        return tuple(self.model.get("skip_scales") or (AT_ONCE if "_atonce_" in self.model["name"] else (1.0, 1.0)))

    def to_json(self):
        """One line of JSON."""
        return json.dumps({"model": self.model, "labels": self.labels.to_dict(),
                           "preprocess": self.preprocess.to_dict(), "records": self.records,
                           "training": self.training, "metrics": self.metrics,
                           **({"geometric": self.geometric.to_dict()} if self.geometric else {})}, ensure_ascii=True)

    @classmethod
    def from_json(cls, text, where):
        """Read `to_json`'s line; `where` is the file for messages."""
        try:
            entries = json.loads(text)
            return cls(entries["model"], LabelSet.from_dict(entries["labels"], where),
                       Preprocess(**entries["preprocess"]), entries["records"], entries["training"],
                       # Older checkpoints have none.
                       entries.get("metrics", {}),
                       LabelSet.from_dict(entries["geometric"], where) if "geometric" in entries else None)
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{where}: its card cannot be read; the file is damaged or of a newer release") from None
