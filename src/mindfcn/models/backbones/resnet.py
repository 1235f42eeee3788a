"""ResNet (He et al. 2016), whose last stages keep their resolution by dilation (Chen et al. 2015; Yu et al. 2017)."""

from mindspore import nn
from mindspore.common.initializer import HeNormal

from mindfcn.errors import UserError
from mindfcn.models import layers
from mindfcn.models.backbones.stages import StagedBackbone

# Kernels of a block's convolutions, the channels of the last one as a multiple of the others', and the number of blocks
# in each stage: table 1 of the paper.
DEPTHS = {18: ((3, 3), 1, (2, 2, 2, 2)), 50: ((1, 3, 1), 4, (3, 4, 6, 3)), 101: ((1, 3, 1), 4, (3, 4, 23, 3))}
# Stride and dilation of each stage, by output stride.
STAGES = {32: ((1, 1), (2, 1), (2, 1), (2, 1)), 16: ((1, 1), (2, 1), (2, 1), (1, 2)),
          8: ((1, 1), (2, 1), (1, 2), (1, 4))}


class Residual(nn.Cell):
    """A block: ReLU(F(x) + x), with a 1x1 projection of x where F changes its shape.

    F is convolution, normalisation and ReLU for each kernel, without the last ReLU. Its first 3x3 convolution has the
    stride and the dilation.

    Args:
        in_channels: channels of x.
        channels: channels of all convolutions but the last.
        out_channels: channels of the result.
        kernels: sides of the kernels.
        stride, dilation: of the first 3x3 convolution.

    Inputs: (N, in_channels, H, W). Outputs: (N, out_channels, H/stride, W/stride), rounded up.
    """

    def __init__(self, in_channels, channels, out_channels, kernels, stride=1, dilation=1):
        super().__init__()
        names, before = [], in_channels
        for number, kernel in enumerate(kernels, 1):
            after = out_channels if number == len(kernels) else channels
            window = {"stride": stride, "dilation": dilation} if number - 1 == kernels.index(3) else {}
            setattr(self, f"conv{number}", convolution(before, after, kernel, **window))
            setattr(self, f"bn{number}", layers.batch_norm(after))
            names += ["relu"] * (number > 1) + [f"conv{number}", f"bn{number}"]
            before = after
        self.names = tuple(names)
        self.relu = nn.ReLU()
        self.downsample = None
        if stride > 1 or in_channels != out_channels:
            self.downsample = nn.SequentialCell(convolution(in_channels, out_channels, 1, stride=stride),
                                                layers.batch_norm(out_channels))

    def construct(self, x):
        y = x
        for name in self.names:
            y = getattr(self, name)(y)
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))

    @property
    def branches(self):
        """The layers of F, and those of the shortcut."""
        return (tuple(getattr(self, name) for name in self.names),
                () if self.downsample is None else (self.downsample,))


class ResNet(StagedBackbone):
    """The backbone of the FCNs of torchvision and mmsegmentation. Its maps have the names of VGG16's.

    Args:
        depth: 18, 50 or 101.
        deep_stem: three 3x3 convolutions in place of the first one of 7x7 (ResNet-C of He et al. 2019; mmsegmentation's
            ResNetV1c).
        output_stride: 32, 16 or 8. Below 32, the last stages have dilations 2 and 4 in place of strides; the first
            block of such a stage keeps the dilation of the stage before it.
        width: factor on all channels, for small machines; 1 is the published network.
        in_channels: channels of the image.

    Inputs: (N, in_channels, H, W) float32 of any size.
    Outputs: {"pool3": layer2 (N, 512, H/8, W/8), "pool4": layer3 (N, 1024, H/16, W/16),
        "fc7": layer4 (N, 2048, H/32, W/32)}, sizes rounded up, and strides at most `output_stride`. Depth 18 has a
        quarter of the channels.

    Raises:
        UserError: another depth or output stride.
    """

    stages = {"pool3": ("conv1", "pool1", "layer1", "layer2"), "pool4": ("layer3",), "fc7": ("layer4",)}
    blocks = ("conv1", "layer1", "layer2", "layer3", "layer4")
    multiple = 1
    has_bias = True

    def __init__(self, depth: int = 50, deep_stem: bool = False, output_stride: int = 8, width: float = 1.0,
                 in_channels: int = 3) -> None:
        super().__init__()
        if depth not in DEPTHS or output_stride not in STAGES:
            raise UserError(f"ResNet of depth {depth} and output stride {output_stride}: the depth must be one of "
                            f"{', '.join(map(str, DEPTHS))}, the output stride one of {', '.join(map(str, STAGES))}")
        kernels, expansion, counts = DEPTHS[depth]
        self.in_channels = in_channels
        c32, c64 = (max(1, round(width * channels)) for channels in (32, 64))
        self.conv1 = stem(in_channels, c32, c64) if deep_stem else normalised(in_channels, c64, 7, stride=2)
        self.pool1 = nn.MaxPool2d(3, stride=2, pad_mode="pad", padding=1)
        channels, before = c64, 1
        for number, (count, (stride, dilation)) in enumerate(zip(counts, STAGES[output_stride]), 1):
            base = 2 ** (number - 1) * c64
            # The first block of a dilated stage has the resolution and the dilation of the stage before.
            windows = [(stride, before)] + [(1, dilation)] * (count - 1)
            blocks = []
            for window in windows:
                blocks.append(Residual(channels, base, expansion * base, kernels, *window))
                channels = expansion * base
            setattr(self, f"layer{number}", nn.SequentialCell(blocks))
            before = dilation
        self.channels = {"pool3": channels // 4, "pool4": channels // 2, "fc7": channels}


def convolution(in_channels, out_channels, kernel, **window):
    """A convolution without bias, as everywhere in ResNet."""
    return layers.conv(in_channels, out_channels, kernel, bias=False,
                       weight_init=HeNormal(mode="fan_out", nonlinearity="relu"), **window)


def normalised(in_channels, out_channels, kernel, **window):
    """[convolution, normalisation, ReLU]."""
    return nn.SequentialCell([convolution(in_channels, out_channels, kernel, **window),
                              layers.batch_norm(out_channels), nn.ReLU()])


def stem(in_channels, c32, c64):
    """The deep stem: 3x3 convolutions to 32, 32 and 64 channels, the first with stride 2."""
    return nn.SequentialCell([*normalised(in_channels, c32, 3, stride=2).cell_list,
                              *normalised(c32, c32, 3).cell_list, *normalised(c32, c64, 3).cell_list])
