"""The loop that answers commands, for both precision workers."""

import sys
import time

import numpy as np
from serve import held


def answer(train, infer, path):
    """Answer `train` and `infer` with seconds, `peak` with GB; `check` writes the logits or answers with the error."""
    for command in map(str.strip, sys.stdin):
        start = time.perf_counter()
        if command == "check":
            try:
                np.save(path, infer())
                train()
                print("yes", flush=True)
            except TypeError as error:
                print("no:", " ".join(line for line in str(error).split("\n") if "operator" in line), flush=True)
        elif command == "peak":
            print(held(), flush=True)
        elif command in ("train", "infer"):
            {"train": train, "infer": infer}[command]()
            print(time.perf_counter() - start, flush=True)
        else:
            print("yes", flush=True)
