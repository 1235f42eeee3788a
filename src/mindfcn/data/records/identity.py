"""What records were made from, and whether the settings name the same data: one comparison for every verb.

The manifest of records has an entry `identity`:
    source    where the photographs and masks come from
    settings  {setting of `prepare`: value} of those that decide which photographs, pixels and classes are recorded
    samples   {name: [[bytes, modification time, change time, CRC-32] of each of its files]}, in the records' order
    validation  false if there are no validation records; not there otherwise
    map       `merge` and `ignore` of the labels file with the masks' own classes (`LabelMap.to_dict`), if it has any
    hash      of the classes, the map, and the photograph and mask pixels of every record, wherever they were read from

A file of the recorded size and times is taken as unchanged; of any other file the CRC-32 is compared. A mask replaced
by one of the same size and modification time still has another change time; a copied folder is read once per use.
"""

import dataclasses
import hashlib
import json
import zlib
from typing import Any, Optional

from mindfcn.config import PrepareConfig
from mindfcn.data.samples import Sample, in_threads
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.storage.files import size_and_times

_DRAWN, _LISTS = ("samples", "size", "seed"), ("train_split", "val_split")
_WINDOWS = ("instance_size", "per_image", "duplicate_rare")
# Settings that can change a pixel or a class even if all files are the same.
_CHOICES = {"sample": _DRAWN, "rooms": _DRAWN, "folder": ("mask_encoding", "bits"), "context": ("classes",)}
# Settings that name files and lists, besides `root`; _LISTS for sources that are not here. Their values may differ if
# the files are the same.
_PLACES = {"sample": (), "voc": ("year", "sbd", "sbd_splits", "labels", *_LISTS),
           "folder": ("val_fraction", "labels", "image_dir", "mask_dir", "mask_suffix", "group_by", "folds", "fold",
                      *_LISTS), "context": ("voc", *_LISTS)}
# Names of a sample's first two files in messages; the others are its extras.
_PARTS = ("photograph", "mask")
PIECE = 1 << 24
# Values of the settings that records of older releases do not have.
_DEFAULTS = PrepareConfig()


@dataclasses.dataclass(frozen=True)
class Origin:
    """The data that settings name.

    Attributes:
        source: `PrepareConfig.source`.
        settings: see `source_settings`.
        labels: LabelSet of the masks.
        samples: list of Sample of whole photographs, in the records' order.
        geometric: LabelSet of the second mask, or None.
        validation: whether there are validation records.
    """
    source: str
    settings: dict[str, Any]
    labels: LabelSet
    samples: list[Sample]
    geometric: Optional[LabelSet] = None
    validation: bool = True


def source_settings(config: PrepareConfig) -> dict[str, Any]:
    """{name: value} of the settings that decide what the records of a source hold."""
    source = str(config.source)
    names = ["root", *_PLACES.get(source, _LISTS), *_choices(source), "instances"]
    found = {name: getattr(config, name) for name in names + (list(_WINDOWS) if config.instances != "none" else [])}
    # Records of older releases lack these settings, so they are listed only where they are given.
    return found | {name: list(value) for name in ("bands", "more_roots") if (value := getattr(config, name))}


def _choices(source):
    return _CHOICES.get(source, ())


class Digest:
    """Hash of records in their order, of 16 hexadecimal digits."""

    def __init__(self, labels, geometric=None, shards=1):
        self._digest = hashlib.blake2b(digest_size=8)
        # Several files change the order in which records are read.
        self._add([labels.to_dict(), geometric and geometric.to_dict(), shards])
        if labels.map:
            self._add(labels.map.to_dict())

    def _add(self, content):
        self._digest.update(json.dumps(content, sort_keys=True).encode())

    def add(self, name, photograph, planes):
        """Add a record: its name, the photograph's bytes, and the arrays of its mask and its extras."""
        self._add([name, len(photograph), [[plane.shape, plane.dtype.str] for plane in planes]])
        for part in (photograph, *planes):
            self._digest.update(part if isinstance(part, bytes) else part.tobytes())

    def hexdigest(self):
        """The hash of all records so far."""
        return self._digest.hexdigest()


# ------------------------------------------------------------------------------------------------------------ files

def fingerprints(samples):
    """{name: [[bytes, modification time, change time, CRC-32] or None for a missing file]}, each file read once."""
    paths = list(dict.fromkeys(path for sample in samples for path in sample.paths))
    found = dict(zip(paths, in_threads(_fingerprint, paths)))
    return {sample.name: [found[path] for path in sample.paths] for sample in samples}


def check_unchanged(samples, found):
    """Raise UserError if a file has changed since its fingerprint was taken."""
    for sample in samples:
        for path, before in zip(sample.paths, found[sample.name]):
            if before is not None and size_and_times(path) != before[:3]:
                raise UserError(f"{path} was changed while it was read; prepare the records again")


