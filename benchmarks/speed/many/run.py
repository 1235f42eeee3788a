"""Images per second of `prepare` and of `predict` with one process and with two.

    python benchmarks/speed/many/run.py [--images 4000] [--predicted 40] [--runs 3] [--keep]

Photographs of VOC 2012 in ../shared/data, or drawn ones of its size. `predict` segments with the small network of the
repository; its start counts. Takes ten minutes on two cores; downloads nothing.
"""

import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from rivals import ROOT, SHARED, median, parser, show

from mindfcn.data.sources.voc import list_voc
from mindfcn.data.synthetic.shapes import draw_sample_set

COMMAND = str(ROOT / "src" / "mindfcn" / "__main__.py")
# Arguments: folder of the photographs, folder of the records, number of photographs, number of processes.
PREPARE = """
import dataclasses, sys, time
from mindfcn.data.records.mindrecord import write_records
from mindfcn.data.sources.voc import list_voc
from mindfcn.labels import VOC
root, records, count, processes = *sys.argv[1:3], *map(int, sys.argv[3:])
known = list_voc(root, "train")
samples = [dataclasses.replace(known[number % len(known)], name=str(number)) for number in range(count)]
start = time.perf_counter()
write_records(samples, records, VOC, overwrite=True, processes=processes)
print(count / (time.perf_counter() - start))
"""


def photographs(folder):
    """Folder in VOC's layout, of VOC 2012 or drawn."""
    if (SHARED / "data" / "VOCdevkit").is_dir():
        return SHARED / "data"
    draw_sample_set(folder / "drawn", 400, 500, 1)
    return folder / "drawn"


def prepare(root, folder, count, processes):
    """Images per second from files to verified records, with the start of the processes."""
    words = [sys.executable, "-c", PREPARE, root, folder / "records", str(count), str(processes)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1])


def predict(samples, folder, processes):
    """Images per second of `mindfcn predict` from photographs to masks and overlays, with its start."""
    shutil.rmtree(folder / "photographs", ignore_errors=True)
    (folder / "photographs").mkdir()
    for sample in samples:
        os.symlink(os.path.abspath(sample.image), folder / "photographs" / os.path.basename(sample.image))
    words = [COMMAND, "predict", "photographs", "--out", "masks"]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    if processes > 1:
        # msrun starts the first `python` on PATH.
        words = [os.path.join(os.path.dirname(sys.executable), "msrun"), f"--worker_num={processes}",
                 f"--local_worker_num={processes}", f"--master_port={port}", "--join=True", "--log_dir=logs", *words]
    else:
        words = [sys.executable, *words]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    start = time.perf_counter()
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PATH": path})
    return len(samples) / (time.perf_counter() - start)


def main():
    """Print the table."""
    options = parser(__doc__, runs=3)
    options.add_argument("--images", type=int, default=4000, help="number of photographs of prepare, repeated under "
                         "other names")
    options.add_argument("--predicted", type=int, default=40, help="number of photographs of predict")
    options = options.parse_args()
    ways = {("prepare", number): [] for number in (1, 2)} | {("predict", number): [] for number in (1, 2)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        root = photographs(folder)
        samples = list_voc(root, "train")[:options.predicted]
        for _ in range(options.runs):
            for number in (1, 2):
                ways["prepare", number].append(prepare(root, folder, options.images, number))
                ways["predict", number].append(predict(samples, folder, number))
    rows = [[f"`{verb}`", number, median(found),
             f"{statistics.median(found) / statistics.median(ways[verb, 1]):.2f}"]
            for (verb, number), found in ways.items()]
    show("many", ["verb", "processes", "images/s", "over one process"], rows,
         [f"{options.images} photographs for `prepare`, {len(samples)} for `predict`; medians of {options.runs} in "
          "turn."], options.keep)


if __name__ == "__main__":
    main()
