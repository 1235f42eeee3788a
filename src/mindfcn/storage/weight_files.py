"""Weights files of five formats -> numpy arrays by name. Nothing in them is executed, no size in them is trusted."""

import binascii
import collections
import io
import json
import math
import os
import pickletools
import zipfile

import numpy as np
import safetensors

from mindfcn.errors import UserError
from mindfcn.storage.caffemodel import read_net
from mindfcn.storage.files import read_bytes


def read_weights(path):
    """The weights in a file.

    Args:
        path: a .ckpt (MindSpore), .safetensors, .npz, .pth / .pt (PyTorch 1.6 or later) or .caffemodel (Caffe) file.

    Returns:
        dict of name -> C-contiguous array with the file's shape and dtype, bfloat16 widened to float32. The arrays
        may be read-only.

    Raises:
        UserError: the suffix is not known, or the file is missing, damaged, or holds anything but weights.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path):
    """The weights in a file, as `read_weights` gives them, and the texts stored beside them.

    Returns:
        (weights, extras): extras is a dict of name -> str, from the strings in `append_dict` of a .ckpt or the
        metadata of a .safetensors file; empty for the other formats.

    Raises:
        UserError: as `read_weights`.
    """
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in _READERS:
        raise UserError(f"{path}: weights are read from {', '.join(_READERS)} files; convert it to one of these")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path} is not a file; check the path")
    weights, extras = _decode(_READERS[suffix], path)
    if not weights:
        raise UserError(f"{path} holds no weights; check that it is the right file")
    return weights, extras


def _decode(reader, path):
    try:
        data = read_bytes(path)
        if not data:
            raise _Refused("is empty; fetch it again")
        return reader(data)
    except UserError:
        raise
    except _Refused as refusal:
        raise UserError(f"{path} {refusal}") from None
    except MemoryError:
        raise UserError(f"{path} does not fit into memory; close other programs or use a larger machine") from None
    # damaged bytes make zip, zlib, JSON and numpy fail in more ways than can be listed
    except Exception:  # noqa: BLE001
        raise UserError(f"{path} is damaged, cut short, or not in the format of its suffix; fetch it again") from None


class _Refused(Exception):
    """Words that follow the path in the message: the file is understood, but not accepted."""

def _check(condition):
    if not condition:
        raise ValueError


def _array(data, dtype, shape):
    """`data`, bytes of exactly the right length, as an array. `dtype` is one of numpy's, or "bfloat16"."""
    stored = np.dtype("<u2" if dtype == "bfloat16" else dtype).newbyteorder("<")
    _check(all(size >= 0 for size in shape) and math.prod(shape) * stored.itemsize == len(data))
    array = np.frombuffer(data, stored)
    if dtype == "bfloat16":
        array = (array.astype("<u4") << np.uint32(16)).view("<f4")
    return array.reshape(shape)


# ---------------------------------------------------------------------------------------------- MindSpore .ckpt

_CKPT_DTYPES = {"Int8": "i1", "UInt8": "u1", "Int16": "i2", "UInt16": "u2", "Int32": "i4", "UInt32": "u4",
                "Int64": "i8", "UInt64": "u8", "Float16": "f2", "Float32": "f4", "Float64": "f8", "Bool": "?",
                "BFloat16": "bfloat16"}
_VARINT, _BYTES = 0, 2
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def _read_ckpt(data):
    if data.startswith((b"PK\x03\x04", _OLD_TORCH)):
        raise _Refused("is a PyTorch file, not one of MindSpore's; rename it to .pth")
    weights, extras = {}, {}
    for name, (dtype, shape, parts) in _ckpt_records(_without_checksum(data)).items():
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        if dtype == "str":
            extras[name] = bytes(content).decode("utf-32-le").rstrip("\0")
        elif dtype in _CKPT_DTYPES:
            # MindSpore wrote scalars with shape [0] once
            shape = () if shape == (0,) and content else shape
            # the copy is aligned, and does not keep the whole file in memory
            weights[name] = _array(content, _CKPT_DTYPES[dtype], shape).copy()
        else:
            raise _Refused(f"holds {dtype!r} values in {name!r}; save it again with float32 parameters")
    return weights, extras


def _without_checksum(data):
    """The records, after a check against the sum that save_checkpoint(crc_check=True) appends."""
    view = memoryview(data)
    if data[-17:-10] != b"crc_num":
        return view
    if binascii.crc32(view[:-17]) != int.from_bytes(data[-10:], "big"):
        raise _Refused("is damaged: its checksum does not fit; fetch it again")
    return view[:-17]


def _ckpt_records(data):
    """Protocol buffer of checkpoint.proto -> {name: (type, shape, [memoryview of each part])}."""
    records, previous = {}, None
    for field, value in _fields(data):
        _check(field == (1, _BYTES))
        name, dtype, shape, content = _ckpt_record(value)
        # parameters beyond 512 MB come in consecutive parts, each with the whole shape
        if name == previous:
            _check(records[name][:2] == (dtype, shape))
            records[name][2].append(content)
        else:
            _check(name not in records)
            records[name] = dtype, shape, [content]
        previous = name
    return records


