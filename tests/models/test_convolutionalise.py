"""Convolutionalisation: dense layers as convolutions, and classifiers as fully convolutional networks."""

from collections import OrderedDict

import mindspore as ms
import numpy as np
import pytest
from helpers import picture, run
from mindspore import nn

from mindfcn.models import layers
from mindfcn.models.surgery.classifiers import dense_layers, vgg16_classifier
from mindfcn.models.surgery.convolutionalise import conv_to_dense, convolutionalise, dense_to_conv

NARROW = {"num_classes": 1000, "width": 1 / 16, "fc_width": 24}


def alexnet_classifier(num_classes=1000, width=1.0, fc_width=4096):
    """AlexNet in torchvision's form, one tower without normalisation: (N, 3, 224, 224) -> (N, num_classes)."""
    c64, c192, c384, c256 = (max(1, round(base * width)) for base in (64, 192, 384, 256))
    cells = OrderedDict(
        conv1=layers.conv_block(3, c64, (11,), stride=4, padding=2), pool1=layers.MaxPool(3),
        conv2=layers.conv_block(c64, c192, (5,)), pool2=layers.MaxPool(3),
        conv3=layers.conv_block(c192, c384, (3,)),
        conv4=layers.conv_block(c384, c256, (3,)),
        conv5=layers.conv_block(c256, c256, (3,)), pool5=layers.MaxPool(3))
    return nn.SequentialCell(OrderedDict(cells, **dense_layers(c256 * 6 * 6, fc_width, num_classes)))


def caffenet_classifier(num_classes=1000, width=1.0, fc_width=4096):
    """AlexNet in Caffe's form, two groups, normalisation after pooling: (N, 3, 227, 227) -> (N, num_classes)."""
    c96, c256, c384 = (2 * max(1, round(base * width / 2)) for base in (96, 256, 384))
    cells = OrderedDict(
        conv1=layers.conv_block(3, c96, (11,), stride=4, padding=0), pool1=layers.MaxPool(3), norm1=layers.LRN(),
        conv2=layers.conv_block(c96, c256, (5,), group=2), pool2=layers.MaxPool(3), norm2=layers.LRN(),
        conv3=layers.conv_block(c256, c384, (3,)),
        conv4=layers.conv_block(c384, c384, (3,), group=2),
        conv5=layers.conv_block(c384, c256, (3,), group=2), pool5=layers.MaxPool(3))
    return nn.SequentialCell(OrderedDict(cells, **dense_layers(c256 * 6 * 6, fc_width, num_classes)))


CLASSIFIERS = pytest.mark.parametrize("make,size", [(vgg16_classifier, 224), (alexnet_classifier, 224),
                                                    (caffenet_classifier, 227)])


def dense(inputs, outputs, **options):
    return nn.Dense(inputs, outputs, weight_init="normal", bias_init="normal", **options)


def small_classifier(padding):
    """VGG16's shape in small, of output stride 8: with padding for images of 24x24, without for 38x38."""
    def conv(inputs, outputs, kernel=3):
        return nn.Conv2d(inputs, outputs, kernel, 1, "pad", padding, has_bias=True, bias_init="normal")
    return nn.SequentialCell(
        nn.SequentialCell(conv(3, 6), nn.ReLU(), nn.MaxPool2d(2, 2), conv(6, 8), nn.ReLU(), nn.MaxPool2d(2, 2)),
        conv(8, 8), nn.ReLU(), nn.MaxPool2d(2, 2), nn.Flatten(), dense(72, 10), nn.ReLU(), nn.Dropout(p=0.5),
        dense(10, 5))


@pytest.mark.parametrize("height,width,has_bias", [(7, 7, True), (3, 5, False), (1, 1, True)])
def test_a_dense_layer_is_the_convolution_of_its_maps_size(height, width, has_bias):
    layer = dense(4 * height * width, 6, has_bias=has_bias)
    conv, image = dense_to_conv(layer, height, width), picture(height, width, 4)
    vector = layer.weight.asnumpy().astype(np.float64) @ image.reshape(-1)
    expected = vector + layer.bias.asnumpy() if has_bias else vector
    found = run(conv, image)
    assert found.shape == (1, 6, 1, 1)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-6)
    np.testing.assert_allclose(found.ravel(), run(layer, image.reshape(1, -1)).ravel(), atol=1e-6)
    back = conv_to_dense(conv)
    np.testing.assert_array_equal(back.weight.asnumpy(), layer.weight.asnumpy())
    assert back.has_bias == has_bias
    if has_bias:
        np.testing.assert_array_equal(back.bias.asnumpy(), layer.bias.asnumpy())


