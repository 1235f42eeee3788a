"""Samples -> MindRecord files and back. A manifest beside them, written last, says that they are complete."""

import dataclasses
import hashlib
import itertools
import json
import os
import re
import shutil
import zlib

import cv2
from mindspore.dataset import MindDataset
from mindspore.mindrecord import FileWriter
from mindspore.mindrecord.common.exceptions import MindRecordException

from mindfcn.data.records.integrity import load_manifest, record_files, shards_beside, signed_manifest
from mindfcn.data.samples import check_mask, encode_plane
from mindfcn.errors import UserError
from mindfcn.storage.files import empty_folder, partial_folder, read_bytes
from mindfcn.storage.images import check_complete, decode_image, image_size

# The course's columns: the photograph as it was on disk, and a grey 8-bit PNG of class numbers. Samples with extras
# have a column more for each, a PNG, too.
SCHEMA = {"file_name": {"type": "string"}, "data": {"type": "bytes"}, "label": {"type": "bytes"}}
BATCH = 16
# JPEG quality of windows, which are encoded anew.
WINDOW_QUALITY = 95
SMALLEST_PAGE, LARGEST_PAGE = 1 << 18, 1 << 28
# Bytes of a path that SQLite opens: 512, less what it adds to the name.
LONGEST_INDEX = 504
# Their addresses stand in a header of limited size.
MAX_PAGES = 1 << 14
FAILURES = (RuntimeError, ValueError, TypeError, MindRecordException)


@dataclasses.dataclass(frozen=True)
class RecordSummary:
    """What `write_records` did.

    Attributes:
        written: records in the files.
        skipped: (file, reason) of every pair left out.
        reused: whether complete records were there already, so that nothing was written.
    """
    written: int
    skipped: list
    reused: bool = False


def write_records(samples, path, labels, shards=1, skip_bad=False, overwrite=False, progress=None, geometric=None):
    """Write samples to MindRecord files that appear only when they are complete and read back bit by bit.

    Args:
        samples: list of Sample.
        path: the file; with several shards, PATH0, PATH1, ... Each has its PATH.db, and all have one PATH.json.
        labels: LabelSet; other numbers in a mask are refused.
        shards: number of files.
        skip_bad: leave out bad pairs instead of stopping at the first.
        overwrite: write again what is complete already.
        progress: wraps an iterable of samples to show how far it is.
        geometric: LabelSet of the samples' second mask, where they have one.

    Returns:
        RecordSummary. Complete records of the same samples, labels and shards are left as they are.

    Raises:
        UserError: a bad pair; records of other samples are there; the files cannot be written.
    """
    path = os.path.abspath(path)
    if not samples:
        raise UserError(f"no samples for {path}; check the list of the split")
    if type(shards) is not int or not 1 <= shards <= 1000:
        raise UserError(f"{shards} shards for {path}; choose 1 to 1000")
    manifest_name = os.path.basename(path) + ".json"
    index = os.path.join(os.path.dirname(path), f".partial-{os.path.basename(path)}", f"{os.path.basename(path)}000.db")
    if len(os.fsencode(index)) > LONGEST_INDEX:
        raise UserError(f"{path} is too long a path for the index of a MindRecord; choose a shorter folder")
    with partial_folder(path, finished=manifest_name) as folder:
        if os.path.exists(os.path.join(folder, manifest_name)):
            _publish(folder, path)
        if not overwrite:
            summary = _reuse(samples, path, labels, shards, geometric)
            if summary:
                return summary
        empty_folder(folder)
        rows = _Rows(samples, labels, skip_bad, progress, geometric)
        try:
            files = _write(rows, os.path.join(folder, os.path.basename(path)), shards)
            _verify(rows, files)
        except FAILURES as error:
            raise UserError(f"cannot write {path}: {first_line(error)}; "
                            "free some space or choose another folder") from None
        _write_manifest(rows, files, shards, os.path.join(folder, manifest_name))
        _publish(folder, path)
        return RecordSummary(rows.written, rows.skipped)


