"""Every format returns what was saved; any other file raises a UserError of one line."""

import collections
import io
import json
import os
import pickle
import struct
import sys
import tracemalloc
import types
import zipfile

import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import save_file

from mindfcn.errors import UserError
from mindfcn.storage.weight_files.read import read_checkpoint, read_weights

SUFFIXES = (".ckpt", ".safetensors", ".npz", ".pth")


def weights():
    random = np.random.default_rng(3)
    return {"conv1.0.weight": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
            "conv1.1.gamma": random.standard_normal(4).astype(np.float32),
            "half": random.standard_normal((2, 5)).astype(np.float16),
            "count": np.arange(6, dtype=np.int64).reshape(3, 2),
            "scalar": np.array(2.5, np.float32)}


def save(path, arrays, **options):
    write = {".ckpt": save_ckpt, ".safetensors": save_safetensors, ".npz": save_npz, ".pth": save_pth}
    write[os.path.splitext(path)[1]](path, arrays, **options)
    return path


def save_ckpt(path, arrays, extras=None, **options):
    parameters = [{"name": name, "data": ms.Tensor(array)} for name, array in arrays.items()]
    ms.save_checkpoint(parameters, str(path), append_dict=extras, **options)
    os.chmod(path, 0o600)


def save_npz(path, arrays):
    np.savez(path, **arrays)


def save_safetensors(path, arrays, extras=None):
    save_file(arrays, path, metadata=extras)


# ---- files as torch.save writes them, without torch

def torch_stand_in(name, module="torch"):
    return type(name, (), {"__module__": module, "__qualname__": name})


STORAGES = {"f4": torch_stand_in("FloatStorage"), "f2": torch_stand_in("HalfStorage"),
            "i8": torch_stand_in("LongStorage"), "bf": torch_stand_in("BFloat16Storage")}
REBUILD = torch_stand_in("_rebuild_tensor_v2", "torch._utils")


class Stored:
    """A stand-in for a torch storage: pickled as a persistent id, with its bytes in a member of the zip file."""

    def __init__(self, array, kind=None, key="0"):
        self.identity = ("storage", STORAGES[kind or array.dtype.str[1:]], key, "cpu", array.size)
        self.data = array.tobytes()


class Tensor:
    """A stand-in for a torch tensor: `call` with the arguments of torch._utils._rebuild_tensor_v2."""

    def __init__(self, *arguments, call=REBUILD):
        self.arguments, self.call = arguments, call

    def __reduce__(self):
        return self.call, (*self.arguments, False, collections.OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.identity if isinstance(value, Stored) else None


def torch_pickle(value, protocol=2):
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch._utils, utils._rebuild_tensor_v2 = utils, REBUILD
    for storage in STORAGES.values():
        setattr(torch, storage.__name__, storage)
    file = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", torch)
        patch.setitem(sys.modules, "torch._utils", utils)
        Pickler(file, protocol).dump(value)
    return file.getvalue()


def write_torch_zip(path, pickled, storages=(), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.identity[2]}", storage.data)
        archive.writestr("archive/version", "3\n")
    return path


def save_pth(path, arrays, wrap=collections.OrderedDict, protocol=2, compression=zipfile.ZIP_STORED):
    storages = {name: Stored(array, key=str(at)) for at, (name, array) in enumerate(arrays.items())}
    steps = {name: tuple(step // array.itemsize for step in array.strides) for name, array in arrays.items()}
    state = {name: Tensor(storages[name], 0, array.shape, steps[name]) for name, array in arrays.items()}
    return write_torch_zip(path, torch_pickle(wrap(state), protocol), storages.values(), compression)


def refused(path, *words):
    """The message of the UserError, which must be one line that names the file."""
    with pytest.raises(UserError) as caught:
        read_weights(path)
    text = str(caught.value)
    assert "\n" not in text and os.path.basename(path) in text and len(text) < 400
    assert all(word in text.replace(str(path), "") for word in words), text
    return text


def assert_same(found, expected):
    assert list(found) == list(expected) or set(found) == set(expected)
    for name, array in expected.items():
        assert isinstance(found[name], np.ndarray) and found[name].flags.c_contiguous
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


# ---- round trips

@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip(tmp_path, suffix):
    found, extras = read_checkpoint(save(tmp_path / f"w{suffix}", weights()))
    assert_same(found, weights())
    assert extras == {}


@pytest.mark.parametrize("suffix", (".ckpt", ".safetensors"))
def test_texts(tmp_path, suffix):
    texts = {"card": json.dumps({"classes": ["猫", "é"] * 900}, ensure_ascii=False), "empty": ""}
    found, extras = read_checkpoint(save(tmp_path / f"w{suffix}", weights(), extras=texts))
    assert extras == texts
    assert_same(found, weights())


def test_ckpt_agrees_with_mindspore(tmp_path):
    path = save(tmp_path / "w.ckpt", weights(), extras={"card": "text"})
    expected = ms.load_checkpoint(str(path))
    assert expected.pop("card") == "text"
    assert_same(read_weights(path), {name: value.asnumpy() for name, value in expected.items()})


def test_bfloat16_is_widened(tmp_path):
    values = np.array([1.0, -2.5, 0.15625], np.float32)
    path = tmp_path / "w.ckpt"
    ms.save_checkpoint([{"name": "w", "data": ms.Tensor(values).astype(ms.bfloat16)},
                        {"name": "s", "data": ms.Tensor(0.5, ms.bfloat16)}], str(path))
    assert_same(read_weights(path), {"w": values, "s": np.array(0.5, np.float32)})
    stored = Stored((values.view(np.uint32) >> 16).astype(np.uint16), "bf")
    path = write_torch_zip(tmp_path / "w.pth", torch_pickle({"w": Tensor(stored, 0, (3,), (1,))}), [stored])
    assert_same(read_weights(path), {"w": values})


def test_ckpt_written_by_hand(tmp_path):
    """Parameters beyond 512 MB are written in consecutive records of one name; old scalars have the shape [0]."""
    def field(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    def record(name, shape, content):
        dims = b"".join(bytes([1 << 3, size]) for size in shape)
        return field(1, field(1, name) + field(2, dims + field(2, b"Float32") + field(3, content)))
    array = np.arange(6, dtype=np.float32).reshape(3, 2)
    first, rest = record(b"w", (3, 2), array[:1].tobytes()), record(b"w", (3, 2), array[1:].tobytes())
    path = tmp_path / "w.ckpt"
    path.write_bytes(record(b"s", (0,), b"\0\0\x80\x3f"))
    assert_same(read_weights(path), {"s": np.array(1, np.float32)})
    path.write_bytes(first + rest)
    assert_same(read_weights(path), {"w": array})
    path.write_bytes(first)
    refused(path, "damaged")
    path.write_bytes(first + record(b"v", (1,), b"1234") + rest)
    refused(path, "damaged")


def test_npz_orders(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = tmp_path / "w.npz"
    np.savez_compressed(path, fortran=np.asfortranarray(array), big=array.astype(">f4"))
    assert_same(read_weights(path), {"fortran": array, "big": array})


@pytest.mark.parametrize("protocol", (2, 4))
@pytest.mark.parametrize("compression", (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
@pytest.mark.parametrize("key", ("state_dict", "model", "model_state_dict"))
def test_pth_forms(tmp_path, protocol, compression, key):
    inner = {f"module.{name}": array for name, array in weights().items()}
    path = save_pth(tmp_path / "w.pth", inner, lambda state: {"epoch": 3, "best": 0.5, "on": True, key: state},
                    protocol, compression)
    assert_same(read_weights(path), weights())


def test_pth_views_of_one_storage(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    stored = Stored(base)
    state = {"t": Tensor(stored, 0, (6, 4), (1, 6)), "part": Tensor(stored, 6, (3, 3), (6, 2)),
             "last": Tensor(stored, 23, (), ()), "none": Tensor(stored, 0, (0, 3), (3, 1))}
    path = write_torch_zip(tmp_path / "w.pth", torch_pickle(state), [stored])
    assert_same(read_weights(path), {"t": base.T, "part": base[1:, ::2], "last": base[3, 5],
                                     "none": np.zeros((0, 3), np.float32)})


def test_pth_by_torch(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    base = torch.arange(24.).reshape(4, 6)
    tensors = {**model.state_dict(), "t": base.t(), "part": base[1:, ::2], "p": torch.nn.Parameter(base),
               "half": base.half(), "double": base.double(), "long": base.long(), "bf": base.bfloat16()}
    expected = {name: tensor.detach().float().numpy() if name == "bf" else tensor.detach().numpy()
                for name, tensor in tensors.items()}
    path = tmp_path / "w.pth"
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9).state_dict()
    for zipped in (True, False):
        for value in (tensors, collections.OrderedDict(tensors),
                      {"epoch": 1, "model": tensors, "optimizer": optimiser}):
            torch.save(value, path, _use_new_zipfile_serialization=zipped)
            assert_same(read_weights(path), expected)
        torch.save(model, path, _use_new_zipfile_serialization=zipped)
        refused(path, "torch.nn.modules", "state_dict()")


@pytest.mark.parametrize("zipped", [True, False])
def test_pth_with_the_meta_of_mmsegmentation(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    meta = {"env_info": "PyTorch: 1.5", "seed": 0, "iter": 20000, "time": 1.5, "config": "align_corners=False",
            "CLASSES": ("road", "sky"), "PALETTE": [[128, 64, 128], [70, 130, 180]], "hook_msgs": {},
            "loss": np.float64(0.5), "more": collections.OrderedDict(best=np.float32(1), n=np.int64(3)), "none": None}
    path = tmp_path / "w.pth"
    weights = {"conv.weight": torch.arange(6.).reshape(2, 3), "conv.bias": torch.ones(2)}
    torch.save({"meta": meta, "state_dict": collections.OrderedDict(weights)}, path,
               _use_new_zipfile_serialization=zipped)
    found, texts = read_checkpoint(path)
    assert_same(found, {name: value.numpy() for name, value in weights.items()})
    assert texts == {"meta.config": "align_corners=False", "meta.CLASSES": '["road", "sky"]',
                     "meta.PALETTE": "[[128, 64, 128], [70, 130, 180]]"}


def test_cut_and_damaged_files_of_old_torch(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(9.), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        refused(path)
    path.write_bytes(data.replace((9).to_bytes(8, "little"), (1 << 40).to_bytes(8, "little")))
    refused(path, "damaged")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("prefix", ["module.", "backbone.", "network.", "module.backbone.", "state_dict.model."])
def test_a_prefix_of_every_name_is_left_out(tmp_path, suffix, prefix):
    wrapped = {prefix + name: array for name, array in weights().items()}
    found = read_weights(save(str(tmp_path / f"w{suffix}"), wrapped))
    assert set(found) == set(weights())
    kept = read_weights(save(str(tmp_path / f"w{suffix}"), {**wrapped, "head.weight": np.ones(2, np.float32)}))
    assert set(kept) == {*wrapped, "head.weight"}


# ---- refused files

def test_pth_runs_nothing(tmp_path):
    target = tmp_path / "created"

    class Evil:
        def __reduce__(self):
            return open, (str(target), "w")
    stored = Stored(np.zeros(1, np.float32))
    pickled = torch_pickle({"w": Tensor(stored, 0, (1,), (1,)), "evil": Evil()})
    refused(write_torch_zip(tmp_path / "w.pth", pickled, [stored]), "open", "besides weights")
    assert not target.exists()
    pickle.loads(pickle.dumps(Evil())).close()
    assert target.exists(), "the pickle would have created the file"


@pytest.mark.parametrize("offset, shape, steps", [
    (0, (5,), (1,)), (1, (4,), (1,)), (0, (2, 3), (2, 1)), (0, (2,), (-1,)), (-1, (2,), (1,)), (0, (-2,), (1,)),
    (0, (2,), ()), (0, [2], [1]), (0, (2.0,), (1,)), (1 << 70, (1,), (1,)), (0, (2,), (1 << 70,))])
def test_pth_tensor_outside_its_storage(tmp_path, offset, shape, steps):
    stored = Stored(np.zeros(4, np.float32))
    pickled = torch_pickle({"w": Tensor(stored, offset, shape, steps)})
    refused(write_torch_zip(tmp_path / "w.pth", pickled, [stored]), "damaged")


def test_pth_without_weights(tmp_path):
    for value in ({"epoch": 3}, [1, 2], {"state_dict": {"a": 1}}, None):
        refused(write_torch_zip(tmp_path / "w.pth", torch_pickle(value)), "state_dict")
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("readme.txt", "not torch")
    refused(tmp_path / "w.pth", "not one of torch.save")


def test_npz_of_objects(tmp_path):
    np.savez(tmp_path / "w.npz", w=np.array([{"a": 1}], dtype=object))
    refused(tmp_path / "w.npz", "Python objects", "w.npy")
    np.savez(tmp_path / "w.npz", w=np.array(["text"]))
    refused(tmp_path / "w.npz", "not numbers")


def test_no_weights_file(tmp_path):
    refused(tmp_path / "w.h5", ".safetensors")
    for suffix in SUFFIXES:
        path = tmp_path / f"w{suffix}"
        refused(path, "cannot read")
        path.write_bytes(b"")
        refused(path, "empty")
        path.write_bytes(b"<html>404 not found</html>" * 20)
        refused(path, "damaged")
        path.unlink()
        path.mkdir()
        refused(path, "not a file")


def test_torch_file_named_ckpt(tmp_path):
    path = save_pth(tmp_path / "w.pth", weights())
    refused(path.rename(tmp_path / "w.ckpt"), "PyTorch", ".pth")


def test_ckpt_checksum(tmp_path):
    path = save(tmp_path / "w.ckpt", weights(), crc_check=True)
    assert_same(read_weights(path), weights())
    data = bytearray(path.read_bytes())
    data[data.index(weights()["conv1.0.weight"].tobytes())] ^= 1
    path.write_bytes(data)
    refused(path, "checksum")


# ---- damaged files, from a fixed seed so that failures repeat

@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cut_at_any_length(tmp_path, suffix):
    extras = {"extras": {"card": "text"}} if suffix == ".ckpt" else {}
    path = save(tmp_path / f"w{suffix}", weights(), **extras)
    data = path.read_bytes()
    lengths = np.random.default_rng(5).choice(len(data), min(len(data), 400), replace=False)
    for length in {1, 2, len(data) - 1, *map(int, lengths)} - {0}:
        path.write_bytes(data[:length])
        try:
            found, texts = read_checkpoint(path)
        except UserError:
            refused(path)
        else:
            # A .ckpt cut between two records is a valid file; only its last record, the card, is missing.
            assert suffix == ".ckpt" and texts == {}
            assert_same(found, {name: weights()[name] for name in found})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_flipped_bytes(tmp_path, suffix):
    path = save(tmp_path / f"w{suffix}", weights())
    data = path.read_bytes()
    random = np.random.default_rng(7)
    outcomes = collections.Counter()
    for _ in range(400):
        damaged = np.frombuffer(data, np.uint8).copy()
        for at in random.integers(len(data), size=random.integers(1, 4)):
            damaged[at] ^= random.integers(1, 256)
        path.write_bytes(damaged.tobytes())
        try:
            read_checkpoint(path)
            outcomes["read"] += 1
        except UserError:
            refused(path)
            outcomes["refused"] += 1
    assert outcomes["refused"] > 20


@pytest.mark.filterwarnings("ignore:invalid escape")
def test_flipped_bytes_in_a_pickle(tmp_path):
    """The zip's checksum is correct, so the damage reaches the pickle reader."""
    stored = Stored(np.zeros(4, np.float32))
    pickled = torch_pickle({f"w{at}": Tensor(stored, 0, (2, 2), (2, 1)) for at in range(3)})
    random = np.random.default_rng(9)
    for _ in range(600):
        damaged = bytearray(pickled)
        for at in random.integers(len(pickled), size=random.integers(1, 4)):
            damaged[at] = random.integers(256)
        path = write_torch_zip(tmp_path / "w.pth", bytes(damaged), [stored])
        try:
            read_weights(path)
        except UserError:
            refused(path)


def huge_npy():
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"1234"


def zipped(name, data, compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(name, data)
    return file.getvalue()


# Functions, because what is made on import, each process of a run of the tests would make.
@pytest.mark.parametrize("suffix, data", [
    (".npz", lambda: zipped("w.npy", huge_npy())),
    (".npz", lambda: zipped("w.npy", bytes(90 << 20))),
    (".npz", lambda: zipped("w.npy", bytes(8 << 20), zipfile.ZIP_LZMA)),
    (".pth", lambda: zipped("a/data.pkl", b"\x80\x02}r" + struct.pack("<I", 1 << 31) + b".")),
    (".pth", lambda: zipped("a/data.pkl", b"\x80\x05\x96" + struct.pack("<Q", 1 << 34) + b".")),
    (".pth", lambda: zipped("a/data.pkl", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 34) + b".")),
    (".ckpt", lambda: b"\x0a" + b"\xff" * 8 + b"\x7f" + b"data"),
    (".ckpt", lambda: b"\x0a" + b"\xff" * 50),
    (".safetensors", lambda: struct.pack("<Q", 1 << 40) + b"{}"),
], ids=["npy-shape", "zip-bomb", "lzma", "memo", "bytearray", "text", "length", "varint", "header"])
def test_claimed_sizes_are_not_allocated(tmp_path, suffix, data):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(data())
    tracemalloc.start()
    try:
        refused(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_repeated_values_are_bounded(tmp_path):
    """One stored number that claims to be a tensor of a terabyte."""
    stored = Stored(np.zeros(1, np.float32))
    pickled = torch_pickle({"w": Tensor(stored, 0, (1 << 19, 1 << 19), (0, 0))})
    refused(write_torch_zip(tmp_path / "w.pth", pickled, [stored]), "repeats")
