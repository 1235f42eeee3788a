"""Reader of PyTorch's .pth files: raw storages and a pickle that is read but never executed.

Since PyTorch 1.6 they are a zip file; before, a sequence of pickles followed by the storages.
"""

import collections
import io
import json
import math
import pickletools

import numpy as np

from mindfcn.storage.weight_files.arrays import RefusedFile, array_from_bytes, check
from mindfcn.storage.weight_files.bounded_zip import BoundedZip, max_unpacked

# First bytes of a file that PyTorch before 1.6 wrote.
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_Global = collections.namedtuple("_Global", "name")
_Storage = collections.namedtuple("_Storage", "dtype key count")
_Tensor = collections.namedtuple("_Tensor", "storage offset shape strides")

_STORAGES = {"BoolStorage": "?", "ByteStorage": "u1", "CharStorage": "i1", "ShortStorage": "i2", "IntStorage": "i4",
             "LongStorage": "i8", "HalfStorage": "f2", "FloatStorage": "f4", "DoubleStorage": "f8",
             "BFloat16Storage": "bfloat16"}
_GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
            *("torch " + name for name in _STORAGES),
            # numpy scalars, such as a loss in `meta`; they are not weights and are left out.
            "numpy dtype", "_codecs encode",
            *(f"numpy.{core}.multiarray scalar" for core in ("core", "_core"))}
_SAVE_AGAIN = "save it again as torch.save(model.state_dict(), ...)"


def read_torch(data):
    """Bytes of a .pth file -> (dict of name -> array, dict of name -> text).

    The texts are what mmsegmentation writes about the network into `meta`: `meta.config`, and the lists `meta.CLASSES`
    and `meta.PALETTE` as JSON.
    """
    value, read_storages = (_read_legacy if data.startswith(LEGACY_MAGIC) else _read_zip)(data)
    tensors = _state_dict(value)
    if sum(math.prod(tensor.shape) for tensor in tensors.values()) > max_unpacked(data):
        raise RefusedFile(f"repeats its values many times over; {_SAVE_AGAIN}")
    storages = read_storages({tensor.storage for tensor in tensors.values()})
    return {name: _strided(storages[tensor.storage], tensor) for name, tensor in tensors.items()}, _texts(value)


