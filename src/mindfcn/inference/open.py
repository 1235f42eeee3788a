"""Open a checkpoint with MindSpore or ONNX Runtime. MindSpore is imported only if it is used."""

from collections.abc import Callable
from typing import Optional, Union

import numpy as np

from mindfcn.combinations import ENSEMBLE, ONNX, PROPOSALS, check
from mindfcn.config import SMALL_NETWORK, PredictConfig, ServeConfig
from mindfcn.console import SILENT, Console, FilePath
from mindfcn.errors import UserError
from mindfcn.inference.onnx import OnnxSegmenter
from mindfcn.inference.pipeline import Inference
from mindfcn.launcher import num_processes
from mindfcn.weights.card import Card

# (image (H, W, 3) uint8 BGR, probabilities: bool) -> (mask (H, W) uint8, probabilities (C, H, W) float32 or None).
Segment = Callable[..., tuple[np.ndarray, Optional[np.ndarray]]]

# Sources of records whose photographs the program draws.
DRAWN = ("sample", "rooms")


def load_segmenter(checkpoint: FilePath = SMALL_NETWORK, default_model: Optional[str] = None, precision: str = "auto",
                   console: Console = SILENT) -> tuple[Segment, Card]:
    """Open a checkpoint, or a published network by its name, which is fetched once.

        segment, card = mindfcn.load_segmenter()
        mask, probabilities = segment(cv2.imread("photo.jpg"), probabilities=True)

    Args:
        checkpoint: a path, or a name that `mindfcn weights` lists; the small network of the repository if not given.
        default_model: network name for a checkpoint without a card (official ones).
        precision: type that the layers compute in; auto is float32 on CPU, else float16.
        console: Console that shows the progress of a download and, on devices with a choice, the precision.

    Returns:
        (function from a photograph (H, W, 3) uint8 BGR to its mask (H, W) uint8 and probabilities (C, H, W) float32 or
        None, Card). The function is a Segmenter; for a network made for photographs of one shorter side, it is an
        Inference that resizes them.

    Raises:
        UserError: the checkpoint cannot be fetched or read, or holds no segmentation network.
    """
    from mindfcn.inference.load import load_network
    segmenter, card = load_network(checkpoint, default_model, precision, console)
    if card.shorter_side:
        return Inference(segmenter, PredictConfig(), card.shorter_side), card
    return segmenter, card


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
        if num_processes() > 1:
            # The processes add up their results with MindSpore.
            from mindfcn.runtime import set_up
            set_up("CPU")
        segmenter = OnnxSegmenter(config.checkpoint, config.device)
        return segmenter, segmenter.card
    from mindfcn.inference.load import combined, load_network
    from mindfcn.runtime import pynative_mode, set_up
    set_up(config.device, console=console)
    pynative_mode()
    network, card = load_network(config.checkpoint, config.fallback_model, config.precision, console)
    if card.source_name in DRAWN:
        console.say("this network was trained on drawn pictures alone and does not know photographs")
    return combined(network, card, config) if isinstance(config, PredictConfig) else network, card
