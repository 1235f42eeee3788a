"""Open a checkpoint with MindSpore or ONNX Runtime. MindSpore is imported only if it is used."""

from collections.abc import Callable
from typing import Optional, Union

import numpy as np

from mindfcn.combinations import ENSEMBLE, ONNX, PROPOSALS, check
from mindfcn.config import PredictConfig, ServeConfig
from mindfcn.console import SILENT, Console
from mindfcn.errors import UserError
from mindfcn.inference.onnx import OnnxSegmenter
from mindfcn.weights.card import Card

# (image (H, W, 3) uint8 BGR, probabilities: bool) -> (mask (H, W) uint8, probabilities (C, H, W) float32 or None).
Segment = Callable[..., tuple[np.ndarray, Optional[np.ndarray]]]


def open_segmenter(config: Union[PredictConfig, ServeConfig], console: Console = SILENT) -> tuple[Segment, Card]:
    """Open a checkpoint with the runtime chosen by the settings.

    Args:
        config: PredictConfig or ServeConfig; uses `checkpoint`, `runtime`, `device`, `fallback_model` and `precision`.
        console: Console that shows notes.

    Returns:
        (function that segments one photograph, as `predict` takes it; Card)

    Raises:
        UserError: checkpoint, runtime, device and precision do not go together, or the checkpoint cannot be read.
    """
    is_onnx = config.checkpoint.lower().endswith(".onnx")
    if config.runtime == "mindspore" and is_onnx:
        raise UserError(f"MindSpore does not read {config.checkpoint}; use --runtime onnx, or give the .ckpt file")
    if config.runtime == "onnx" and not is_onnx:
        raise UserError(f"{config.checkpoint} is not an .onnx file; make one with mindfcn export --checkpoint "
                        f"{config.checkpoint} --out_file NAME.onnx")
    if is_onnx:
        if isinstance(config, PredictConfig):
            for method, used in ((PROPOSALS, config.proposals != "none"), (ENSEMBLE, config.ensemble)):
                if used:
                    check(ONNX, method)
        check(ONNX, config.precision)
        segmenter = OnnxSegmenter(config.checkpoint, config.device)
        return segmenter, segmenter.card
    from mindfcn.inference.load import combined, load_segmenter
    from mindfcn.runtime import pynative_mode, set_up
    set_up(config.device, console=console)
    pynative_mode()
    network, card = load_segmenter(config.checkpoint, config.fallback_model, config.precision, console)
    return combined(network, card, config) if isinstance(config, PredictConfig) else network, card
