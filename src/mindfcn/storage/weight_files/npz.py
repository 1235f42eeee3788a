"""Reader of numpy's .npz files."""

import io
import math

import numpy as np

from mindfcn.storage.weight_files.arrays import RefusedFile, check
from mindfcn.storage.weight_files.bounded_zip import BoundedZip


def read_npz(data):
    """Bytes of an .npz file -> (dict of name -> array, empty dict)."""
    archive = BoundedZip(data)
    if others := [name for name in archive.names if not name.endswith(".npy")]:
        raise RefusedFile(f"holds {others[0][:60]!r}, which numpy.savez does not write; fetch it again")
    return {name[:-len(".npy")]: _read_npy(archive.read(name), name) for name in archive.names}, {}


def _read_npy(data, name):
    """Bytes of an .npy file -> C-contiguous array in the machine's byte order."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    check(version in ((1, 0), (2, 0)))
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise RefusedFile(f"holds Python objects in {name!r}, which could run code; save it again as plain arrays")
    if dtype.kind not in "biuf":
        raise RefusedFile(f"holds {dtype} in {name!r}, not numbers; save only the weights")
    body = memoryview(data)[file.tell():]
    check(all(size >= 0 for size in shape) and math.prod(shape) * dtype.itemsize == len(body))
    array = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    return np.asarray(array, dtype.newbyteorder("="), order="C")
