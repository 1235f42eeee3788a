"""The published networks, loaded from files of their formats: PyTorch computes the same from the same weights.

The tests write files of the published names and shapes, with fewer channels and random weights. The networks are
written out below in PyTorch's functions, with the padding of 100 and the crops of the released prototxt files.
"""

import math
import pathlib

import mindspore as ms
import numpy as np
import pytest
from helpers import one_line

from mindfcn.errors import UserError
from mindfcn.labels import VOC
from mindfcn.models.factory import create_model
from mindfcn.preprocess import CAFFE, COURSE
from mindfcn.weights.checkpoint import load_checkpoint
from mindfcn.weights.load import backbone_parameters, load_backbone, load_stage, load_weights

torch = pytest.importorskip("torch")
F = torch.nn.functional

VGG16 = {"1_1": 8, "1_2": 8, "2_1": 16, "2_2": 16, "3_1": 32, "3_2": 32, "3_3": 32, "4_1": 64, "4_2": 64, "4_3": 64,
         "5_1": 64, "5_2": 64, "5_3": 64}
FC = 24
TINY = {"width": 0.125, "fc_width": FC}
# layer: channels, kernel, groups
CAFFENET = {"conv1": (12, 11, 1), "conv2": (32, 5, 2), "conv3": (48, 3, 1), "conv4": (48, 3, 2), "conv5": (32, 3, 2)}
UPSCORES = {"fcn32s": {"upscore": 64}, "fcn16s": {"upscore2": 4, "upscore16": 32},
            "fcn8s": {"upscore2": 4, "upscore_pool4": 4, "upscore8": 16}}
# table 1 of the GoogLeNet paper by eight: 1x1 | 3x3 reduce, 3x3 | 5x5 reduce, 5x5 | pool projection
INCEPTION = {"3a": (8, 12, 16, 2, 4, 4), "3b": (16, 16, 24, 4, 12, 8), "4a": (24, 12, 26, 2, 6, 8),
             "4b": (20, 14, 28, 3, 8, 8), "4c": (16, 16, 32, 3, 8, 8), "4d": (14, 18, 36, 4, 8, 8),
             "4e": (32, 20, 40, 4, 16, 16), "5a": (32, 20, 40, 4, 16, 16), "5b": (48, 24, 48, 6, 16, 16)}
SHARED = pathlib.Path(__file__).parents[3] / "shared"
ALEXNET = SHARED / "weights" / "alexnet_imagenet_features.npz"

pytestmark = pytest.mark.usefixtures("pynative")


class Numbers:
    """Random weights that keep the activations' scale."""

    def __init__(self, seed):
        self.random, self.weights = np.random.default_rng(seed), {}

    def add(self, layer, *shape, bias=True):
        size = math.prod(shape[1:])
        weight = self.random.standard_normal(shape) * math.sqrt(2 / size)
        self.weights[f"{layer}.weight"] = weight.astype(np.float32)
        if bias:
            self.weights[f"{layer}.bias"] = (self.random.standard_normal(shape[0]) * 0.3).astype(np.float32)


def vgg16_backbone(seed=1, dense=(4, 2)):
    """Caffe's VGG16; `dense`: dimensions of fc6's and fc7's weights."""
    numbers, channels = Numbers(seed), 3
    for place, count in VGG16.items():
        numbers.add(f"conv{place}", count, channels, 3, 3)
        channels = count
    numbers.add("fc6", *((FC, 64, 7, 7) if dense == (4, 2) else (FC, 64 * 49)))
    numbers.add("fc7", *((FC, FC, 1, 1) if dense == (4, 2) else (FC, FC)))
    return numbers


