"""Dense layers as convolutions: a classifier becomes a fully convolutional network (Long et al. 2015, section 3.1)."""

import copy

import mindspore as ms
import numpy as np
from mindspore import nn

from mindfcn.models import layers

# Cells that need a map and treat every position of it alike.
LOCAL = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.BatchNorm2d, nn.LRN, layers.LRN)
# Cells that treat every number alike, in a vector as in a map.
ELEMENTWISE = (nn.Identity, nn.Dropout, layers.Dropout, layers.Scale, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU,
               nn.SiLU, nn.HSwish, nn.Sigmoid, nn.Tanh)


def dense_to_conv(dense: nn.Dense, height: int = 1, width: int = 1) -> nn.Cell:
    """The convolution that equals a dense layer on flattened maps of one size, and slides over larger ones.

    Args:
        dense: nn.Dense from C * height * width numbers, in the order C, H, W, to O.
        height, width: of the map that was flattened.

    Returns:
        A convolution (O, C, height, width) of stride 1 without padding, with copies of the weights: from
        (N, C, H, W) float32 to (N, O, H - height + 1, W - width + 1).

    Raises:
        ValueError: the layer's inputs are not a map of that size, or it has an activation of its own.
    """
    if dense.in_channels % (height * width):
        raise ValueError(f"a dense layer on {dense.in_channels} numbers does not follow a map of {height}x{width}")
    if dense.activation_flag:
        raise ValueError("a dense layer with its own activation is two layers; make the activation a cell after it")
    weight = dense.weight.reshape(dense.out_channels, -1, height, width)
    conv = layers.conv(weight.shape[1], dense.out_channels, (height, width), dense.has_bias, "zeros", padding=0)
    return _take_weights(conv, dense, weight)


def conv_to_dense(conv: nn.Conv2d) -> nn.Dense:
    """The dense layer that equals a convolution on maps of its kernel's size, flattened in the order C, H, W.

    Returns:
        nn.Dense (O, C * kernel height * kernel width), with copies of the weights.

    Raises:
        ValueError: the convolution has padding, dilation or groups.
    """
    same = conv.pad_mode == "same" and tuple(conv.kernel_size) != (1, 1)
    if np.any(conv.padding) or same or np.any(np.array(conv.dilation) != 1) or conv.group != 1:
        raise ValueError("only a convolution without padding, dilation and groups is one dense layer")
    weight = conv.weight.reshape(conv.out_channels, -1)
    dense = nn.Dense(weight.shape[1], conv.out_channels, weight_init="zeros", bias_init="zeros",
                     has_bias=conv.has_bias, activation=None)
    return _take_weights(dense, conv, weight)


def convolutionalise(classifier: nn.Cell, input_size: int, channels: int = 3) -> nn.Cell:
    """A classifier as the fully convolutional network with the same weights, parameter names and places of cells.

    Flatten becomes Identity. The first dense layer after it becomes a convolution with a kernel of the flattened map's
    size, every other one a convolution 1x1.

    Args:
        classifier: nn.SequentialCell, possibly of others, of convolution, pooling, normalisation, activation, dropout,
            Flatten and Dense cells. It stays as it is.
        input_size: side of the square images that it takes, pixels, or (height, width).
        channels: of the images.

    Returns:
        nn.SequentialCell from (N, channels, H, W) float32 to logits (N, C, h, w), in evaluation mode: 1x1 at
        `input_size`, a map for larger images.

    Raises:
        ValueError: a cell of another kind, or the classifier does not take images of that size.
    """
    height, width = np.broadcast_to(input_size, 2)
    net = copy.deepcopy(classifier).set_train(False)
    x, flattened = ms.Tensor(np.zeros((1, channels, height, width), np.float32)), (1, 1)
    for parent, index, cell in _leaves(net):
        if x.ndim == 4 and isinstance(cell, nn.Flatten):
            flattened = x.shape[2:]
            parent[index] = nn.Identity()
        elif x.ndim == 2 and isinstance(cell, nn.Dense):
            if cell.in_channels != x.shape[1]:
                raise ValueError(f"{cell.weight.name} takes {cell.in_channels} numbers, but images of {height}x{width} "
                                 f"give {x.shape[1]}; give the input size that the classifier was made for")
            parent[index] = dense_to_conv(cell, *flattened)
            flattened = (1, 1)
        elif not isinstance(cell, ELEMENTWISE + LOCAL if x.ndim == 4 else ELEMENTWISE):
            place = "a map" if x.ndim == 4 else "a vector"
            raise ValueError(f"{type(cell).__name__} on {place} has no equal on larger images; leave it out, or put "
                             "the cell that is meant in its place")
        x = cell(x)
    return net


def _take_weights(new, old, weight):
    new.weight.set_data(ms.Tensor(weight.asnumpy()))
    new.weight.requires_grad = old.weight.requires_grad
    if old.has_bias:
        new.bias.set_data(ms.Tensor(old.bias.asnumpy()))
        new.bias.requires_grad = old.bias.requires_grad
    return new


def _leaves(net):
    """Yield (SequentialCell, index, cell) of every cell in the order of the computation."""
    if not isinstance(net, nn.SequentialCell):
        raise ValueError(f"only a SequentialCell can be convolutionalised cell by cell, not {type(net).__name__}")
    for index in range(len(net)):
        if isinstance(net[index], nn.SequentialCell):
            yield from _leaves(net[index])
        else:
            yield net, index, net[index]
