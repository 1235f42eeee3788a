"""DeconvNet: VGG16 and its mirror of unpooling and deconvolution (Noh, Hong and Han 2015, table 2).

The receptive field of fc6 is a complete window, so images are windows of one size around objects:
`mindfcn.inference.instance_wise` segments a photograph from many of them.
"""

from typing import Optional

from mindspore import nn
from mindspore.common.initializer import Normal

from mindfcn.errors import UserError
from mindfcn.models import layers
from mindfcn.models.backbones.stages import StagedBackbone


class Encoder(StagedBackbone):
    """VGG16 with batch normalisation, whose pooling layers also return the places of their maxima (switches).

    Args:
        fc_width: channels of fc6 and fc7.
        width: factor on the channels of conv1 to conv5, for small machines; 1 is VGG16.
        side: side of the images that one window of fc6 covers, pixels, a multiple of 32.

    Inputs: (N, 3, H, W) float32, H and W from `side` up.
    Outputs: fc7 (N, fc_width, h, w), 1x1 of an image of side x side; switches of pool1 to pool5; shapes of the maps
        before them.

    Raises:
        UserError: a side that is no multiple of 32.
    """

    stages = {"pool3": ("conv1", "pool1", "conv2", "pool2", "conv3", "pool3"),
              "pool4": ("conv4", "pool4"),
              "fc7": ("conv5", "pool5", "conv6", "conv7")}
    pools = tuple(f"pool{number}" for number in range(1, 6))
    blocks = tuple(f"conv{number}" for number in range(1, 8))
    multiple = 1
    has_bias = True

    def __init__(self, fc_width=4096, width=1.0, side=224):
        super().__init__()
        if side < 32 or side % 32:
            raise UserError(f"side {side}: DeconvNet's must be a multiple of 32, such as 224")
        self.side = side
        c64, c128, c256, c512 = (max(1, round(width * channels)) for channels in (64, 128, 256, 512))
        self.channels = {"pool1": c64, "pool2": c128, "pool3": c256, "pool4": c512, "pool5": c512, "fc7": fc_width}
        self.conv1 = layers.conv_bn_relu(3, c64, 2)
        self.conv2 = layers.conv_bn_relu(c64, c128, 2)
        self.conv3 = layers.conv_bn_relu(c128, c256, 3)
        self.conv4 = layers.conv_bn_relu(c256, c512, 3)
        self.conv5 = layers.conv_bn_relu(c512, c512, 3)
        self.conv6 = layers.conv_bn_relu(c512, fc_width, 1, kernel=side // 32, padding=0)
        self.conv7 = layers.conv_bn_relu(fc_width, fc_width, 1, kernel=1)
        self.pool1, self.pool2, self.pool3, self.pool4, self.pool5 = (layers.MaxPoolWithIndices() for _ in range(5))

    def construct(self, image):
        x, switches, shapes = image, (), ()
        for stage in self.stages.values():
            for layer in stage:
                if layer in self.pools:
                    shapes += (x.shape,)
                    x, places = getattr(self, layer)(x)
                    switches += (places,)
                else:
                    x = getattr(self, layer)(x)
        return x, switches, shapes


class Decoder(nn.Cell):
    """The mirror of an Encoder: unpooling with its switches and deconvolution, then a score for each class.

    Args:
        num_classes: channels of the result.
        backbone: the Encoder.
        decoder_width: factor on the channels of the deconvolutions, relative to the encoder's; below 1, an unpooling
            takes the switches of the first channels.
    """

    def __init__(self, num_classes, backbone, decoder_width=1.0):
        super().__init__()
        c64, c128, c256, c512 = (max(1, round(decoder_width * backbone.channels[f"pool{number}"]))
                                 for number in (1, 2, 3, 4))
        self.deconv6 = layers.deconv_bn_relu(backbone.channels["fc7"], c512, backbone.side // 32)
        self.deconv5 = mirrored(c512, c512, 3)
        self.deconv4 = mirrored(c512, c256, 3)
        self.deconv3 = mirrored(c256, c128, 3)
        self.deconv2 = mirrored(c128, c64, 2)
        self.deconv1 = mirrored(c64, c64, 2)
        self.score = layers.conv(c64, num_classes, 1, bias=True, weight_init=Normal(0.01))
        self.unpool5, self.unpool4, self.unpool3, self.unpool2, self.unpool1 = (layers.MaxUnpool() for _ in range(5))

    def construct(self, fc7, switches, shapes):
        deconv5 = self.deconv5(self.unpool5(self.deconv6(fc7), switches[4], shapes[4]))
        deconv4 = self.deconv4(self.unpool4(deconv5, switches[3], shapes[3]))
        deconv3 = self.deconv3(self.unpool3(deconv4, switches[2], shapes[2]))
        deconv2 = self.deconv2(self.unpool2(deconv3, switches[1], shapes[1]))
        deconv1 = self.deconv1(self.unpool1(deconv2, switches[0], shapes[0]))
        return self.score(deconv1)


def mirrored(in_channels, out_channels, count):
    """Deconvolutions of 3x3, the last of which leads to the channels of the next unpooling."""
    return nn.SequentialCell([
        *layers.conv_bn_relu(in_channels, in_channels, count - 1, Normal(0.01)).cell_list,
        *layers.conv_bn_relu(in_channels, out_channels, 1, Normal(0.01)).cell_list])


class DeconvNet(nn.Cell):
    """Encoder and Decoder.

    Args:
        n_class: classes.
        backbone: the Encoder; None makes the published one.
        decoder_width: see Decoder.

    Inputs: (N, 3, H, W) float32, normalised. Trained on side x side pixels; larger images are possible: fc6 then
        takes several windows, and their deconvolutions add up where they overlap.
    Outputs: logits (N, n_class, H, W) float32.

    Attributes:
        side: pixels.
    """

    in_channels = 3

    def __init__(self, n_class: int = 21, backbone: Optional[Encoder] = None, decoder_width: float = 1.0) -> None:
        # Without prefixes for backbone and head, as in the FCNs.
        super().__init__(auto_prefix=False)
        self.backbone = backbone or Encoder()
        self.side = self.backbone.side
        self.head = Decoder(n_class, self.backbone, decoder_width)

    def construct(self, image):
        if image.shape[2] < self.side or image.shape[3] < self.side:
            raise ValueError(f"DeconvNet takes images of {self.side}x{self.side} pixels or more; enlarge them")
        fc7, switches, shapes = self.backbone(image)
        return self.head(fc7, switches, shapes)
