"""Opens damaged files in a separate process, because a file may crash it: one line of JSON in, one out.

`python reader.py` reads lines [kind, path] and answers [what, text, seconds, MB]:
    what     read | refused (UserError) | failed (any other exception)
    text     a checksum of everything that was read, or the message
    MB       by how much the process's largest memory has grown
"""

import itertools
import json
import os
import resource
import sys
import time
import zlib

import numpy as np

# Of address space, beyond what the process has after its imports.
ROOM = 3 << 30


def photograph(path):
    from mindfcn.storage.files import read_bytes
    from mindfcn.storage.images import decode_photograph
    return [decode_photograph(read_bytes(path), path)]


def mask(path):
    from mindfcn.data.masks import MaskReader, scan_mask
    from mindfcn.data.synthetic.shapes import SAMPLE
    return [MaskReader([path], SAMPLE)(path), repr(scan_mask(path))]


def mat(path):
    from mindfcn.data.sources.sbd import read_sbd_mask
    return [read_sbd_mask(path)]


def photographs_list(path):
    from mindfcn.data.sources.voc import list_voc
    root = os.path.dirname(os.path.dirname(os.path.dirname(path)))
    return [sample.name for sample in list_voc(root, os.path.splitext(os.path.basename(path))[0])]


def records(path):
    """`path` is one of PATH, PATH.db and PATH.json. Everything is read in each of the ways that the verbs read it."""
    from mindfcn import runtime
    from mindfcn.data.dataset import SegDataset
    from mindfcn.data.records.mindrecord import read_records
    path = path.removesuffix(".db").removesuffix(".json")
    read = [part for row in read_records(path) for part in row]
    training = SegDataset(data_file=path, batch_size=2, crop_size=16, seed=1, num_parallel_calls=1)
    evaluation = SegDataset(data_file=path, training=False, num_parallel_calls=1)
    with runtime.unwrap_user_errors():
        batches = itertools.chain(training.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True),
                                  evaluation.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True))
        return read + [array for batch in batches for array in batch]


def weights(path):
    from mindfcn.storage.weight_files.read import read_checkpoint
    found, texts = read_checkpoint(path)
    return [part for name in sorted(found) for part in (name, found[name])] + sorted(texts.items())


def checkpoint(path):
    from mindfcn.weights.checkpoint import load_checkpoint
    found, card, state = load_checkpoint(path)
    return [part for name in sorted(found) for part in (name, found[name])] + [card.to_json(), repr(state)]


def onnx(path):
    from mindfcn.inference.onnx import OnnxSegmenter
    segmenter = OnnxSegmenter(path, "CPU")
    image = np.random.default_rng(1).integers(0, 256, (9, 7, 3), np.uint8)
    return [segmenter.logits(image[None].transpose(0, 3, 1, 2).astype(np.float32)), segmenter.card.to_json()]


def labels(path):
    from mindfcn.labels import LabelSet
    return [repr(LabelSet.load(path))]


def settings(path):
    from mindfcn.cli.parser import parse
    return [repr(parse(["train", "--config", path]))]


OPENERS = {opener.__name__: opener for opener in (photograph, mask, mat, photographs_list, records, weights, checkpoint,
                                                  onnx, labels, settings)}


def checksum(parts):
    total = 0
    for part in parts:
        if isinstance(part, np.ndarray):
            total = zlib.crc32(f"{part.dtype}{part.shape}".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(part) if isinstance(part, np.ndarray) else repr(part).encode(), total)
    return f"{total:08x}"


def largest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def answer(kind, path):
    from mindfcn.errors import UserError
    began, before = time.perf_counter(), largest()
    try:
        what, text = "read", checksum(OPENERS[kind](path))
    except UserError as error:
        what, text = "refused", str(error)
    except Exception as error:  # noqa: BLE001
        what, text = "failed", f"{type(error).__name__}: {error}"
    return [what, text, time.perf_counter() - began, largest() - before]


def main():
    import mindfcn.cli.main  # noqa: F401
    import mindfcn.data.records.mindrecord  # noqa: F401
    with open("/proc/self/statm", encoding="ascii") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # libraries print their own messages
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
