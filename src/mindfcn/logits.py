"""From logits to classes and probabilities, of one class a pixel or of overlapping classes."""

import numpy as np


def argmax(logits, axis=0):
    """The class of the highest logit; the first one of equal logits.

    A class wins by a logit above those of all classes before it. No logit is above NaN, and NaN is above none.

    Args:
        logits: NumPy array with the classes along `axis`: (C, H, W), or (N, C, H, W) with axis 1.

    Returns:
        array without `axis`, uint8 up to 256 classes.
    """
    first, *others = np.moveaxis(logits, axis, 0)
    # NumPy computes half precision in software, which is slow.
    dtype = np.result_type(logits, np.float32)
    best, classes = first.astype(dtype), np.zeros(first.shape, np.min_scalar_type(len(others)))
    # fmax, below, would let every later class win over NaN.
    best[np.isnan(best)] = np.inf
    # NumPy's argmax goes from pixel to pixel; comparing complete maps class by class takes a fifth of the time.
    for number, scores in enumerate(others, 1):
        scores = scores.astype(dtype, copy=False)
        higher = scores > best
        # Class numbers grow, so the maximum is the later class.
        np.maximum(classes, higher * classes.dtype.type(number), out=classes)
        np.fmax(best, scores, out=best)
    return classes


def softmax(logits):
    """(C, H, W) float32 -> probabilities of the classes, (C, H, W) float32."""
    exponentials = np.exp(logits - logits.max(0))
    return exponentials / exponentials.sum(0)


def sigmoid(logits):
    """(C, H, W) float32 -> probability of each class for itself, (C, H, W) float32."""
    # The hyperbolic tangent does not overflow.
    return (0.5 * np.tanh(0.5 * logits) + 0.5).astype(np.float32)


def probabilities_of(logits, multilabel=False):
    """(C, H, W) float32 -> probabilities, (C, H, W) float32: the softmax, or of overlapping classes the sigmoid."""
    return sigmoid(logits) if multilabel else softmax(logits)


def mask_of(scores, multilabel=False, threshold=0.0):
    """(C, H, W) scores -> mask: classes (H, W) uint8, or bands (H, W, C) uint8 of 1 where a score is above `threshold`.

    A threshold of 0 for logits is one of 0.5 for probabilities.
    """
    if not multilabel:
        return argmax(scores)
    return np.ascontiguousarray((scores > threshold).transpose(1, 2, 0)).view(np.uint8)
