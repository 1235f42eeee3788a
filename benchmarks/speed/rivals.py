"""Shared by all benchmarks: environments of the rival libraries, workers that take turns, machine limits, tables.

Each rival has its own virtual environment in .bench/ (or the folder named by BENCH_ENVS), created on first use.
"""

import argparse
import concurrent.futures
import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SHARED = ROOT.parent / "shared"
PAGE = ROOT / "docs" / "performance.md"
PACKAGES = {"torch": ["torch==2.13.0", "torchvision==0.28.0", "numpy<2", "opencv-python-headless<4.12"],
            "runtimes": ["onnxruntime", "openvino", "numpy<2"]}
THREADS = os.cpu_count()


def python_of(name):
    """Path of the Python interpreter in a rival's environment, created on first use."""
    folder = pathlib.Path(os.environ.get("BENCH_ENVS") or ROOT / ".bench") / name
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing {', '.join(PACKAGES[name])} into {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES[name]], check=True)
    return str(python)


def environment(*folders, **variables):
    """Environment variables for a worker: this folder and `folders` are added to its PYTHONPATH.

    `variables` replace those of this process; None removes one.
    """
    known = os.environ.get("PYTHONPATH")
    path = os.pathsep.join(map(str, (HERE, *folders, *([known] if known else []))))
    found = {**os.environ, "PYTHONPATH": path, **variables}
    return {name: value for name, value in found.items() if value is not None}


class Worker:
    """A process that answers each command, one line, with one line.

    Args:
        name: shown in tables and messages.
        python: path of the interpreter.
        script: path of the program.
        arguments: command line arguments of the program.
        variables: environment variables in place of this process's; None removes one.
    """

    def __init__(self, name, python, script, *arguments, variables=None):
        self.name = name
        self.process = subprocess.Popen([python, script, *map(str, arguments)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment(**variables or {}))
        self.ask("ready?")

    def ask(self, command):
        """Send a command and return the answer."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer:
            sys.exit(f"{self.name} ended without an answer to {command!r}; see its error message above")
        return answer

    def end(self):
        """End the process, which frees its memory."""
        self.process.stdin.close()
        self.process.wait()


def difference(path, other):
    """Largest difference of the logits in two .npy files, as a fraction of the largest in the second."""
    one, two = np.load(path), np.load(other)
    return float(np.abs(one - two).max() / np.abs(two).max())


def narrow(width):
    """Options of `create_model` for a share of VGG16's channels; a torchvision network has no other width than 1."""
    width = float(width)
    return {} if width == 1 else {"width": width, "fc_width": round(4096 * width)}


def take_turns(workers, runs, warm_up, command="step"):
    """Time the workers in rounds, one run of each per round, so that load on the machine affects all equally.

    Returns:
        {name: seconds of each timed run}.
    """
    seconds = {worker.name: [] for worker in workers}
    for run in range(warm_up + runs):
        for worker in workers:
            taken = float(worker.ask(command))
            if run >= warm_up:
                seconds[worker.name].append(taken)
    return seconds


def limits():
    """Measure (multiply-adds/s of a float32 matrix product, bytes/s of a memory copy) with all cores."""
    matrix = np.random.default_rng(1).random((4096, 4096), np.float32)
    product = 4096 ** 3 / min(_seconds(lambda: matrix @ matrix) for _ in range(4))
    halves = [np.ones(2 ** 26, np.float32) for _ in range(2 * THREADS)]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        copy = min(_seconds(lambda: list(pool.map(np.copyto, halves[::2], halves[1::2]))) for _ in range(4))
    return product, sum(half.nbytes for half in halves) / copy


def _seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def machine():
    """One line of text: date, processor, cores, memory and versions."""
    processor = platform.machine()
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = re.findall(r"model name\s*: (.+)", file.read())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2 ** 30
    return (f"{datetime.date.today()}, {names[0] if names else processor} ({processor}), {THREADS} cores, "
            f"{memory:.0f} GiB; Python {platform.python_version()}, "
            f"MindSpore {importlib.metadata.version('mindspore')}")


def show(name, header, rows, notes=(), keep=False, page=PAGE):
    """Print a Markdown table with a line on the machine and its limits.

    Args:
        name: name of the table; in the page it is between `<!-- NAME -->` and `<!-- /NAME -->`.
        header, rows: cells, text or numbers.
        notes: lines below the table.
        keep: also write the table into the page.
        page: path, docs/performance.md by default.
    """
    product, copy = limits()
    lines = ["| " + " | ".join(map(str, row)) + " |"
             for row in (header, ["---", *["--:"] * (len(header) - 1)], *rows)]
    notes = [*notes, f"{machine()}. Peak: {product / 1e9:.0f} billion multiply-adds/s (4096x4096 float32 product), "
             f"{copy / 1e9:.0f} GB/s (copy, read and written)."]
    text = "\n".join([*lines, "", *(f"{note}  " for note in notes)]).rstrip() + "\n"
    print(text, flush=True)
    if keep:
        old = page.read_text(encoding="utf-8")
        found = re.search(rf"<!-- {name} -->\n.*?<!-- /{name} -->", old, re.DOTALL)
        if not found:
            sys.exit(f"{page} has no place marked <!-- {name} --> ... <!-- /{name} -->")
        page.write_text(old.replace(found.group(), f"<!-- {name} -->\n{text}<!-- /{name} -->"), encoding="utf-8")


def median(seconds):
    """Text: median (minimum-maximum)."""
    return f"{statistics.median(seconds):.3g} ({min(seconds):.3g}-{max(seconds):.3g})"


def parser(description, runs=5):
    """An argument parser with --runs and --keep."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--runs", type=int, default=runs, help="timed runs of each contestant")
    made.add_argument("--keep", action="store_true", help="also write the table into docs/performance.md")
    return made