def _read_zip(data):
    """(unpickled value, function from _Storages to {_Storage: array}) of a zip file."""
    archive = BoundedZip(data)
    pickles = [name for name in archive.names if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise RefusedFile(f"is a zip file, but not one of torch.save; {_SAVE_AGAIN}")
    folder = pickles[0][:-len("data.pkl")]
    check(folder + "byteorder" not in archive.names or archive.read(folder + "byteorder") == b"little")

    def read(storages):
        return {storage: array_from_bytes(archive.read(f"{folder}data/{storage.key}"), storage.dtype, (storage.count,))
                for storage in storages}
    return _Unpickled(io.BytesIO(archive.read(pickles[0]))).value, read


def _read_legacy(data):
    """The same of a file of PyTorch before 1.6.

    Four pickles (magic number, version, byte order and sizes of the writing machine, the value), one with the keys of
    the storages, then for each key in their order the number of its values (int64) and the values.
    """
    file = io.BytesIO(data)
    _, version, system, value, keys = (_Unpickled(file).value for _ in range(5))
    check(version == 1001 and system.get("little_endian") is True)
    check(type(keys) is list and all(type(key) is str for key in keys))

    def read(storages):
        # Every storage of the file has to be known, because its size in bytes follows from its type.
        known = {storage.key: storage for storage in _storages_in(value)}
        content, at, found = memoryview(data), file.tell(), {}
        for key in keys:
            storage = known[key]
            count = int.from_bytes(content[at:at + 8], "little")
            check(count == storage.count)
            size = count * (2 if storage.dtype == "bfloat16" else np.dtype(storage.dtype).itemsize)
            check(at + 8 + size <= len(content))
            if storage in storages:
                found[storage] = array_from_bytes(content[at + 8:at + 8 + size], storage.dtype, (count,))
            at += 8 + size
        return found
    return value, read


def _storages_in(value):
    """Yield the storages of all tensors in a value."""
    if isinstance(value, _Tensor):
        yield value.storage
    elif isinstance(value, (dict, list, tuple)):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _storages_in(entry)


def _texts(value):
    """{name: text} of a file's `meta`."""
    meta = value.get("meta") if isinstance(value, dict) else None
    meta = meta if isinstance(meta, dict) else {}
    texts = {"meta.config": meta["config"]} if isinstance(meta.get("config"), str) else {}
    for name in ("CLASSES", "PALETTE"):
        if isinstance(meta.get(name), (list, tuple)):
            texts[f"meta.{name}"] = json.dumps(meta[name], default=str)
    return texts


def _state_dict(value):
    """The state_dict: the unpickled value itself, or its entry under one of the usual names."""
    candidates = [value] + [value.get(key) for key in ("state_dict", "model_state_dict", "model")
                            if isinstance(value, dict)]
    for candidate in candidates:
        if isinstance(candidate, dict) and any(isinstance(entry, _Tensor) for entry in candidate.values()):
            return {str(name): entry for name, entry in candidate.items() if isinstance(entry, _Tensor)}
    raise RefusedFile(f"holds no state_dict; {_SAVE_AGAIN}")


def _strided(storage, tensor):
    """The C-contiguous array of a tensor that is a strided view of a storage. Raises ValueError outside of it."""
    offset, shape, strides = tensor[1:]
    size = math.prod(shape)
    last = offset + sum((count - 1) * stride for count, stride in zip(shape, strides))
    if not size:
        return np.zeros(shape, storage.dtype)
    check(last < len(storage))
    steps = [stride * storage.itemsize for stride in strides]
    return np.asarray(np.lib.stride_tricks.as_strided(storage[offset:], shape, steps), order="C")


class _Unpickled:
    """The value of a pickle, from its opcodes read as data: nothing is imported, called or set.

    Dicts, lists, tuples, numbers and texts are built as they are; a torch tensor becomes a `_Tensor`, a numpy scalar
    None. Any other class or function in the pickle is refused, and so is any opcode that torch.save does not write. The
    method for opcode NAME is `_name`.

    Args:
        file: binary file, read up to the pickle's end.
    """

    def __init__(self, file):
        self.stack, self.marks, self.memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(file):
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
        check(start <= len(self.stack))
        popped = self.stack[start:]
        del self.stack[start:]
        return popped

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
        check(type(self.stack[-1]) is list)
        self.stack[-1].extend(values)

    def _setitem(self, _):
        value = self.stack.pop()
        self._update([self.stack.pop(), value])

    def _setitems(self, _):
        self._update(self._from_mark())

    def _update(self, items):
        check(type(self.stack[-1]) is dict and all(type(key) in (str, int) for key in items[::2]))
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
            raise RefusedFile(f"holds the Python object {name[:60].replace(' ', '.')!r} besides weights; {_SAVE_AGAIN}")
        self.stack.append(_Global(name))

    def _stack_global(self, _):
        name = self.stack.pop()
        module = self.stack.pop()
        check(type(module) is type(name) is str)
        self._global(f"{module} {name}")

    def _binpersid(self, _):
        # Files before PyTorch 1.6 add the view of a shared storage, which torch.save always left empty.
        kind, storage, key, _, count, *view = self.stack.pop()
        check(view in ([], [None]))
        check(kind == "storage" and type(storage) is _Global and type(key) is str and type(count) is int)
        self.stack.append(_Storage(_STORAGES[storage.name.split()[1]], key, count))

    def _reduce(self, _):
        arguments = self.stack.pop()
        function = self.stack.pop()
        check(type(function) is _Global)
        self.stack.append(_CALLS[function.name](*arguments))

    def _build(self, _):
        # The attributes of an OrderedDict, such as torch's _metadata, and of a numpy dtype hold no weights.
        self.stack.pop()
        check(type(self.stack[-1]) is dict or self.stack[-1] is None)


def _refuse_opcode(_):
    raise RefusedFile(f"holds more than weights; {_SAVE_AGAIN}")


def _new_dict(items=()):
    found = dict(items)
    check(all(type(key) in (str, int) for key in found))
    return found


def _nothing(*_):
    """In place of numpy scalars and of what they are made from."""


def _rebuild_tensor(storage, offset, shape, strides, *_):
    check(type(storage) is _Storage and type(shape) is type(strides) is tuple and len(shape) == len(strides))
    check(all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)))
    return _Tensor(storage, offset, shape, strides)


_CALLS = {"collections OrderedDict": _new_dict, "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
          "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
          **{name: _nothing for name in _GLOBALS if name.startswith(("numpy", "_codecs"))}}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING",
             "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"}
