"""Segmenter: dense prediction with a MindSpore network, on the whole image at once."""

import collections
import threading
from typing import Any, Optional

import cv2
import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindfcn import runtime
from mindfcn.combinations import DECONVNET, SQUEEZE, WINDOW, reason
from mindfcn.data.transforms import to_input
from mindfcn.inference.predictor import Predictor
from mindfcn.mindspore_versions import drop_graphs
from mindfcn.models.deconvnet import DeconvNet
from mindfcn.models.dilated_fcn import DilatedFCN
from mindfcn.models.fcn import FCN
from mindfcn.models.surgery.fold_batch_norm import Folded
from mindfcn.preprocess import Preprocess

# Convolutions with more weights are not folded: their maps are small, so normalisation costs less than the copy.
FOLDED = 2 ** 22
# Largest number of compiled graphs; each takes about a second and, with VGG16, 80 MB.
GRAPHS = 8
# Devices on which NumPy decides the classes. A CPU's logits are in memory already, and MindSpore's Argmax takes five
# times as long there: 24 and 5 ms for 21 classes at 512x512. From other devices only the mask is copied.
NUMPY_DECIDES = ("CPU",)
# MindSpore's mode, compiler and kernels are those of the process, so only one thread at a time may compute.
_COMPUTING = threading.RLock()


class Segmenter(Predictor):
    """A network with the preprocessing that belongs to its weights.

    For DeconvNet, the photograph is resized to the network's square input, and the logits are resized back.

    The networks of this package run with batch normalisation folded into the convolutions, and on CPU as compiled
    graphs, one for each padded size, so that images of similar size share a graph. GRAPHS of them are kept. After that,
    a new size is computed operator by operator, keeping kernels of the last size only, until it has come more often
    than the size of a graph: it takes the place of the least used one, of equals the least recently used. Other
    networks run unchanged.

    It may be called from several threads; they compute one after another.

    Args:
        net: network from (N, C, H, W) to logits (N, C, H, W). It may train between two calls; after any other
            change of its weights, call `refresh`.
        preprocess: the Preprocess record of its weights.
        multilabel: whether its classes overlap.
    """

    def __init__(self, net: nn.Cell, preprocess: Preprocess, multilabel: bool = False) -> None:
        self.net = net
        self.preprocess, self.multilabel = preprocess, multilabel
        # Networks of other packages have one head.
        self.classes = None if getattr(net, "geometric", None) is None else net.n_class
        self.reach, self.stride = getattr(net, "reach", None), getattr(net, "stride", 32)
        self.window_problem = window_problem(net)
        self.folded: Optional[Folded] = None
        # {shape: keys of its graph in the network's compile cache}, the least recently used first; uses of each shape.
        self.graphs: collections.OrderedDict[tuple[int, ...], set] = collections.OrderedDict()
        self.uses: collections.Counter[tuple[int, ...]] = collections.Counter()
        self.sizes = runtime.OneSize()

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32, normalised -> logits (N, classes of all heads, H, W) float32."""
        side = getattr(self.net, "side", None)
        with _COMPUTING:
            if side is None or batch.shape[2:] == (side, side):
                return self._logits(batch)
            return resized(self._logits(resized(batch, side, side)), *batch.shape[2:])

    def image_mask(self, image: Any, head: int = 0) -> np.ndarray:
        """See Predictor. DeconvNet's logits are resized by NumPy, which decides then, too."""
        if ms.get_context("device_target") in NUMPY_DECIDES or getattr(self.net, "side", None):
            return super().image_mask(image, head)
        return self.masks(to_input(image, self.preprocess)[None], head)[0]

    def masks(self, batch: np.ndarray, head: int = 0) -> np.ndarray:
        """Decide classes on the device, and copy only them to the host; equal to `mask_of` of the logits.

        Args:
            batch: (N, C, H, W) float32, normalised, of the size that the network takes.
            head: 0, or 1 for the second head.

        Returns:
            classes (N, H, W) uint8, or bands (N, H, W, C) uint8.
        """
        height, width = batch.shape[2:]
        with _COMPUTING:
            logits = self._on_device(batch)
            if self.classes is not None:
                logits = logits[:, self.classes:] if head else logits[:, :self.classes]
            masks = decided(logits, self.multilabel and not head).asnumpy()
        return np.ascontiguousarray(masks[:, :height, :width])

    def _logits(self, batch):
        """Logits at the images' own size."""
        height, width = batch.shape[2:]
        return self._on_device(batch).asnumpy()[:, :, :height, :width]

    def _on_device(self, batch):
        """Logits as a Tensor (N, classes of all heads, H, W) float32; H and W may be padded."""
        if not isinstance(self.net, (FCN, DilatedFCN, DeconvNet)):
            self.net.set_train(False)
            self.sizes.before(batch.shape)
            return self.net(ms.Tensor(batch)).astype(ms.float32)
        # Training mode means that the weights may have changed.
        if self.net.training or self.folded is None:
            self.refresh()
        assert self.folded is not None
        batch = pad_to_multiple(batch, self.net.backbone.multiple)
        mode = ms.get_context("mode")
        ms.set_context(mode=self._mode(batch.shape))
        try:
            self.sizes.before(batch.shape)
            before = set(self.folded.net.compile_cache)
            logits = self.folded.net(ms.Tensor(batch)).astype(ms.float32)
            if batch.shape in self.graphs:
                self.graphs[batch.shape] |= self.folded.net.compile_cache - before
        finally:
            ms.set_context(mode=mode)
        return logits

    def refresh(self) -> None:
        """Copy the network's current weights."""
        self.net.set_train(False)
        if self.folded is None:
            self.folded = Folded(self.net, FOLDED)
        else:
            self.folded.refresh()

    def _mode(self, shape):
        """Graph mode on CPU for shapes that have a graph or get one; PyNative mode otherwise."""
        if ms.get_context("device_target") != "CPU" or not runtime.compiles():
            return ms.PYNATIVE_MODE
        self.uses[shape] += 1
        if shape not in self.graphs and len(self.graphs) >= GRAPHS:
            rarest = min(self.graphs, key=self.uses.__getitem__)
            if self.uses[shape] <= self.uses[rarest]:
                return ms.PYNATIVE_MODE
            drop_graphs(self.folded.net, self.graphs.pop(rarest))
        self.graphs.setdefault(shape, set())
        self.graphs.move_to_end(shape)
        return ms.GRAPH_MODE


