"""Photographs of any size -> palette masks, overlays and probabilities in a folder.

MindSpore is imported only where it is what computes.
"""

import collections
import dataclasses
import glob
import os
import tempfile
from collections.abc import Callable
from typing import Any, Optional, Union

import numpy as np

from mindfcn.config import PredictConfig, ServeConfig
from mindfcn.data.folder import IMAGE_SUFFIXES
from mindfcn.data.samples import check_complete, decode_image
from mindfcn.dense.exported import OnnxSegmenter
from mindfcn.dense.inference import Inference
from mindfcn.errors import UserError
from mindfcn.files import atomic_path, read_bytes
from mindfcn.hooks import Progress, Say
from mindfcn.labels import LabelSet
from mindfcn.report.masks import overlay_with_legend, write_palette_png, write_picture
from mindfcn.weights.card import Card

VOC_FOLDER = os.path.join("results", "VOC2012", "Segmentation", "comp6_test_cls")
# (H, W, 3) uint8 BGR, whether probabilities are wanted -> mask (H, W) uint8; probabilities (C, H, W) float32 or None.
Segment = Callable[..., tuple[np.ndarray, Optional[np.ndarray]]]


@dataclasses.dataclass
class PredictResult:
    """What a prediction left behind.

    Attributes:
        written: one dict per image with the paths `image`, `mask`, `overlay`, `probabilities` and `geometric`; None
            where the settings did not ask for the file, or the network has no such head.
        failed: (path, reason) of the images without a prediction.
    """
    written: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def open_segmenter(config: Union[PredictConfig, ServeConfig]) -> tuple[Segment, Card]:
    """The runtime that the settings ask for, with their checkpoint in it.

    Args:
        config: PredictConfig or ServeConfig: `checkpoint`, `runtime`, `device`, `model` and `precision` count.

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
                        f"{config.checkpoint} --out NAME.onnx")
    if is_onnx:
        if isinstance(config, PredictConfig) and (config.proposals != "none" or config.ensemble):
            raise UserError(f"{config.checkpoint}: proposals and ensembles take .ckpt files")
        if config.precision not in ("auto", "float32"):
            raise UserError(f"--precision {config.precision}: an ONNX file computes in float32; leave it out")
        segmenter = OnnxSegmenter(config.checkpoint, config.device)
        return segmenter, segmenter.card
    from mindfcn.engine.networks import combined, load_segmenter
    from mindfcn.runtime import pynative_mode, set_up
    set_up(config.device)
    pynative_mode()
    network, card = load_segmenter(config.checkpoint, config.model, config.precision)
    return combined(network, card, config) if isinstance(config, PredictConfig) else network, card


def predict(config: PredictConfig, segment: Segment, labels: LabelSet, progress: Optional[Progress] = None,
            say: Optional[Say] = None, card: Optional[Card] = None) -> PredictResult:
    """Segment every image that `config.images` names, and write what `config` asks for.

    An image that cannot be read is recorded as failed and the others go on.

    Args:
        config: PredictConfig; windows, scales, mirroring and CRF are put around `segment`
        segment: function (image (H, W, 3) uint8 BGR, probabilities: bool) -> (mask (H, W) uint8,
            probabilities (C, H, W) float32 or None)
        labels: LabelSet of the masks
        progress: function (images done, images in all), called after each image
        say: function (line of text), told of each image that fails
        card: Card of the network, where it sees more than colours or has a second head

    Returns:
        PredictResult.

    Raises:
        UserError: the network needs depth and `config.depth` is not given, or the other way round; no image is found,
            the folder cannot be written, a result would overwrite an input image, or settings cannot be.
    """
    planes = card.preprocess.planes if card else ("image",)
    if bool(config.depth) != (planes != ("image",)):
        raise UserError(f"--depth: this network sees {' and '.join(planes)}; " + (
            "leave it out" if config.depth else "give the folder of the images' depth"))
    second = card.geometric if card else None
    segmenter: Any = segment
    segment = Inference(segment, config)
    segment.check(card)
    images = find_images(config.images)
    targets = [_targets(config, name, second) for name in output_names(images)]
    _keep_inputs(images, targets)
    _open_folders(targets)
    result = PredictResult()
    for done, (path, target) in enumerate(zip(images, targets), 1):
        try:
            image = decode_photograph(read_bytes(path), path)
            seen = _with_planes(image, path, planes, config)
            mask, probabilities = segment(seen, config.probabilities)
            geometric = segmenter.geometric(seen) if second else None
        except UserError as error:
            result.failed.append((path, str(error)))
            if say:
                say(f"left out: {error}")
        else:
            _write(target, image, mask, probabilities, labels)
            if second:
                write_palette_png(target["geometric"], geometric, second)
            result.written.append({"image": path, **target})
        if progress:
            progress(done, len(images))
    return result


def _with_planes(image, path, planes, config):
    """A photograph, or its planes as `to_input` takes them. Raises UserError where its depth is missing or differs."""
    if planes == ("image",):
        return image
    # It brings SciPy along, which photographs alone do not need.
    from mindfcn.data.nyud import hha_of_file, read_depth
    source = os.path.join(config.depth, _stem(path) + ".png")
    depth = read_depth(source)
    if depth.shape != image.shape[:2]:
        raise UserError(f"{source} is {depth.shape[1]}x{depth.shape[0]} pixels but {path} is "
                        f"{image.shape[1]}x{image.shape[0]}; mend one")
    readers = {"image": lambda: image, "depth": lambda: depth, "hha": lambda: hha_of_file(source, config.camera)}
    return {plane: readers[plane]() for plane in planes}


def decode_photograph(data, where):
    """Encoded bytes -> (H, W, 3) uint8 BGR. Raises UserError where they are no image or break off early."""
    check_complete(data, where)
    return decode_image(data, where)


def find_images(patterns):
    """List the images that files, folders and glob patterns name, each once, in the order of the patterns.

    A folder stands for the images directly in it; `**` in a pattern for any depth of folders. What folders and
    patterns find is taken by its suffix and sorted; a file named itself is taken whatever its suffix.

    Returns:
        List of paths.

    Raises:
        UserError: a pattern finds nothing, or there is no pattern.
    """
    patterns = [patterns] if isinstance(patterns, (str, os.PathLike)) else patterns
    found = {}
    for pattern in map(os.fspath, patterns):
        for path in _matches(pattern):
            found.setdefault(os.path.abspath(path), path)
    if not found:
        raise UserError("no images named; give image files, folders or patterns such as 'photos/*.jpg'")
    return list(found.values())


def output_names(paths):
    """A name for the results of each image: its stem, longer where two images would share one.

    Images that share a stem, in whatever case, are told apart by suffix (`x_jpg`), then by folder (`a_x`), by both,
    and at last by a number. The same paths always give the same names.
    """
    names, taken = {}, set()
    for scheme in (_stem, _stem_suffix, _folder_stem, _folder_stem_suffix):
        wanted = {path: scheme(path) for path in paths if path not in names}
        count = collections.Counter(name.casefold() for name in wanted.values())
        clear = {path: name for path, name in wanted.items()
                 if count[name.casefold()] == 1 and name.casefold() not in taken}
        names.update(clear)
        taken.update(name.casefold() for name in clear.values())
    for path in sorted(set(paths) - set(names)):
        names[path] = _numbered(_folder_stem_suffix(path), taken)
        taken.add(names[path].casefold())
    return [names[path] for path in paths]


def _matches(pattern):
    """The images of one pattern. A name that exists is never a pattern, whatever brackets it has."""
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        found, kind = glob.glob(os.path.join(glob.escape(pattern), "*")), "folder"
    elif glob.has_magic(pattern):
        found, kind = glob.glob(pattern, recursive=True), "pattern"
    else:
        raise UserError(f"images: there is no file or folder {pattern}; check the path")
    images = sorted(path for path in found if path.lower().endswith(IMAGE_SUFFIXES) and os.path.isfile(path))
    if not images:
        raise UserError(f"images: the {kind} {pattern} holds no image ({' '.join(IMAGE_SUFFIXES)}); check the path")
    return images


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def _stem_suffix(path):
    return os.path.basename(path).replace(".", "_")


def _folder_stem(path):
    return f"{os.path.basename(os.path.dirname(os.path.abspath(path)))}_{_stem(path)}"


def _folder_stem_suffix(path):
    return f"{os.path.basename(os.path.dirname(os.path.abspath(path)))}_{_stem_suffix(path)}"


def _numbered(name, taken):
    number = 1
    while f"{name}_{number}".casefold() in taken:
        number += 1
    return f"{name}_{number}"


def _targets(config, name, second):
    """The files to write for one image: {mask, overlay, probabilities, geometric: path or None}."""
    masks = os.path.join(config.out, VOC_FOLDER) if config.voc_names else config.out
    return {
        "mask": os.path.join(masks, name + ".png"),
        "overlay": os.path.join(config.out, name + "_overlay.jpg") if config.overlay else None,
        "probabilities": os.path.join(config.out, name + ".npz") if config.probabilities else None,
        "geometric": os.path.join(config.out, name + "_geometric.png") if second else None,
    }


def _keep_inputs(images, targets):
    """Refuse to start where a result would replace an input, by whatever name the two are known."""
    inputs = {_identity(path): path for path in images}
    for target in targets:
        for path in filter(None, target.values()):
            if os.path.exists(path) and _identity(path) in inputs:
                raise UserError(f"{path} would overwrite the image {inputs[_identity(path)]}; choose another `out`")


def _identity(path):
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _open_folders(targets):
    """Make the folders and try to write into them, so that a wrong `out` shows before the first image is segmented."""
    paths = [path for target in targets for path in target.values() if path]
    for folder in sorted({os.path.dirname(path) or "." for path in paths}):
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UserError(f"cannot write into {folder}: {error.strerror}; choose another `out`") from None


def _write(target, image, mask, probabilities, labels):
    """Write the files of one image."""
    if target["overlay"]:
        write_picture(target["overlay"], overlay_with_legend(image[..., ::-1], mask, labels))
    if target["probabilities"]:
        with atomic_path(target["probabilities"]) as temporary:
            np.savez_compressed(temporary, probabilities=probabilities.astype(np.float16))
    write_palette_png(target["mask"], mask, labels)
