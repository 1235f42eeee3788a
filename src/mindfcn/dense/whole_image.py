"""The plain way from a network to a dense prediction: the whole image at once."""

import mindspore as ms
import numpy as np

from mindfcn.data.transforms import to_input


class Segmenter:
    """A network with the preprocessing that belongs to its weights.

    Args:
        net: network from (N, 3, H, W) to logits (N, C, H, W).
        preprocess: the Preprocess record of its weights.
    """

    def __init__(self, net, preprocess):
        self.net = net
        self.preprocess = preprocess

    def __call__(self, image, probabilities=False):
        """Segment one photograph of any size.

        Args:
            image: (H, W, 3) uint8 BGR.
            probabilities: also give the softmax.

        Returns:
            mask (H, W) uint8; probabilities (C, H, W) float32, or None.
        """
        logits = self.logits(to_input(image, self.preprocess)[None])[0]
        return argmax(logits), softmax(logits) if probabilities else None

    def logits(self, batch):
        """(N, 3, H, W) float32, normalised -> logits (N, C, H, W) float32."""
        self.net.set_train(False)
        return self.net(ms.Tensor(batch)).astype(ms.float32).asnumpy()


def argmax(logits):
    """(C, H, W) -> (H, W) uint8: the class of the highest logit, the first of equals."""
    best, classes = logits[0].copy(), np.zeros(logits.shape[1:], np.uint8)
    # One pass a class over whole maps is several times faster than NumPy's argmax across them.
    for number, scores in enumerate(logits[1:], 1):
        higher = scores > best
        classes[higher] = number
        np.maximum(best, scores, out=best)
    return classes


def softmax(logits):
    """(C, H, W) float32 -> probabilities of the classes, (C, H, W) float32."""
    exponentials = np.exp(logits - logits.max(0))
    return exponentials / exponentials.sum(0)