def _ckpt_record(data):
    entry = dict(_fields(data))
    name = str(entry[1, _BYTES], "utf-8")
    if (3, _BYTES) in entry:
        raise _Refused(f"holds a map parameter, {name!r}; only plain parameters are read")
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
        _check(wire in (_VARINT, _BYTES))
        value, at = _varint(data, at)
        if wire == _BYTES:
            _check(value <= len(data) - at)
            value, at = data[at:at + value], at + value
        yield (number, wire), value


def _varint(data, at):
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError


# ------------------------------------------------------------------------------------------------- .safetensors

_SAFE_DTYPES = {"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "u2", "I16": "i2", "U32": "u4", "I32": "i4", "U64": "u8",
                "I64": "i8", "F16": "f2", "F32": "f4", "F64": "f8", "BF16": "bfloat16"}


def _read_safetensors(data):
    weights = {}
    for name, entry in safetensors.deserialize(data):
        if entry["dtype"] not in _SAFE_DTYPES:
            raise _Refused(f"holds {entry['dtype']} values in {name!r}; save it again as float32")
        weights[name] = _array(entry["data"], _SAFE_DTYPES[entry["dtype"]], entry["shape"])
    header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
    return weights, dict(header.get("__metadata__") or {})


# -------------------------------------------------------------------------------------------------- .caffemodel

def _read_caffemodel(data):
    if len(data) >= 2 ** 31:
        raise _Refused("is larger than 2 GB, which no .caffemodel can be; fetch it again")
    return read_net(data), {}


# --------------------------------------------------------------------------------------------- zip, .npz, .pth

_ROOM = 64 << 20
_RATIO = 16


def _room(data):
    """The bytes that a file may unpack to. Weights hardly shrink, so far more is no weights file."""
    return _ROOM + _RATIO * len(data)


class _Zip:
    """The members of a zip file, none of them larger than it may be."""

    def __init__(self, data):
        self._zip = zipfile.ZipFile(io.BytesIO(data))
        self.names = self._zip.namelist()
        if sum(info.file_size for info in self._zip.infolist()) > _room(data):
            raise _Refused("unpacks to many times its size; fetch it from a source you trust")

    def read(self, name):
        info = self._zip.getinfo(name)
        # only these two are unpacked by zipfile in bounded steps
        _check(info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        with self._zip.open(info) as member:
            data = member.read(info.file_size)
        _check(len(data) == info.file_size)
        return data


def _read_npz(data):
    archive = _Zip(data)
    if strangers := [name for name in archive.names if not name.endswith(".npy")]:
        raise _Refused(f"holds {strangers[0][:60]!r}, which numpy.savez does not write; fetch it again")
    return {name[:-len(".npy")]: _read_npy(archive.read(name), name) for name in archive.names}, {}


def _read_npy(data, name):
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    _check(version in ((1, 0), (2, 0)))
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise _Refused(f"holds Python objects in {name!r}, which could run code; save it again as plain arrays")
    if dtype.kind not in "biuf":
        raise _Refused(f"holds {dtype} in {name!r}, not numbers; save only the weights")
    body = memoryview(data)[file.tell():]
    _check(all(size >= 0 for size in shape) and math.prod(shape) * dtype.itemsize == len(body))
    array = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C")
    return np.asarray(array, dtype.newbyteorder("="), order="C")


_Global = collections.namedtuple("_Global", "name")
_Storage = collections.namedtuple("_Storage", "dtype key count")
_Tensor = collections.namedtuple("_Tensor", "storage offset shape strides")

_STORAGES = {"BoolStorage": "?", "ByteStorage": "u1", "CharStorage": "i1", "ShortStorage": "i2", "IntStorage": "i4",
             "LongStorage": "i8", "HalfStorage": "f2", "FloatStorage": "f4", "DoubleStorage": "f8",
             "BFloat16Storage": "bfloat16"}
_GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
            *("torch " + name for name in _STORAGES)}
_SAVE_AGAIN = "save it again as torch.save(model.state_dict(), ...)"


