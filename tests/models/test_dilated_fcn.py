"""The FCNs of torchvision and mmsegmentation: logits and gradients against PyTorch on the same random weights."""

import importlib

import mindspore as ms
import numpy as np
import pytest
from helpers import parameters, picture, run

from mindfcn.errors import UserError
from mindfcn.losses import AuxiliaryLoss, CrossEntropy
from mindfcn.models.factory import PAIRS, create_model
from mindfcn.models.surgery.fold_batch_norm import Folded
from mindfcn.weights.load import load_backbone, load_weights
from mindfcn.weights.resnet_names import published_resnet_fcn

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

NAMES = sorted(name for name in PAIRS if name.startswith("fcn_"))
SIZES = ((1, 1), (64, 96), (33, 47))

pytestmark = pytest.mark.usefixtures("pynative")


# The published networks, written from their descriptions with PyTorch's layers and the published layer names.

class Block(torch.nn.Module):
    """A residual block; without `bottleneck` of two 3x3 convolutions, of which mmsegmentation dilates the first."""

    def __init__(self, inputs, planes, bottleneck, stride, dilation):
        super().__init__()
        outputs = 4 * planes if bottleneck else planes
        shapes = ([(inputs, planes, 1), (planes, planes, 3), (planes, outputs, 1)] if bottleneck
                  else [(inputs, planes, 3), (planes, planes, 3)])
        spatial = 2 if bottleneck else 1
        for number, (before, after, kernel) in enumerate(shapes, 1):
            step, rate = (stride, dilation) if number == spatial else (1, 1)
            self.add_module(f"conv{number}", torch.nn.Conv2d(before, after, kernel, step, rate * (kernel // 2), rate,
                                                             bias=False))
            self.add_module(f"bn{number}", torch.nn.BatchNorm2d(after))
        self.count, self.downsample = len(shapes), None
        if stride > 1 or inputs != outputs:
            self.downsample = torch.nn.Sequential(torch.nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                                                  torch.nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            y = torch.relu(y) if number < self.count else y
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class Backbone(torch.nn.Module):
    """ResNet of output stride 8; returns the results of its third and fourth stage."""

    def __init__(self, depth, deep, base):
        super().__init__()
        half = base // 2
        conv, norm = torch.nn.Conv2d, torch.nn.BatchNorm2d
        if deep:
            self.stem = torch.nn.Sequential(
                conv(3, half, 3, 2, 1, bias=False), norm(half), torch.nn.ReLU(),
                conv(half, half, 3, 1, 1, bias=False), norm(half), torch.nn.ReLU(),
                conv(half, base, 3, 1, 1, bias=False), norm(base), torch.nn.ReLU())
        else:
            self.conv1, self.bn1, self.stem = conv(3, base, 7, 2, 3, bias=False), norm(base), None
        counts = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
        inputs = base
        # (stride, dilation of the first block, dilation of the others)
        windows = ((1, 1, 1), (2, 1, 1), (1, 1, 2), (1, 2, 4))
        for stage, (count, (stride, first, rest)) in enumerate(zip(counts, windows), 1):
            blocks = []
            for place in range(count):
                planes = base * 2 ** (stage - 1)
                blocks.append(Block(inputs, planes, depth > 18, 1 if place else stride, rest if place else first))
                inputs = planes * (4 if depth > 18 else 1)
            self.add_module(f"layer{stage}", torch.nn.Sequential(*blocks))
        self.channels = inputs

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x))) if self.stem is None else self.stem(x)
        x = self.layer2(self.layer1(torch.nn.functional.max_pool2d(x, 3, 2, 1)))
        third = self.layer3(x)
        return third, self.layer4(third)