def test_the_convolution_slides_the_dense_layer():
    layer, image = dense(2 * 3 * 4, 5), picture(6, 9, 2)
    slid = run(dense_to_conv(layer, 3, 4), image)
    assert slid.shape == (1, 5, 4, 6)
    for i in range(4):
        for j in range(6):
            window = image[:, :, i:i + 3, j:j + 4].reshape(1, -1)
            np.testing.assert_allclose(slid[:, :, i, j], run(layer, window), atol=1e-6)


@CLASSIFIERS
def test_one_score_at_its_own_size_is_the_classifiers(make, size):
    classifier = make(**NARROW)
    net, image = convolutionalise(classifier, size), picture(size, size)
    logits = run(classifier, image)
    found = run(net, image)
    assert found.shape == (1, 1000, 1, 1) and np.std(logits) > 0
    np.testing.assert_allclose(found[:, :, 0, 0], logits, rtol=0, atol=1e-5 * np.abs(logits).max())


@pytest.mark.parametrize("make,own,size,side", [(vgg16_classifier, 224, 384, 6), (vgg16_classifier, 224, 256, 2),
                                                (caffenet_classifier, 227, 500, 10)])
def test_larger_images_give_a_grid_of_scores(make, own, size, side):
    assert run(convolutionalise(make(**NARROW), own), picture(size, size)).shape == (1, 1000, side, side)


def slid(classifier, image, size, stride):
    """(1, C, h, w): the classifier's logits for every window of `size`, `stride` pixels apart."""
    rows, columns = (range(0, side - size + 1, stride) for side in image.shape[2:])
    grid = [[run(classifier, image[:, :, i:i + size, j:j + size])[0] for j in columns] for i in rows]
    return np.moveaxis(np.array(grid), -1, 0)[None]


def test_without_padding_it_equals_the_sliding_window():
    classifier, image = small_classifier(0), picture(38 + 3 * 8, 38 + 2 * 8 + 5)
    windows = slid(classifier, image, 38, 8)
    scores = run(convolutionalise(classifier, 38), image)
    assert scores.shape == windows.shape == (1, 5, 4, 3)
    np.testing.assert_allclose(scores, windows, rtol=0, atol=2e-6 * np.abs(windows).max())


def test_with_padding_it_does_not():
    classifier, image = small_classifier(1), picture(24 + 3 * 8, 24 + 2 * 8)
    random = np.random.default_rng(1)
    for parameter in classifier.get_parameters():
        if parameter.name.endswith("weight"):
            scale = np.sqrt(2 / np.prod(parameter.shape[1:]))
            parameter.set_data(ms.Tensor((scale * random.standard_normal(parameter.shape)).astype(np.float32)))
    windows = slid(classifier, image, 24, 8)
    scores = run(convolutionalise(classifier, 24), image)
    assert scores.shape == windows.shape == (1, 5, 4, 3)
    departure = np.linalg.norm(scores - windows) / np.linalg.norm(windows - windows.mean((2, 3), keepdims=True))
    assert 0.05 < departure < 2


def test_the_classifier_stays_and_names_and_training_flags_are_kept():
    classifier = vgg16_classifier(10, 1 / 16, 8)
    classifier.fc7.weight.requires_grad = False
    weights = {p.name: (p.shape, p.asnumpy()) for p in classifier.get_parameters()}
    net = convolutionalise(classifier, 224)
    for parameter in classifier.get_parameters():
        assert parameter.shape == weights[parameter.name][0]
    assert [p.name for p in net.get_parameters()] == list(weights)
    for parameter in net.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy().ravel(), weights[parameter.name][1].ravel())
    shapes = {p.name: p.shape for p in net.get_parameters()}
    assert (shapes["fc6.weight"], shapes["fc7.weight"], shapes["fc8.weight"]) == (
        (8, 32, 7, 7), (8, 8, 1, 1), (10, 8, 1, 1))
    assert [p.name for p in net.get_parameters() if not p.requires_grad and "weight" in p.name] == ["fc7.weight"]


