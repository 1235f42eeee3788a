"""Shared by the inference workers: input images, and the loop that answers commands."""

import os
import sys
import time

import numpy as np
from serve import held

MEAN, STD = np.float32((103.53, 116.28, 123.675)), np.float32((57.375, 57.120, 58.395))


def images(folder, which, count):
    """Batch (count, 3, H, W) float32 of one normalised photograph, repeated.

    Args:
        folder: folder of NAME.npy files, (H, W, 3) uint8 BGR.
        which: NAME of the photograph, a number or `square`.
        count: batch size.
    """
    image = ((np.load(os.path.join(folder, f"{which}.npy")) - MEAN) / STD).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(np.repeat(image, count, 0))


def serve(folder, logits, version, masks=None, peak=held):
    """Answer commands until the input ends.

    `run PHOTOGRAPH COUNT`: seconds from input array to logits array; `masks PHOTOGRAPH COUNT`: to the array of classes;
    `write PHOTOGRAPH NAME`: write its logits to NAME.npy; `peak`: GB of memory; `version`: name and version of the
    library.

    Args:
        folder: folder of the photographs.
        logits: function from (N, 3, H, W) float32 to (N, C, H, W) float32, NumPy arrays.
        version: name and version of the library.
        masks: function from (N, 3, H, W) float32 to (N, H, W) uint8, NumPy arrays, for the command `masks`.
        peak: function for the command `peak`.
    """
    timed = {"run": logits, "masks": masks}
    for command, *words in map(str.split, sys.stdin):
        answer = "yes"
        if command in timed:
            batch = images(folder, words[0], int(words[1]))
            start = time.perf_counter()
            timed[command](batch)
            answer = time.perf_counter() - start
        elif command == "write":
            np.save(os.path.join(folder, f"{words[1]}.npy"), logits(images(folder, words[0], 1)))
        elif command == "peak":
            answer = peak()
        elif command == "version":
            answer = version
        print(answer, flush=True)
