"""Masks of overlapping classes as ordinary masks, for pictures: a number for each combination of classes."""

import numpy as np

from mindfcn.labels import LabelSet

# Numbers of an ordinary mask: nothing, the combinations, all further ones, and pixels that do not count.
NOTHING, OTHERS, IGNORED = 0, 254, 255
GREY = (128, 128, 128)


def as_drawn(masks, labels):
    """(masks, LabelSet) for pictures: as they are, or of overlapping classes with a number for each combination.

    A combination is named after its classes, such as leaf + rust, in the mean of their colours. The most frequent ones
    have the lowest numbers; beyond 253 they share one. A pixel with a band that does not count is ignored.

    Args:
        masks: list of (H, W) uint8, or of bands (H, W, C) uint8 where classes overlap.
        labels: LabelSet.
    """
    if not labels.multilabel:
        return masks, labels
    codes = [_codes(mask == 1) for mask in masks]
    found, counts = np.unique(np.concatenate([one.ravel() for one in codes]), return_counts=True)
    order = [code for code in found[np.argsort(-counts, kind="stable")].tolist() if code]
    kept = order[:OTHERS - 1]
    members = [[number for number in range(len(labels)) if code >> number & 1] for code in kept]
    names = [" + ".join(labels.names[number] for number in one) for one in members]
    colors = [tuple(np.mean([labels.colors[number] for number in one], 0).astype(int).tolist()) for one in members]
    if len(order) > len(kept):
        names, colors = [*names, "other combinations"], [*colors, GREY]
    # A class may be called none, or like a combination of others.
    names = ["none", *names]
    names = [f"{name} ({place})" if name in names[:place] else name for place, name in enumerate(names)]
    drawn = LabelSet(tuple(names), ((0, 0, 0), *colors), IGNORED)
    return [_numbers(code, kept, mask, labels.ignore_label) for code, mask in zip(codes, masks)], drawn


def _codes(present):
    """(H, W, C) bool, up to 64 classes -> (H, W) uint64 with a bit for each class."""
    packed = np.packbits(present, axis=-1, bitorder="little")
    padded = np.zeros((*packed.shape[:2], 8), np.uint8)
    padded[..., :packed.shape[2]] = packed
    return padded.view("<u8")[..., 0]


def _numbers(codes, kept, mask, ignore_label):
    """(H, W) uint8: the place of each code among those that are kept, counted from 1."""
    order = np.argsort(np.array(kept, np.uint64))
    known = np.array(kept, np.uint64)[order]
    places = np.searchsorted(known, codes).clip(max=max(0, len(known) - 1))
    numbers = np.where(codes == 0, NOTHING, len(kept) + 1).astype(np.uint8)
    if kept:
        same = known[places] == codes
        numbers[same] = (order[places[same]] + 1).astype(np.uint8)
    numbers[(mask == ignore_label).any(-1)] = IGNORED
    return numbers