def _fingerprint(path):
    times = size_and_times(path)
    return times and [*times, file_checksum(path)]


def file_checksum(path, checksum=0):
    """CRC-32 of a file, read in pieces, continued from `checksum`."""
    try:
        with open(path, "rb") as file:
            while piece := file.read(PIECE):
                checksum = zlib.crc32(piece, checksum)
    except OSError:
        checksum = zlib.crc32(b"missing", checksum)
    return checksum


# ------------------------------------------------------------------------------------------------------- comparison

def difference(manifest: dict[str, Any], origin: Origin) -> str:
    """What differs between records and the data that settings name, in words; "" if nothing does."""
    entry = manifest.get("identity")
    found = entry and settings_difference(entry, origin.source, origin.settings)
    if entry and not found and entry.get("validation", True) != origin.validation:
        without, with_it = ("there", "here") if origin.validation else ("here", "there")
        found = f"validation images are held out {with_it} and none {without}"
    found = found or LabelSet.from_dict(manifest["labels"], "records").difference(origin.labels)
    found = found or entry and _map_difference(entry.get("map"), origin.labels.map)
    if not found and manifest.get("geometric") != (origin.geometric and origin.geometric.to_dict()):
        found = "the geometric classes differ"
    if found:
        return found
    return _samples_difference(entry["samples"], origin.samples) if entry else _older_difference(manifest, origin)


def _map_difference(recorded, here):
    there = LabelSet.from_dict(recorded, "records").map if recorded else None
    if there == here:
        return ""
    texts = [str(label_map or "nothing merged or ignored") for label_map in (there, here)]
    if texts[0] == texts[1]:
        return f"the masks' classes differ: {there.classes.difference(here.classes)}"
    return f"the labels file says ({texts[0]}) there and ({texts[1]}) here"


def settings_difference(entry: dict[str, Any], source: str, settings: dict[str, Any]) -> str:
    """The first setting that makes other records of the same files, in words; "" if there is none."""
    if not entry["source"]:
        return ""
    if entry["source"] != source:
        return f"source is {entry['source']} there and {source} here"
    for name in (*_choices(source), "bands", "instances", *_WINDOWS):
        there, here = (found.get(name, getattr(_DEFAULTS, name)) for found in (entry["settings"], settings))
        if there != here:
            return f"{name} is {there} there and {here} here"
    return ""


def _samples_difference(recorded, samples):
    names = list(dict.fromkeys(sample.name for sample in samples))
    new, gone = [name for name in names if name not in recorded], recorded.keys() - set(names)
    if new:
        return f"{_count(new)} here and not there, first {new[0]}"
    if gone:
        return f"{_count(gone)} there and not here, first {min(gone)}"
    if names != list(recorded):
        return "the images are in another order"
    changed = {}
    found = [(sample, place) for sample in samples
             for place, (path, before) in enumerate(zip(sample.paths, recorded[sample.name]))
             if _is_changed(path, before, changed)]
    if not found:
        return ""
    sample, place = found[0]
    part = _PARTS[place] if place < len(_PARTS) else list(sample.extras)[place - len(_PARTS)]
    return f"{_count({sample.name for sample, _ in found})} changed, first the {part} of {sample.name}"


def _count(names):
    return f"{len(names)} image{'s' * (len(names) > 1)} {'are' if len(names) > 1 else 'is'}"


def _is_changed(path, before, known):
    """Whether a file differs from its fingerprint; `known` keeps the answer for files of several samples."""
    if path not in known:
        times = size_and_times(path)
        same = times is None if before is None else times is not None and times[0] == before[0] and (
            times == before[:3] or file_checksum(path) == before[3])
        known[path] = not same
    return known[path]


def _older_difference(manifest, origin):
    """Compare with a manifest of an older release: one checksum of all sizes and times, and one of all contents."""
    if origin.settings["instances"] != "none" or (
            manifest["fingerprint"] == _older_fingerprint(origin.samples)
            or manifest["contents"] == _older_contents(origin.samples)):
        return ""
    return "photographs, masks or lists differ"


def _older_fingerprint(samples):
    checksum = 0
    for sample in samples:
        times = [size_and_times(path) for path in sample.paths]
        entry = [sample.name, *(value for found in times for value in (found[:2] if found else [None, None]))]
        checksum = zlib.crc32(repr(entry).encode(), checksum)
    return checksum


def _older_contents(samples):
    checksum, seen = 0, set()
    for sample in samples:
        checksum = zlib.crc32(repr(sample.name).encode(), checksum)
        for path in sample.paths:
            if path not in seen:
                checksum = file_checksum(path, checksum)
                seen.add(path)
    return checksum
