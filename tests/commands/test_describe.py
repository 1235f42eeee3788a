"""The layer table against the paper's and the counting by hand."""

import functools

import pytest

from mindfcn.commands.describe import describe
from mindfcn.config import DescribeConfig
from mindfcn.errors import UserError


@functools.cache
def described(name, **options):
    return describe(DescribeConfig(name, size=64, **options))


@pytest.mark.parametrize("name, field, parameters", [
    ("fcn32s_vgg16", 404, 134_346_581), ("fcn32s_caffenet", 355, 56_954_261), ("fcn32s_googlenet", 715, 5_995_077)])
def test_receptive_fields_strides_and_parameters_are_the_papers(name, field, parameters):
    """Table 1: 404/32 and 134 million, 355/32 and 57 million, 907/32 (715 without the pooling) and 6 million."""
    found = described(name)
    assert (found.receptive_field, found.stride, found.parameters) == (field, 32, parameters)
    assert any("907" in note for note in found.notes) == (name == "fcn32s_googlenet")


def test_fcn8s_with_dense_upsampling_kernels_counts_as_derived():
    found = described("fcn8s_vgg16")
    assert found.parameters + found.upsampling == 134_489_759


def test_rows_of_fcn32s_on_vgg16():
    """conv1_2 has 64 * 64 * 9 weights, used at each of 64x64 pixels; the first pooling ends at 6 pixels."""
    rows = [line.split() for line in described("fcn32s_vgg16").table.splitlines()]
    assert ["conv1.2", "convolution", "64x64x64", "3", "1", "5", "36,928", f"{64 * 64 * 9 * 64 * 64:,}"] in rows
    assert ["pool1", "max", "pooling", "64x32x32", "2", "2", "6", "0", "0"] in rows
    assert ["upscore", "upsampling", "21x64x64", "64", "1/32", "-", "1,806,336", f"{64 * 64 * 441 * 4:,}"] in rows


def test_multiply_adds_of_vgg16_are_those_counted_by_hand():
    """9 * in * out * places of the convolutions; fc6, fc7, score and upsampling after them on 2x2 cells."""
    layers = [(3, 64, 64), (64, 64, 64), (64, 128, 32), (128, 128, 32), (128, 256, 16), (256, 256, 16), (256, 256, 16),
              (256, 512, 8), (512, 512, 8), (512, 512, 8), *[(512, 512, 4)] * 3]
    convolutions = sum(9 * before * after * side * side for before, after, side in layers)
    rest = 4 * (49 * 512 * 4096 + 4096 * 4096 + 4096 * 21) + 441 * 64 * 64 * 4
    assert described("fcn32s_vgg16").multiply_adds == convolutions + rest


def test_the_published_figures_of_torchvisions_alexnet_are_marked_as_caffes():
    found = described("fcn32s_alexnet"), described("fcn32s_caffenet")
    assert [any("(Caffe's AlexNet)" in note for note in one.notes) for one in found] == [True, False]


def test_a_dilated_backbone_has_finer_maps_the_same_weights_and_the_same_receptive_field():
    pytest.importorskip("mindcv")
    plain, dilated = described("fcn32s_mindcv_resnet18"), described("fcn32s_mindcv_resnet18", output_stride=8)
    assert (plain.stride, dilated.stride) == (32, 8)
    assert (plain.parameters, plain.receptive_field) == (dilated.parameters, dilated.receptive_field)
    assert plain.multiply_adds < dilated.multiply_adds


def test_a_narrowed_network_has_the_parameters_counted_by_hand():
    channels = [3, 32, 32, 64, 64, 128, 128, 128, *[256] * 6]
    convolutions = sum(9 * before * after + after for before, after in zip(channels, channels[1:]))
    rest = (49 * 256 + 1) * 16 + (16 + 1) * 16 + (16 + 1) * 21
    assert described("fcn32s_vgg16", width=0.5, fc_width=16).parameters == convolutions + rest


@pytest.mark.parametrize("settings, words", [
    ({"name": "fcn9s"}, "no network 'fcn9s'"), ({"name": "fcn8s_vgg16", "size": 0}, "--size 0: must be in 1..1024"),
    ({"name": "fcn8s_vgg16", "size": 1025}, "--size 1025: must be in 1..1024"),
    ({"name": "fcn8s_vgg16", "classes": 0}, "--classes 0"), ({"name": "fcn8s_vgg16", "width": 0.0}, "--width 0.0"),
    ({"name": "fcn8s_vgg16", "fc_width": 0}, "--fc_width 0: must be at least 1"),
    ({"name": "fcn8s_vgg16", "output_stride": 8}, "no option output_stride")])
def test_bad_input(settings, words):
    with pytest.raises(UserError, match=words):
        describe(DescribeConfig(**settings))
