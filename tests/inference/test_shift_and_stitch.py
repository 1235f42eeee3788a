"""Shift-and-stitch: equal to sliding the network, and to the network with rarefied filters."""

import mindspore as ms
import numpy as np
import pytest
from helpers import picture
from mindspore import nn

from mindfcn.inference.shift_and_stitch import interlace, shift_and_stitch
from mindfcn.models import layers
from mindfcn.models.surgery.dilate import dilate


def conv(inputs, outputs, kernel, stride=1, padding=0, group=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, "pad", padding, group=group, has_bias=True, bias_init="normal")


def exact(net, image):
    """Small whole numbers for weights and pixels: their sums have no rounding, in whichever order a kernel adds."""
    rng = np.random.default_rng(2)
    for parameter in net.get_parameters():
        parameter.set_data(ms.Tensor(rng.integers(-1, 2, parameter.shape), ms.float32))
    return net, np.round(2 * image)


def vgg_like(padding=0):
    return nn.SequentialCell(conv(3, 8, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2, 2),
                             conv(8, 16, 3, padding=padding), nn.ReLU(), nn.MaxPool2d(2, 2),
                             conv(16, 8, 3, padding=padding), nn.ReLU(), conv(8, 5, 1))


def alexnet_like(last=1):
    return nn.SequentialCell(conv(3, 8, 11, 4), nn.ReLU(), nn.MaxPool2d(3, 2), conv(8, 8, 5, group=2), nn.ReLU(),
                             nn.MaxPool2d(3, last), conv(8, 5, 2))


def odd_strides():
    return nn.SequentialCell(conv(3, 6, 4, 3), nn.AvgPool2d(2, 1), nn.ReLU(), conv(6, 6, 5, 3), conv(6, 5, 2))


def reaching_over():
    return nn.SequentialCell(conv(3, 6, 3), layers.MaxPool(3, 2), conv(6, 6, 2), layers.MaxPool(3, 3), conv(6, 5, 2))


STACKS = pytest.mark.parametrize("make,stride,height,width,measured", [
    (vgg_like, 4, 37, 42, 64), (alexnet_like, 8, 93, 96, 128), (odd_strides, 9, 41, 45, 72),
    (reaching_over, 6, 31, 34, 48), pytest.param(lambda: alexnet_like(2), 16, 130, 133, 128, marks=pytest.mark.long)],
    ids=["vgg", "alexnet", "odd", "ceil", "alexnet16"])


@STACKS
def test_it_equals_the_rarefied_network_bit_for_bit(make, stride, height, width, measured):
    net, image = exact(make(), picture(height, width))
    stitched = shift_and_stitch(net, image, stride)
    coarse = net(ms.Tensor(image)).asnumpy()
    rare = dilate(net, 1, measured)(ms.Tensor(image)).asnumpy()
    assert stitched.shape[2] > stride * (coarse.shape[2] - 1) and len(np.unique(stitched)) > 50
    assert np.abs(stitched).max() < 2 ** 20
    np.testing.assert_array_equal(stitched, rare)
    np.testing.assert_array_equal(stitched[:, :, ::stride, ::stride], coarse)


def test_with_normalisation_and_any_weights_it_equals_the_rarefied_network_to_rounding():
    net, image = nn.SequentialCell(vgg_like(), layers.LRN(), nn.AvgPool2d(3, 1)), picture(37, 42)
    stitched = shift_and_stitch(net, image, 4)
    rare = dilate(net, 1, 64)(ms.Tensor(image)).asnumpy()
    np.testing.assert_allclose(stitched, rare, rtol=0, atol=2e-6 * np.abs(rare).max())


@pytest.mark.parametrize("step", [2, 4])
def test_it_equals_a_partly_rarefied_network_bit_for_bit(step):
    net, image = exact(alexnet_like(), picture(93, 96))
    stitched = shift_and_stitch(net, image, 8, output_stride=step)
    np.testing.assert_array_equal(stitched, dilate(net, step, 128)(ms.Tensor(image)).asnumpy())


def test_it_equals_the_network_slid_pixel_by_pixel():
    net, image = vgg_like(), picture(22, 21, count=2)
    field = 18
    stitched = shift_and_stitch(net, ms.Tensor(image), 4)
    assert stitched.shape == (2, 5, 22 - field + 1, 21 - field + 1)
    for i in range(stitched.shape[2]):
        for j in range(stitched.shape[3]):
            window = net(ms.Tensor(image[:, :, i:i + field, j:j + field])).asnumpy()
            np.testing.assert_allclose(stitched[:, :, i, j], window[:, :, 0, 0], rtol=0, atol=1e-6)


def test_with_padding_the_interior_is_equal_and_the_border_is_not():
    net, image = exact(vgg_like(padding=1), picture(44, 48))
    stitched = shift_and_stitch(net, image, 4)
    rare = dilate(net, 1, 32)(ms.Tensor(image)).asnumpy()
    assert stitched.shape == rare.shape == (1, 5, 41, 45)
    # 7 rows of padding, in pixels, before the image and 7 after; a shift moves the image's first row by up to 3.
    first, last = 7 + 3, -7
    np.testing.assert_array_equal(stitched[:, :, first:last, first:last], rare[:, :, first:last, first:last])
    scale = np.std(rare)
    for border in (np.s_[:, :, :first], np.s_[:, :, last:], np.s_[:, :, :, :first], np.s_[:, :, :, last:]):
        assert np.abs(stitched[border] - rare[border]).max() > scale / 10


def test_filled_images_all_have_one_size_and_give_an_entry_for_every_pixel():
    (net, image), sizes = exact(vgg_like(padding=1), picture(44, 48)), set()

    def spy(x):
        sizes.add(x.shape)
        return net(x)
    filled = shift_and_stitch(spy, image, 4, fill=True)
    assert sizes == {(1, 3, 44, 48)} and filled.shape == (1, 5, 44, 48)
    np.testing.assert_array_equal(filled[:, :, :-10, :-10], shift_and_stitch(net, image, 4)[:, :, :-7, :-7])
    assert shift_and_stitch(spy, image, 4, 2, fill=True).shape == (1, 5, 22, 24)


@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_interlacing_undoes_subsampling(factor):
    image = picture(29, 30)
    maps = [[image[:, :, y::factor, x::factor] for x in range(factor)] for y in range(factor)]
    np.testing.assert_array_equal(interlace(maps), image)


def test_mistakes_are_reported():
    net, image = vgg_like(), picture(30, 30)
    with pytest.raises(ValueError, match="network's output stride"):
        shift_and_stitch(net, image, 8)
    with pytest.raises(ValueError, match="must divide"):
        shift_and_stitch(net, image, 4, output_stride=3)
    with pytest.raises(ValueError, match="cannot be shifted by 63"):
        shift_and_stitch(net, image, 64)
