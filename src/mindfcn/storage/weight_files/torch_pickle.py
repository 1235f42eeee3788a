"""Reader of PyTorch's .pth files: a zip file of raw storages and a pickle that is read but never executed."""

import collections
import math
import pickletools

import numpy as np

from mindfcn.storage.weight_files.arrays import RefusedFile, array_from_bytes, check
from mindfcn.storage.weight_files.bounded_zip import BoundedZip, max_unpacked

# First bytes of a file that PyTorch before 1.6 wrote.
OLD_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_Global = collections.namedtuple("_Global", "name")
_Storage = collections.namedtuple("_Storage", "dtype key count")
_Tensor = collections.namedtuple("_Tensor", "storage offset shape strides")

_STORAGES = {"BoolStorage": "?", "ByteStorage": "u1", "CharStorage": "i1", "ShortStorage": "i2", "IntStorage": "i4",
             "LongStorage": "i8", "HalfStorage": "f2", "FloatStorage": "f4", "DoubleStorage": "f8",
             "BFloat16Storage": "bfloat16"}
_GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
            *("torch " + name for name in _STORAGES)}
_SAVE_AGAIN = "save it again as torch.save(model.state_dict(), ...)"


def read_torch(data):
    """Bytes of a .pth file -> (dict of name -> array, empty dict)."""
    if data.startswith(OLD_TORCH_MAGIC):
        raise RefusedFile("is in the format of PyTorch before 1.6; save it again with a later PyTorch")
    archive = BoundedZip(data)
    pickles = [name for name in archive.names if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise RefusedFile(f"is a zip file, but not one of torch.save; {_SAVE_AGAIN}")
    folder = pickles[0][:-len("data.pkl")]
    check(folder + "byteorder" not in archive.names or archive.read(folder + "byteorder") == b"little")
    tensors = _state_dict(_Unpickled(archive.read(pickles[0])).value)
    if sum(math.prod(tensor.shape) for tensor in tensors.values()) > max_unpacked(data):
        raise RefusedFile(f"repeats its values many times over; {_SAVE_AGAIN}")
    storages = {}
    for storage in {tensor.storage for tensor in tensors.values()}:
        content = archive.read(f"{folder}data/{storage.key}")
        storages[storage] = array_from_bytes(content, storage.dtype, (storage.count,))
    return {name: _strided(storages[tensor.storage], tensor) for name, tensor in tensors.items()}, {}


def _state_dict(value):
    """The state_dict: the unpickled value itself, or its entry under one of the usual names."""
    candidates = [value] + [value.get(key) for key in ("state_dict", "model_state_dict", "model")
                            if isinstance(value, dict)]
    for candidate in candidates:
        if isinstance(candidate, dict) and any(isinstance(entry, _Tensor) for entry in candidate.values()):
            tensors = {str(name): entry for name, entry in candidate.items() if isinstance(entry, _Tensor)}
            # DataParallel adds this prefix to every name.
            prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
            return {name[len(prefix):]: tensor for name, tensor in tensors.items()}
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

    Dicts, lists, tuples, numbers and texts are built as they are; a torch tensor becomes a `_Tensor`. Any other class
    or function in the pickle is refused, and so is any opcode that torch.save does not write. The method for opcode
    NAME is `_name`.
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
        check(start <= len(self.stack))
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
        kind, storage, key, _, count = self.stack.pop()
        check(kind == "storage" and type(storage) is _Global and type(key) is str and type(count) is int)
        self.stack.append(_Storage(_STORAGES[storage.name.split()[1]], key, count))

    def _reduce(self, _):
        arguments = self.stack.pop()
        function = self.stack.pop()
        check(type(function) is _Global)
        self.stack.append(_CALLS[function.name](*arguments))

    def _build(self, _):
        # The attributes of an OrderedDict, such as torch's _metadata, hold no weights.
        self.stack.pop()
        check(type(self.stack[-1]) is dict)


def _refuse_opcode(_):
    raise RefusedFile(f"holds more than weights; {_SAVE_AGAIN}")


def _new_dict():
    return {}


def _rebuild_tensor(storage, offset, shape, strides, *_):
    check(type(storage) is _Storage and type(shape) is type(strides) is tuple and len(shape) == len(strides))
    check(all(type(number) is int and number >= 0 for number in (offset, *shape, *strides)))
    return _Tensor(storage, offset, shape, strides)


_CALLS = {"collections OrderedDict": _new_dict, "torch._utils _rebuild_tensor_v2": _rebuild_tensor,
          "torch._utils _rebuild_parameter": lambda tensor, *_: tensor}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