def caffenet_backbone(seed=2, convolutional=True):
    numbers, channels = Numbers(seed), 3
    for layer, (count, kernel, groups) in CAFFENET.items():
        numbers.add(layer, count, channels // groups, kernel, kernel)
        channels = count
    numbers.add("fc6", *((FC, 32, 6, 6) if convolutional else (FC, 32 * 36)))
    numbers.add("fc7", *((FC, FC, 1, 1) if convolutional else (FC, FC)))
    return numbers


def fcn(head, classes=21, backbone=vgg16_backbone, upscores=None):
    """Weights of a released net. The upsampling kernels are random and dense, so that their layout shows."""
    numbers = backbone()
    numbers.add("score_fr", classes, FC, 1, 1)
    if head in ("fcn16s", "fcn8s"):
        numbers.add("score_pool4", classes, 64, 1, 1)
    if head == "fcn8s":
        numbers.add("score_pool3", classes, 32, 1, 1)
    for layer, kernel in (upscores or UPSCORES[head]).items():
        numbers.add(layer, classes, classes, kernel, kernel, bias=False)
        # Each pixel is computed from 2x2 coarse cells.
        numbers.weights[f"{layer}.weight"] *= kernel / 2
    return numbers.weights


def conv(weights, layer, x, **options):
    return F.conv2d(x, torch.tensor(weights[f"{layer}.weight"]), torch.tensor(weights[f"{layer}.bias"]), **options)


def upsampled(weights, layer, x, stride):
    return F.conv_transpose2d(x, torch.tensor(weights[f"{layer}.weight"]), stride=stride)


def cut(x, offset, like):
    height, width = like.shape[2:]
    assert x.shape[2] >= offset + height and x.shape[3] >= offset + width
    return x[:, :, offset:offset + height, offset:offset + width]


def torch_vgg16(weights, image):
    """(pool3, pool4, fc7)"""
    x, pools = image, []
    for place in VGG16:
        x = F.relu(conv(weights, f"conv{place}", x, padding=100 if place == "1_1" else 1))
        if place in ("1_2", "2_2", "3_3", "4_3", "5_3"):
            x = F.max_pool2d(x, 2, 2, ceil_mode=True)
            pools.append(x)
    fc6 = F.relu(F.conv2d(x, torch.tensor(weights["fc6.weight"]).reshape(FC, -1, 7, 7),
                          torch.tensor(weights["fc6.bias"])))
    fc7 = F.relu(F.conv2d(fc6, torch.tensor(weights["fc7.weight"]).reshape(FC, FC, 1, 1),
                          torch.tensor(weights["fc7.bias"])))
    return pools[2], pools[3], fc7


def norm(x):
    return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)


def pool3x3(x):
    return F.max_pool2d(x, 3, 2, ceil_mode=True)


def torch_caffenet(weights, image):
    """fc7"""
    x = norm(pool3x3(F.relu(conv(weights, "conv1", image, stride=4, padding=100))))
    x = norm(pool3x3(F.relu(conv(weights, "conv2", x, padding=2, groups=2))))
    x = F.relu(conv(weights, "conv3", x, padding=1))
    x = F.relu(conv(weights, "conv4", x, padding=1, groups=2))
    x = pool3x3(F.relu(conv(weights, "conv5", x, padding=1, groups=2)))
    return F.relu(conv(weights, "fc7", F.relu(conv(weights, "fc6", x))))


def torch_fcn(head, weights, image, scales=(1, 1)):
    """Logits of a released net: (N, 3, H, W) less the mean -> (N, C, H, W)."""
    image = torch.tensor(image)
    if head == "alexnet":
        return cut(upsampled(weights, "upscore", conv(weights, "score_fr", torch_caffenet(weights, image)), 32),
                   18, image).numpy()
    pool3, pool4, fc7 = torch_vgg16(weights, image)
    score_fr = conv(weights, "score_fr", fc7)
    if head == "fcn32s":
        return cut(upsampled(weights, "upscore", score_fr, 32), 19, image).numpy()
    upscore2 = upsampled(weights, "upscore2", score_fr, 2)
    fuse_pool4 = upscore2 + cut(conv(weights, "score_pool4", pool4 * scales[0]), 5, upscore2)
    if head == "fcn16s":
        return cut(upsampled(weights, "upscore16", fuse_pool4, 16), 27, image).numpy()
    upscore_pool4 = upsampled(weights, "upscore_pool4", fuse_pool4, 2)
    fuse_pool3 = upscore_pool4 + cut(conv(weights, "score_pool3", pool3 * scales[1]), 9, upscore_pool4)
    return cut(upsampled(weights, "upscore8", fuse_pool3, 8), 31, image).numpy()


