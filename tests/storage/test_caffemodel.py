"""A .caffemodel written by hand is read as it is; any other file raises a UserError of one line."""

import collections
import tracemalloc

import numpy as np
import pytest

from mindfcn.errors import UserError
from mindfcn.storage.weight_files.read import read_checkpoint, read_weights


def weights():
    random = np.random.default_rng(1)
    shapes = {"conv1_1.weight": (4, 3, 3, 3), "conv1_1.bias": (4,), "inception_3a/1x1.weight": (2, 4, 1, 1),
              "fc8.weight": (5, 12), "fc8.bias": (5,), "scale_pool4.weight": (7,)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def saved(path, content):
    path.write_bytes(content)
    return path


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].flags.c_contiguous
        np.testing.assert_array_equal(found[name], array)


def refused(path, *words):
    with pytest.raises(UserError) as caught:
        read_weights(path)
    text = str(caught.value)
    assert "\n" not in text and path.name in text and len(text) < 400 and all(word in text for word in words), text


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("form", ["shape", "legacy", "unpacked", "double"])
def test_every_form_of_the_file_gives_the_same_arrays(v1, form, caffe, tmp_path):
    expected = weights()
    if form == "legacy":
        del expected["scale_pool4.weight"]
    found, extras = read_checkpoint(saved(tmp_path / "net.caffemodel", caffe.net(expected, v1, form)))
    dtype = np.float64 if form == "double" else np.float32
    assert_same(found, {name: array.astype(dtype) for name, array in expected.items()})
    assert extras == {}


def test_a_convolution_from_one_channel_to_one_keeps_its_four_dimensions(caffe, tmp_path):
    """Its legacy shape is that of a dense layer; only the layer's type distinguishes them."""
    array = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    for kind, shape in (("Convolution", (1, 1, 3, 3)), ("Deconvolution", (1, 1, 3, 3)), ("InnerProduct", (3, 3))):
        for v1 in (False, True):
            content = caffe.layer("a", kind, [caffe.blob(array, "legacy")], v1)
            assert read_weights(saved(tmp_path / "net.caffemodel", content))["a.weight"].shape == shape


def test_data_in_several_parts_are_joined(caffe, tmp_path):
    """A protocol buffer may contain one packed field more than once."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    parts = b"".join(caffe.field(5, row.tobytes()) for row in array)
    blob = caffe.field(7, caffe.field(1, bytes([2])) + caffe.field(1, bytes([3]))) + parts
    assert_same(read_weights(saved(tmp_path / "net.caffemodel", caffe.layer("a", "InnerProduct", [blob]))),
                {"a.weight": array})


def test_layers_with_more_than_two_blobs(caffe, tmp_path):
    """Caffe's BatchNorm: mean, variance, and the factor that divides them."""
    arrays = [np.full(size, size, np.float32) for size in (2, 2, 1)]
    content = caffe.layer("bn", "BatchNorm", [caffe.blob(array) for array in arrays])
    assert_same(read_weights(saved(tmp_path / "net.caffemodel", content)),
                dict(zip(("bn.weight", "bn.bias", "bn.2"), arrays)))


@pytest.mark.parametrize("shape", [(4,), (2, 3), (-2, -2), (1 << 62, 4), (1 << 40,), (0,), (-1,), (2, 2, 0)])
def test_a_shape_that_does_not_fit_its_data(shape, caffe, tmp_path):
    data = caffe.field(5, np.zeros(5, np.float32).tobytes())
    dims = caffe.field(7, caffe.field(1, b"".join(map(caffe.varint, shape))))
    refused(saved(tmp_path / "net.caffemodel", caffe.layer("a", "Convolution", [dims + data])), "damaged")


@pytest.mark.parametrize("dims", [(2, 3, 1, 1), (1, 1, -1, -4), (0, 1, 1, 1), (1, 1, 1 << 30, 1 << 30)])
def test_legacy_dimensions_that_do_not_fit_their_data(dims, caffe, tmp_path):
    blob = b"".join(caffe.field(number, size) for number, size in enumerate(dims, 1))
    blob += caffe.field(5, np.zeros(4, np.float32).tobytes())
    refused(saved(tmp_path / "net.caffemodel", caffe.layer("a", "InnerProduct", [blob])), "damaged")


def test_broken_layers(caffe, tmp_path):
    path, blob = tmp_path / "net.caffemodel", caffe.blob(np.zeros((2, 3), np.float32))
    refused(saved(path, caffe.layer("a", "InnerProduct", [blob]) * 2), "damaged")
    refused(saved(path, caffe.layer("", "InnerProduct", [blob])), "damaged")
    half_a_number = caffe.field(7, caffe.field(1, bytes([1]))) + caffe.field(5, b"123")
    refused(saved(path, caffe.layer("a", "InnerProduct", [half_a_number])), "damaged")
    refused(saved(path, caffe.net({})), "no weights")


def test_foreign_files(tmp_path):
    path = tmp_path / "net.caffemodel"
    refused(path, "cannot read")
    refused(saved(path, b""), "empty")
    for content in (b"<html>404 not found</html>" * 20, b"name: \"VGG_ILSVRC_16_layers\"\nlayer { }\n",
                    b"PK\x03\x04" * 9, bytes(100), bytes(range(256)) * 10):
        refused(saved(path, content))


def test_cut_at_any_length(caffe, tmp_path):
    """A file cut between two layers is valid without its last layers; the layers that are read are correct."""
    data = caffe.net(weights())
    for length in range(1, len(data), 3):
        path = saved(tmp_path / "net.caffemodel", data[:length])
        try:
            found = read_weights(path)
        except UserError:
            refused(path)
        else:
            assert_same(found, {name: weights()[name] for name in found})


def test_flipped_bytes(caffe, tmp_path):
    data = caffe.net(weights())
    random, outcomes = np.random.default_rng(7), collections.Counter()
    for _ in range(600):
        damaged = np.frombuffer(data, np.uint8).copy()
        for at in random.integers(len(data), size=random.integers(1, 4)):
            damaged[at] ^= random.integers(1, 256)
        path = saved(tmp_path / "net.caffemodel", damaged.tobytes())
        try:
            read_weights(path)
            outcomes["read"] += 1
        except UserError:
            refused(path)
            outcomes["refused"] += 1
    assert outcomes["refused"] > 20


def test_claimed_sizes_are_not_allocated(caffe, tmp_path):
    huge = caffe.varint(1 << 40)
    length = caffe.varint(100 << 3 | 2) + huge + b"data"
    blob = caffe.varint(7 << 3 | 2) + huge + b"data"
    shape = caffe.field(7, caffe.field(1, huge)) + caffe.field(5, b"1234")
    for content in (length, caffe.field(100, caffe.field(1, b"a") + blob), caffe.layer("a", "Convolution", [shape]),
                    caffe.varint(100 << 3 | 2) + b"\xff" * 50):
        path = saved(tmp_path / "net.caffemodel", content)
        tracemalloc.start()
        try:
            refused(path, "damaged")
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()
