"""A photograph with its mask, as every source lists them, and the functions that read and check their files."""

import concurrent.futures
import dataclasses
import io
import itertools
import os
from collections.abc import Mapping
from typing import Callable, Optional

import cv2
import numpy as np

from mindfcn.errors import UserError
from mindfcn.storage.files import read_bytes
from mindfcn.storage.images import _decode, _open, decode_image

MAX_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Sample:
    """A photograph with its mask, still on disk.

    Attributes:
        name: unique within its list; the record's `file_name`.
        image: path of the encoded photograph, or of a file that contains it.
        label: path of the mask file.
        read_label: function that reads `label`: path -> (H, W) uint8 class numbers, including the ignore label.
        read_image: function that reads `image`: path -> encoded bytes.
        extras: further columns of its record, {column: Extra}; all samples of a list have the same ones.
        size: upper bound of its record in bytes; 0 derives it from the sizes of its files.
        window: function (image BGR, mask) -> (image, mask) for the record; None takes all (see `regions.windows`).
        label_of_window: class of the object in the window; None without a window.
    """
    name: str
    image: str
    label: str
    read_label: Callable[[str], np.ndarray]
    read_image: Callable[[str], bytes] = read_bytes
    extras: Mapping = dataclasses.field(default_factory=dict)
    size: int = 0
    window: Optional[Callable] = None
    label_of_window: Optional[int] = None

    @property
    def paths(self):
        """Paths of the files it is read from, each once."""
        return list(dict.fromkeys((self.image, self.label, *(extra.path for extra in self.extras.values()))))


@dataclasses.dataclass(frozen=True)
class Extra:
    """A plane of the same size as its photograph: `depth`, `hha`, `bands`, or a second mask, `geometric`.

    Attributes:
        path: file that the plane is read from.
        read: function path -> (H, W) uint16 depth in mm, 0 where unknown; (H, W, 3) uint8 HHA; (H, W, N) bands; or
            (H, W) uint8 class numbers.
    """
    path: str
    read: Callable[[str], np.ndarray]


def encode_plane(column, plane):
    """Encode a plane as `Extra.read` returns it: PNG bytes, HHA as (R, G, B), as in published files; bands as NumPy's.
    """
    if column == "bands":
        file = io.BytesIO()
        np.save(file, plane, allow_pickle=False)
        return file.getvalue()
    plane = np.ascontiguousarray(plane[..., ::-1]) if column == "hha" else plane
    return cv2.imencode(".png", plane, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()


def decode_plane(column, data, where):
    """Decode what `encode_plane` wrote; `where` names the record in messages. Raises UserError."""
    if column == "image":
        return decode_image(data, where)
    if column == "bands":
        try:
            plane = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise UserError(f"{where} is no array: {str(error)[:100]}; prepare it again") from None
        if plane.ndim != 3:
            raise UserError(f"{where} is no array of bands; prepare it again")
        return plane
    plane = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = {"depth": (2, np.uint16), "hha": (3, np.uint8)}.get(column, (2, np.uint8))
    if plane is None or (plane.ndim, plane.dtype) != expected:
        kind = {"depth": "16-bit grey", "hha": "8-bit RGB"}.get(column, "8-bit grey")
        raise UserError(f"{where} is no {kind} PNG; prepare it again")
    return plane[..., ::-1] if column == "hha" else plane


def decode_mask(data, where):
    """Decode a record's mask, PNG bytes -> (H, W) uint8 numbers; `where` names it in messages. Raises UserError."""
    mask = _decode(_open(data, where), data, cv2.IMREAD_GRAYSCALE, where)
    if mask is None:
        raise UserError(f"{where} cannot be decoded; prepare the records again")
    return mask


def check_mask(mask, labels, where):
    """Raise UserError if a mask (H, W) uint8 holds a number that is neither a class nor the ignore label."""
    # A map changes known numbers alone, so unknown ones are compared with the masks' own classes.
    check_numbers(mask, len(labels.in_masks), labels.ignore_label, where)


def check_numbers(mask, num_classes, ignore_label, where):
    """Same check as `check_mask`, by the number of classes."""
    allowed = np.zeros(256, bool)
    allowed[:num_classes] = allowed[ignore_label] = True
    numbers = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    unknown = numbers[~allowed[numbers]]
    if unknown.size:
        row, column = np.argwhere(mask == unknown[0])[0]
        raise UserError(f"mask {where} holds {unknown[0]} at row {row}, column {column}: not a class of "
                        f"0..{num_classes - 1} nor the ignore label {ignore_label}; fix the mask or the labels, where "
                        f"ignore: [{unknown[0]}] leaves the number out")


def check_names(names, where):
    """Raise UserError if a list is empty, has a name twice, or has a name that could lead out of its folder."""
    if not names:
        raise UserError(f"{where} names no image; check the list")
    seen = set()
    for name in names:
        if "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
            raise UserError(f"{where}: {name!r} is not an image name; give names without folders")
        if name in seen:
            raise UserError(f"{where}: {name!r} is listed twice; remove one")
        seen.add(name)


def is_utf8(name):
    """Whether a file name is text that records can hold."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def check_present(samples, where):
    """Raise UserError if files of listed samples are missing, with their number and the first one."""
    files = {}

    def missing(path):
        folder, name = os.path.split(path)
        if folder not in files:
            files[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        return name not in files[folder]

    absent = [path for sample in samples for path in sample.paths if missing(path)]
    if absent:
        raise UserError(f"{len(absent)} files of {where} are missing, first {absent[0]}; "
                        "complete the data set or use --skip-bad")


def find_folder(root, below, holds, message):
    """The first folder, among `root` and the paths `below` it, that holds certain folders.

    Args:
        root: path.
        below: relative paths to try after `root` itself.
        holds: relative paths of the folders that it must hold.
        message: of the UserError if there is none.
    """
    for folder in (os.fspath(root), *(os.path.join(root, inner) for inner in below)):
        if all(os.path.isdir(os.path.join(folder, name)) for name in holds):
            return folder
    raise UserError(message)


def in_threads(function, items, threads=None):
    """Yield function(item) of every item, in order; reads only a few items ahead, so that `items` may be endless.

    Args:
        function: called with one item.
        items: iterable.
        threads: number of threads; None uses one per core, MAX_THREADS at most.
    """
    items, threads = iter(items), threads or min(MAX_THREADS, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while batch := list(itertools.islice(items, 16 * threads)):
            yield from pool.map(function, batch)
