"""Where maps lie on the image: the paper's numbers, and measurements on the networks."""

import math
from fractions import Fraction

import mindspore as ms
import numpy as np
import pytest
from mindspore import nn

from mindfcn.models.analysis.receptive_field import ReceptiveField, alignment, window
from mindfcn.models.analysis.trace import trace
from mindfcn.models.backbones.alexnet import AlexNet
from mindfcn.models.backbones.googlenet import GoogLeNet
from mindfcn.models.backbones.vgg import VGG16
from mindfcn.models.factory import create_model
from mindfcn.models.fcn import pad_to_multiple

NARROW = {"vgg16": {"width": 0.03, "fc_width": 2}, "caffenet": {"width": 0.02, "fc_width": 2},
          "alexnet": {"width": 0.03, "fc_width": 2}, "googlenet": {"width": 0.05}}
HEADS = ("fcn32s", "fcn16s", "fcn8s")
PADDINGS = ("same", "pad100")

pytestmark = pytest.mark.usefixtures("pynative")


def size_after(size, *cells):
    """Cells along one side of the map after some layers, from those of the map before."""
    for cell in cells:
        if isinstance(cell, nn.SequentialCell):
            size = size_after(size, *cell.cell_list)
        elif hasattr(cell, "branches"):
            size = size_after(size, *cell.branches[0])
        elif isinstance(cell, nn.Conv2dTranspose):
            size = (size - 1) * side_of(cell.stride) + side_of(cell.kernel_size) - 2 * side_of(cell.padding)
        elif win := window(cell, size):
            steps = Fraction(size + win.before + win.after - win.kernel, win.stride)
            size = (math.ceil if getattr(cell, "ceil_mode", False) else math.floor)(steps) + 1
    return size


def side_of(value):
    return value[-1] if isinstance(value, tuple) else value


def narrow(backbone, padding="same", head="fcn8s"):
    return create_model(f"{head}_{backbone}", 2, padding=padding, **NARROW[backbone]).set_train(False)


@pytest.mark.parametrize("name, offsets", [
    ("fcn32s_vgg16", (19,)), ("fcn16s_vgg16", (-5, 27)), ("fcn8s_vgg16", (-5, -9, 31)), ("fcn32s_caffenet", (18,)),
    ("fcn32s_googlenet", (98,))])
def test_the_published_crops(name, offsets):
    """Of the authors' nets; negative: the finer map is cropped. GoogLeNet's was never released."""
    head = narrow(name.split("_")[1], "pad100", name.split("_")[0]).head
    found = [getattr(head, place) for place in ("offset2", "offset4") if hasattr(head, place)]
    assert (*found, head.offset) == offsets


def test_maps_of_vgg16_padded_to_multiples_need_no_crops():
    head = narrow("vgg16").head
    assert (head.offset2, head.offset4, head.offset) == (0, 0, 0)


@pytest.mark.parametrize("backbone, field", [(VGG16, 404), (AlexNet, 355), (GoogLeNet, 715)])
def test_the_papers_receptive_fields(backbone, field):
    """Table 1; its 907 for GoogLeNet counts the average pooling over 7x7 cells that the nets leave out."""
    last = backbone(width=0.02).receptive_fields()["fc7"]
    assert (last.field, last.stride) == (field, 32)
    if backbone is GoogLeNet:
        assert last.after(nn.AvgPool2d(7, 1)).field == 907


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("backbone", NARROW)
def test_a_cell_depends_on_exactly_the_pixels_of_its_receptive_field(backbone, padding):
    """A single bright pixel in the dark, with positive weights and no biases, shows in every cell that sees it."""
    cells = narrow(backbone, padding).backbone
    for parameter in cells.get_parameters():
        if parameter.name.endswith("weight"):
            parameter.set_data(ms.Tensor(np.full(parameter.shape, 1 / math.prod(parameter.shape[2:]), np.float32)))
    size = 1120 if backbone == "googlenet" else 640
    for name, place in cells.receptive_fields().items():
        cell = math.ceil((size / 2 - place.centre) / place.stride)
        middle = place.centre + cell * place.stride
        first, last = (middle + sign * Fraction(place.field - 1, 2) for sign in (-1, 1))
        assert first.denominator == last.denominator == 1 and 0 < first and last < size - 1
        images = np.zeros((4, 3, 96, size), np.float32)
        for image, pixel in zip(images, (first - 1, first, last, last + 1)):
            image[:, 40:56, int(pixel)] = 1
        maps = cells(ms.Tensor(images))[name].asnumpy()
        seen = [bool(one[..., cell].max() > 0) for one in maps]
        assert seen == [False, True, True, False], name


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("backbone", NARROW)
def test_traced_receptive_fields_end_at_the_backbones_own(backbone, padding):
    net = narrow(backbone, padding)
    layers, _ = trace(net, 256)
    for name, place in net.backbone.receptive_fields().items():
        score = {"pool3": "score_pool3", "pool4": "score_pool4", "fc7": "score_fr"}[name]
        assert next(layer.before for layer in layers if layer.name.endswith(score)) == place
    assert sum(layer.parameters for layer in layers) == sum(
        parameter.size for parameter in net.get_parameters() if not parameter.name.endswith(".step"))


