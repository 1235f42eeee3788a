"""Gain of each remedy for FCN's weaknesses: a table of accuracy, small objects, boundaries, time and memory.

    python experiments/weaknesses.py --checkpoint runs/voc_cpu/checkpoints/best.ckpt [--images 60] [--keep]
        [--crf deeplab_v1 krahenbuhl] [--row "bootstrapped loss" "--checkpoint runs/boot/checkpoints/best.ckpt"] ...

Each row is a `mindfcn eval` in its own process, so that its memory is measured alone. A row is not computed again if
its folder in --out holds the results of the same command. `--row NAME OPTIONS` adds a row of any options of eval.
Published gains are shown for comparison; they are from other networks, data and machines. Takes about a minute per row
for 60 photographs of VOC on two cores, six times that with three scales and mirroring.
"""

import argparse
import json
import os
import pathlib
import shlex
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks" / "speed"))

from rivals import ROOT, show

PAGE = ROOT / "docs" / "refinement.md"
# Pixels on either side of a boundary that the table shows; the evaluation has 1 to 10.
BAND = 3
HEADER = ("network", "mIoU %", "gain", "small %", "medium %", "large %", f"boundary, {BAND} px %", "s/image",
          "memory, GB", "published gain in mIoU")
# Chosen by the first word found in the row's name. DeepLab: Chen et al. 2015 and 2018, VOC 2012 val. CRF-RNN: Zheng et
# al. 2015, reduced val. DeconvNet: Noh et al. 2015, VOC 2012 test, over the FCN-8s of its table.
GAIN_OF_CRF = "CRF-RNN's FCN-8s +2.4 (61.3 to 63.7); DeepLab v1 +3.9 (59.8 to 63.7)"
GAINS = (
    ("ensemble, CRF", "DeconvNet paper +10.3 (62.2 to 72.5)"),
    ("ensemble", "DeconvNet paper +9.5 (62.2 to 71.7)"),
    ("DeconvNet, CRF", "DeconvNet paper +8.3 (62.2 to 70.5)"),
    ("DeconvNet", "DeconvNet paper +7.4 (62.2 to 69.6)"),
    ("bootstrap", "online bootstrapping +1.4 (73.4 to 74.8)"),
    ("scales, mirrored, CRF", "DeepLab v1, scales within the network and CRF +5.4 (59.8 to 65.2)"),
    ("CRF", GAIN_OF_CRF),
    ("scales", "FCN-R50-D8 in mmsegmentation, Cityscapes +1.1 (72.3 to 73.4)"),
)


def rows_of(options):
    """[(name, options of eval)] of the table."""
    base = ["--checkpoint", options.checkpoint]
    scales = ["--scales", *map(str, options.scales)]
    rows = [("FCN", base), ("mirrored", [*base, "--flip"])]
    if options.scales:
        rows.append(("scales, mirrored", [*base, *scales, "--flip"]))
    rows += [(f"CRF {os.path.basename(name)}", [*base, "--crf", name]) for name in options.crf]
    if options.crf and options.scales:
        rows.append((f"scales, mirrored, CRF {os.path.basename(options.crf[0])}",
                     [*base, *scales, "--flip", "--crf", options.crf[0]]))
    rows += [(name, shlex.split(words)) for name, words in options.row or ()]
    return rows


def measured(name, arguments, options):
    """metrics.json of a row, with its peak memory in bytes; computed if missing."""
    out = pathlib.Path(options.out) / "".join(letter if letter.isalnum() else "_" for letter in name)
    command = [sys.executable, "-m", "mindfcn", "eval", *arguments, "--limit", str(options.images), "--out", str(out)]
    if options.records:
        command += ["--records", options.records]
    figures, noted = out / "metrics.json", out / "command.json"
    known = json.loads(noted.read_text()) if noted.exists() and figures.exists() else {}
    if known.get("command") != command:
        print(f"{name}: {shlex.join(command[1:])}", file=sys.stderr, flush=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"{name}: eval failed; see its error message above")
        known = {"command": command, "memory": usage.ru_maxrss * 1024}
        noted.write_text(json.dumps(known, indent=1))
    return {**json.loads(figures.read_text()), "memory": known["memory"]}


def line(name, found, base):
    """Cells of a row."""
    def percent(value):
        return "-" if value is None else f"{100 * value:.1f}"

    score = found["metrics"]["mean IoU"]
    gain = "" if found is base else f"{100 * (score - base['metrics']['mean IoU']):+.1f}"
    # CRF parameter sets are named after networks, so test for them first.
    published = GAIN_OF_CRF if name.startswith("CRF ") else next(
        (text for word, text in GAINS if word.lower() in name.lower()), "")
    return (name, percent(score), gain, *(percent(row["mean IoU"]) for row in found["object sizes"].values()),
            percent(found["boundary mean IoU"][str(BAND)]), f"{found['seconds per image']:.2f}",
            f"{found['memory'] / 1e9:.1f}", published)


def main():
    """Evaluate every row and print the table."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--checkpoint", required=True, help="the plain network, the first row")
    made.add_argument("--records", default="", help="MindRecord file; the checkpoint's validation records if empty")
    made.add_argument("--images", type=int, default=0, help="number of records, evenly spread; 0 takes all")
    made.add_argument("--scales", type=float, nargs="*", default=[0.75, 1.0, 1.25], help="empty leaves these rows out")
    made.add_argument("--crf", nargs="*", default=["deeplab_v1", "krahenbuhl", "deconvnet"],
                      help="published sets or files; the first is also combined with the scales")
    made.add_argument("--row", nargs=2, action="append", metavar=("NAME", "OPTIONS"), help="one more row")
    made.add_argument("--out", default="runs/weaknesses", help="folder of the evaluations")
    made.add_argument("--keep", action="store_true", help="also write the table into docs/refinement.md")
    options = made.parse_args()
    found = {name: measured(name, arguments, options) for name, arguments in rows_of(options)}
    base = next(iter(found.values()))
    sizes = ", ".join(f"{row['objects']} {size}" for size, row in base["object sizes"].items())
    show("weaknesses", HEADER, [line(name, each, base) for name, each in found.items()],
         [f"{base['images']} photographs; objects in them: {sizes}. Small, medium and large: mean IoU of objects below "
          f"32², up to 96², and above that many pixels. Boundary: mean IoU within {BAND} pixels of a true boundary.",
          "Time: the median from a photograph in memory to its mask; memory: the peak of the process."],
         options.keep, PAGE)


if __name__ == "__main__":
    main()
