"""Samples to the columns of their records, in one process or in several. Importing this file does not import MindSpore.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import threading

import cv2
import numpy as np

from mindfcn.data.class_counts import count_inner, histogram
from mindfcn.data.masks import MaskReader
from mindfcn.data.multilabel import encode_multilabel
from mindfcn.data.samples import check_mask, encode_plane
from mindfcn.errors import UserError
from mindfcn.storage.images import check_complete, decode_image, image_size

# JPEG quality of windows, which are encoded again.
WINDOW_QUALITY = 95
# Samples that a process gets at a time; with fewer than MIN_SHARE for each, one process has read them sooner.
CHUNK, MIN_SHARE = 8, 64


@dataclasses.dataclass(frozen=True)
class Row:
    """One record.

    Attributes:
        columns: {column: value}: the photograph's bytes unchanged, or a window as JPEG; the mask as PNG; the extras.
        planes: [mask, extras ...] as arrays.
        pixels: (256,) int64, number of the mask's pixels of each class, and of each other value.
        inner: number of its pixels of the ignore label away from outlines; 0 where classes overlap.
    """
    columns: dict
    planes: list
    pixels: np.ndarray
    inner: int


def read_rows(samples, labels, page_size, geometric=None, processes=1):
    """Yield the Row of every sample, or the UserError that says what is wrong with it, in order.

    Args:
        samples: list of Sample.
        labels: LabelSet of the masks.
        page_size: bytes; a record must be smaller.
        geometric: LabelSet of the second mask, if the samples have one.
        processes: number of processes that read; 0 is one for each core.

    Raises:
        UserError: a process was ended from outside.
    """
    read = functools.partial(_read, labels=labels, page_size=page_size, geometric=geometric)
    processes = min(processes or os.cpu_count() or 1, len(samples) // MIN_SHARE)
    if processes <= 1:
        yield from map(read, samples)
        return
    with concurrent.futures.ProcessPoolExecutor(
            # Not forked: a copy of a process with MindSpore's threads can hang.
            processes, multiprocessing.get_context("spawn"), _follow_first_process) as pool:
        ahead, rest = collections.deque(), iter(samples)
        try:
            while True:
                # One batch is read while the other is written.
                while len(ahead) < 2 and (batch := list(itertools.islice(rest, 4 * CHUNK * processes))):
                    ahead.append((batch, pool.map(read, batch, chunksize=CHUNK)))
                if not ahead:
                    return
                yield from _in_order(*ahead.popleft())
        finally:
            # After Ctrl-C or a bad pair, nothing more is read than what a process has begun.
            pool.shutdown(cancel_futures=True)


def _in_order(batch, rows):
    """Yield the rows of a batch that other processes read, after the comparisons that need them in order."""
    try:
        for sample, row in zip(batch, rows):
            if isinstance(row, Row) and isinstance(sample.read_label, MaskReader):
                try:
                    sample.read_label.compare(sample.label, row.pixels)
                except UserError as error:
                    row = error
            yield row
    except concurrent.futures.process.BrokenProcessPool:
        raise UserError(f"a process that read {batch[0].image} or one of the next {len(batch) - 1} photographs was "
                        "ended, perhaps because the memory does not suffice; use fewer --processes") from None


def _follow_first_process():
    """In a new process: leave Ctrl-C to the first process, and end when it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _read(sample, labels, page_size, geometric):
    """Row of a sample, or UserError. Raises RuntimeError that names the sample if anything else fails."""
    try:
        columns, planes = read_row(sample, labels, page_size, geometric)
        return Row(columns, planes, histogram(planes[0], labels.ignore_label),
                   count_inner(planes[0], labels.ignore_label))
    except UserError as error:
        return error
    except Exception as error:
        raise RuntimeError(f"{sample.image}, {sample.label}: {type(error).__name__}: {error}") from error


def read_row(sample, labels, page_size, geometric):
    """Make one record: the photograph's bytes unchanged, or a window as JPEG; the checked mask as PNG; the extras.

    Returns (columns, [mask, extras ...] as arrays).
    """
    data = sample.read_image(sample.image)
    check_complete(data, sample.image)
    height, width = image_size(data, sample.image)
    mask = sample.read_label(sample.label)
    if mask.shape[:2] != (height, width):
        raise UserError(f"mask {sample.label} is {mask.shape[1]}x{mask.shape[0]} pixels but its photograph "
                        f"{sample.image} is {width}x{height}; fix one")
    if not labels.multilabel:
        check_mask(mask, labels, sample.label)
    if sample.window:
        image, mask = sample.window(decode_image(data, sample.image), mask)
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, WINDOW_QUALITY])[1].tobytes()
    # OpenCV's default level writes in a third of the time but takes more than twice as long to read in every epoch.
    label = (encode_multilabel(mask) if labels.multilabel else
             cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes())
    planes = {column: _read_extra(column, extra, (height, width), geometric)
              for column, extra in sample.extras.items()}
    extras = {column: encode_plane(column, plane) for column, plane in planes.items()}
    size = len(data) + len(label) + sum(map(len, extras.values()))
    if size > page_size - 4096:
        raise UserError(f"{sample.image} and its mask have {size >> 10} KiB; a record "
                        f"holds at most {page_size - 4096 >> 10}")
    return {"file_name": sample.name, "data": data, "label": label, **extras}, [mask, *planes.values()]


def _read_extra(column, extra, shape, geometric):
    """Read and check a plane."""
    plane = extra.read(extra.path)
    if plane.shape[:2] != shape:
        raise UserError(f"{column} of {extra.path} is {plane.shape[1]}x{plane.shape[0]} pixels but its photograph is "
                        f"{shape[1]}x{shape[0]}; fix one")
    if column == "geometric":
        check_mask(plane, geometric, extra.path)
    return plane