def torch_googlenet(weights, image):
    """(inception_3b, 4e, 5b) with conv1's padding of 100."""
    def layer(name, x, **options):
        return F.relu(conv(weights, name, x, **options))

    def inception(name, x):
        reduced3, reduced5 = (layer(f"inception_{name}/{size}_reduce", x) for size in ("3x3", "5x5"))
        return torch.cat((layer(f"inception_{name}/1x1", x), layer(f"inception_{name}/3x3", reduced3, padding=1),
                          layer(f"inception_{name}/5x5", reduced5, padding=2),
                          layer(f"inception_{name}/pool_proj", F.max_pool2d(x, 3, 1, padding=1))), 1)

    x = norm(pool3x3(layer("conv1/7x7_s2", image, stride=2, padding=100)))
    x = pool3x3(norm(layer("conv2/3x3", layer("conv2/3x3_reduce", x), padding=1)))
    maps = []
    for name in INCEPTION:
        x = inception(name, x)
        if name in ("3b", "4e", "5b"):
            maps.append(x)
            x = pool3x3(x)
    return maps


def googlenet():
    numbers, channels = Numbers(3), 24
    numbers.add("conv1/7x7_s2", 8, 3, 7, 7)
    numbers.add("conv2/3x3_reduce", 8, 8, 1, 1)
    numbers.add("conv2/3x3", 24, 8, 3, 3)
    for name, (one, reduce3, three, reduce5, five, pool) in INCEPTION.items():
        for layer, out, inputs, kernel in (("1x1", one, channels, 1), ("3x3_reduce", reduce3, channels, 1),
                                           ("3x3", three, reduce3, 3), ("5x5_reduce", reduce5, channels, 1),
                                           ("5x5", five, reduce5, 5), ("pool_proj", pool, channels, 1)):
            numbers.add(f"inception_{name}/{layer}", out, inputs, kernel, kernel)
        channels = one + three + five + pool
    numbers.add("loss1/conv", 16, 64, 1, 1)
    return numbers.weights


def picture(height, width, seed=5):
    """BGR minus the mean, as Caffe's networks expect it."""
    return np.random.default_rng(seed).uniform(-1, 1, (1, 3, height, width)).astype(np.float32)


def save(path, weights, caffe, **options):
    """A published file: .caffemodel, or .pth with Caffe's names as a PyTorch conversion has them."""
    if path.suffix == ".caffemodel":
        path.write_bytes(caffe.net(weights, **options))
    else:
        torch.save({name: torch.tensor(value) for name, value in weights.items()}, path)
    return path


def built(path):
    """(network, card) of a file, built from its own card only."""
    weights, card, state = load_checkpoint(path)
    model = {"name": card.model["name"], **card.options()}
    net = create_model(model.pop("name"), len(card.labels), **model).set_train(False)
    report = load_weights(net, weights, path)
    assert state == {} and not report.missing + report.unexpected + report.shape_mismatches
    return net, card


def agree(actual, expected):
    assert actual.shape == expected.shape and np.abs(expected).max() > 0.1
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < 1e-4, error


@pytest.mark.parametrize("size", [(97, 131), (75, 64)])
@pytest.mark.parametrize("suffix", [".caffemodel", ".pth"])
@pytest.mark.parametrize("head", ["fcn32s", "fcn16s", "fcn8s"])
def test_a_whole_vgg16_net_gives_pytorchs_logits(head, suffix, size, caffe, tmp_path):
    weights = fcn(head)
    net, card = built(save(tmp_path / f"{head}_from_caffe{suffix}", weights, caffe))
    assert card.model == {"name": f"{head}_vgg16", "geometry": "paper", **TINY}
    assert card.labels == VOC and card.preprocess == CAFFE
    image = picture(*size)
    agree(net(ms.Tensor(image)).asnumpy(), torch_fcn(head, weights, image))


@pytest.mark.parametrize("suffix", [".caffemodel", ".pth"])
def test_the_net_at_once_brings_its_scales(suffix, caffe, tmp_path):
    """In Caffe, the scales are layers of one number per channel; in the conversion, only the file name shows them."""
    weights = fcn("fcn8s", 4)
    scales = {"scale_pool4.weight": np.full(64, 0.01, np.float32), "scale_pool3.weight": np.full(32, 1e-4, np.float32)}
    stored = {**weights, **scales} if suffix == ".caffemodel" else weights
    net, card = built(save(tmp_path / f"fcn8s-atonce_from_caffe{suffix}", stored, caffe))
    assert card.model["name"] == "fcn8s_atonce_vgg16" and card.model["skip_scales"] == [0.01, 0.0001]
    assert card.labels.names == ("class 0", "class 1", "class 2", "class 3")
    image = picture(97, 131)
    expected = torch_fcn("fcn8s", weights, image, (0.01, 0.0001))
    agree(net(ms.Tensor(image)).asnumpy(), expected)
    assert np.abs(expected - torch_fcn("fcn8s", weights, image)).max() > 0.1 * np.abs(expected).max()


