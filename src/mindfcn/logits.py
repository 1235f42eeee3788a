"""From logits to classes and probabilities."""

import numpy as np


def argmax(logits, axis=0):
    """The class of the highest logit; the first one of equal logits.

    Args:
        logits: NumPy array with the classes along `axis`: (C, H, W), or (N, C, H, W) with axis 1.

    Returns:
        array without `axis`, uint8 up to 256 classes.
    """
    first, *others = np.moveaxis(logits, axis, 0)
    # NumPy computes half precision in software, which is slow.
    dtype = np.result_type(logits, np.float32)
    best, classes = first.astype(dtype), np.zeros(first.shape, np.min_scalar_type(len(others)))
    # NumPy's argmax goes from pixel to pixel; comparing complete maps class by class takes a fifth of the time.
    for number, scores in enumerate(others, 1):
        scores = scores.astype(dtype, copy=False)
        higher = scores > best
        # Class numbers grow, so the maximum is the later class.
        np.maximum(classes, higher * classes.dtype.type(number), out=classes)
        np.maximum(best, scores, out=best)
    return classes


def softmax(logits):
    """(C, H, W) float32 -> probabilities of the classes, (C, H, W) float32."""
    exponentials = np.exp(logits - logits.max(0))
    return exponentials / exponentials.sum(0)