def _read_torch(data):
    if data.startswith(_OLD_TORCH):
        raise _Refused("is in the format of PyTorch before 1.6; save it again with a later PyTorch")
    archive = _Zip(data)
    pickles = [name for name in archive.names if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise _Refused(f"is a zip file, but not one of torch.save; {_SAVE_AGAIN}")
    folder = pickles[0][:-len("data.pkl")]
    _check(folder + "byteorder" not in archive.names or archive.read(folder + "byteorder") == b"little")
    tensors = _state_dict(_Unpickled(archive.read(pickles[0])).value)
    if sum(math.prod(tensor.shape) for tensor in tensors.values()) > _room(data):
        raise _Refused(f"repeats its values many times over; {_SAVE_AGAIN}")
    storages = {}
    for storage in {tensor.storage for tensor in tensors.values()}:
        storages[storage] = _array(archive.read(f"{folder}data/{storage.key}"), storage.dtype, (storage.count,))
    return {name: _strided(storages[tensor.storage], tensor) for name, tensor in tensors.items()}, {}


def _state_dict(value):
    """The dict of tensors that the file is, or that it holds under one of the usual names."""
    candidates = [value] + [value.get(key) for key in ("state_dict", "model_state_dict", "model")
                            if isinstance(value, dict)]
    for candidate in candidates:
        if isinstance(candidate, dict) and any(isinstance(entry, _Tensor) for entry in candidate.values()):
            tensors = {str(name): entry for name, entry in candidate.items() if isinstance(entry, _Tensor)}
            # DataParallel puts this before every name
            prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
            return {name[len(prefix):]: tensor for name, tensor in tensors.items()}
    raise _Refused(f"holds no state_dict; {_SAVE_AGAIN}")


def _strided(storage, tensor):
    offset, shape, strides = tensor[1:]
    size = math.prod(shape)
    last = offset + sum((count - 1) * stride for count, stride in zip(shape, strides))
    if not size:
        return np.zeros(shape, storage.dtype)
    _check(last < len(storage))
    steps = [stride * storage.itemsize for stride in strides]
    return np.asarray(np.lib.stride_tricks.as_strided(storage[offset:], shape, steps), order="C")


class _Unpickled:
    """The value of a pickle, found by reading its opcodes as data: nothing is imported, called or set.

    Dicts, lists, tuples, numbers and texts become themselves, and torch's tensors `_Tensor`. Any other class or
    function in the pickle is refused, and so is any opcode that torch.save does not write.
    """

    def __init__(self, data):
        self.stack, self.marks, self.memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name])
            elif opcode.name in _LITERALS:
                self.stack.append(argument)
            else:
                getattr(self, "_" + opcode.name.lower(), _refuse_opcode)(argument)
        self.value, = self.stack

    def _skip(self, _):
        pass

    _proto = _frame = _stop = _skip

    def _mark(self, _):
        self.marks.append(len(self.stack))

    def _from_mark(self):
        start = self.marks.pop()
        _check(start <= len(self.stack))
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _empty_dict(self, _):
        self.stack.append({})

    def _empty_list(self, _):
        self.stack.append([])

    def _tuple(self, _):
        self.stack.append(tuple(self._from_mark()))

    def _tuple1(self, _):
        self.stack[-1:] = [(self.stack[-1],)]

    def _tuple2(self, _):
        self.stack[-2:] = [(self.stack[-2], self.stack[-1])]

    def _tuple3(self, _):
        self.stack[-3:] = [(self.stack[-3], self.stack[-2], self.stack[-1])]

    def _append(self, _):
        self._extend([self.stack.pop()])

    def _appends(self, _):
        self._extend(self._from_mark())

    def _extend(self, values):
        _check(type(self.stack[-1]) is list)
        self.stack[-1].extend(values)

    def _setitem(self, _):
        value = self.stack.pop()
        self._update([self.stack.pop(), value])

    def _setitems(self, _):
        self._update(self._from_mark())

    def _update(self, items):
        _check(type(self.stack[-1]) is dict and all(type(key) in (str, int) for key in items[::2]))
        self.stack[-1].update(zip(items[::2], items[1::2]))

    def _binput(self, index):
        self.memo[index] = self.stack[-1]

    _long_binput = _binput

    def _memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def _binget(self, index):
        self.stack.append(self.memo[index])

    _long_binget = _binget

    def _global(self, name):
        if name not in _GLOBALS:
            raise _Refused(f"holds the Python object {name[:60].replace(' ', '.')!r} besides weights; {_SAVE_AGAIN}")
        self.stack.append(_Global(name))

    def _stack_global(self, _):
        name = self.stack.pop()
        module = self.stack.pop()
        _check(type(module) is type(name) is str)
        self._global(f"{module} {name}")

    def _binpersid(self, _):
        kind, storage, key, _, count = self.stack.pop()
        _check(kind == "storage" and type(storage) is _Global and type(key) is str and type(count) is int)
        self.stack.append(_Storage(_STORAGES[storage.name.split()[1]], key, count))

    def _reduce(self, _):
        arguments = self.stack.pop()
        function = self.stack.pop()
        _check(type(function) is _Global)
        self.stack.append(_CALLS[function.name](*arguments))

    def _build(self, _):
        # an OrderedDict's attributes, here torch's _metadata, hold no weights
        self.stack.pop()
        _check(type(self.stack[-1]) is dict)


def _refuse_opcode(_):
    raise _Refused(f"holds more than weights; {_SAVE_AGAIN}")


def _new_dict():
    return {}


def _rebuild_tensor(storage, offset, shape, strides, *_):
    _check(type(storage) is _Storage and type(shape) is type(strides) is tuple and len(shape) == len(strides))
    _check(all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)))
    return _Tensor(storage, offset, shape, strides)


_CALLS = {"collections OrderedDict": _new_dict, "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
          "torch._utils _rebuild_parameter": lambda tensor, *_: tensor}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_READERS = {".ckpt": _read_ckpt, ".safetensors": _read_safetensors, ".npz": _read_npz, ".pth": _read_torch,
            ".pt": _read_torch, ".caffemodel": _read_caffemodel}
