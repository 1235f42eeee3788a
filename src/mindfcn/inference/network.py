"""The plain way from a network to a dense prediction: the whole image at once."""

from typing import Optional

import cv2
import mindspore as ms
import numpy as np
from mindspore import nn

from mindfcn.inference.predictor import Predictor
from mindfcn.models.deconvnet import DeconvNet
from mindfcn.models.fcn import FCN
from mindfcn.models.surgery.fold_batch_norm import Folded
from mindfcn.preprocess import Preprocess

# Convolutions of more weights keep their normalisation: on maps as small as theirs it costs less than the copy.
FOLDED = 2 ** 22
# Sizes that get a compiled graph of their own, which takes about a second and, with VGG16, 80 MB.
GRAPHS = 16


class Segmenter(Predictor):
    """A network with the preprocessing that belongs to its weights.

    DeconvNet sees the whole photograph warped to the square that it takes, and its logits are warped back.

    The networks of this package compute with normalisation folded into the convolutions, and on CPU as compiled graphs:
    one for each padded size, so that images of a few pixels more or less share it. Any other network runs as it is.

    Args:
        net: network from (N, C, H, W) to logits (N, C, H, W). It may train between two calls; where its weights change
            otherwise, call `refresh`.
        preprocess: the Preprocess record of its weights.
    """

    def __init__(self, net: nn.Cell, preprocess: Preprocess) -> None:
        self.net = net
        self.preprocess = preprocess
        # A network of another package has one head.
        self.classes = None if getattr(net, "geometric", None) is None else net.n_class
        self.folded: Optional[Folded] = None
        self.sizes: set[tuple[int, ...]] = set()

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32, normalised -> logits (N, classes of all heads, H, W) float32."""
        side = getattr(self.net, "side", None)
        if side is None or batch.shape[2:] == (side, side):
            return self._logits(batch)
        return resized(self._logits(resized(batch, side, side)), *batch.shape[2:])

    def _logits(self, batch):
        """Logits of images of the size that they have."""
        if not isinstance(self.net, (FCN, DeconvNet)):
            self.net.set_train(False)
            return self.net(ms.Tensor(batch)).astype(ms.float32).asnumpy()
        # Only training changes weights; `set_train` says that it may have gone on.
        if self.net.training or self.folded is None:
            self.refresh()
        assert self.folded is not None
        height, width = batch.shape[2:]
        batch = pad_to_multiple(batch, self.net.backbone.multiple)
        mode = ms.get_context("mode")
        ms.set_context(mode=self._mode(batch.shape))
        try:
            logits = self.folded.net(ms.Tensor(batch)).astype(ms.float32).asnumpy()
        finally:
            ms.set_context(mode=mode)
        return logits[:, :, :height, :width]

    def refresh(self) -> None:
        """Take over the network's weights as they are now."""
        self.net.set_train(False)
        if self.folded is None:
            self.folded = Folded(self.net, FOLDED)
        else:
            self.folded.refresh()

    def _mode(self, shape):
        """Compiled graphs on CPU, for the first GRAPHS shapes; operator by operator beyond, and elsewhere."""
        if ms.get_context("device_target") != "CPU" or len(self.sizes) >= GRAPHS and shape not in self.sizes:
            return ms.PYNATIVE_MODE
        self.sizes.add(shape)
        return ms.GRAPH_MODE


def resized(maps, height, width):
    """(N, C, h, w) float32 -> (N, C, height, width), bilinearly."""
    planes = [cv2.resize(np.ascontiguousarray(one.transpose(1, 2, 0)), (width, height), interpolation=cv2.INTER_LINEAR)
              for one in maps]
    # OpenCV drops the axis of a single channel.
    return np.stack([plane.reshape(height, width, -1).transpose(2, 0, 1) for plane in planes])


def pad_to_multiple(batch, multiple):
    """Zeros (the mean colour) below and at the right of (N, C, H, W), up to the next multiples, as the FCNs pad."""
    below, right = (-side % multiple for side in batch.shape[2:])
    return np.pad(batch, ((0, 0), (0, 0), (0, below), (0, right))) if below or right else batch
