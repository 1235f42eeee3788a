"""The FCNs of torchvision and mmsegmentation: one score on a dilated backbone, resized to the image.

Long et al. 2015, section 3.2 (filter rarefaction), in place of skip layers.
"""

import math

from mindspore import nn, ops
from mindspore.common.initializer import Normal

from mindfcn.models import layers
from mindfcn.models.backbones.resnet import normalised


class ScoreHead(nn.Cell):
    """3x3 convolutions to a quarter of the channels, then a score for each class.

    Args:
        in_channels: channels of the map.
        num_classes: channels of the result.
        num_convs: 3x3 convolutions, each with normalisation and ReLU: 1 in torchvision, 2 in mmsegmentation.
        concat: one more 3x3 convolution, on the map and the result of the others side by side (mmsegmentation).
        dropout: share of the activations dropped in training.
        seed: of dropout.

    Inputs: (N, in_channels, h, w). Outputs: (N, num_classes, h, w).
    """

    def __init__(self, in_channels, num_classes, num_convs=1, concat=False, dropout=0.1, seed=1):
        super().__init__()
        channels = max(1, in_channels // 4)
        self.score_convs = nn.SequentialCell([cell for number in range(num_convs) for cell in normalised(
            channels if number else in_channels, channels, 3).cell_list])
        self.score_concat = normalised(in_channels + channels, channels, 3) if concat else None
        self.score_drop = layers.Dropout(dropout, seed=seed)
        self.score = layers.conv(channels, num_classes, 1, bias=True, weight_init=Normal(0.01))

    def construct(self, x):
        y = self.score_convs(x)
        if self.score_concat is not None:
            y = self.score_concat(ops.Concat(1)((x, y)))
        return self.score(self.score_drop(y))


class DilatedFCN(nn.Cell):
    """A dilated ResNet and a ScoreHead; in training a second head on the map before the last one.

    Args:
        n_class: classes.
        backbone: the ResNet.
        num_convs, concat, dropout: of the head, see ScoreHead.
        auxiliary: weight of the second head's loss; 0 leaves out the head.

    Inputs: (N, C, H, W) float32, normalised, any H and W from 1 up; C is the backbone's `in_channels`.
    Outputs: logits (N, n_class, H, W) float32; in training with a second head, its logits after them,
        (N, 2 n_class, H, W), for AuxiliaryLoss.
    """

    # The number of classes of a second label set, which these networks do not have.
    geometric = None

    def __init__(self, n_class, backbone, num_convs=1, concat=False, dropout=0.1, auxiliary=0.5):
        # Without prefixes, so that parameters are named as in the other networks: conv1.0.weight, score.weight.
        super().__init__(auto_prefix=False)
        self.backbone = backbone
        self.in_channels = backbone.in_channels
        self.n_class = n_class
        self.auxiliary_weight = auxiliary
        self.head = ScoreHead(backbone.channels["fc7"], n_class, num_convs, concat, dropout)
        self.auxiliary = None
        if auxiliary:
            self.auxiliary = ScoreHead(backbone.channels["pool4"], n_class, dropout=dropout, seed=2)
            self.auxiliary.update_parameters_name("auxiliary.")

    @property
    def stride(self):
        """Period of the network in pixels: an image shifted by it gives the same map, shifted by whole cells."""
        return int(self.backbone.receptive_fields()["fc7"].stride)

    @property
    def reach(self):
        """Largest distance in pixels from an output pixel to an input pixel that affects it, if sides are multiples of
        `stride`.

        Half of the score's receptive field, and less than one cell for the resizing. On other sizes the cells are
        spread over the image by less than a pixel each.
        """
        convs = [self.head.score_convs, *([self.head.score_concat] if self.head.score_concat else [])]
        at = self.backbone.receptive_fields()["fc7"].after(*convs)
        return math.ceil(at.field / 2 + at.stride)

    def construct(self, image):
        maps = self.backbone(image)
        logits = resized(self.head(maps["fc7"]), image.shape[2:])
        if self.auxiliary is not None and self.training:
            return ops.Concat(1)((logits, resized(self.auxiliary(maps["pool4"]), image.shape[2:])))
        return logits


def resized(maps, size):
    """(N, C, h, w) -> (N, C, *size), bilinear between the centres of cells."""
    return ops.ResizeBilinearV2(align_corners=False, half_pixel_centers=True)(maps, size)
