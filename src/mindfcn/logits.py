"""From logits to classes and probabilities."""

import numpy as np


def argmax(logits, axis=0):
    """The class of the highest logit, the first of equals.

    Args:
        logits: NumPy array with the classes along `axis`: (C, H, W), or (N, C, H, W) with axis 1.

    Returns:
        array without `axis`, uint8 up to 256 classes.
    """
    first, *others = np.moveaxis(logits, axis, 0)
    # Half precision is compared and copied number by number in software.
    dtype = np.result_type(logits, np.float32)
    best, classes = first.astype(dtype), np.zeros(first.shape, np.min_scalar_type(len(others)))
    # NumPy's argmax goes from pixel to pixel; whole maps, class by class, take a fifth of its time.
    for number, scores in enumerate(others, 1):
        scores = scores.astype(dtype, copy=False)
        higher = scores > best
        # Numbers grow, so that the larger one is the later one.
        np.maximum(classes, higher * classes.dtype.type(number), out=classes)
        np.maximum(best, scores, out=best)
    return classes


def softmax(logits):
    """(C, H, W) float32 -> probabilities of the classes, (C, H, W) float32."""
    exponentials = np.exp(logits - logits.max(0))
    return exponentials / exponentials.sum(0)
