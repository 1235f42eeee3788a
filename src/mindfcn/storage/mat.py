"""Read variables of MATLAB's .mat files: with SciPy up to version 7, with h5py for version 7.3 (HDF5)."""

import io
import math
import struct
import zlib

import numpy as np
import scipy.io

from mindfcn.errors import UserError
from mindfcn.storage.files import read_bytes
from mindfcn.storage.images import MAX_PIXELS

# Of .mat files: types of elements, classes of arrays, and the allowed depth of nesting, twice that of SBD's masks.
NUMBERS, MATRIX, COMPRESSED = {*range(1, 8), 9, 12, 13}, 14, 15
CELLS, STRUCT, TEXT, SPARSE, NUMERIC = 1, 2, 4, 5, range(6, 16)
DEEPEST = 6


def read_mat(path, name):
    """Variable `name` of a .mat file up to version 7 -> array. Raises UserError: missing, unreadable or damaged."""
    data = read_bytes(path)
    try:
        _check_format(data)
        return scipy.io.loadmat(io.BytesIO(data), variable_names=[name])[name]
    # SciPy's exceptions for damaged files have no other common base class.
    except Exception:  # noqa: BLE001
        raise UserError(f"{path} holds no {name} or is damaged; fetch it again") from None


def _check_format(data):
    """Raise ValueError if a MAT-file of version 5 violates its format, before SciPy reads it.

    SciPy reads nested arrays by recursion in C, whose stack a file of 200 kB can overflow; it allocates the announced
    size of an array of arrays, reads invalid memory at unknown number types and missing parts, and does not compare the
    checksum of compressed data.
    """
    order = {b"\0\1IM": "<", b"\1\0MI": ">"}.get(data[124:128])
    _require(order)
    waiting, room = [(_elements(memoryview(data)[128:], order), 0)], MAX_PIXELS + len(data)
    while waiting:
        elements, depth = waiting.pop()
        for kind, body in elements:
            if kind == COMPRESSED:
                _require(depth == 0)
                unpacked = _inflated(body, room)
                waiting.append((_elements(unpacked, order), 1))
                room -= len(unpacked)
            elif kind == MATRIX and body:
                _require(depth < DEEPEST)
                parts = _elements(body, order)
                _check_array(parts, order)
                waiting.append((parts, depth + 1))


def _elements(part, order):
    """[(type, bytes)] of consecutive elements."""
    found, at = [], 0
    while at < len(part):
        kind, size = struct.unpack_from(f"{order}II", part, at)
        if kind >> 16:
            # A small element: type, size and data share these eight bytes.
            kind, size = kind & 0xFFFF, kind >> 16
            _require(size <= 4)
            found.append((kind, part[at + 4:at + 4 + size]))
            at += 8
        else:
            found.append((kind, part[at + 8:at + 8 + size]))
            _require(len(found[-1][1]) == size)
            at += 8 + size + (-size % 8 if kind != COMPRESSED else 0)
    return found


def _check_array(parts, order):
    """Raise ValueError if an array lacks parts of its class, or has fewer cells or structs than its shape announces."""
    (flags_kind, flags), (dimensions_kind, dimensions), (name_kind, _), *content = parts
    # Element types uint32, int32 and int8.
    _require((flags_kind, dimensions_kind, name_kind) == (6, 5, 1))
    flags, = struct.unpack_from(f"{order}I", flags)
    array, complex_too = flags & 255, flags >> 11 & 1
    kinds = [kind for kind, _ in content]
    if array in (CELLS, STRUCT):
        # The first two elements of a struct hold the names of its fields.
        _require(set(kinds[2 if array == STRUCT else 0:]) <= {MATRIX})
        _require(math.prod(struct.unpack(f"{order}{len(dimensions) // 4}i", dimensions)) <= sum(
            8 + len(body) for _, body in parts))
    else:
        _require(array in (TEXT, SPARSE, *NUMERIC))
        _require(len(kinds) == (3 if array == SPARSE else 1) + complex_too)
        _require(array == TEXT or set(kinds) <= NUMBERS)


def _inflated(data, room):
    """Decompress to at most `room` bytes, to the end of the data, where zlib compares the checksum."""
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(data, room)
    _require(unpacker.eof and not unpacker.unused_data)
    return memoryview(content)


def _require(condition):
    if not condition:
        raise ValueError


def read_classes(path, name):
    """Read a mask of whole numbers in a .mat file -> (H, W) int64, unchanged. Raises UserError."""
    mask = read_mat(path, name)
    if mask.ndim != 2 or mask.size > MAX_PIXELS or mask.dtype.kind not in "iuf" or (mask != np.rint(mask)).any():
        raise UserError(f"{path}: {name} is not a mask of class numbers; fetch it again")
    return mask.astype(np.int64)


def to_classes(mask, count, where, void=(0,)):
    """Map MATLAB's classes 1..count to uint8 0..count - 1 and `void` numbers to 255. Raises UserError at any other."""
    wrong = ~np.isin(mask, [*void, *range(1, count + 1)])
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UserError(f"{where} holds {mask[row, column]} at row {row}, column {column}: not a class of 1..{count} "
                        f"nor {', '.join(map(str, void))}; fetch it again")
    return np.where(np.isin(mask, void), 255, mask - 1).astype(np.uint8)


class Hdf5:
    """A .mat file of version 7.3, opened for reading; a context manager.

    The file stores MATLAB's (H, W, 3, N) as (N, 3, W, H).
    """

    def __init__(self, path):
        try:
            import h5py
        except ImportError:
            raise UserError(f"{path} needs the package h5py, which is not installed; install it with "
                            "pip install h5py") from None
        try:
            self.file = h5py.File(path, "r")
        except OSError:
            raise UserError(f"cannot read {path}: it is missing, damaged or not a .mat file of version 7.3; "
                            "fetch it again") from None
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def item(self, name, index):
        """Item `index` (from 0) along a variable's last MATLAB axis, the other axes in MATLAB's order: (H, W, ...)."""
        try:
            return self._variable(name)[index].T
        except (OSError, IndexError, ValueError) as error:
            raise UserError(f"{self.path}: cannot read {name} of image {index + 1} ({error}); fetch it again") from None

    def _variable(self, name):
        if name not in self.file:
            raise UserError(f"{self.path} holds no {name}; give the labelled data set")
        return self.file[name]
