"""Reader of MindSpore's .ckpt files, protocol buffers of its checkpoint.proto."""

import binascii

from mindfcn.storage.weight_files.arrays import RefusedFile, array_from_bytes, check
from mindfcn.storage.weight_files.torch_pickle import LEGACY_MAGIC

_ZIP_MAGIC = b"PK\x03\x04"
_DTYPES = {"Int8": "i1", "UInt8": "u1", "Int16": "i2", "UInt16": "u2", "Int32": "i4", "UInt32": "u4", "Int64": "i8",
           "UInt64": "u8", "Float16": "f2", "Float32": "f4", "Float64": "f8", "Bool": "?", "BFloat16": "bfloat16"}
# Wire types of a protocol buffer: a number of variable length, or a length and as many bytes.
_VARINT, _BYTES = 0, 2


def read_ckpt(data):
    """Bytes of a .ckpt file -> (dict of name -> array, dict of name -> text)."""
    if data.startswith((_ZIP_MAGIC, LEGACY_MAGIC)):
        raise RefusedFile("is a PyTorch file, not one of MindSpore's; rename it to .pth")
    weights, extras = {}, {}
    for name, (dtype, shape, parts) in _records(_without_checksum(data)).items():
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        if dtype == "str":
            extras[name] = bytes(content).decode("utf-32-le").rstrip("\0")
        elif dtype in _DTYPES:
            # Older MindSpore versions write scalars with shape [0].
            shape = () if shape == (0,) and content else shape
            # The copy is aligned and does not keep the file's bytes in memory.
            weights[name] = array_from_bytes(content, _DTYPES[dtype], shape).copy()
        else:
            raise RefusedFile(f"holds {dtype!r} values in {name!r}; save it again with float32 parameters")
    return weights, extras


def _without_checksum(data):
    """The records without the checksum that save_checkpoint(crc_check=True) appends, after comparing it."""
    view = memoryview(data)
    if data[-17:-10] != b"crc_num":
        return view
    if binascii.crc32(view[:-17]) != int.from_bytes(data[-10:], "big"):
        raise RefusedFile("is damaged: its checksum does not match; fetch it again")
    return view[:-17]


def _records(data):
    """Protocol buffer of checkpoint.proto -> {name: (type, shape, [memoryview of each part])}."""
    records, previous = {}, None
    for field, value in _fields(data):
        check(field == (1, _BYTES))
        name, dtype, shape, content = _record(value)
        # Parameters beyond 512 MB are stored in consecutive parts, each with the complete shape.
        if name == previous:
            check(records[name][:2] == (dtype, shape))
            records[name][2].append(content)
        else:
            check(name not in records)
            records[name] = dtype, shape, [content]
        previous = name
    return records


def _record(data):
    """(name, type, shape, memoryview of the values) of one entry of the file."""
    entry = dict(_fields(data))
    name = str(entry[1, _BYTES], "utf-8")
    if (3, _BYTES) in entry:
        raise RefusedFile(f"holds a map parameter, {name!r}; only plain parameters are read")
    tensor = list(_fields(entry[2, _BYTES]))
    once = dict(tensor)
    shape = tuple(value for field, value in tensor if field == (1, _VARINT))
    return name, str(once[2, _BYTES], "utf-8"), shape, once[3, _BYTES]


def _fields(data):
    """Yield ((number, wire type), value) of a protocol buffer message; the value is an int or a memoryview."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        check(wire in (_VARINT, _BYTES))
        value, at = _varint(data, at)
        if wire == _BYTES:
            check(value <= len(data) - at)
            value, at = data[at:at + value], at + value
        yield (number, wire), value


def _varint(data, at):
    """(number, offset after it) of the variable-length number at offset `at`."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError
