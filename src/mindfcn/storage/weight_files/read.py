"""Read weights files of five formats into numpy arrays by name, without executing or trusting anything in them."""

import os

from mindfcn.errors import UserError
from mindfcn.storage.files import read_bytes
from mindfcn.storage.weight_files.arrays import RefusedFile
from mindfcn.storage.weight_files.caffemodel import read_caffemodel
from mindfcn.storage.weight_files.ckpt import read_ckpt
from mindfcn.storage.weight_files.npz import read_npz
from mindfcn.storage.weight_files.safetensors_file import read_safetensors
from mindfcn.storage.weight_files.torch_pickle import read_torch

# Prefixes that wrappers add to every name: DataParallel, a compiled model, Lightning, MindSpore's training cell, a
# detector.
_PREFIXES = ("module.", "_orig_mod.", "state_dict.", "model.", "network.", "backbone.")
# suffix -> function (bytes of the file) -> (weights, extras)
_READERS = {".ckpt": read_ckpt, ".safetensors": read_safetensors, ".npz": read_npz, ".pth": read_torch,
            ".pt": read_torch, ".caffemodel": read_caffemodel}


def read_weights(path):
    """Read the weights in a file.

    Args:
        path: a .ckpt (MindSpore), .safetensors, .npz, .pth / .pt (PyTorch) or .caffemodel (Caffe) file.

    Returns:
        dict of name -> C-contiguous array with the file's shape and dtype, bfloat16 widened to float32; without a
        prefix that all names have, such as `module.`. The arrays may be read-only.

    Raises:
        UserError: the suffix is not known, or the file is missing, damaged, or holds anything but weights.
    """
    return read_checkpoint(path)[0]


def read_checkpoint(path):
    """Read the weights in a file, as `read_weights` does, and the texts stored with them.

    Returns:
        (weights, extras): extras is a dict of name -> str, from the strings in `append_dict` of a .ckpt, the metadata
        of a .safetensors file or the `meta` of a .pth; empty for the other formats.

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
    return _without_prefixes(weights), extras


def _without_prefixes(weights):
    """Leave out a wrapper's prefix that all names have, once for each wrapper."""
    while prefix := next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in weights)), None):
        weights = {name[len(prefix):]: weight for name, weight in weights.items()}
    return weights


def _decode(reader, path):
    """The result of a reader on the file's bytes; every failure becomes a UserError that names the file."""
    try:
        data = read_bytes(path)
        if not data:
            raise RefusedFile("is empty; fetch it again")
        return reader(data)
    except UserError:
        raise
    except RefusedFile as reason:
        raise UserError(f"{path} {reason}") from None
    except MemoryError:
        raise UserError(f"{path} does not fit into memory; close other programs or use a larger machine") from None
    # Damaged bytes make zip, zlib, JSON and numpy fail in more ways than can be listed.
    except Exception:  # noqa: BLE001
        raise UserError(f"{path} is damaged, cut short, or not in the format of its suffix; fetch it again") from None
