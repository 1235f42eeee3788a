"""Reader of .safetensors files."""

import json

import safetensors

from mindfcn.storage.weight_files.arrays import RefusedFile, array_from_bytes

_DTYPES = {"BOOL": "?", "U8": "u1", "I8": "i1", "U16": "u2", "I16": "i2", "U32": "u4", "I32": "i4", "U64": "u8",
           "I64": "i8", "F16": "f2", "F32": "f4", "F64": "f8", "BF16": "bfloat16"}


def read_safetensors(data):
    """Bytes of a .safetensors file -> (dict of name -> array, dict of its metadata texts)."""
    weights = {}
    for name, entry in safetensors.deserialize(data):
        if entry["dtype"] not in _DTYPES:
            raise RefusedFile(f"holds {entry['dtype']} values in {name!r}; save it again as float32")
        weights[name] = array_from_bytes(entry["data"], _DTYPES[entry["dtype"]], entry["shape"])
    header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
    return weights, dict(header.get("__metadata__") or {})
