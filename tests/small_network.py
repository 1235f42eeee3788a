"""A backbone with every kind of layer and three convolutions, for tests whose subject is not the network.

Importing this file makes fcn32s_small, fcn16s_small_bn and so on names of networks; they compile several times quicker
than those of 16 layers. Without _bn they have biases and dropout, with it batch normalisation.
"""

from functools import partial

from mindspore import nn

from mindfcn.models import layers
from mindfcn.models.backbones.googlenet import GoogLeNet
from mindfcn.models.backbones.stages import StagedBackbone
from mindfcn.models.factory import BACKBONES


class Small(StagedBackbone):
    """Maps at strides 8, 16 and 32, as of VGG16; `width` counts from VGG16's 64 channels, `fc_width` is that of fc7."""

    stages = {"pool3": ("conv1", "pool3"), "pool4": ("conv4", "pool4"), "fc7": ("conv6", "pool5", "drop7")}
    blocks = ("conv1", "conv4", "conv6")

    def __init__(self, batch_norm=True, fc_width=64, dropout=0.5, width=1.0, in_channels=3):
        super().__init__()
        channels = max(1, round(64 * width))
        self.multiple = 32
        self.has_bias = not batch_norm
        self.in_channels = in_channels
        self.channels = {"pool3": channels, "pool4": channels, "fc7": fc_width}
        self.conv1 = layers.conv_block(in_channels, channels, (3,), batch_norm)
        self.conv4 = layers.conv_block(channels, channels, (3,), batch_norm)
        self.conv6 = layers.conv_block(channels, fc_width, (3,), batch_norm)
        self.pool3, self.pool4, self.pool5 = layers.MaxPool(8, 8), layers.MaxPool(), layers.MaxPool()
        self.drop7 = nn.Identity() if batch_norm else layers.Dropout(dropout, seed=7)


class ShortGoogLeNet(GoogLeNet):
    """Its first layers and one Inception module for each map: every kind of layer of all nine modules.

    The fixture `short_googlenet` gives it its three modules, and GoogLeNet's name.
    """

    stages = {"pool3": (*GoogLeNet.stages["pool3"][:-2], "inception_3b"), "pool4": ("pool3", "inception_4e"),
              "fc7": ("pool4", "inception_5b", "drop")}


BACKBONES.update(small=partial(Small, batch_norm=False), small_bn=partial(Small, batch_norm=True))
