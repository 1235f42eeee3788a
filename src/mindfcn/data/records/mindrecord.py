"""Samples to MindRecord files and back. The manifest, written last, marks them as complete."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
import shutil
import zlib

import numpy as np
from mindspore.dataset import MindDataset
from mindspore.mindrecord import FileWriter
from mindspore.mindrecord.common.exceptions import MindRecordException

from mindfcn.data.records.identity import Digest, Origin, check_unchanged, difference, fingerprints
from mindfcn.data.records.integrity import find_shards, load_manifest, record_files, signed_manifest
from mindfcn.data.records.rows import read_rows
from mindfcn.errors import UserError
from mindfcn.storage.files import empty_folder, partial_folder, read_bytes

# The course's columns: the photograph's bytes as on disk, and a grey 8-bit PNG of class numbers. Each extra of a sample
# adds a column with a PNG.
SCHEMA = {"file_name": {"type": "string"}, "data": {"type": "bytes"}, "label": {"type": "bytes"}}
BATCH = 16
MIN_PAGE_SIZE, MAX_PAGE_SIZE = 1 << 18, 1 << 28
# Longest path in bytes that SQLite opens: 512 minus the suffixes that it adds.
MAX_INDEX_PATH = 504
# The page addresses must fit in a header of limited size.
MAX_PAGES = 1 << 14
FAILURES = (RuntimeError, ValueError, TypeError, MindRecordException)


@dataclasses.dataclass(frozen=True)
class RecordSummary:
    """Result of `write_records`.

    Attributes:
        written: number of records in the files.
        skipped: (file, reason) of every pair left out.
        reused: whether complete records existed already, so that nothing was written.
    """
    written: int
    skipped: list
    reused: bool = False


def write_records(samples, path, labels, shards=1, skip_bad=False, overwrite=False, progress=None, geometric=None,
                  origin=None, processes=1):
    """Write samples to MindRecord files that appear only once complete and verified by reading back.

    Args:
        samples: list of Sample.
        path: the file; with several shards, PATH0, PATH1, ... Each has its PATH.db, and all have one PATH.json.
        labels: LabelSet; masks with other numbers are refused.
        shards: number of files.
        skip_bad: leave out bad pairs instead of stopping at the first.
        overwrite: write complete records again.
        progress: function that wraps the iterable of samples to show progress.
        geometric: LabelSet of the samples' second mask, if they have one.
        origin: Origin, what the samples were made from; the samples themselves if not given.
        processes: number of processes that read and check the pairs, 0 for one on each core; the bytes are the same.

    Returns:
        RecordSummary. Complete records of the same samples, labels and shards are left as they are.

    Raises:
        UserError: a bad pair, existing records of other samples, a name that is not UTF-8, or the files cannot be
            written.
    """
    path = os.path.abspath(path)
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"the name of {path} is not UTF-8, which MindRecord needs; choose another folder") from None
    origin = origin or Origin("", {"instances": "none"}, labels, samples, geometric)
    if not samples:
        raise UserError(f"no samples for {path}; check the list of the split")
    if type(shards) is not int or not 1 <= shards <= 1000:
        raise UserError(f"{shards} shards for {path}; choose 1 to 1000")
    if shards > len(samples):
        raise UserError(f"{shards} shards for {path}, which gets {len(samples)} records; choose at most that many")
    manifest_name = os.path.basename(path) + ".json"
    index = os.path.join(os.path.dirname(path), f".partial-{os.path.basename(path)}", f"{os.path.basename(path)}000.db")
    if len(os.fsencode(index)) > MAX_INDEX_PATH:
        raise UserError(f"{path} is too long a path for the index of a MindRecord; choose a shorter folder")
    with partial_folder(path, finished=manifest_name) as folder:
        if os.path.exists(os.path.join(folder, manifest_name)):
            _publish(folder, path)
        if not overwrite:
            summary = _reuse(path, origin, shards)
            if summary:
                return summary
        empty_folder(folder)
        rows = _Rows(samples, labels, skip_bad, progress, geometric, shards, processes)
        read = fingerprints(origin.samples)
        try:
            files = _write(rows, os.path.join(folder, os.path.basename(path)), shards)
            _verify(rows, files)
        except FAILURES as error:
            raise UserError(f"cannot write {path}: {first_line(error)}; "
                            "free some space or choose another folder") from None
        check_unchanged(origin.samples, read)
        identity = {"source": origin.source, "settings": origin.settings, "samples": read,
                    **({} if origin.validation else {"validation": False}),
                    **({"map": labels.map.to_dict()} if labels.map else {}), "hash": rows.digest.hexdigest()}
        _write_manifest(rows, files, shards, identity, os.path.join(folder, manifest_name))
        _publish(folder, path)
        return RecordSummary(rows.written, rows.skipped)


def remove_records(path):
    """Remove the records that `write_records` wrote at a path, if there are any; the manifest first."""
    folder, manifest = os.path.dirname(os.path.abspath(path)), load_manifest(path)
    for name in [os.path.basename(path) + ".json", *manifest["files"]] if manifest else ():
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))


def read_records(path, extras=()):
    """Yield (file_name, data, label) of every record, in order: str, encoded photograph bytes, PNG bytes.

    `extras` are columns whose bytes follow.

    Raises:
        UserError: as `record_files`, missing columns, or a damaged file.
    """
    files = record_files(path)
    try:
        # Unlike FileReader, MindDataset does not keep an entry for every record in memory.
        rows = MindDataset(files, columns_list=[*SCHEMA, *extras], shuffle=False, num_parallel_workers=1)
        for name, *parts in rows.create_tuple_iterator(num_epochs=1, output_numpy=True):
            yield str(name), *(part.tobytes() for part in parts)
    except FAILURES as error:
        missing = re.search("column name: (.+) can not found", str(error))
        if missing:
            raise UserError(f"{path} has no column {missing[1]!r}; expected file_name, data and label") from None
        raise UserError(f"cannot read {path}: {first_line(error)}; prepare the records again") from None


def read_manifest(path):
    """Manifest that `write_records` wrote to PATH.json; None if missing or if the files have other sizes than listed.

    Keys: count, labels (LabelSet.to_dict), shards, skipped, files {name: bytes}, and, except in older releases,
    identity (see `identity`), pixels (number of pixels of each mask value 0..255), inner (number of those of the ignore
    label away from outlines), checksums {name: CRC-32} and checksum, that of the manifest itself.
    """
    manifest = load_manifest(path)
    folder = os.path.dirname(os.path.abspath(path))
    if manifest is None:
        return None
    sizes = {name: _size(os.path.join(folder, name)) for name in manifest["files"]}
    return manifest if sizes == manifest["files"] else None


class _Rows:
    """The columns of every good sample, in order; keeps a checksum and a hash of them, and the errors of bad ones."""

    def __init__(self, samples, labels, skip_bad, progress, geometric, shards, processes):
        self.samples, self.labels, self.skip_bad, self.geometric = samples, labels, skip_bad, geometric
        self.processes = processes
        self.digest = Digest(labels, geometric, shards)
        self.columns = list(samples[0].extras)
        self.progress = progress or iter
        self.page_size = _page_size(samples)
        self.skipped, self.written, self.checksum = [], 0, 0
        self.pixels, self.inner = np.zeros(256, np.int64), 0

    def __iter__(self):
        with contextlib.closing(read_rows(self.samples, self.labels, self.page_size, self.geometric,
                                          self.processes)) as rows:
            for sample, row in zip(self.progress(self.samples), rows):
                if isinstance(row, UserError):
                    if not self.skip_bad:
                        raise UserError(f"{row}; or leave out bad pairs with --skip-bad")
                    self.skipped.append((_bad_file(sample, str(row)), str(row)))
                    continue
                self.written += 1
                self.checksum += _checksum(*row.columns.values())
                self.digest.add(row.columns["file_name"], row.columns["data"], row.planes)
                self.pixels += row.pixels
                self.inner += row.inner
                yield row.columns


def _page_size(samples):
    """Page size in bytes, a power of two that holds the largest pair: MindRecord keeps a record within one page.

    It is small if possible, because MindRecord keeps the index of a page of names in memory, 2 kB for each.
    """
    # The mask is compressed again, perhaps less than before.
    sizes = [sample.size or (_size(sample.image) or 0) + 8 * (_size(sample.label) or 0) for sample in samples]
    min_size = max(max(sizes) + 4096, sum(sizes) // MAX_PAGES)
    return min(max(MIN_PAGE_SIZE, 1 << min_size.bit_length()), MAX_PAGE_SIZE)


def _bad_file(sample, message):
    """The file of a sample that an error message is about."""
    return sample.label if sample.label in message else sample.image


def _write(rows, path, shards):
    """Write all rows, BATCH at a time; returns the files."""
    writer = FileWriter(path, shards)
    writer.add_schema(SCHEMA | {column: {"type": "bytes"} for column in rows.columns}, "semantic segmentation")
    writer.set_page_size(rows.page_size)
    source = iter(rows)
    while batch := list(itertools.islice(source, BATCH)):
        writer.write_raw_data(batch)
    if not rows.written:
        raise UserError(f"none of {len(rows.skipped)} pairs is valid, first: {rows.skipped[0][1]}")
    writer.commit()
    return record_files(path)


def _verify(rows, files):
    """Read everything back and compare; the order of rows differs with several shards."""
    found = checksum = 0
    for row in read_records(files[0], rows.columns):
        found += 1
        checksum += _checksum(*row)
    if (found, checksum) != (rows.written, rows.checksum):
        raise UserError(f"{found} of {rows.written} records read back from {files[0]}, "
                        "or with different bytes; check the disk and prepare again")


def _checksum(name, data, *pngs):
    """128-bit checksum of one record; the sum over all records does not depend on their order."""
    entry = repr((name, len(data), zlib.crc32(data), *map(zlib.crc32, pngs)))
    return int.from_bytes(hashlib.blake2b(entry.encode(), digest_size=16).digest(), "big")


def _write_manifest(rows, files, shards, identity, path):
    parts = [part for file in files for part in (file, file + ".db")]
    manifest = signed_manifest({"count": rows.written, "labels": rows.labels.to_dict(), "shards": shards,
                                "identity": identity, "skipped": rows.skipped, "pixels": rows.pixels.tolist(),
                                "inner": rows.inner,
                                **({"geometric": rows.geometric.to_dict()} if rows.geometric else {})}, parts)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    for part in parts:
        shutil.copymode(path + ".new", part)
        with open(part, "rb") as file:
            os.fsync(file.fileno())
    os.replace(path + ".new", path)


def _publish(folder, path):
    """Move verified files to their final names, the manifest last. If interrupted, the next run continues here."""
    target = os.path.dirname(path)
    manifest_path = path + ".json"
    old = load_manifest(path)
    # A file PATH without a manifest would hide shards PATH0, PATH1, ...
    stale = list(old["files"]) if old else [os.path.basename(path), os.path.basename(path) + ".db"]
    pending = os.path.join(folder, os.path.basename(manifest_path))
    names = list(json.loads(read_bytes(pending))["files"])
    for name in stale:
        if name not in names and os.path.exists(os.path.join(target, name)):
            os.remove(os.path.join(target, name))
    if os.path.exists(manifest_path):
        os.remove(manifest_path)
    for name in sorted(names, key=lambda name: not name.endswith(".db")):
        if os.path.exists(os.path.join(folder, name)):
            os.replace(os.path.join(folder, name), os.path.join(target, name))
    os.replace(pending, manifest_path)


def _reuse(path, origin, shards):
    """Summary of existing complete records of the same origin; None if there are none."""
    manifest = read_manifest(path)
    if manifest is None:
        if os.path.exists(path) or find_shards(path) or os.path.exists(path + ".json"):
            raise UserError(f"{path} exists but is not complete or was not written here; "
                            "write it again with --overwrite or choose another folder")
        return None
    found = difference(manifest, origin)
    if not found and manifest["shards"] != shards:
        found = f"shards is {manifest['shards']} there and {shards} here"
    if found:
        raise UserError(f"{path} holds other records: {found}; "
                        "write it again with --overwrite or choose another folder")
    return RecordSummary(manifest["count"], [tuple(entry) for entry in manifest["skipped"]], reused=True)


def _size(path):
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def first_line(error):
    """The line of a MindSpore error that states its cause; the complete message fills a screen."""
    lines = [line.strip() for line in str(error).splitlines()]
    found = next((line for line in lines if line.startswith("[ERROR]")), lines[0] if lines else type(error).__name__)
    return found.replace("[ERROR] ", "")