def read_records(path, extras=()):
    """Yield (file_name, data, label) of every record, in order: str, encoded photograph bytes, PNG bytes.

    `extras` are columns whose bytes follow.

    Raises:
        UserError: as `record_files`, other columns, or a damaged file.
    """
    files = record_files(path)
    try:
        # Unlike FileReader, it does not hold something of every record at once.
        rows = MindDataset(files, columns_list=[*SCHEMA, *extras], shuffle=False, num_parallel_workers=1)
        for name, *parts in rows.create_tuple_iterator(num_epochs=1, output_numpy=True):
            yield str(name), *(part.tobytes() for part in parts)
    except FAILURES as error:
        missing = re.search("column name: (.+) can not found", str(error))
        if missing:
            raise UserError(f"{path} has no column {missing[1]!r}; expected file_name, data and label") from None
        raise UserError(f"cannot read {path}: {first_line(error)}; prepare the records again") from None


def read_manifest(path):
    """What `write_records` noted in PATH.json, or None: no manifest, or the files are not those it lists.

    Keys: count, labels (LabelSet.to_dict), shards, fingerprint, contents, skipped, files {name: bytes}, and, but for
    older releases, checksums {name: CRC-32} and checksum, that of the manifest.
    """
    manifest = load_manifest(path)
    folder = os.path.dirname(os.path.abspath(path))
    if manifest is None:
        return None
    sizes = {name: _size(os.path.join(folder, name)) for name in manifest["files"]}
    return manifest if sizes == manifest["files"] else None


class _Rows:
    """Reads and checks samples one by one; remembers one checksum of all good ones and the reason of every bad one."""

    def __init__(self, samples, labels, skip_bad, progress, geometric):
        self.samples, self.labels, self.skip_bad, self.geometric = samples, labels, skip_bad, geometric
        self.columns = list(samples[0].extras)
        self.progress = progress or iter
        self.page_size = _page_size(samples)
        self.skipped, self.written, self.checksum = [], 0, 0

    def __iter__(self):
        for sample in self.progress(self.samples):
            try:
                row = _read_row(sample, self.labels, self.page_size, self.geometric)
            except UserError as error:
                if not self.skip_bad:
                    raise UserError(f"{error}; or leave out bad pairs with --skip-bad") from None
                self.skipped.append((_blamed(sample, str(error)), str(error)))
                continue
            self.written += 1
            self.checksum += _checksum(*row.values())
            yield row


def _read_row(sample, labels, page_size, geometric):
    """One record: the photograph's bytes as they are, or a window as JPEG, the checked mask as PNG, then the extras."""
    data = sample.read_image(sample.image)
    check_complete(data, sample.image)
    height, width = image_size(data, sample.image)
    mask = sample.read_label(sample.label)
    if mask.shape != (height, width):
        raise UserError(f"mask {sample.label} is {mask.shape[1]}x{mask.shape[0]} pixels but its photograph "
                        f"{sample.image} is {width}x{height}; mend one")
    check_mask(mask, labels, sample.label)
    if sample.window:
        image, mask = sample.window(decode_image(data, sample.image), mask)
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, WINDOW_QUALITY])[1].tobytes()
    # OpenCV's default is written in a third of this time but takes more than twice as long to read in every epoch.
    label = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()
    extras = {column: _read_extra(column, extra, (height, width), geometric)
              for column, extra in sample.extras.items()}
    size = len(data) + len(label) + sum(map(len, extras.values()))
    if size > page_size - 4096:
        raise UserError(f"{sample.image} and its mask have {size >> 10} KiB; a record "
                        f"holds at most {page_size - 4096 >> 10}")
    return {"file_name": sample.name, "data": data, "label": label, **extras}


def _read_extra(column, extra, shape, geometric):
    """A checked plane as PNG."""
    plane = extra.read(extra.path)
    if plane.shape[:2] != shape:
        raise UserError(f"{column} of {extra.path} is {plane.shape[1]}x{plane.shape[0]} pixels but its photograph is "
                        f"{shape[1]}x{shape[0]}; mend one")
    if column == "geometric":
        check_mask(plane, geometric, extra.path)
    return encode_plane(column, plane)


