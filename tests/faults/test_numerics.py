"""float32 evaluation against a forward pass in NumPy's float64, and counts of more pixels than 32 bits hold."""

import fractions

import mindspore as ms
import numpy as np
import pytest

from mindfcn.inference.network import Segmenter
from mindfcn.metrics import ConfusionMatrix, segmentation_metrics
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE

# ------------------------------------------------------------------- the paper's layers, written down in float64

def convolve(x, weight, bias=None, padding=0):
    """(C, H, W) * (O, C, k, k) -> (O, H', W'), stride 1, as a sum over the kernel's places."""
    size = weight.shape[2]
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    out = np.zeros((len(weight), height, width))
    for row in range(size):
        for column in range(size):
            out += np.einsum("oc,chw->ohw", weight[:, :, row, column], x[:, row:row + height, column:column + width])
    return out if bias is None else out + bias[:, None, None]


def halve(x):
    """Maximum of each 2x2 block."""
    return x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4))


def upsample(x, weight, factor):
    """Transposed convolution (C, H, W) with (C, O, k, k): each cell adds its kernel to the larger map."""
    size = weight.shape[2]
    out = np.zeros((weight.shape[1], factor * (x.shape[1] - 1) + size, factor * (x.shape[2] - 1) + size))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            window = out[:, factor * row:factor * row + size, factor * column:factor * column + size]
            window += np.einsum("c,cohw->ohw", x[:, row, column], weight)
    return out


def centred(x, height, width):
    """Crop the middle of a map."""
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top:top + height, left:left + width]