def test_a_conversion_at_once_under_any_file_name_is_named_by_the_user(caffe, tmp_path):
    path = save(tmp_path / "net.pth", fcn("fcn8s", 4), caffe)
    assert "skip_scales" not in load_checkpoint(path, "fcn8s_vgg16_bn")[1].model
    model = load_checkpoint(path, "fcn8s_atonce_vgg16")[1].model
    assert model["name"] == "fcn8s_atonce_vgg16" and model["skip_scales"] == [0.01, 0.0001]


def test_scales_that_differ_by_channel_are_refused(caffe, tmp_path):
    scales = {"scale_pool4.weight": np.linspace(0, 1, 64, dtype=np.float32), "scale_pool3.weight": np.ones(32, "f4")}
    with pytest.raises(UserError, match="channel") as error:
        load_checkpoint(save(tmp_path / "net.caffemodel", {**fcn("fcn8s", 4), **scales}, caffe))
    assert "\n" not in str(error.value) and "net.caffemodel" in str(error.value)


@pytest.mark.parametrize("size", [(97, 131), (75, 64)])
@pytest.mark.parametrize("suffix", [".caffemodel", ".pth"])
def test_the_published_alexnet_gives_pytorchs_logits(suffix, size, caffe, tmp_path):
    weights = fcn("fcn32s", 21, caffenet_backbone, {"upscore": 63})
    net, card = built(save(tmp_path / f"fcn-alexnet-pascal{suffix}", weights, caffe))
    assert card.model == {"name": "fcn32s_caffenet", "geometry": "paper", **TINY} and card.preprocess == CAFFE
    image = picture(*size)
    agree(net(ms.Tensor(image)).asnumpy(), torch_fcn("alexnet", weights, image))


# ------------------------------------------------------------------------------------------------- classifiers

@pytest.mark.parametrize("options", [{}, {"v1": True, "form": "legacy"}], ids=["today", "2014"])
def test_caffes_vgg16_fills_the_backbone(options, caffe, tmp_path):
    """VGG_ILSVRC_16_layers.caffemodel has the old format: numeric layer types, four dimensions everywhere."""
    numbers = vgg16_backbone(dense=(2, 2))
    numbers.add("fc8", 10, FC)
    net = create_model("fcn8s_vgg16", 3, padding="pad100", **TINY).set_train(False)
    report = load_backbone(net, save(tmp_path / "VGG_ILSVRC_16_layers.caffemodel", numbers.weights, caffe, **options))
    assert report.preprocess == CAFFE and not report.missing + report.shape_mismatches
    assert sorted(report.unexpected) == ["fc8.bias", "fc8.weight"]
    assert ("conv6.0.weight", f"fc6.weight ({FC}, 3136)") in report.converted
    image = picture(97, 131)
    maps = net.backbone(ms.Tensor(image))
    for name, expected in zip(("pool3", "pool4", "fc7"), torch_vgg16(numbers.weights, torch.tensor(image))):
        agree(maps[name].asnumpy(), expected.numpy())


def test_caffes_alexnet_fills_the_backbone(caffe, tmp_path):
    numbers = caffenet_backbone(convolutional=False)
    numbers.add("fc8", 10, FC)
    net = create_model("fcn32s_caffenet", 3, padding="pad100", **TINY).set_train(False)
    report = load_backbone(net, save(tmp_path / "bvlc_reference_caffenet.caffemodel", numbers.weights, caffe,
                                  v1=True, form="legacy"))
    assert report.preprocess == CAFFE and not report.missing + report.shape_mismatches
    image = picture(97, 131)
    weights = {**numbers.weights, "fc6.weight": numbers.weights["fc6.weight"].reshape(FC, 32, 6, 6),
               "fc7.weight": numbers.weights["fc7.weight"].reshape(FC, FC, 1, 1)}
    agree(net.backbone(ms.Tensor(image))["fc7"].asnumpy(), torch_caffenet(weights, torch.tensor(image)).numpy())


