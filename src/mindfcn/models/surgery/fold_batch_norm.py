"""Batch normalisation folded into the convolution before it, for inference (Ioffe and Szegedy 2015, algorithm 2).

Without batch statistics, gamma (w * x - mean) / sqrt(variance + eps) + beta is one convolution: its kernels scaled, its
bias moved.
"""

import copy
import math

import mindspore as ms
import numpy as np
from mindspore import nn

from mindfcn.errors import UserError
from mindfcn.mindspore_versions import forward_hooks

# Side in pixels of the image that is run to find which layers follow one another.
SIDE = 64


class Folded:
    """A network for inference, without the normalisation that follows a convolution.

    Args:
        net: network of (N, 3, H, W). It stays as it is.
        largest: convolutions of more weights keep their normalisation: where maps are small compared with the weights,
            the copy costs more in memory than it saves in time.

    Attributes:
        net: the network in evaluation mode; it shares all parameters but those of the folded convolutions. Where
            nothing is to be folded, it shares all of them.

    Raises:
        UserError: the network uses the result of a convolution besides normalising it, or its logits are not finite.
    """

    def __init__(self, net, largest=math.inf):
        # A deep copy shares the entries of its memo: the parameters, and an empty record of compiled graphs.
        memory = {id(parameter): parameter for parameter in net.get_parameters()}
        self.net = copy.deepcopy(net, {**memory, id(net.compile_cache): set()})
        self.net.set_train(False)
        originals = {id(mine): cell for (_, mine), (_, cell) in zip(self.net.cells_and_names(), net.cells_and_names())}
        found, before = normalised(self.net)
        found = [(conv, norm) for conv, norm in found if conv.weight.size <= largest]
        self.pairs = [(originals[id(conv)], originals[id(norm)], conv) for conv, norm in found]
        for conv, norm in found:
            weight, bias = folded(conv, norm)
            conv.has_bias = True
            conv.weight = ms.Parameter(weight, name=conv.weight.name, requires_grad=False)
            conv.bias = ms.Parameter(bias, name=conv.weight.name.replace("weight", "bias"), requires_grad=False)
            _remove(self.net, norm)
        if not self.pairs:
            return
        after = _logits(self.net)
        rounding = 1e-3 if before.dtype == ms.float32 else 5e-2
        before, after = (logits.astype(ms.float32).asnumpy() for logits in (before, after))
        if not np.isfinite(before).all():
            raise UserError("the network's logits are not finite: its weights are damaged, or its training diverged")
        if not np.allclose(before, after, rtol=0, atol=rounding * np.abs(before).max()):
            raise UserError("this network uses a convolution's result besides normalising it, so its normalisation "
                            "cannot be folded; use the network as it is")

    def refresh(self):
        """Fold the parameters of the network again, after they have changed."""
        for conv, norm, target in self.pairs:
            weight, bias = folded(conv, norm)
            target.weight.set_data(weight)
            target.bias.set_data(bias)


def folded(conv, norm):
    """(weight (O, I, h, w), bias (O,)) float32 of the convolution that equals `conv` followed by `norm`."""
    gamma, beta, mean, variance = (parameter.asnumpy().astype(np.float64) for parameter in
                                   (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance))
    scale = gamma / np.sqrt(variance + norm.eps)
    weight = conv.weight.asnumpy() * scale.astype(np.float32)[:, None, None, None]
    bias = beta + (conv.bias.asnumpy() - mean if conv.has_bias else -mean) * scale
    return ms.Tensor(weight), ms.Tensor(bias.astype(np.float32))


def normalised(net):
    """([(convolution, the normalisation that takes its result)], logits on a small random image)."""
    results, found, kept = {}, [], []

    def record(cell, inputs, output):
        if isinstance(cell, nn.BatchNorm2d):
            if id(inputs[0]) in results:
                found.append((results[id(inputs[0])], cell))
        else:
            # Kept, so that no other map gets the same id.
            kept.append(output)
            results[id(output)] = cell

    with forward_hooks((cell, record) for _, cell in net.cells_and_names()
                       if isinstance(cell, (nn.Conv2d, nn.BatchNorm2d))):
        logits = _logits(net)
    # A layer that is used twice has no single partner.
    counts = [id(cell) for pair in found for cell in pair]
    return [pair for pair in found if all(counts.count(id(cell)) == 1 for cell in pair)], logits


def _logits(net):
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        # DeconvNet takes no images smaller than its windows.
        side = max(SIDE, getattr(net, "side", 0))
        image = np.random.default_rng(1).standard_normal((1, getattr(net, "in_channels", 3), side, side))
        return net(ms.Tensor(image.astype(np.float32)))
    finally:
        ms.set_context(mode=mode)


def _remove(net, cell):
    """Replace a cell by nn.Identity."""
    for _, parent in list(net.cells_and_names()):
        for name, child in list(parent._cells.items()):
            if child is cell and isinstance(parent, (nn.SequentialCell, nn.CellList)):
                parent[list(parent._cells).index(name)] = nn.Identity()
            elif child is cell:
                setattr(parent, name, nn.Identity())
