"""Damaged copies of files, and the process that opens them."""

import importlib.util
import json
import os
import pathlib
import random
import select
import subprocess
import sys

# Seconds allowed for one file; a busy machine may be slow.
PATIENCE = 300
# Memory allowed for a small file, MB.
MOST_MB = 400


def helper(name):
    """A module of other tests, such as caffe_files."""
    path = pathlib.Path(__file__).parents[1] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"helper_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def damaged(data, count, seed):
    """Yield `count` (description, bytes): cut off at many lengths, bits and bytes changed, pieces lost and repeated."""
    chance = random.Random(seed)
    # Of the 16 MB of zeros in a MindRecord file, few are read.
    nonzero = [place for place in range(len(data)) if data[place]] if len(data) < 1 << 20 else [
        *range(min(8 + int.from_bytes(data[:8], "little"), 1 << 20)), *range(1 << 24, len(data))]
    for number in range(count):
        corrupted = bytearray(data)
        if number % 3 == 0:
            # the first and the last bytes each, then anywhere
            ends = [*range(12), *(len(data) - part for part in range(1, 13))]
            length = ends[number // 3] if number // 3 < len(ends) and ends[number // 3] >= 0 else chance.randrange(
                len(data))
            what = f"cut off after {length} bytes"
            del corrupted[length:]
        elif number % 3 == 1:
            place = chance.choice(nonzero)
            bit = chance.randrange(8)
            what = f"bit {bit} of byte {place} flipped"
            corrupted[place] ^= 1 << bit
        else:
            places = sorted(chance.choice(nonzero) for _ in range(chance.randint(1, 12)))
            kind = chance.choice(("changed", "changed", "lost", "repeated", "zeroed"))
            what = f"{kind}: {places}"
            for place in reversed(places) if kind == "changed" else ():
                corrupted[place] = chance.randrange(256)
            first, last = places[0], min(places[-1] + 1, places[0] + 64)
            if kind == "lost":
                del corrupted[first:last]
            elif kind == "repeated":
                corrupted[last:last] = corrupted[first:last]
            elif kind == "zeroed":
                corrupted[first:last] = bytes(last - first)
        yield what, bytes(corrupted)


def write_sparse(path, data):
    """Write bytes, leaving holes where whole blocks are zero, as in the 16 MB header of a MindRecord file."""
    with open(path, "wb") as file:
        for place in range(0, len(data), 1 << 16):
            block = data[place:place + (1 << 16)]
            if block.strip(b"\0"):
                file.seek(place)
                file.write(block)
        file.truncate(len(data))


class Reader:
    """A process that opens files (reader.py). One that dies is replaced by the next."""

    def __init__(self):
        self.process = None

    def __call__(self, kind, path):
        """(what, text, MB) of a file; `what` is died or hung where there is no answer."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(pathlib.Path(__file__).with_name("reader.py"))], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "GLOG_v": "4"})
        self.process.stdin.write(json.dumps([kind, os.fspath(path)]) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            self.close()
            return "hung", f"no answer in {PATIENCE} s", 0
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.close()
            return "died", f"the process ended with {code}", 0
        what, text, _, megabytes = json.loads(line)
        return what, text, megabytes

    def close(self):
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None


def try_damaged(reader, kind, path, folder, count, seed, suffix="", checked=True):
    """Open damaged copies of a file; returns {outcome: number}.

    Args:
        reader: Reader.
        kind: what reader.py opens it as.
        path: the whole file.
        folder: where copies go; every file that begins with the name of `path` goes along.
        count, seed: copies.
        suffix: suffix of the file to damage: "" for `path`, or of a file next to it.
        checked: whether the format has checksums, so that anything read must be what was written.

    Raises:
        AssertionError: the first copy that ended the process, hung, took much memory, was refused without its name or
            in several lines, failed otherwise, or was read as something else though its format has checksums.
    """
    path, folder = pathlib.Path(path), pathlib.Path(folder)
    what, whole, _ = reader(kind, path)
    assert what == "read", f"{path} itself: {whole}"
    siblings = {name: (path.parent / name).read_bytes() for name in os.listdir(path.parent)
                if name.startswith(path.name)}
    found = {"refused": 0, "same": 0, "other": 0}
    for number, (how, data) in enumerate(damaged(siblings[path.name + suffix], count, seed)):
        # A folder each, because readers may cache a file by its name and time.
        case = folder / str(number)
        case.mkdir(parents=True)
        for name, content in siblings.items():
            write_sparse(case / name, data if name == path.name + suffix else content)
        what, text, megabytes = reader(kind, case / (path.name + suffix if kind == "records" else path.name))
        description = f"{path.name}{suffix} {how}: {what}: {text}"
        assert what in ("read", "refused"), description
        assert megabytes < MOST_MB, f"{description}: {megabytes} MB"
        if what == "refused":
            assert "\n" not in text.strip() and str(case / path.name) in text, description
            found["refused"] += 1
        else:
            assert text == whole or not checked, description
            found["same" if text == whole else "other"] += 1
        for name in siblings:
            (case / name).unlink()
        case.rmdir()
    return found