def test_caffes_googlenet_fills_the_backbone(caffe, tmp_path):
    weights = googlenet()
    net = create_model("fcn32s_googlenet", 3, padding="pad100", width=0.125).set_train(False)
    report = load_backbone(net, save(tmp_path / "bvlc_googlenet.caffemodel", weights, caffe, v1=True, form="legacy"))
    assert report.preprocess == CAFFE and not report.missing + report.shape_mismatches
    assert sorted(report.unexpected) == ["loss1/conv.bias", "loss1/conv.weight"]
    image = picture(97, 131)
    maps = net.backbone(ms.Tensor(image))
    for name, expected in zip(("pool3", "pool4", "fc7"), torch_googlenet(weights, torch.tensor(image))):
        agree(maps[name].asnumpy(), expected.numpy())


def torchvision_alexnet(seed=4):
    """A state_dict of torchvision's alexnet with an eighth of the channels."""
    numbers, channels = Numbers(seed), 3
    for place, count, kernel in ((0, 8, 11), (3, 24, 5), (6, 48, 3), (8, 32, 3), (10, 32, 3)):
        numbers.add(f"features.{place}", count, channels, kernel, kernel)
        channels = count
    for place, out, size in ((1, FC, 32 * 36), (4, FC, FC), (6, 10, FC)):
        numbers.add(f"classifier.{place}", out, size)
    return numbers.weights


def torchvision_features(weights, image, until=13):
    """torchvision's AlexNet.features: RGB images -> the map after the last pooling."""
    x = F.relu(conv(weights, "features.0", image, stride=4, padding=2))
    x = F.relu(conv(weights, "features.3", F.max_pool2d(x, 3, 2), padding=2))
    x = F.relu(conv(weights, "features.6", F.max_pool2d(x, 3, 2), padding=1))
    x = F.relu(conv(weights, "features.8", x, padding=1))
    return F.max_pool2d(F.relu(conv(weights, "features.10", x, padding=1)), 3, 2)


def framed(image):
    """torchvision pads by 2, the paper by 100: 98 more on each side."""
    return F.pad(torch.tensor(np.ascontiguousarray(image[:, ::-1])), (98,) * 4)


def test_torchvisions_alexnet_fills_the_backbone():
    """Its classifier becomes convolutional and its first layer takes BGR images."""
    weights = torchvision_alexnet()
    net = create_model("fcn32s_alexnet", 3, padding="pad100", **TINY).set_train(False)
    report = load_backbone(net, weights)
    assert report.preprocess == COURSE and ("conv1.0.weight", "RGB to BGR") in report.converted
    assert not report.missing + report.shape_mismatches and sorted(report.unexpected) == ["classifier.6.bias",
                                                                                 "classifier.6.weight"]
    # Sides at which no pooling window crosses the edge: 16 n - 181 with odd n.
    image = picture(91, 123)
    x = torchvision_features(weights, framed(image))
    x = F.relu(F.conv2d(x, torch.tensor(weights["classifier.1.weight"]).reshape(FC, 32, 6, 6),
                        torch.tensor(weights["classifier.1.bias"])))
    x = F.relu(F.conv2d(x, torch.tensor(weights["classifier.4.weight"]).reshape(FC, FC, 1, 1),
                        torch.tensor(weights["classifier.4.bias"])))
    agree(net.backbone(ms.Tensor(image))["fc7"].asnumpy(), x.numpy())


def features(net, image):
    """The map before fc6 of an AlexNet backbone."""
    backbone = net.backbone
    x = backbone.conv5(backbone.conv4(backbone.conv3(backbone.norm(backbone(ms.Tensor(image))["pool4"]))))
    return backbone.pool5(x).asnumpy()


