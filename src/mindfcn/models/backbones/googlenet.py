"""GoogLeNet (Szegedy et al. 2014) without its final average pooling and auxiliary classifiers, as in the FCN paper."""

from mindspore import nn, ops

from mindfcn.models import layers
from mindfcn.models.backbones.stages import StagedBackbone

# channels of 1x1 | 3x3 reduce, 3x3 | 5x5 reduce, 5x5 | pool projection: table 1 of the GoogLeNet paper
MODULES = {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
           "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
           "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
           "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)}


class Inception(nn.Cell):
    """Four parallel branches on one map, concatenated: 1x1, 3x3 and 5x5 convolutions, and max pooling.

    Inputs: (N, in_channels, H, W). Outputs: (N, out_channels, H, W).
    """

    def __init__(self, in_channels, conv1x1, reduce3x3, conv3x3, reduce5x5, conv5x5, pool_proj):
        super().__init__()
        self.out_channels = conv1x1 + conv3x3 + conv5x5 + pool_proj
        self.conv1x1 = layers.conv_block(in_channels, conv1x1, (1,))
        self.reduce3x3 = layers.conv_block(in_channels, reduce3x3, (1,))
        self.conv3x3 = layers.conv_block(reduce3x3, conv3x3, (3,))
        self.reduce5x5 = layers.conv_block(in_channels, reduce5x5, (1,))
        self.conv5x5 = layers.conv_block(reduce5x5, conv5x5, (5,))
        self.pool = nn.MaxPool2d(3, stride=1, pad_mode="same")
        self.pool_proj = layers.conv_block(in_channels, pool_proj, (1,))

    def construct(self, x):
        return ops.Concat(1)((self.conv1x1(x), self.conv3x3(self.reduce3x3(x)), self.conv5x5(self.reduce5x5(x)),
                              self.pool_proj(self.pool(x))))

    @property
    def branches(self):
        """The layers of each branch."""
        return ((self.conv1x1,), (self.reduce3x3, self.conv3x3), (self.reduce5x5, self.conv5x5),
                (self.pool, self.pool_proj))


class GoogLeNet(StagedBackbone):
    """The backbone of FCN-GoogLeNet. Its maps carry the names of VGG16's at the same strides.

    Args:
        dropout: share of the last map's activations dropped in training.
        width: factor on all channels, for small machines.
        padding: "same" keeps sizes by padding, for images of sides in multiples of 32; "pad100" pads the image by
            100 and takes any size.
        in_channels: channels of the image.

    Inputs: (N, in_channels, H, W) float32.
    Outputs: {"pool3": inception_3b (N, 480, H/8, W/8), "pool4": inception_4e (N, 832, H/16, W/16),
        "fc7": inception_5b (N, 1024, H/32, W/32)} with padding "same".
    """

    stages = {"pool3": ("conv1", "pool1", "norm", "conv2", "norm", "pool2", "inception_3a", "inception_3b"),
              "pool4": ("pool3", "inception_4a", "inception_4b", "inception_4c", "inception_4d", "inception_4e"),
              "fc7": ("pool4", "inception_5a", "inception_5b", "drop")}
    blocks = ("conv1", "conv2", *(f"inception_{name}" for name in MODULES))
    has_bias = True

    def __init__(self, dropout: float = 0.4, width: float = 1.0, padding: str = "same",
                 in_channels: int = 3) -> None:
        super().__init__()
        c64, c192 = (max(1, round(width * channels)) for channels in (64, 192))
        pad100 = padding == "pad100"
        self.multiple = 1 if pad100 else 32
        self.in_channels = in_channels
        self.conv1 = layers.conv_block(in_channels, c64, (7,), stride=2, padding=100 if pad100 else 3)
        self.conv2 = nn.SequentialCell(*layers.conv_block(c64, c64, (1,)).cell_list,
                                       *layers.conv_block(c64, c192, (3,)).cell_list)
        channels = c192
        for name, counts in MODULES.items():
            module = Inception(channels, *(max(1, round(width * count)) for count in counts))
            setattr(self, f"inception_{name}", module)
            channels = module.out_channels
        self.channels = {"pool3": self.inception_3b.out_channels, "pool4": self.inception_4e.out_channels,
                         "fc7": self.inception_5b.out_channels}
        self.pool1, self.pool2, self.pool3, self.pool4 = (layers.MaxPool(3, 2) for _ in range(4))
        self.norm = layers.LRN()
        self.drop = layers.Dropout(dropout, seed=5)
