"""Everything that is measured on a GPU: tables in Markdown, and one JSON file with every figure.

    python benchmarks/gpu/run.py [PART ...] [--device GPU] [--out gpu.json] [--models NAME ...]
                                 [--sizes SIZExBATCH ...] [--precisions NAME ...] [--rivals NAME ...] [--runs 20]

Parts: step, inference, blocking, race, networks, kernels, watch; all of them without a name. The file is written after
each record, whole, and keeps what a part had measured before it failed. PyTorch runs beside MindFCN in an environment
of its own, as in benchmarks/speed; `--rivals` without a name leaves it out. `--device CPU` with small sizes tries the
program itself.
"""

import argparse
import datetime
import importlib
import json
import pathlib
import platform
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "speed")]

from contestants import PRECISIONS, RIVALS  # noqa: E402
from modes import MODES  # noqa: E402
from race import CASES  # noqa: E402
from records import FAILED, table, write  # noqa: E402
from rivals import environment, machine  # noqa: E402

PARTS = ("step", "inference", "blocking", "race", "networks", "kernels", "watch")


def main():
    """Measure the parts, print their tables and write the file; exit code 1 if anything failed."""
    options = settings()
    report = {"machine": described(options.device), "settings": vars(options), "parts": {}}
    for name in options.parts or PARTS:
        part, found = importlib.import_module(name), report["parts"].setdefault(name, {})
        for _ in measured(part, options, found):
            write(options.out, report)
        lines = table(part.columns(options), found["records"])
        print(f"## {name}\n\n{found['about']}\n", *lines, "", sep="\n", flush=True)
    print(f"{report['machine']['line']}  \nfigures: {options.out}")
    sys.exit(int(any(part[FAILED] for part in report["parts"].values())))


def settings():
    """The settings of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=", ".join(PARTS))
    made.add_argument("--device", default="GPU", choices=("GPU", "CPU"))
    made.add_argument("--out", default="gpu.json", help="the JSON file")
    made.add_argument("--models", nargs="+", default=["fcn8s_vgg16_bn", "fcn8s_vgg16"], help="FCN-8s on VGG16")
    made.add_argument("--sizes", nargs="+", default=["512x4", "512x16"], metavar="SIZExBATCH",
                      help="side of the images in pixels, and batch size")
    made.add_argument("--precisions", nargs="+", choices=PRECISIONS, help="all; float32 alone on CPU")
    made.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=[*RIVALS, []], help="variants of PyTorch")
    made.add_argument("--width", type=float, default=1.0, help="share of the channels, to try the program")
    made.add_argument("--runs", type=int, default=20, help="timed runs of each contestant")
    made.add_argument("--warm_up", type=int, default=5, help="runs before them that are not timed")
    made.add_argument("--modes", nargs="+", choices=MODES, help="blocking: all")
    made.add_argument("--cases", nargs="+", choices=CASES, help="race: all")
    made.add_argument("--steps", type=int, default=300, help="race: steps of each process")
    made.add_argument("--processes", type=int, default=9, help="race: processes at once")
    made.add_argument("--side", type=int, default=224, help="race: side of the crops, pixels")
    made.add_argument("--networks", nargs="+", default=[], metavar="NAME", help="networks: all")
    options = made.parse_args()
    options.precisions = options.precisions or (["float32"] if options.device == "CPU" else list(PRECISIONS))
    return options


def described(device):
    """{line, card, versions ...} of the machine. Exits with one line if MindSpore cannot use the device."""
    found = subprocess.run([sys.executable, HERE / "worker_machine.py", device], capture_output=True, text=True,
                           check=False, env=environment())
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        sys.exit(f"nothing was measured: {reason}")
    versions = json.loads(found.stdout.splitlines()[-1])
    card = card_of() if device == "GPU" else "none: computed on CPU"
    return {"line": f"{machine()}; card: {card}", "date": datetime.datetime.now().isoformat(timespec="seconds"),
            "device": device, "card": card, "system": platform.platform(), "versions": versions}


def card_of():
    """Name, driver and memory of the cards, from nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return "unknown, without nvidia-smi"
    words = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return "; ".join(subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip().splitlines())


def measured(part, options, found):
    """Fill `found` with {about, records, failed, seconds} of a part, and yield after each record and at the end.

    `failed` is the first reason or None.
    """
    found.update({"about": part.__doc__.strip(), "records": [], FAILED: None, "seconds": 0})
    started = time.perf_counter()
    try:
        for record in part.measure(options):
            found["records"].append(record)
            found[FAILED] = found[FAILED] or record.get(FAILED)
            found["seconds"] = round(time.perf_counter() - started)
            yield
    except (Exception, SystemExit) as error:
        found[FAILED] = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{part.__name__}: {found[FAILED]}", file=sys.stderr, flush=True)
    yield


if __name__ == "__main__":
    main()