@pytest.mark.skipif(not ALEXNET.exists(), reason="no ../shared/weights/alexnet_imagenet_features.npz")
def test_the_real_alexnet_has_the_maps_of_pytorch_on_a_photograph():
    cv2 = pytest.importorskip("cv2")
    photograph = next(iter(sorted((SHARED / "data" / "VOCdevkit" / "VOC2012" / "JPEGImages").glob("*.jpg"))), None)
    if photograph is None:
        pytest.skip("no ../shared/data/VOCdevkit")
    net = create_model("fcn32s_alexnet", 21, fc_width=8, padding="pad100").set_train(False)
    report = load_backbone(net, ALEXNET)
    assert len(report.loaded) == 10 and report.unexpected == [] and report.preprocess == COURSE
    pixels = cv2.resize(cv2.imread(str(photograph)), (315, 251))
    image = report.preprocess.normalise(pixels).transpose(2, 0, 1)[None]
    weights = dict(np.load(ALEXNET))
    # torchvision's normalisation of RGB pixels in 0..1, written out.
    rgb = (pixels[..., ::-1] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    rgb = torch.tensor(rgb.transpose(2, 0, 1)[None].astype(np.float32))
    agree(features(net, image), torchvision_features(weights, F.pad(rgb, (98,) * 4)).numpy())


# ------------------------------------------------------------------------------------------------- conventions

def torchvision_names(weights):
    """Caffe's VGG16 under torchvision's names: vgg16_from_caffe.pth."""
    places = iter((0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28))
    layers = {f"conv{place}": f"features.{next(places)}" for place in VGG16}
    layers |= {"fc6": "classifier.0", "fc7": "classifier.3"}
    return {f"{layers[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value for name, value in weights.items()}


def test_torchvisions_names_can_hide_caffes_numbers(tmp_path, caffe):
    """vgg16_from_caffe.pth: with `caffe`, nothing is swapped, and the net computes the same as Caffe's."""
    weights = vgg16_backbone(dense=(2, 2)).weights
    path = save(tmp_path / "vgg16_from_caffe.pth", torchvision_names(weights), caffe)
    nets = {convention: create_model("fcn32s_vgg16", 3, padding="pad100", **TINY).set_train(False)
            for convention in ("auto", "caffe", "course")}
    reports = {convention: load_backbone(net, path, convention) for convention, net in nets.items()}
    assert {convention: report.preprocess for convention, report in reports.items()} == {
        "auto": COURSE, "caffe": CAFFE, "course": COURSE}
    image = picture(75, 64)
    expected = torch_vgg16(weights, torch.tensor(image))[2].numpy()
    agree(nets["caffe"].backbone(ms.Tensor(image))["fc7"].asnumpy(), expected)
    swapped = nets["auto"].backbone(ms.Tensor(np.ascontiguousarray(image[:, ::-1])))["fc7"].asnumpy()
    agree(swapped, expected)
    for convention in ("auto", "course"):
        assert ("conv1.0.weight", "RGB to BGR") in reports[convention].converted
    assert not any("RGB" in what for _, what in reports["caffe"].converted)


def test_conventions_equal_the_normalisations_of_their_sources():
    """Caffe subtracts the mean from BGR; torchvision's, for BGR pixels, is the course's."""
    pixels = np.random.default_rng(6).integers(0, 256, (4, 5, 3), np.uint8)
    np.testing.assert_allclose(CAFFE.normalise(pixels), pixels - np.array([104.00699, 116.66877, 122.67892]), atol=1e-4)
    torchvision = (pixels[..., ::-1] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(COURSE.normalise(pixels), torchvision[..., ::-1], atol=1e-5)


@pytest.mark.parametrize("name, weights, words", [
    ("fcn32s_alexnet", lambda: vgg16_backbone().weights, ("a VGG16", "needs those of an AlexNet")),
    ("fcn32s_vgg16", lambda: caffenet_backbone().weights, ("AlexNet", "VGG16")),
    ("fcn32s_googlenet", lambda: torchvision_alexnet(), ("AlexNet", "GoogLeNet")),
    ("fcn32s_caffenet", lambda: torchvision_alexnet(), ("conv1.0.weight", "(8, 3, 11, 11)", "(12, 3, 11, 11)")),
    ("fcn32s_vgg16", lambda: googlenet(), ("GoogLeNet", "VGG16"))])
def test_weights_of_another_backbone_are_reported_in_one_line(name, weights, words):
    options = {"width": 0.125} if "googlenet" in name else TINY
    with pytest.raises(UserError) as error:
        load_backbone(create_model(name, 3, **options), weights(), where="some.pth")
    one_line(error, "some.pth", *words)


# ------------------------------------------------------------------------------------------------- stages

def parameters(net):
    return {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()
            if not parameter.name.endswith(".step")}


def trained(name, classes=3, seed=9, **options):
    """Weights of a network, all random and different."""
    net = create_model(name, classes, **{**TINY, **options})
    random = np.random.default_rng(seed)
    return {entry: random.standard_normal(value.shape).astype(np.float32) for entry, value in parameters(net).items()}


def bilinear(classes, kernel):
    """The paper's bilinear upsampling kernel, from its formula, in float64."""
    factor = (kernel + 1) // 2
    centre = factor - 1 if kernel % 2 else factor - 0.5
    ramp = [1 - abs(at - centre) / factor for at in range(kernel)]
    return np.einsum("cd,i,j->cdij", np.eye(classes), ramp, ramp)


@pytest.mark.parametrize("backbone", ["vgg16", "alexnet"])
@pytest.mark.parametrize("before, after, left_out, new", [
    ("fcn32s", "fcn16s", ["upscore"], {"upscore2": 4, "score_pool4": 0, "upscore16": 32}),
    ("fcn16s", "fcn8s", ["upscore16"], {"upscore_pool4": 4, "score_pool3": 0, "upscore8": 16})])
def test_a_stage_starts_from_the_one_before(backbone, before, after, left_out, new):
    weights, net = trained(f"{before}_{backbone}"), create_model(f"{after}_{backbone}", 3, **TINY)
    report = load_stage(net, weights, "stage.ckpt")
    found = parameters(net)
    assert report.unexpected == [f"{layer}.weight" for layer in left_out] and report.shape_mismatches == []
    assert {name.rpartition(".")[0] for name in report.missing} == set(new)
    assert set(report.loaded) == found.keys() - set(report.missing)
    for name in report.loaded:
        np.testing.assert_array_equal(found[name], weights[name])
    for layer, kernel in new.items():
        if kernel:
            kernel -= backbone == "alexnet"
            np.testing.assert_allclose(found[f"{layer}.weight"], bilinear(3, kernel), atol=1e-6)
        else:
            assert not found[f"{layer}.weight"].any() and not found[f"{layer}.bias"].any()
    outcomes = dict(report.rows())
    assert outcomes.keys() == found.keys() | weights.keys() and "left out" in outcomes[report.unexpected[0]]


def test_the_first_output_of_a_stage_is_that_of_the_one_before_upsampled_in_two_steps():
    """The new score is zero, so FCN-16s starts as its score_fr upsampled by 2 and then by 16."""
    weights, net = trained("fcn32s_vgg16"), create_model("fcn16s_vgg16", 3, padding="pad100", **TINY).set_train(False)
    weights = {name: value * (0.05 if name.endswith("weight") else 0.1) for name, value in weights.items()}
    load_stage(net, weights)
    image = picture(75, 64)
    caffe_names = {f"conv{place[0]}_{place[2]}": f"conv{place[0]}.{2 * int(place[2]) - 2}" for place in VGG16}
    caffe_names |= {"fc6": "conv6.0", "fc7": "conv7.0"}
    caffe_weights = {f"{name}.{kind}": weights[f"{target}.{kind}"] for name, target in caffe_names.items()
                     for kind in ("weight", "bias")}
    score_fr = conv(weights, "score_fr", torch_vgg16(caffe_weights, torch.tensor(image))[2])
    for kernel, stride in ((4, 2), (32, 16)):
        kernels = torch.tensor(bilinear(3, kernel).astype(np.float32))
        score_fr = F.conv_transpose2d(score_fr, kernels, stride=stride)
    agree(net(ms.Tensor(image)).asnumpy(), cut(score_fr, 27, torch.tensor(image)).numpy())


def test_for_other_classes_only_the_backbone_moves():
    weights, net = trained("fcn8s_vgg16", 21), create_model("fcn8s_vgg16", 3, **TINY)
    before = parameters(net)
    report = load_stage(net, weights)
    assert set(report.loaded) == backbone_parameters(net).keys() and report.missing == report.unexpected == []
    assert {name for name, _, _ in report.shape_mismatches} == before.keys() - backbone_parameters(net).keys()
    for name, _, _ in report.shape_mismatches:
        np.testing.assert_array_equal(parameters(net)[name], before[name])


@pytest.mark.parametrize("before, options, words", [
    ("fcn32s_vgg16_bn", {}, ("another architecture", "conv1.0.bias")),
    ("fcn32s_alexnet", {}, ("another architecture", "conv1.2")),
    ("fcn32s_vgg16", {"fc_width": 8}, ("conv6.0", "(8, ")), ("fcn32s_vgg16", {"width": 0.25}, ("conv1.0", "(16, "))])
def test_a_checkpoint_of_another_backbone_is_refused(before, options, words):
    net = create_model("fcn16s_vgg16", 3, **TINY)
    start = parameters(net)
    with pytest.raises(UserError) as error:
        load_stage(net, trained(before, **options), "other.ckpt")
    one_line(error, "other.ckpt", *words)
    for name, value in parameters(net).items():
        np.testing.assert_array_equal(value, start[name])
