"""Reader of Caffe's .caffemodel files: a NetParameter, through a protobuf definition of the messages with weights.

Names and numbers are those of caffe.proto. Every other field, such as the layers' settings, is skipped as unknown.
"""

import functools

import numpy as np

from mindfcn.storage.weight_files.arrays import RefusedFile

# message: {field: (number, type)}; [type] is a repeated field. Packed numbers are serialised as the bytes of an array;
# declared as bytes, they need no Python object for each number. OtherBlob is BlobProto in its rare forms: unpacked
# numbers, or doubles.
_MESSAGES = {
    "BlobShape": {"dim": (1, ["int64"])},
    "BlobProto": {"num": (1, "int32"), "channels": (2, "int32"), "height": (3, "int32"), "width": (4, "int32"),
                  "data": (5, ["bytes"]), "shape": (7, "BlobShape")},
    "OtherBlob": {"data": (5, ["float"]), "double_data": (8, ["double"])},
    "LayerParameter": {"name": (1, "string"), "type": (2, "string"), "blobs": (7, ["BlobProto"])},
    # The layers of Caffe before 2014, whose type is a number.
    "V1LayerParameter": {"name": (4, "string"), "type": (5, "int32"), "blobs": (6, ["BlobProto"])},
    "NetParameter": {"layers": (2, ["V1LayerParameter"]), "layer": (100, ["LayerParameter"])}}
_INNER_PRODUCT = ("InnerProduct", 14)


@functools.cache
def _message_classes():
    """{name: class} of the messages above, in a descriptor pool of their own."""
    # MindSpore chooses protobuf's implementation when it is imported, and cannot be imported once another is in use.
    import mindspore  # noqa: F401
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    file = descriptor_pb2.FileDescriptorProto(name="mindfcn_caffe.proto", package="mindfcn.caffe")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            entry = message.field.add(name=field, number=number)
            entry.label = entry.LABEL_REPEATED if isinstance(kind, list) else entry.LABEL_OPTIONAL
            kind = kind[0] if isinstance(kind, list) else kind
            if kind in _MESSAGES:
                entry.type, entry.type_name = entry.TYPE_MESSAGE, f".{file.package}.{kind}"
            else:
                entry.type = getattr(entry, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    # Before version 4.22 protobuf has only the method of the factory.
    make = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory().GetPrototype
    return {name: make(pool.FindMessageTypeByName(f"{file.package}.{name}")) for name in _MESSAGES}


def read_caffemodel(data):
    """Bytes of a .caffemodel -> (dict of name -> array as `read_net` returns it, empty dict)."""
    if len(data) >= 2 ** 31:
        raise RefusedFile("is larger than 2 GB, which no .caffemodel can be; fetch it again")
    return read_net(data), {}


def read_net(data):
    """Read the weights in the bytes of a .caffemodel.

    The blobs of layer `fc6` are `fc6.weight`, `fc6.bias`, and `fc6.2` onward. The four dimensions that old files
    give to every blob, (1, 1, O, I) for a dense layer and (1, 1, 1, O) for a bias, become (O, I) and (O,).

    Returns:
        dict of name -> read-only array, float32 or float64.

    Raises:
        ValueError, or protobuf's DecodeError: damaged, foreign, or a shape that does not fit its data.
    """
    net = _message_classes()["NetParameter"].FromString(data)
    weights = {}
    for layer in (*net.layers, *net.layer):
        for number, blob in enumerate(layer.blobs):
            name = f"{layer.name}.{('weight', 'bias')[number] if number < 2 else number}"
            if not layer.name or name in weights:
                raise ValueError(f"layer {layer.name!r} occurs twice or has no name")
            weights[name] = _normalised(_array(blob), number, layer.type in _INNER_PRODUCT)
    return weights


def _array(blob):
    """The array of a BlobProto, with its shape."""
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    values = np.frombuffer(b"".join(blob.data), "<f4") if blob.data else _other_numbers(blob)
    if min(shape, default=0) < 0:
        raise ValueError(f"negative shape {shape}")
    return values.reshape(shape)


def _other_numbers(blob):
    """The flat values of a blob whose numbers are unpacked or doubles."""
    blob = _message_classes()["OtherBlob"].FromString(blob.SerializeToString())
    if blob.double_data:
        return np.fromiter(blob.double_data, np.float64, len(blob.double_data))
    return np.fromiter(blob.data, np.float32, len(blob.data))


def _normalised(array, number, dense):
    """Blob `number` of a layer without the leading dimensions that old files give to dense layers and biases."""
    if array.ndim != 4:
        return array
    if number > 0 and array.shape[:3] == (1, 1, 1):
        return array.reshape(-1)
    return array.reshape(array.shape[2:]) if dense and array.shape[:2] == (1, 1) else array