def _page_size(samples):
    """A power of two that holds the largest pair: MindRecord keeps a record within one page.

    It stays small if it can, because MindRecord holds the index of a whole page of names in memory, 2 kB for each.
    """
    # The mask is compressed anew, perhaps less than it was.
    sizes = [sample.size or (_size(sample.image) or 0) + 8 * (_size(sample.label) or 0) for sample in samples]
    least = max(max(sizes) + 4096, sum(sizes) // MAX_PAGES)
    return min(max(SMALLEST_PAGE, 1 << least.bit_length()), LARGEST_PAGE)


def _blamed(sample, message):
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
        raise UserError(f"none of {len(rows.skipped)} pairs is good, first: {rows.skipped[0][1]}")
    writer.commit()
    return record_files(path)


def _verify(rows, files):
    """Read everything back and compare: the rows of several shards come shard by shard."""
    found = checksum = 0
    for row in read_records(files[0], rows.columns):
        found += 1
        checksum += _checksum(*row)
    if (found, checksum) != (rows.written, rows.checksum):
        raise UserError(f"{found} of {rows.written} records read back from {files[0]}, "
                        "or with other bytes; check the disk and prepare again")


def _checksum(name, data, *pngs):
    """128 bits of one record; those of all are added up, so that their order does not matter."""
    entry = repr((name, len(data), zlib.crc32(data), *map(zlib.crc32, pngs)))
    return int.from_bytes(hashlib.blake2b(entry.encode(), digest_size=16).digest(), "big")


def _write_manifest(rows, files, shards, path):
    parts = [part for file in files for part in (file, file + ".db")]
    manifest = signed_manifest({"count": rows.written, "labels": rows.labels.to_dict(), "shards": shards,
                                "fingerprint": _fingerprint(rows.samples), "contents": _contents(rows.samples),
                                "skipped": rows.skipped, **_second(rows.geometric)}, parts)
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
    """Move verified files to their final names, the manifest last. Killed half-way, the next run goes on here."""
    target = os.path.dirname(path)
    manifest_path = path + ".json"
    old = load_manifest(path)
    # One file PATH, written elsewhere, would hide shards PATH0, PATH1, ...
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


def _second(geometric):
    """The manifest's entry of a second label set."""
    return {"geometric": geometric.to_dict()} if geometric else {}


def _reuse(samples, path, labels, shards, geometric):
    """The summary of complete records of these samples; None where there are none."""
    manifest = read_manifest(path)
    if manifest is None:
        if os.path.exists(path) or shards_beside(path) or os.path.exists(path + ".json"):
            raise UserError(f"{path} exists but is not complete or was not written here; "
                            "write it again with --overwrite or choose another folder")
        return None
    if (manifest["labels"], manifest["shards"], manifest.get("geometric")) != (
            labels.to_dict(), shards, _second(geometric).get("geometric")):
        raise UserError(f"{path} was written with other labels or shards; "
                        "write it again with --overwrite or choose another folder")
    # Files copied or unpacked anew have new times; then their contents decide.
    if manifest["fingerprint"] != _fingerprint(samples) and manifest["contents"] != _contents(samples):
        raise UserError(f"{path} was written from other photographs or masks; "
                        "write it again with --overwrite or choose another folder")
    return RecordSummary(manifest["count"], [tuple(entry) for entry in manifest["skipped"]], reused=True)


def _fingerprint(samples):
    """Names, sizes and times of all files, as one number."""
    checksum = 0
    for sample in samples:
        entry = [sample.name, repr(sample.window)] if sample.window else [sample.name]
        for path in sample.paths:
            try:
                status = os.stat(path)
                entry += [status.st_size, status.st_mtime_ns]
            except OSError:
                entry += [None, None]
        checksum = zlib.crc32(repr(entry).encode(), checksum)
    return checksum


def _contents(samples):
    """Names and contents of all files, as one number; of a file that holds many samples, once."""
    checksum, seen = 0, set()
    for sample in samples:
        entry = (sample.name, sample.window) if sample.window else sample.name
        checksum = zlib.crc32(repr(entry).encode(), checksum)
        for path in sample.paths:
            if path not in seen:
                checksum = _file_checksum(path, checksum)
                seen.add(path)
    return checksum


def _file_checksum(path, checksum):
    """The checksum so far with a file's bytes, a piece at a time."""
    try:
        with open(path, "rb") as file:
            while piece := file.read(1 << 24):
                checksum = zlib.crc32(piece, checksum)
    except OSError:
        checksum = zlib.crc32(b"missing", checksum)
    return checksum


def _size(path):
    try:
        return os.path.getsize(path)
    except OSError:
        return None


def first_line(error):
    """MindSpore's messages fill a screen; their cause is the line after the headings."""
    lines = [line.strip() for line in str(error).splitlines()]
    found = next((line for line in lines if line.startswith("[ERROR]")), lines[0] if lines else type(error).__name__)
    return found.replace("[ERROR] ", "")
