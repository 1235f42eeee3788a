"""An exported network in ONNX Runtime: the whole image at once, without MindSpore."""

import os

from mindfcn.data.transforms import to_input
from mindfcn.errors import UserError
from mindfcn.logits import argmax, softmax
from mindfcn.weights.card import CARD, Card

PROVIDERS = {"Ascend": "CANNExecutionProvider", "GPU": "CUDAExecutionProvider", "CPU": "CPUExecutionProvider"}


class OnnxSegmenter:
    """A file that `mindfcn export` wrote; the counterpart of `dense.whole_image.Segmenter`.

    Args:
        path: the .onnx file.
        device: CPU, GPU or Ascend; auto takes the first of Ascend, GPU and CPU that this ONNX Runtime was built for.

    Attributes:
        card: Card of the network.

    Raises:
        UserError: the package onnxruntime is not installed, or was not built for that device; the file is missing,
            damaged, or has no card.
    """

    def __init__(self, path, device="auto"):
        try:
            import onnxruntime
        except ImportError:
            raise UserError("ONNX files need the package onnxruntime, which is not installed; install it with "
                            "pip install onnxruntime") from None
        if not os.path.isfile(path):
            raise UserError(f"cannot read {path}: there is no such file; check the path")
        usable = [name for name, provider in PROVIDERS.items() if provider in onnxruntime.get_available_providers()]
        if device not in ("auto", *usable):
            raise UserError(f"device {device} cannot be used by this onnxruntime; use {', '.join(usable)}, or install "
                            "the onnxruntime package for it")
        options = onnxruntime.SessionOptions()
        # Its warnings speak of its inside; errors are exceptions.
        options.log_severity_level = 4
        providers = dict.fromkeys(PROVIDERS[name] for name in (usable[0] if device == "auto" else device, "CPU"))
        # Its exceptions have no common base but this.
        try:
            self.session = onnxruntime.InferenceSession(os.fspath(path), options, providers=list(providers))
        except Exception:  # noqa: BLE001
            raise UserError(f"{path} is damaged, cut short, or not an ONNX file that this onnxruntime reads; "
                            "write it again with mindfcn export") from None
        texts = self.session.get_modelmeta().custom_metadata_map
        if CARD not in texts:
            raise UserError(f"{path} has no card of its classes and preprocessing: it was not written by mindfcn "
                            "export; write it with mindfcn export")
        self.card = Card.from_json(texts[CARD], path)

    def __call__(self, image, probabilities=False):
        """Segment one photograph of any size, (H, W, 3) uint8 BGR, or planes, as `to_input` takes them.

        Returns:
            mask (H, W) uint8; probabilities (C, H, W) float32, or None.
        """
        logits = self.logits(to_input(image, self.card.preprocess)[None])[0][:len(self.card.labels)]
        return argmax(logits), softmax(logits) if probabilities else None

    def geometric(self, image):
        """(H, W) uint8: the second head's classes of an image."""
        return argmax(self.logits(to_input(image, self.card.preprocess)[None])[0][len(self.card.labels):])

    def logits(self, batch):
        """(N, C, H, W) float32, normalised -> logits (N, classes of all heads, H, W) float32."""
        return self.session.run(None, {"image": batch})[0]
