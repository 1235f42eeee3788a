"""VGG16 (Simonyan and Zisserman 2014) with its dense layers as convolutions (Long et al. 2015, section 3.1)."""

from mindspore import nn

from mindfcn.models import layers
from mindfcn.models.backbones.stages import StagedBackbone


class VGG16(StagedBackbone):
    """The backbone of the published FCNs: convolutions 1 to 5, and fc6 and fc7 as the convolutions conv6 and conv7.

    Args:
        batch_norm: the course's form, with normalisation and without biases or dropout; else the paper's.
        fc_width: channels of fc6 and fc7.
        dropout: share of their activations dropped in training (the paper's form).
        width: factor on the channels of conv1 to conv5, for small machines; 1 is VGG16.
        in_channels: channels of the image.
        padding: "same" keeps sizes by padding, for images of sides in multiples of 32; "pad100" pads the image by
            100 and fc6 by nothing, and takes any size.

    Inputs: (N, in_channels, H, W) float32.
    Outputs: {"pool3": (N, 256, H/8, W/8), "pool4": (N, 512, H/16, W/16), "fc7": (N, fc_width, H/32, W/32)} with
        padding "same".
    """

    stages = {"pool3": ("conv1", "pool1", "conv2", "pool2", "conv3", "pool3"),
              "pool4": ("conv4", "pool4"),
              "fc7": ("conv5", "pool5", "conv6", "drop6", "conv7", "drop7")}
    blocks = tuple(f"conv{number}" for number in range(1, 8))

    def __init__(self, batch_norm: bool = True, fc_width: int = 4096, dropout: float = 0.5, width: float = 1.0,
                 padding: str = "same", in_channels: int = 3) -> None:
        super().__init__()
        c64, c128, c256, c512 = (max(1, round(width * channels)) for channels in (64, 128, 256, 512))
        pad100 = padding == "pad100"
        self.multiple = 1 if pad100 else 32
        self.has_bias = not batch_norm
        self.in_channels = in_channels
        self.channels = {"pool3": c256, "pool4": c512, "fc7": fc_width}
        self.conv1 = layers.conv_block(in_channels, c64, (3, 3), batch_norm, padding=100 if pad100 else 1)
        self.conv2 = layers.conv_block(c64, c128, (3, 3), batch_norm)
        self.conv3 = layers.conv_block(c128, c256, (3, 3, 3), batch_norm)
        self.conv4 = layers.conv_block(c256, c512, (3, 3, 3), batch_norm)
        self.conv5 = layers.conv_block(c512, c512, (3, 3, 3), batch_norm)
        self.conv6 = layers.conv_block(c512, fc_width, (7,), batch_norm, padding=0 if pad100 else 3)
        self.conv7 = layers.conv_block(fc_width, fc_width, (1,), batch_norm)
        self.pool1, self.pool2, self.pool3, self.pool4, self.pool5 = (layers.MaxPool() for _ in range(5))
        self.drop6 = nn.Identity() if batch_norm else layers.Dropout(dropout, seed=6)
        self.drop7 = nn.Identity() if batch_norm else layers.Dropout(dropout, seed=7)
