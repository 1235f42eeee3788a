"""Training windows around single objects, and around proposals: DeconvNet's two stages (Noh et al. 2015, section 5).

Stage 1 ("boxes") is the easier one: each object is centred in its own window and everything else is background.
Stage 2 ("proposals") matches inference: windows of proposals that overlap an object well, with all their labels.
"""

import collections
import dataclasses
import os

import cv2
import numpy as np

from mindfcn.data.regions.proposals import MAX_CANDIDATES, enlarge, overlap, propose
from mindfcn.data.samples import in_threads
from mindfcn.errors import UserError
from mindfcn.storage.files import read_bytes
from mindfcn.storage.images import decode_image, read_palette_mask

KINDS = ("boxes", "proposals")
# Ratio of a window's sides to its box's, and the minimum overlap (IoU) of a proposal with an object's box.
CONTEXT, MIN_OVERLAP = 1.2, 0.5
# Smaller objects, in pixels per side, are unrecognisable.
MIN_SIDE = 8
# Upper bound on the copies of a window of a rare class.
MAX_COPIES = 10


@dataclasses.dataclass(frozen=True)
class Object:
    """One object of a mask.

    Attributes:
        label: class number.
        box: (left, top, right, bottom) pixels, right and bottom excluded.
        pixels: (H, W) bool, its mask.
    """
    label: int
    box: tuple
    pixels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Window:
    """Part of a photograph and its mask that becomes a record.

    Attributes:
        box: (left, top, right, bottom) pixels, right and bottom excluded.
        size: side of the square that the window is warped to, pixels.
        instance: number of the only object that keeps its label; None keeps all labels.
        ignore_label: the mask's ignore label.
        instances: path of VOC's mask of objects; empty if the connected components of a class are its objects.
    """
    box: tuple
    size: int
    instance: object
    ignore_label: int
    instances: str = ""

    def __call__(self, image, mask):
        """(H, W, 3) uint8 BGR and (H, W) uint8 -> both as (size, size): bilinear and nearest neighbour."""
        if self.instance is not None:
            kept = find_objects(mask, self.ignore_label, self.instances)[self.instance].pixels
            mask = np.where(kept | (mask == self.ignore_label), mask, 0).astype(np.uint8)
        left, top, right, bottom = self.box
        return (cv2.resize(image[top:bottom, left:right], (self.size, self.size), interpolation=cv2.INTER_LINEAR),
                cv2.resize(mask[top:bottom, left:right], (self.size, self.size), interpolation=cv2.INTER_NEAREST))


def find_objects(mask: np.ndarray, ignore_label: int, instances: str = "") -> list[Object]:
    """The objects of a mask, (H, W) uint8: background (class 0) and ignored pixels are no objects.

    Args:
        instances: file in the format of VOC's SegmentationObject, with one number per object; without one, the
            connected components of every class are its objects.

    Returns:
        list of Object; those with a side below MIN_SIDE are left out.

    Raises:
        UserError: the file cannot be read or has another size than the mask.
    """
    if instances:
        numbers = read_palette_mask(instances)
        if numbers.shape != mask.shape:
            raise UserError(f"{instances} is {numbers.shape[::-1]} pixels, its mask of classes {mask.shape[::-1]}; "
                            "fix one, or move SegmentationObject away")
        parts = [numbers == number for number in np.unique(numbers) if number not in (0, ignore_label)]
    else:
        parts = []
        for label in np.unique(mask):
            if label not in (0, ignore_label):
                count, connected = cv2.connectedComponents((mask == label).astype(np.uint8), connectivity=8)
                parts += [connected == number for number in range(1, count)]
    return [Object(label, box, pixels) for label, box, pixels in (_object(mask, part, ignore_label) for part in parts)
            if label and min(box[2] - box[0], box[3] - box[1]) >= MIN_SIDE]


def window_samples(samples, kind, labels, size=250, per_image=0, duplicate_rare=True, progress=None):
    """Turn samples of whole photographs into samples of the windows in them, in their order.

    Args:
        samples: list of Sample.
        kind: one of KINDS.
        labels: LabelSet of the masks.
        size: side that the windows are warped to, pixels.
        per_image: upper bound on windows per photograph: the best proposals or the largest objects; 0 takes all.
        duplicate_rare: repeat windows of classes rarer than the median class, up to the median's number and at most
            MAX_COPIES times. (The paper repeats rare classes but does not state how often.)
        progress: wraps an iterable of samples.

    Returns:
        list of Sample, whose `window` cuts their part out of the photograph.

    Raises:
        UserError: a photograph or mask cannot be read; no windows are found; OpenCV is installed without proposals.
    """
    def of_sample(sample):
        return [dataclasses.replace(sample, name=f"{sample.name}_{number}", window=window, label_of_window=label)
                for number, (label, window) in enumerate(_windows(sample, kind, labels.ignore_label, size, per_image))]

    found = [window for windows in in_threads(of_sample, progress(samples) if progress else samples)
             for window in windows]
    if not found:
        raise UserError(f"no {kind} in {len(samples)} photographs: their masks have no objects of {MIN_SIDE} pixels")
    return _with_copies(found) if duplicate_rare else found


def instances_path(sample):
    """Path of VOC's mask of objects for a sample's mask of classes, or "" if there is none."""
    folder, name = os.path.split(sample.label)
    path = os.path.join(os.path.dirname(folder), "SegmentationObject", name)
    return path if os.path.basename(folder) == "SegmentationClass" and os.path.isfile(path) else ""


def _windows(sample, kind, ignore_label, size, per_image):
    """[(class, Window)] of one sample."""
    mask = sample.read_label(sample.label)
    height, width = mask.shape
    path = instances_path(sample)
    objects = find_objects(mask, ignore_label, path)
    if kind == "boxes":
        order = sorted(range(len(objects)), key=lambda number: -int(objects[number].pixels.sum()))
        return [(objects[number].label, Window(enlarge(objects[number].box, CONTEXT, height, width), size, number,
                                               ignore_label, path))
                for number in order[:per_image or None]]
    image = decode_image(read_bytes(sample.image), sample.image)
    boxes = propose(image, max_proposals=MAX_CANDIDATES, min_side=MIN_SIDE)
    if not objects or not len(boxes):
        return []
    overlaps = overlap(boxes, [one.box for one in objects])
    good = np.flatnonzero(overlaps.max(1) >= MIN_OVERLAP)[:per_image or None]
    return [(objects[overlaps[number].argmax()].label, Window(enlarge(boxes[number], CONTEXT, height, width), size,
                                                              None, ignore_label)) for number in good]


def _object(mask, part, ignore_label):
    """(class, box, pixels) of a part of a mask; class 0 if it has no pixels of a class."""
    part = part & (mask != ignore_label) & (mask != 0)
    if not part.any():
        return 0, (0, 0, 0, 0), part
    label = int(np.bincount(mask[part]).argmax())
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    return label, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1), part


def _with_copies(samples):
    """Repeat each sample so that its class reaches the number of windows of the median class."""
    counts = collections.Counter(sample.label_of_window for sample in samples)
    median = np.median(list(counts.values()))
    found = []
    for sample in samples:
        copies = min(MAX_COPIES, max(1, round(median / counts[sample.label_of_window])))
        found += [sample, *(dataclasses.replace(sample, name=f"{sample.name}_copy{number}")
                            for number in range(1, copies))]
    return found