def forward(image, weights, batch_norm):
    """FCN-8s on VGG16 (Simonyan and Zisserman 2015, column D; Long et al. 2015, section 4.2), padded to 32 cells."""
    def layer(x, block, number, padding):
        step = 3 if batch_norm else 2
        name = f"conv{block}.{step * number}"
        x = convolve(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"), padding)
        if batch_norm:
            name = f"conv{block}.{step * number + 1}"
            scale = weights[f"{name}.gamma"] / np.sqrt(weights[f"{name}.moving_variance"] + 1e-5)
            x = (x - weights[f"{name}.moving_mean"][:, None, None]) * scale[:, None, None] + weights[
                f"{name}.beta"][:, None, None]
        return np.maximum(x, 0)

    height, width = image.shape[1:]
    x = np.pad(image, ((0, 0), (0, -height % 32), (0, -width % 32)))
    maps = {}
    for block, layers in enumerate((2, 2, 3, 3, 3), 1):
        for number in range(layers):
            x = layer(x, block, number, 1)
        x = maps[f"pool{block}"] = halve(x)
    x = layer(layer(x, 6, 0, 3), 7, 0, 0)

    def score(name, x):
        return convolve(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    coarse = score("score_fr", x)
    for name, pool, factor in (("upscore2", "pool4", 2), ("upscore_pool4", "pool3", 2)):
        skip = score(f"score_{pool}", maps[pool])
        coarse = skip + centred(upsample(coarse, weights[f"{name}.weight"], factor), *skip.shape[1:])
    full = upsample(coarse, weights["upscore8.weight"], 8)
    rows, columns = 8 * coarse.shape[1], 8 * coarse.shape[2]
    return centred(full, rows, columns)[:, :height, :width]


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", ["fcn8s_vgg16_bn", "fcn8s_vgg16"])
def test_float32_agrees_with_float64(scramble, name):
    net = scramble(create_model(name, 3, width=0.125, fc_width=16))
    weights = {parameter.name: parameter.asnumpy().astype(np.float64) for parameter in net.get_parameters()}
    image = np.random.default_rng(5).integers(0, 256, (37, 60, 3), np.uint8)
    mask, probabilities = Segmenter(net, COURSE)(image, probabilities=True)
    normal = ((image - np.array(COURSE.mean)) / np.array(COURSE.std)).transpose(2, 0, 1)
    expected = forward(normal, weights, name.endswith("bn"))
    logits = net(ms.Tensor(normal[None].astype(np.float32))).asnumpy()[0]
    largest = np.abs(expected).max()
    assert np.abs(logits - expected).max() < 3e-6 * largest
    shares = np.exp(expected - expected.max(0))
    shares /= shares.sum(0)
    assert np.abs(probabilities - shares).max() < 1e-5
    # either class may win where two are closer than float32's precision
    first, second = np.sort(expected, 0)[-1], np.sort(expected, 0)[-2]
    clear = first - second > 1e-5 * largest
    assert clear.mean() > 0.99 and (mask == expected.argmax(0))[clear].all()


# ------------------------------------------------------------------------------------------------------- counts

def exact(counts):
    """The four metrics in whole numbers, by the formulas of Long et al. 2015, section 5."""
    counts = [[int(count) for count in row] for row in counts.tolist()]
    found, true = [row[place] for place, row in enumerate(counts)], [sum(row) for row in counts]
    predicted = [sum(column) for column in zip(*counts)]
    ious = [fractions.Fraction(hit, t + s - hit) for hit, t, s in zip(found, true, predicted)]
    return (fractions.Fraction(sum(found), sum(true)),
            sum(fractions.Fraction(hit, t) for hit, t in zip(found, true)) / len(true), sum(ious) / len(ious),
            sum(t * iou for t, iou in zip(true, ious)) / sum(true))


def test_metrics_beyond_32_bits():
    """Cityscapes' validation set has 2^30 pixels, 1,000 photographs of 12 megapixels 2^33.5."""
    matrix = ConfusionMatrix(3)
    matrix.counts += np.array([[2 ** 40 + 1, 3, 2 ** 33], [7, 2 ** 31 - 1, 1], [2 ** 32 + 5, 2, 2 ** 35]])
    truth = np.array([0, 1, 1, 2, 2, 2], np.uint8)
    prediction = np.array([0, 1, 0, 2, 2, 1], np.uint8)
    matrix.update(prediction, truth)
    assert matrix.counts.dtype == np.int64
    assert matrix.counts.tolist() == [[2 ** 40 + 2, 3, 2 ** 33], [8, 2 ** 31, 1], [2 ** 32 + 5, 3, 2 ** 35 + 2]]
    for value, expected in zip(matrix.compute().values(), exact(matrix.counts)):
        assert abs(fractions.Fraction(value) - expected) < 1e-15


def test_one_wrong_pixel_among_2_to_the_31_is_counted():
    """float32 sums would lose one wrong pixel."""
    for views in (None, segmentation_metrics(2)):
        matrix = ConfusionMatrix(2) if views is None else views["mean IoU"].matrix
        matrix.counts[:] = [[2 ** 31, 0], [0, 2 ** 31]]
        matrix.update(np.array([1]), np.array([0]))
        assert matrix.pixel_accuracy() == pytest.approx(1 - 1 / (2 ** 32 + 1), abs=1e-16)
        assert matrix.pixel_accuracy() < 1


def test_counts_add_up_over_many_images():
    """Whole images, each of 2^20 pixels, against the sum in whole numbers."""
    matrix, total = ConfusionMatrix(2), np.zeros((2, 2), object)
    matrix.counts[:] = total[:] = [[2 ** 31 - 2 ** 20, 0], [0, 2 ** 33]]
    random = np.random.default_rng(2)
    for _ in range(3):
        truth, prediction = random.integers(0, 2, (2, 1024, 1024), np.uint8)
        new = [[int(((truth == t) & (prediction == p)).sum()) for p in range(2)] for t in range(2)]
        total += np.array(new, object)
        assert matrix.update(prediction, truth).tolist() == new
    assert matrix.counts.tolist() == total.tolist() and matrix.counts[0, 0] + matrix.counts[0, 1] > 2 ** 31
