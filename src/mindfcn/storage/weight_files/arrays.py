"""Bytes of a weights file -> numpy array, and the errors of the readers."""

import math

import numpy as np


class RefusedFile(Exception):
    """The format is understood, but the content is not accepted. The text follows the file's path in the message."""


def check(condition):
    """Raise ValueError, which means a damaged file, unless the condition holds."""
    if not condition:
        raise ValueError


def array_from_bytes(data, dtype, shape):
    """Little-endian `data` of exactly the right length -> array. `dtype` is a numpy dtype or "bfloat16"."""
    stored = np.dtype("<u2" if dtype == "bfloat16" else dtype).newbyteorder("<")
    check(all(size >= 0 for size in shape) and math.prod(shape) * stored.itemsize == len(data))
    array = np.frombuffer(data, stored)
    if dtype == "bfloat16":
        array = (array.astype("<u4") << np.uint32(16)).view("<f4")
    return array.reshape(shape)
