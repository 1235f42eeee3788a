"""One photograph with its mask, and how their files are read. Every source gives a list of samples."""

import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Mapping
from typing import Callable, Optional

import cv2
import numpy as np

from mindfcn.errors import UserError
from mindfcn.storage.files import read_bytes
from mindfcn.storage.images import _decode, decode_image

MAX_THREADS = 8


@dataclasses.dataclass(frozen=True)
class Sample:
    """A photograph with its mask, still on disk.

    Attributes:
        name: unique in its list; the record's `file_name`.
        image: path of the encoded photograph, or of a file that contains it.
        label: path of the mask file.
        read_label: reads `label`: path -> (H, W) uint8 class numbers, the ignore label included.
        read_image: reads `image`: path -> encoded bytes.
        extras: further columns of its record, {column: Extra}; the same columns in all samples of a list.
        size: upper bound of its record's size in bytes, where the sizes of its files do not give it; else 0.
        window: function (image BGR, mask) -> (image, mask) that cuts the window to record; None records both complete
            (`data.regions.windows`).
        label_of_window: the class that the window was cut for; None without a window.
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
        """The files that the sample is read from, each once."""
        return list(dict.fromkeys((self.image, self.label, *(extra.path for extra in self.extras.values()))))


@dataclasses.dataclass(frozen=True)
class Extra:
    """A further plane of a photograph, of the same size: `depth`, `hha`, or a second mask, `geometric`.

    Attributes:
        path: the file it is read from.
        read: path -> (H, W) uint16 depth in mm, 0 where unknown; (H, W, 3) uint8 HHA; or (H, W) uint8 class numbers.
    """
    path: str
    read: Callable[[str], np.ndarray]


def encode_plane(column, plane):
    """Encode a plane, as `Extra.read` gives it, to PNG bytes; HHA is stored as (R, G, B), as in published files."""
    plane = np.ascontiguousarray(plane[..., ::-1]) if column == "hha" else plane
    return cv2.imencode(".png", plane, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()


def decode_plane(column, data, where):
    """Decode a plane from `encode_plane`; `where` names the record in messages. Raises UserError."""
    if column == "image":
        return decode_image(data, where)
    plane = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    expected = {"depth": (2, np.uint16), "hha": (3, np.uint8)}.get(column, (2, np.uint8))
    if plane is None or (plane.ndim, plane.dtype) != expected:
        kind = {"depth": "16-bit grey", "hha": "8-bit RGB"}.get(column, "8-bit grey")
        raise UserError(f"{where} is no {kind} PNG; prepare it again")
    return plane[..., ::-1] if column == "hha" else plane


def decode_mask(data, where):
    """Decode a record's mask: bytes of a PNG -> (H, W) uint8; `where` names it in messages. Raises UserError."""
    mask = _decode(data, cv2.IMREAD_GRAYSCALE, where)
    if mask is None:
        raise UserError(f"{where} cannot be decoded; prepare the records again")
    return mask


def check_mask(mask, labels, where):
    """Raise UserError if a mask (H, W) uint8 holds a number that is neither a class nor the ignore label."""
    check_numbers(mask, len(labels), labels.ignore_label, where)


def check_numbers(mask, num_classes, ignore_label, where):
    """Do what `check_mask` does, without a LabelSet."""
    allowed = np.zeros(256, bool)
    allowed[:num_classes] = allowed[ignore_label] = True
    numbers = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    unknown = numbers[~allowed[numbers]]
    if unknown.size:
        row, column = np.argwhere(mask == unknown[0])[0]
        raise UserError(f"mask {where} holds {unknown[0]} at row {row}, column {column}: not a class of "
                        f"0..{num_classes - 1} nor the ignore label {ignore_label}; fix the mask or the labels")


def check_names(names, where):
    """Raise UserError if a list is empty, names an image twice, or holds a name that could leave its folder."""
    if not names:
        raise UserError(f"{where} names no image; check the list")
    seen = set()
    for name in names:
        if "/" in name or "\\" in name or ".." in name or "\0" in name:
            raise UserError(f"{where}: {name!r} is not an image name; give names without folders")
        if name in seen:
            raise UserError(f"{where}: {name!r} is listed twice; remove one")
        seen.add(name)


def check_present(samples, where):
    """Raise UserError if files of listed samples are missing; it gives their number and the first one."""
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


def in_threads(function, items, threads=None):
    """Yield function(item) for every item, in their order, computed in threads.

    Args:
        function: function of one item.
        items: iterable, may be endless: only 16 items per thread are read ahead.
        threads: number of threads; one per core, at most MAX_THREADS, if None.
    """
    items, threads = iter(items), threads or min(MAX_THREADS, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while batch := list(itertools.islice(items, 16 * threads)):
            yield from pool.map(function, batch)