def window_problem(net):
    """Why windows of a photograph give another result than the whole, or ""."""
    if isinstance(net, DeconvNet):
        return reason(DECONVNET, WINDOW)
    if any("SqueezeExcite" in type(cell).__name__ for _, cell in net.cells_and_names()):
        return reason(SQUEEZE, WINDOW)
    return ""


def decided(logits, multilabel):
    """`mindfcn.logits.mask_of` on the device: (N, C, H, W) -> classes (N, H, W), or bands (N, H, W, C), uint8."""
    # Classes come last because MindSpore's Argmax starts one thread on a GPU for each entry of the axes before them.
    last = logits.transpose(0, 2, 3, 1)
    if multilabel:
        return (last > 0).astype(ms.uint8)
    return ops.Argmax(-1)(last).astype(getattr(ms, np.min_scalar_type(last.shape[3] - 1).name))


def resized(maps, height, width):
    """(N, C, h, w) float32 -> (N, C, height, width) float32, bilinear."""
    planes = [cv2.resize(np.ascontiguousarray(one.transpose(1, 2, 0)), (width, height), interpolation=cv2.INTER_LINEAR)
              for one in maps]
    # OpenCV drops the axis of a single channel.
    return np.stack([plane.reshape(height, width, -1).transpose(2, 0, 1) for plane in planes])


def pad_to_multiple(batch, multiple):
    """Pad (N, C, H, W) with zeros, the mean colour, below and at the right, up to the next multiples, like the FCNs."""
    below, right = (-side % multiple for side in batch.shape[2:])
    return np.pad(batch, ((0, 0), (0, 0), (0, below), (0, right))) if below or right else batch
