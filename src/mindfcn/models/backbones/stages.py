"""Backbones as one list of layers, from which the forward pass, receptive fields and exports all follow."""

from mindspore import nn

from mindfcn.models.analysis.receptive_field import ReceptiveField, map_receptive_fields


class StagedBackbone(nn.Cell):
    """A backbone whose layers run one after another.

    Outputs: {map: (N, C, h, w) float32}, the result of each stage.

    Attributes:
        stages: {map: names of the layers from the previous map to it}. The first stage takes the image. Names, not
            cells: `dilate` and `Folded` replace the backbone's cells.
    """

    stages: dict[str, tuple[str, ...]] = {}

    def construct(self, image):
        x, maps = image, {}
        for name, layers in self.stages.items():
            for layer in layers:
                x = getattr(self, layer)(x)
            maps[name] = x
        return maps

    def paths(self) -> dict[str, tuple[nn.Cell, ...]]:
        """{map: layers from the previous map to it}."""
        return {name: tuple(getattr(self, layer) for layer in layers) for name, layers in self.stages.items()}

    def receptive_fields(self) -> dict[str, ReceptiveField]:
        """{map: ReceptiveField} of its maps."""
        return map_receptive_fields(self.paths())