def padded(size, multiple):
    return math.ceil(size / multiple) * multiple


def sizes_and_offset(net, here):
    """(cells of the last map, its offset): by arithmetic, for an image of that padded size."""
    backbone, head, maps = net.backbone, net.head, {}
    for name, cells in backbone.paths().items():
        here = maps[name] = size_after(here, *cells)
    score = maps["fc7"]
    for layer, name, offset in (("upscore2", "pool4", "offset2"), ("upscore_pool4", "pool3", "offset4")):
        if hasattr(head, layer):
            up, fine, crop = size_after(score, getattr(head, layer)), maps[name], getattr(head, offset)
            score = min(up - max(0, crop), fine - max(0, -crop))
            assert score > 0
    final = next(getattr(head, name) for name in ("upscore", "upscore16", "upscore8") if hasattr(head, name))
    return size_after(score, final), head.offset


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", NARROW)
def test_the_last_map_covers_every_image_of_1_to_600_pixels(backbone, head, padding):
    net = narrow(backbone, padding, head)
    found = {}
    for size in range(1, 601):
        here = padded(size, net.backbone.multiple)
        if here not in found:
            found[here] = sizes_and_offset(net, here)
        cells, offset = found[here]
        assert offset >= 0 and offset + size <= cells, size


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("backbone", NARROW)
def test_computed_sizes_equal_those_of_the_layers(backbone, padding):
    net = narrow(backbone, padding)
    sizes = (1, 2, 30, 33, 97, 128)
    # One of those that are padded to the same size.
    for size in {padded(size, net.backbone.multiple): size for size in sizes}.values():
        here = pad_to_multiple(ms.Tensor(np.zeros((1, 3, 8, size), np.float32)), net.backbone.multiple)
        maps = net.backbone(here)
        cells = here.shape[3]
        for name, path in net.backbone.paths().items():
            cells = size_after(cells, *path)
            assert maps[name].shape[3] == cells


@pytest.mark.long
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", NARROW)
def test_logits_of_every_image_of_1_to_600_pixels_have_its_size(backbone, head, padding):
    net = narrow(backbone, padding, head)
    for size in range(1, 601):
        image = np.zeros((1, 3, size, 601 - size), np.float32)
        assert net(ms.Tensor(image)).shape == (1, 2, size, 601 - size)


def test_cells_that_no_kernel_can_align_are_refused():
    with pytest.raises(ValueError, match="cannot be aligned"):
        alignment(ReceptiveField(Fraction(32), Fraction(1, 3)), ReceptiveField())


@pytest.mark.parametrize("factor", [2, 3, 4, 8, 16, 32])
def test_alignment_of_halves_and_wholes(factor):
    """A pooling of `factor` pixels has its middle between two of them if `factor` is even, on one if odd."""
    pooled = ReceptiveField().after(nn.AvgPool2d(factor, factor))
    found, kernel, offset = alignment(pooled, ReceptiveField())
    assert (found, kernel) == (factor, 2 * factor - factor % 2)
    assert offset == (kernel - factor) / 2
