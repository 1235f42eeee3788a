"""OnnxSegmenter: dense prediction with ONNX Runtime, on the whole image at once, without MindSpore."""

import os
import zlib

import numpy as np

from mindfcn.console import FilePath
from mindfcn.errors import UserError
from mindfcn.inference.predictor import Predictor
from mindfcn.storage.files import read_bytes
from mindfcn.weights.card import CARD, Card

PROVIDERS = {"Ascend": "CANNExecutionProvider", "GPU": "CUDAExecutionProvider", "CPU": "CPUExecutionProvider"}

# Name of the entry with the network's reach and stride, pixels, by which windows can be cut.
REACH = "mindfcn_reach"
# The start of the last entry of ModelProto.metadata_props (field 14): key (1) and value (2), the checksum in 8 digits.
_CHECKSUM_ENTRY = b"\x72\x17\x0a\x0bmindfcn_crc\x12\x08"


def with_checksum(model):
    """Append a metadata entry with the CRC-32 of all bytes before it to the bytes of an ONNX file."""
    return model + _CHECKSUM_ENTRY + b"%08x" % zlib.crc32(model)


class OnnxSegmenter(Predictor):
    """A network exported by `mindfcn export`; the counterpart of `inference.network.Segmenter`.

    Args:
        path: the .onnx file.
        device: CPU, GPU or Ascend; auto takes the first of Ascend, GPU and CPU that this ONNX Runtime supports.

    Attributes:
        card: Card of the network.
        preprocess: how its input is normalised.

    Raises:
        UserError: the package onnxruntime is not installed or does not support the device; the file is missing,
            damaged, or has no card.
    """

    def __init__(self, path: FilePath, device: str = "auto") -> None:
        try:
            import onnxruntime
        except ImportError:
            raise UserError("ONNX files need the package onnxruntime, which is not installed; install it with "
                            "pip install onnxruntime") from None
        data = read_bytes(path)
        # Other programs may rewrite the file without the checksum.
        if data[:-8].endswith(_CHECKSUM_ENTRY) and data != with_checksum(data[:-8 - len(_CHECKSUM_ENTRY)]):
            raise UserError(f"{path} is damaged: its checksum does not fit; copy it again, or write it again with "
                            "mindfcn export")
        del data
        usable = [name for name, provider in PROVIDERS.items() if provider in onnxruntime.get_available_providers()]
        if device not in ("auto", *usable):
            raise UserError(f"device {device} cannot be used by this onnxruntime; use {', '.join(usable)}, or install "
                            "the onnxruntime package for it")
        options = onnxruntime.SessionOptions()
        # Silence ONNX Runtime's log; errors still arrive as exceptions.
        options.log_severity_level = 4
        providers = dict.fromkeys(PROVIDERS[name] for name in (usable[0] if device == "auto" else device, "CPU"))
        # ONNX Runtime's exceptions have no common base class but Exception.
        try:
            self.session = onnxruntime.InferenceSession(os.fspath(path), options, providers=list(providers))
            texts = self.session.get_modelmeta().custom_metadata_map
        except Exception:  # noqa: BLE001
            raise UserError(f"{path} is damaged, cut short, or not an ONNX file that this onnxruntime reads; "
                            "write it again with mindfcn export") from None
        if CARD not in texts:
            raise UserError(f"{path} has no card of its classes and preprocessing: it was not written by mindfcn "
                            "export; write it with mindfcn export")
        self.card = Card.from_json(texts[CARD], path)
        self.preprocess, self.multilabel = self.card.preprocess, self.card.labels.multilabel
        self.classes = len(self.card.labels) if self.card.geometric else None
        # Files of earlier releases, and of networks whose windows give another result, have none.
        numbers = texts.get(REACH, "").split()
        if len(numbers) == 2 and all(map(str.isdecimal, numbers)):
            self.reach, self.stride = map(int, numbers)

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """(N, C, H, W) float32, normalised -> logits (N, classes of all heads, H, W) float32."""
        return self.session.run(None, {"image": batch})[0]
