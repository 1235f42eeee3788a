"""AlexNet (Krizhevsky et al. 2012) with its dense layers as convolutions, in the two forms that weights exist for."""

from mindspore import nn

from mindfcn.models import layers
from mindfcn.models.backbones.stages import StagedBackbone

# channels of conv1 to conv5, and groups of conv2, conv4 and conv5
FORMS = {"caffe": ((96, 256, 384, 384, 256), 2), "torchvision": ((64, 192, 384, 256, 256), 1)}


class AlexNet(StagedBackbone):
    """The backbone of FCN-AlexNet. Its maps have the names of VGG16's at the same strides.

    Args:
        form: "caffe", as published, with local response normalisation and convolutions in two groups; or
            "torchvision", narrower and with neither.
        fc_width: channels of fc6 and fc7.
        dropout: share of their activations dropped in training.
        width: factor on the channels of conv1 to conv5, for small machines.
        padding: "same" keeps sizes by padding, for images of sides in multiples of 32; "pad100" pads the image by
            100 and fc6 by nothing, and takes any size.
        in_channels: channels of the image.

    Inputs: (N, in_channels, H, W) float32.
    Outputs: {"pool3": pool1 (N, 96, H/8, W/8), "pool4": pool2 (N, 256, H/16, W/16),
        "fc7": (N, fc_width, H/32, W/32)} with padding "same".
    """

    stages = {"pool3": ("conv1", "pool1"),
              "pool4": ("norm", "conv2", "pool2"),
              "fc7": ("norm", "conv3", "conv4", "conv5", "pool5", "conv6", "drop6", "conv7", "drop7")}
    blocks = tuple(f"conv{number}" for number in range(1, 8))
    has_bias = True

    def __init__(self, form: str = "torchvision", fc_width: int = 4096, dropout: float = 0.5, width: float = 1.0,
                 padding: str = "same", in_channels: int = 3) -> None:
        super().__init__()
        channels, groups = FORMS[form]
        c1, c2, c3, c4, c5 = (groups * max(1, round(width * count / groups)) for count in channels)
        pad100 = padding == "pad100"
        self.multiple = 1 if pad100 else 32
        self.in_channels = in_channels
        self.channels = {"pool3": c1, "pool4": c2, "fc7": fc_width}
        self.conv1 = layers.conv_block(in_channels, c1, (11,), stride=4, padding=100 if pad100 else 5)
        self.conv2 = layers.conv_block(c1, c2, (5,), group=groups)
        self.conv3 = layers.conv_block(c2, c3, (3,))
        self.conv4 = layers.conv_block(c3, c4, (3,), group=groups)
        self.conv5 = layers.conv_block(c4, c5, (3,), group=groups)
        # An even kernel keeps the size with one row and column more on one side.
        self.conv6 = layers.conv_block(c5, fc_width, (6,), padding=0 if pad100 else (3, 2, 3, 2))
        self.conv7 = layers.conv_block(fc_width, fc_width, (1,))
        self.pool1, self.pool2, self.pool5 = (layers.MaxPool(3, 2) for _ in range(3))
        self.norm = layers.LRN() if form == "caffe" else nn.Identity()
        self.drop6 = layers.Dropout(dropout, seed=6)
        self.drop7 = layers.Dropout(dropout, seed=7)
