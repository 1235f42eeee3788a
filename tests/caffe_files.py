"""A .caffemodel by hand: the wire format of protocol buffers, and caffe.proto's numbers, without protobuf."""

import numpy as np

# V1LayerParameter.LayerType
V1_TYPES = {"Convolution": 4, "Data": 5, "InnerProduct": 14, "ReLU": 18, "Deconvolution": 39}


class Caffe:
    """Functions that give the bytes of caffe.proto's messages."""

    @staticmethod
    def varint(number):
        """An integer in groups of seven bits; negative ones as 64-bit two's complement."""
        number &= 2 ** 64 - 1
        groups = bytearray()
        while number > 0x7F:
            groups.append(number & 0x7F | 0x80)
            number >>= 7
        return bytes(groups + bytes([number]))

    def field(self, number, value):
        """One field: an integer, or bytes of a text, a message or packed numbers."""
        if isinstance(value, int):
            return self.varint(number << 3) + self.varint(value)
        return self.varint(number << 3 | 2) + self.varint(len(value)) + value

    def blob(self, array, form="shape"):
        """BlobProto of an array; forms: shape, legacy (num, channels, height, width), unpacked, double."""
        if form == "legacy":
            dims = (1,) * (4 - array.ndim) + array.shape
            head = b"".join(self.field(number, size) for number, size in enumerate(dims, 1))
        else:
            head = self.field(7, self.field(1, b"".join(map(self.varint, array.shape))))
        if form == "unpacked":
            return head + b"".join(self.varint(5 << 3 | 5) + value.tobytes() for value in array.astype("<f4").flat)
        if form == "double":
            return head + self.field(8, array.astype("<f8").tobytes())
        # a difference of the same size, as snapshots of a training have
        half = array.astype("<f4").tobytes()
        return self.field(5, half) + self.field(6, bytes(len(half))) + head

    def layer(self, name, kind, blobs, v1=False):
        """A layer of a NetParameter, from encoded blobs; its settings and tops are there, too."""
        if v1:
            return self.field(2, self.field(3, b"top") + self.field(4, name.encode()) + self.field(5, V1_TYPES[kind])
                              + b"".join(self.field(6, blob) for blob in blobs))
        return self.field(100, self.field(1, name.encode()) + self.field(2, kind.encode()) + self.field(4, b"top")
                          + b"".join(self.field(7, blob) for blob in blobs) + self.field(106, self.field(1, 64)))

    def net(self, weights, v1=False, form="shape"):
        """A whole net of {"conv1.weight": array, "conv1.bias": array, ...}: dense layers by their two dimensions."""
        layers = {}
        for name, array in weights.items():
            layers.setdefault(name.rpartition(".")[0], []).append(array)
        content = self.field(1, b"net") + self.layer("data", "Data", [], v1)
        for name, arrays in layers.items():
            kind = "InnerProduct" if arrays[0].ndim == 2 else "Convolution"
            blobs = [self.blob(np.ascontiguousarray(array), form) for array in arrays]
            content += self.layer(name, kind, blobs, v1) + self.layer(f"relu_{name}", "ReLU", [], v1)
        return content
