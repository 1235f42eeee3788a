"""Preparation, training input and evaluation of 500, 5,000 and 50,000 images: time and peak memory.

    python benchmarks/speed/growth/run.py [--sizes 500 5000 50000] [--keep]

The images are a drawn set of 100, repeated under new names by hard links in a temporary folder. Every size runs in a
new process, warmed up on the hundred images. Images are small and the network is a 1x1 convolution, so that costs
which grow with the number of images are visible. Takes about five minutes on two cores and 1 GB of disk; downloads
nothing.
"""

import os
import pathlib
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from rivals import Worker, parser, show

from mindfcn.data.synthetic.shapes import draw_sample_set

HERE = pathlib.Path(__file__).resolve().parent
DRAWN, SIDE = 100, 64
PHASES = {"prepare": "preparation", "train": "training input", "evaluate": "evaluation"}


def repeat(drawn, folder, count):
    """Make a folder in VOC's layout of `count` images: split `all`, and split `warm_up` with the first 100."""
    names = [f"{number // DRAWN:06d}_{number % DRAWN:02d}" for number in range(count)]
    for part, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        (folder / part).mkdir(parents=True)
        files = sorted((drawn / part).iterdir())
        for number, name in enumerate(names):
            os.link(files[number % DRAWN], folder / part / f"{name}{suffix}")
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, chosen in (("all", names), ("warm_up", names[:DRAWN])):
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in chosen), encoding="utf-8")


def measure(drawn, folder, count, runs):
    """{phase: (median seconds, peak MiB)} of a new process."""
    repeat(drawn, folder, count)
    worker, found = Worker(f"{count} images", sys.executable, HERE / "worker_mindfcn.py", folder, count), {}
    for phase in PHASES:
        seconds, peaks = zip(*(map(float, worker.ask(phase).split()) for _ in range(runs)))
        found[phase] = statistics.median(seconds), max(peaks)
    worker.end()
    return found


def main():
    """Print the table."""
    options = parser(__doc__)
    options.add_argument("--sizes", type=int, nargs="+", default=[500, 5000, 50000], help="numbers of images")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        draw_sample_set(str(folder / "drawn"), DRAWN, SIDE, 1)
        # Only the smallest size is repeated: its runs are short and therefore noisy.
        found = {count: measure(folder / "drawn", folder / str(count), count, 1 if number else options.runs)
                 for number, count in enumerate(options.sizes)}
    rows, first = [], options.sizes[0]
    for phase, words in PHASES.items():
        slowest, least = found[first][phase]
        for count in options.sizes:
            seconds, peak = found[count][phase]
            rows.append([words, f"{count:,}", f"{seconds:.1f}", f"{count / seconds:.0f}",
                         f"{seconds / count / (slowest / first):.2f}", f"{peak:.0f}",
                         f"{100 * (peak / least - 1):+.1f} %"])
    show("growth", ["phase", "images", "seconds", "images/s", f"time per image / that of {first:,}",
                    "peak memory, MiB", f"increase over {first:,}"], rows,
         [f"Drawn images of {SIDE} pixels, crops of 64, a 1x1 convolution as the network; medians of "
          f"{options.runs} runs with {first:,}, one run with more."],
         options.keep)


if __name__ == "__main__":
    main()
