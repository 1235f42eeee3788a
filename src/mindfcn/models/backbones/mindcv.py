"""Backbones of the mindcv library, each with the cells that end at strides 8, 16 and 32."""

from mindspore import nn

from mindfcn.errors import UserError
from mindfcn.models.analysis.trace import trace
from mindfcn.models.surgery.dilate import dilate

STRIDES = {"pool3": 8, "pool4": 16, "fc7": 32}
TRACED = 64
# The cells of each stage by their names in mindcv; of networks whose cells are one sequence, `features`, the numbers of
# cells in the first stage and in the first two.
_RESNET = (("conv1", "bn1", "relu", "max_pool", "layer1", "layer2"), ("layer3",), ("layer4",))
_STAGES = {"resnet18": _RESNET, "resnet34": _RESNET, "resnet50": _RESNET, "resnet101": _RESNET,
           "resnext50_32x4d": _RESNET, "mobilenet_v2_100": (9, 16), "mobilenet_v3_small_100": (6, 11),
           "mobilenet_v3_large_100": (9, 15), "mnasnet_050": (14, 19), "mnasnet_100": (14, 19), "densenet121": (7, 9)}
NAMES = tuple(_STAGES)


class MindCV(nn.Cell):
    """A mindcv backbone. Its maps at strides 8, 16 and 32 have the names of VGG16's, its parameters their own names.

    Args:
        name: one of NAMES.
        output_stride: 32, 16 or 8. Larger strides become dilations of the layers after them (Chen et al. 2015; the
            FCN paper's filter rarefaction).

    Inputs: (N, 3, H, W) float32, H and W multiples of 32.
    Outputs: {"pool3", "pool4", "fc7"}: (N, C, H/8, W/8), (N, C, H/16, W/16), (N, C, H/32, W/32), or finer.

    Raises:
        UserError: mindcv is not installed, the name is not in NAMES, or the strides cannot become dilations.
    """

    multiple = 32
    has_bias = True
    in_channels = 3

    def __init__(self, name, output_stride=32):
        super().__init__(auto_prefix=False)
        if output_stride not in STRIDES.values():
            raise UserError(f"output stride {output_stride}: choose one of {', '.join(map(str, STRIDES.values()))}")
        self.network = Stages(stages_of(name))
        try:
            if output_stride < 32:
                dilate(self.network, output_stride, TRACED)
        except ValueError as error:
            raise UserError(f"mindcv's {name} cannot carry a head at output stride {output_stride}: {error}; "
                            "take another backbone, such as resnet50") from None
        layers, maps = trace(self.network, TRACED)
        self.fields = {pool: max((layer.after for layer in layers if layer.outputs == feature.shape[1:]),
                                 key=lambda place: place.field) for pool, feature in zip(STRIDES, maps)}
        self.channels = {pool: feature.shape[1] for pool, feature in zip(STRIDES, maps)}
        self.blocks = tuple(dict.fromkeys(parameter.name.split(".")[0] for parameter in self.get_parameters()))

    def construct(self, image):
        pool3, pool4, fc7 = self.network(image)
        return {"pool3": pool3, "pool4": pool4, "fc7": fc7}

    def receptive_fields(self):
        """{map: ReceptiveField} of its maps."""
        return self.fields


class Stages(nn.Cell):
    """Three sequences of cells, one after another.

    Args:
        stages: three lists of cells.

    Inputs: (N, 3, H, W) float32. Outputs: the map after each stage.
    """

    def __init__(self, stages):
        super().__init__(auto_prefix=False)
        self.to_pool3, self.to_pool4, self.to_fc7 = (nn.CellList(cells, auto_prefix=False) for cells in stages)

    def construct(self, image):
        pool3 = image
        for cell in self.to_pool3:
            pool3 = cell(pool3)
        pool4 = pool3
        for cell in self.to_pool4:
            pool4 = cell(pool4)
        fc7 = pool4
        for cell in self.to_fc7:
            fc7 = cell(fc7)
        return pool3, pool4, fc7


def stages_of(name):
    """The three lists of cells of a mindcv network. Raises UserError as MindCV does."""
    if name not in _STAGES:
        raise UserError(f"mindcv_{name} is not among the tested backbones; take mindcv_NAME with one of "
                        f"{', '.join(NAMES)}")
    try:
        import mindcv
    except ImportError:
        raise UserError(f"the backbone {name} is one of mindcv's, which is not installed; "
                        "install it with pip install mindcv") from None
    network, stages = mindcv.create_model(name), _STAGES[name]
    if isinstance(stages[0], int):
        cells = list(network.features.cells())
        return [cells[:stages[0]], cells[stages[0]:stages[1]], cells[stages[1]:]]
    return [[getattr(network, cell) for cell in stage] for stage in stages]