def test_the_result_compiles():
    net, image = convolutionalise(small_classifier(0), 38), picture(46, 54)
    expected = run(net, image)
    try:
        ms.set_context(mode=ms.GRAPH_MODE)
        np.testing.assert_allclose(run(net, image), expected, atol=1e-5)
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)


@CLASSIFIERS
def test_classifiers_equal_pytorch_on_the_same_weights(make, size):
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    classifier, image = make(**NARROW), picture(size, size)
    weights = {p.name: torch.tensor(p.asnumpy()) for p in classifier.get_parameters()}
    first = {224: {"stride": 4, "padding": 2}, 227: {"stride": 4}}[size] if make != vgg16_classifier else {"padding": 1}
    x = torch.tensor(image)
    for block in range(1, 6):
        for name in [name for name in weights if name.startswith(f"conv{block}") and name.endswith("weight")]:
            kernel = weights[name]
            options = first if block == 1 else {"padding": kernel.shape[-1] // 2}
            groups = 2 if make == caffenet_classifier and block in (2, 4, 5) else 1
            x = f.relu(f.conv2d(x, kernel, weights[name.replace("weight", "bias")], groups=groups, **options))
        if make == vgg16_classifier or block in (1, 2, 5):
            x = f.max_pool2d(x, 2 if make == vgg16_classifier else 3, 2)
        if make == caffenet_classifier and block < 3:
            x = f.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)
    x = x.flatten(1)
    for name in ("fc6", "fc7", "fc8"):
        x = f.linear(x if name == "fc6" else f.relu(x), weights[f"{name}.weight"], weights[f"{name}.bias"])
    np.testing.assert_allclose(run(classifier, image), x.numpy(), rtol=0, atol=1e-5 * np.abs(x.numpy()).max())


@pytest.mark.long
@pytest.mark.parametrize("make,published", [(vgg16_classifier, 138_357_544), (alexnet_classifier, 61_100_840),
                                            (caffenet_classifier, 60_965_224)])
def test_parameter_counts_are_the_published_ones(make, published):
    assert sum(p.size for p in make().trainable_params()) == published


@pytest.mark.long
def test_the_whole_vgg16_gives_1x1_and_6x6_scores():
    classifier = vgg16_classifier()
    net, image = convolutionalise(classifier, 224), picture(224, 224)
    logits = run(classifier, image)
    found = run(net, image)
    assert found.shape == (1, 1000, 1, 1)
    np.testing.assert_allclose(found[:, :, 0, 0], logits, rtol=0, atol=1e-5 * np.abs(logits).max())
    assert run(net, picture(384, 384)).shape == (1, 1000, 6, 6)


@pytest.mark.parametrize("net,words", [
    (nn.SequentialCell(nn.AdaptiveAvgPool2d(6), nn.Flatten(), dense(108, 2)), "AdaptiveAvgPool2d on a map"),
    (nn.SequentialCell(nn.Flatten(), dense(192, 2), nn.Softmax()), "Softmax on a vector"),
    (nn.SequentialCell(nn.Flatten(), dense(192, 2, activation="relu")), "own activation"),
    (nn.SequentialCell(nn.Flatten(), nn.SequentialCell(dense(108, 2))), r"1.0.weight takes 108 numbers.* give 192"),
    (nn.SequentialCell(dense(8, 2)), "Dense on a map"),
    (dense(192, 2), "only a SequentialCell"),
])
def test_what_cannot_be_convolutionalised_is_reported(net, words):
    with pytest.raises(ValueError, match=words):
        convolutionalise(net, 8)


def test_layers_without_a_convolutional_form_are_reported():
    with pytest.raises(ValueError, match="100 numbers does not follow a map of 7x7"):
        dense_to_conv(dense(100, 2), 7, 7)
    for options in ({"pad_mode": "same"}, {"pad_mode": "pad", "padding": 1}, {"pad_mode": "valid", "dilation": 2},
                    {"pad_mode": "valid", "group": 2}):
        with pytest.raises(ValueError, match="without padding, dilation and groups"):
            conv_to_dense(nn.Conv2d(4, 4, 3, **options))
    assert conv_to_dense(layers.score(4, 2, True)).in_channels == 4
