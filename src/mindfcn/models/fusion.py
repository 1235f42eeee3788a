"""Late fusion of colour and HHA: two complete networks with averaged scores (Long et al. 2015, section 5, NYUDv2).

The two backbones act as one with their maps concatenated; each score layer takes its own half, and the scores are
averaged (`AveragedScore`). Everything after the scores is linear and computed once.
"""

from mindspore import nn, ops

from mindfcn.models import layers

# Difference between the dropout seeds of the two streams.
STREAM_SEEDS = 100


class TwoStreams(nn.Cell):
    """Two backbones of the same kind, for colour and for HHA.

    Args:
        color, hha: the backbones.

    Inputs: (N, 6, H, W) float32: the photograph, then HHA.
    Outputs: the backbones' maps, {"pool3": (N, 2 C, H/8, W/8), ...}, colour first.
    """

    def __init__(self, color, hha):
        super().__init__()
        self.color, self.hha = color, hha
        self.split = color.in_channels
        self.in_channels = color.in_channels + hha.in_channels
        self.multiple, self.has_bias, self.blocks = color.multiple, color.has_bias, color.blocks
        self.channels = {name: 2 * channels for name, channels in color.channels.items()}
        for _, cell in hha.cells_and_names():
            if isinstance(cell, layers.Dropout):
                cell.seed += STREAM_SEEDS

    def construct(self, image):
        color, hha = self.color(image[:, :self.split]), self.hha(image[:, self.split:])
        return {"pool3": ops.Concat(1)((color["pool3"], hha["pool3"])),
                "pool4": ops.Concat(1)((color["pool4"], hha["pool4"])),
                "fc7": ops.Concat(1)((color["fc7"], hha["fc7"]))}

    def receptive_fields(self):
        """{map: ReceptiveField} of its maps."""
        return self.color.receptive_fields()


class AveragedScore(nn.Cell):
    """The mean of the scores of two streams: (N, 2 C, H, W) -> (N, classes, H, W).

    Args:
        channels: channels of both streams' maps together.
        classes: channels of the result.
        bias: whether the score layers have one.
    """

    def __init__(self, channels, classes, bias):
        super().__init__()
        self.half, self.out_channels = channels // 2, classes
        self.color = layers.score(self.half, classes, bias)
        self.hha = layers.score(self.half, classes, bias)

    def construct(self, maps):
        return 0.5 * self.color(maps[:, :self.half]) + 0.5 * self.hha(maps[:, self.half:])


def score(backbone, name, classes):
    """The score layer on a backbone's map."""
    layer = AveragedScore if isinstance(backbone, TwoStreams) else layers.score
    return layer(backbone.channels[name], classes, backbone.has_bias)
