"""Run the benchmarks of docs/performance.md and write their tables into it.

    python benchmarks/performance.py [NAME ...]

Without names, runs all of them: about two hours on two cores, during which nothing else should run.
"""

import argparse
import pathlib
import subprocess
import sys

NAMES = ("train_step", "inference", "evaluation", "data", "start", "precision", "processes", "growth", "watch",
         "sizes", "accuracy")
ROOT = pathlib.Path(__file__).resolve().parents[1]


def path_of(name):
    """Program of a benchmark; `accuracy` is an experiment."""
    return ROOT / ("experiments" if name == "accuracy" else "benchmarks/speed") / name / "run.py"


def main():
    """Run the benchmarks in turn; after a failure the others still run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=", ".join(NAMES))
    names = parser.parse_args().names or NAMES
    failed = [name for name in names if subprocess.run([sys.executable, path_of(name), "--keep"]).returncode]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