class TorchvisionHead(torch.nn.Sequential):
    def __init__(self, inputs, classes):
        super().__init__(torch.nn.Conv2d(inputs, inputs // 4, 3, padding=1, bias=False),
                         torch.nn.BatchNorm2d(inputs // 4), torch.nn.ReLU(), torch.nn.Dropout(0.1),
                         torch.nn.Conv2d(inputs // 4, classes, 1))


class ConvModule(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv = torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = torch.nn.BatchNorm2d(outputs)

    def forward(self, x):
        return torch.relu(self.bn(self.conv(x)))


class MmsegHead(torch.nn.Module):
    def __init__(self, inputs, classes, convs, concat):
        super().__init__()
        channels = inputs // 4
        self.convs = torch.nn.Sequential(*(ConvModule(channels if at else inputs, channels) for at in range(convs)))
        self.conv_cat = ConvModule(inputs + channels, channels) if concat else None
        self.conv_seg = torch.nn.Conv2d(channels, classes, 1)

    def forward(self, x):
        y = self.convs(x)
        y = y if self.conv_cat is None else self.conv_cat(torch.cat((x, y), 1))
        return self.conv_seg(y)


class Published(torch.nn.Module):
    """The complete network under its published layer names: {"out": logits, "aux": the second head's}."""

    def __init__(self, name, classes, base=64):
        super().__init__()
        style, depth = ("torchvision", int(name[10:])) if "resnet" in name else ("mmseg", int(name[5:].split("_")[0]
                                                                                           .rstrip("b")))
        self.backbone = Backbone(depth, style == "mmseg" and "b_" not in name, base)
        channels = self.backbone.channels
        if style == "torchvision":
            self.classifier, self.aux_classifier = TorchvisionHead(channels, classes), TorchvisionHead(channels // 2,
                                                                                                       classes)
        else:
            self.decode_head = MmsegHead(channels, classes, 2, True)
            self.auxiliary_head = MmsegHead(channels // 2, classes, 1, False)
        self.heads = tuple(head for head, _ in list(self.named_children())[1:])

    def forward(self, image):
        third, fourth = self.backbone(image)
        head, auxiliary = (getattr(self, head) for head in self.heads)
        return {name: torch.nn.functional.interpolate(scores, image.shape[2:], mode="bilinear", align_corners=False)
                for name, scores in (("out", head(fourth)), ("aux", auxiliary(third)))}


def scrambled(net, seed=1):
    """Random weights, and running statistics that are not the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if name.endswith("running_var") or value.ndim == 1 and name.endswith("weight"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            elif value.ndim == 4:
                value.copy_(torch.randn(value.shape, generator=generator) * (1 / value[0].numel()) ** 0.5)
            elif value.is_floating_point():
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return net.eval()


def arrays(net):
    return {name: value.numpy().copy() for name, value in net.state_dict().items()}


def ours(published, classes):
    """The network of this package with the weights of a published one."""
    weights, model = published_resnet_fcn(arrays(published))
    net = create_model(model["name"], classes, **{name: value for name, value in model.items() if name != "name"})
    load_weights(net, weights)
    return net, model["name"]


def assert_close(found, expected, share=1e-4):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= share * np.abs(expected).max()


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_those_of_the_same_layers_in_pytorch(name):
    published = scrambled(Published(name, 5, base=8))
    net, found = ours(published, 5)
    assert found == name
    for height, width in SIZES[-1:] if "101" in name else SIZES:
        image = picture(height, width, count=2)
        with torch.no_grad():
            expected = published(torch.tensor(image))["out"].numpy()
        assert_close(run(net, image), expected)


@pytest.mark.parametrize("depth", [50, pytest.param(101, marks=pytest.mark.long)])
def test_logits_equal_torchvisions_own_module(depth):
    try:
        segmentation = importlib.import_module("torchvision.models.segmentation")
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"torchvision cannot be used: {str(error).splitlines()[0]}; install the release for this torch")
    make = getattr(segmentation, f"fcn_resnet{depth}")
    published = scrambled(make(weights=None, weights_backbone=None, num_classes=21, aux_loss=True))
    net, found = ours(published, 21)
    assert found == f"fcn_resnet{depth}"
    image = picture(65, 97, count=2)
    with torch.no_grad():
        expected = published(torch.tensor(image))["out"].numpy()
    assert_close(run(net, image), expected)


@pytest.mark.parametrize("name, batch_statistics", [("fcn_resnet50", False), ("fcn_r18_d8", False),
                                                    ("fcn_r18_d8", True)])
def test_loss_and_gradients_with_the_second_head_equal_pytorchs(name, batch_statistics):
    """Against float64: with batch statistics, ResNet-50's gradients in float32 are off by per cents in PyTorch, too."""
    published = scrambled(Published(name, 5, base=8)).double().train()
    weights, model = published_resnet_fcn(arrays(published))
    net = create_model(name, 5, width=model["width"], dropout=0.0)
    load_weights(net, weights)
    net.set_train(True)
    for module in published.modules():
        if isinstance(module, torch.nn.Dropout) or isinstance(module, torch.nn.BatchNorm2d) and not batch_statistics:
            module.eval()
    for _, cell in net.cells_and_names():
        if isinstance(cell, ms.nn.BatchNorm2d):
            cell.set_train(batch_statistics)
    loss = AuxiliaryLoss(CrossEntropy(), net.auxiliary_weight)
    trained = net.trainable_params()
    assert len(trained) == len(list(published.parameters()))

    def error(seed):
        """The largest difference of a gradient, divided by its parameter's largest."""
        image, random = picture(65, 97, seed=seed, count=2), np.random.default_rng(4)
        labels = random.integers(0, 5, (2, 65, 97))
        labels[:, :9] = 255
        published.zero_grad()
        maps = published(torch.tensor(image).double())
        share = 0.5 if "resnet" in name else 0.4
        expected = sum(part * torch.nn.functional.cross_entropy(maps[head], torch.tensor(labels), ignore_index=255)
                       for head, part in (("out", 1), ("aux", share)))
        expected.backward()
        slopes, _ = published_resnet_fcn({name: value.grad.numpy() for name, value in published.named_parameters()}
                                         | {name: value.detach().numpy() for name, value in published.named_buffers()})
        targets = ms.Tensor(labels, ms.int32)
        value, gradients = ms.value_and_grad(lambda pixels: loss(net(pixels), targets), None, trained)(ms.Tensor(image))
        assert float(value) == pytest.approx(float(expected.detach()), rel=1e-5)
        return max(np.abs(gradient.asnumpy() - slopes[parameter.name]).max() / np.abs(slopes[parameter.name]).max()
                   for parameter, gradient in zip(trained, gradients))

    # On some processors, rounding turns a ReLU whose input is nearly 0, and the gradients below it differ by 1e-3.
    assert any(error(seed) <= 1e-4 for seed in (1, 2, 3))


def test_parameters_are_as_many_as_published():
    sizes = {name: sum(parameter.size for parameter in create_model(name, 21).trainable_params())
             for name in ("fcn_resnet50", "fcn_resnet101")}
    assert sizes == {"fcn_resnet50": 35_322_218, "fcn_resnet101": 54_314_346}


def tiny(scramble, name, **options):
    return scramble(create_model(name, 3, width=0.125, **options))


@pytest.mark.parametrize("name", ["fcn_resnet50", "fcn_r18b_d8"])
def test_the_second_head_computes_in_training_only(scramble, name):
    net = tiny(scramble, name)
    image = ms.Tensor(picture(33, 47))
    assert net.set_train(False)(image).shape == (1, 3, 33, 47)
    assert net.set_train(True)(image).shape == (1, 6, 33, 47)
    without = tiny(scramble, name, auxiliary=0)
    assert without.set_train(True)(image).shape == (1, 3, 33, 47)
    assert not any(parameter.startswith("auxiliary.") for parameter in parameters(without))


@pytest.mark.parametrize("name", ["fcn_resnet50", "fcn_r18_d8"])
def test_compiled_equals_operator_by_operator(scramble, name):
    net = tiny(scramble, name)
    image = picture(33, 47)
    plain = run(net, image)
    ms.set_context(mode=ms.GRAPH_MODE)
    assert_close(run(tiny(scramble, name), image), plain, 1e-5)


def test_folded_it_has_no_normalisation_and_the_same_logits(scramble):
    net = tiny(scramble, "fcn_r50_d8")
    folded, image = Folded(net), picture(70, 45)
    assert_close(run(folded.net, image), run(net, image), 1e-5)
    kept = {cell.gamma.name for _, cell in folded.net.cells_and_names() if isinstance(cell, ms.nn.BatchNorm2d)}
    assert all(name.startswith("auxiliary.") for name in kept)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_strides(stride):
    sizes = {name: maps.shape[2:] for name, maps in create_model(
        "fcn_r18b_d8", 3, width=0.125, output_stride=stride).backbone(ms.Tensor(picture(96, 65))).items()}
    assert sizes == {"pool3": (12, 9), "pool4": (96 // min(16, stride), -(-65 // min(16, stride))),
                     "fc7": (96 // stride, -(-65 // stride))}


@pytest.mark.parametrize("name", ["fcn_resnet50", "fcn_r18_d8"])
def test_no_pixel_beyond_the_reach_changes_a_pixel(scramble, name):
    net = tiny(scramble, name)
    field = net.backbone.receptive_fields()["fc7"]
    assert field.stride == net.stride == 8 and field.centre == 0
    side = 8 * (2 * (net.reach // 8) + 20)
    image = picture(8, side)
    changed = image.copy()
    changed[..., 0] += 5
    difference = np.abs(run(net, image) - run(net, changed)).max((0, 1, 2))
    assert difference[net.reach + 1:].max() == 0 < difference[net.reach - 24:].max()


def test_backbones_load_from_the_classifiers_of_torchvision(scramble):
    published = scrambled(Published("fcn_resnet50", 5, base=8))
    weights = {name.removeprefix("backbone."): value for name, value in arrays(published).items()
               if name.startswith("backbone.")} | {"fc.weight": np.zeros((10, 256)), "fc.bias": np.zeros(10)}
    net = tiny(scramble, "fcn_resnet50")
    report = load_backbone(net, weights)
    assert report.missing == [] and report.preprocess.order == "BGR"
    with torch.no_grad():
        expected = published.backbone(torch.tensor(picture(40, 33)))[1].numpy()
    found = net.set_train(False).backbone(ms.Tensor(picture(40, 33)[:, ::-1].copy()))["fc7"].asnumpy()
    assert_close(found, expected)


@pytest.mark.parametrize("path", ["fcn_d6_r50-d16_512x1024.pth", "fcn_r50-d8_769x769_80k.pth"])
def test_networks_that_compute_otherwise_are_refused(path):
    with pytest.raises(UserError, match="which is not among those here"):
        published_resnet_fcn(arrays(Published("fcn_r50_d8", 3, base=8)), path)


def test_a_resnet_of_another_depth_is_refused():
    weights = {name: value for name, value in arrays(Published("fcn_resnet50", 3, base=8)).items()
               if not name.startswith("backbone.layer3.5.")}
    with pytest.raises(UserError, match="5 blocks in its third stage"):
        published_resnet_fcn(weights, "net.pth")
