"""The verb predict: photographs and videos of any size -> masks, overlays and probabilities in a folder.

MindSpore is imported only if it is the runtime.
"""

import collections
import contextlib
import dataclasses
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Optional

import numpy as np

from mindfcn.config import PredictConfig
from mindfcn.console import SILENT, Console
from mindfcn.data.bands import colors, package, read_bands, write_bands
from mindfcn.data.image_paths import _stem, find_images, output_names
from mindfcn.errors import UserError
from mindfcn.inference.open import Segment, open_segmenter
from mindfcn.inference.pipeline import Inference
from mindfcn.labels import LabelSet
from mindfcn.launcher import num_processes
from mindfcn.memory import is_out_of_memory
from mindfcn.report.overlays import (
    encode_palette_png,
    overlay,
    overlay_with_legend,
    write_palette_png,
    write_picture,
)
from mindfcn.storage.files import atomic_path, empty_folder, partial_folder, read_bytes
from mindfcn.storage.images import dark_note, decode_photograph
from mindfcn.storage.video import VideoReader, VideoWriter, is_video
from mindfcn.weights.card import Card
from mindfcn.weights.catalogue import with_checkpoint_paths

VOC_FOLDER = os.path.join("results", "VOC2012", "Segmentation", "comp6_test_cls")


@dataclasses.dataclass
class PredictResult:
    """Files written by a prediction.

    Attributes:
        written: one dict per image with the paths `image`, `mask`, `overlay`, `probabilities` and `geometric`; None
            for files that the settings do not ask for, or that need a head that the network lacks. The masks of a
            video are a folder.
        failed: (path, reason) of each image that could not be read.
        skipped: number of images whose results were there already.
        totals: {"written", "failed" and "skipped": number of images, over all processes}; the other attributes are of
            this process alone.
    """
    written: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    failed: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    skipped: int = 0
    totals: dict[str, int] = dataclasses.field(default_factory=dict)


def predict(config: PredictConfig, console: Console = SILENT) -> PredictResult:
    """Open a checkpoint, segment every image that `config.images` names, and write what `config` asks for.

    An image that cannot be read is recorded as failed; the other images are still segmented. If msrun or mpirun has
    started n processes, each segments every n-th image.

    Args:
        config: PredictConfig.
        console: Console that shows progress and notes.

    Returns:
        PredictResult.

    Raises:
        UserError: as `open_segmenter` and `segment_images` do.
    """
    config = with_checkpoint_paths(config, console)
    segment, card = open_segmenter(config, console)
    return segment_images(config, segment, card.labels, console, card)


def segment_images(config: PredictConfig, segment: Segment, labels: LabelSet, console: Console = SILENT,
                   card: Optional[Card] = None) -> PredictResult:
    """Segment the images of `predict` with a network that is already open.

    An image that cannot be read, is too large for the memory, or whose results cannot be written is recorded as failed;
    the other images are still segmented.

    Args:
        config: PredictConfig; its windows, scales, mirroring and CRF are applied to `segment`
        segment: function (image (H, W, 3) uint8 BGR, probabilities: bool) -> (mask (H, W) uint8, or bands (H, W, C) of
            overlapping classes, probabilities (C, H, W) float32 or None)
        labels: LabelSet of the masks
        console: Console that shows progress and notes
        card: Card of the network; needed if it takes more than colours or has a second head

    Returns:
        PredictResult.

    Raises:
        UserError: the network needs depth and `config.depth` is not given, or the other way round; no image is found,
            the folder cannot be written, a result would overwrite an input image, or a setting is invalid.
    """
    planes = card.preprocess.planes if card else ("image",)
    if bool(config.depth) != bool({"depth", "hha"} & set(planes)):
        raise UserError(f"--depth: this network takes {' and '.join(planes)}; " + (
            "leave it out" if config.depth else "give the folder of the images' depth"))
    second = card.geometric if card else None
    segmenter: Any = segment
    segment = Inference(segment, config, card.shorter_side if card else 0, console)
    segment.check(card)
    if labels.multilabel:
        _check_multilabel(config)
    result = PredictResult()
    with _all_processes() as (rank, rank_size):
        images, names = _checked_images(config, planes, second, labels, console)
        share = list(zip(images, names))[rank::rank_size]

        def jobs():
            for path, name in share:
                target = _targets(config, name, second, is_video(path), labels)
                if not (config.skip_existing and _exist(target)):
                    yield path, target

        def compute(path, target, read):
            """Segment an image that is being read. Returns a function that writes its files."""
            if is_video(path):
                _segment_video(path, target, segment, labels, console)
                return lambda: None
            image, seen = read()
            mask, probabilities = segment(seen, config.probabilities)
            geometric = segmenter.geometric(seen) if second else None
            return partial(_write, target, image, mask, probabilities, labels, geometric, second)

        def read(path, _):
            return None if is_video(path) else _read(path, planes, config, card, console)

        done = _overlapped(jobs(), read, compute)
        with contextlib.closing(done):
            for (path, target), finish in console.track(done, len(share)):
                try:
                    finish()
                except (UserError, RuntimeError, MemoryError) as error:
                    reason = _reason(error, path)
                    result.failed.append((path, reason))
                    console.say(f"left out: {reason}")
                else:
                    result.written.append({"image": path, **target})
        result.skipped = len(share) - len(result.written) - len(result.failed)
    result.totals = _totals(result)
    return result


def _overlapped(jobs, read, compute):
    """Read the next image and write the last one, each in a thread, while this one is computed.

    Args:
        jobs: iterable of tuples of arguments.
        read: function of the arguments of a job, called in a thread.
        compute: function of the arguments and of a function that returns or raises what `read` did; it returns a
            function without arguments that is called in another thread.

    Yields:
        (job, function that waits for the job's end and raises what it has raised) of every job, in order.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        jobs, waiting = iter(jobs), collections.deque()
        following = next(jobs, None)
        reading = following and reader.submit(read, *following)
        while following:
            job, loaded = following, reading
            following = next(jobs, None)
            reading = following and reader.submit(read, *following)
            try:
                end = writer.submit(compute(*job, loaded.result)).result
            except (UserError, RuntimeError, MemoryError) as error:
                end = partial(_raise, error)
            waiting.append((job, end))
            # At most one image is being written while the next is computed.
            if len(waiting) > 1:
                yield waiting.popleft()
        yield from waiting


def _raise(error):
    raise error


@contextlib.contextmanager
def _all_processes():
    """Yield (this process's number, number of processes); after the block, all have succeeded or all raise UserError.
    """
    if num_processes() == 1:
        yield 0, 1
        return
    from mindfcn import runtime
    with runtime.fail_on_all_ranks():
        yield runtime.rank(), runtime.rank_size()


def _totals(result):
    """`PredictResult.totals`."""
    counts = {"written": len(result.written), "failed": len(result.failed), "skipped": result.skipped}
    if num_processes() == 1:
        return counts
    from mindfcn import runtime
    return dict(zip(counts, runtime.sum_over_ranks(np.array(list(counts.values()), np.int64)).tolist()))


def _check_multilabel(config):
    """Raise UserError if masks of overlapping classes cannot be written, or a setting asks for another form of them."""
    if config.voc_names:
        raise UserError("--voc_names is for masks with one class a pixel, and this network's classes overlap; leave it "
                        "out")
    package()


def _checked_images(config, planes, second, labels, console):
    """(paths of all images, names of their results), after every check that needs no network. Raises UserError."""
    images = find_images(config.images, config.out, console, videos=True)
    _check_videos(images, config, planes, second or labels.multilabel)
    if config.depth:
        _check_depth_names(images)
    names = output_names(images)

    # A generator, because the paths of a million results would fill the memory.
    def targets():
        for path, name in zip(images, names):
            yield _targets(config, name, second, is_video(path), labels)

    _check_overwriting(images, (target for target in targets() if not (_exist(target) and config.skip_existing)))
    _create_folders(targets())
    return images, names


def _check_videos(images, config, planes, several):
    """Raise UserError if there are videos and a setting or the network is for photographs alone.

    `several` is whether the network gives several masks.
    """
    video = next(filter(is_video, images), None)
    names = [f"--{name}" for name in ("probabilities", "voc_names", "depth", "bits") if getattr(config, name)]
    if video and names:
        raise UserError(f"{names[0]} is for photographs, and {video} is a video; segment it in a call without "
                        "that setting")
    if video and (planes != ("image",) or several):
        raise UserError(f"{video} is a video, and this network takes {' and '.join(planes)}"
                        f"{' to several masks' if several else ''}; videos need a network from photographs to one mask")


def _segment_video(path, target, segment, labels, console):
    """Write a mask for each frame, 000000.png the first, and the overlay as a video; both appear once complete."""
    masks, overlay_path = target["mask"], target["overlay"]
    if os.path.lexists(masks):
        raise UserError(f"{masks} is there already; remove it, or choose another --out")
    with contextlib.closing(VideoReader(path)) as video, partial_folder(masks) as folder:
        empty_folder(folder)
        made = os.path.join(folder, "masks")
        os.mkdir(made)
        with atomic_path(overlay_path) if overlay_path else contextlib.nullcontext() as temporary:
            writer = VideoWriter(temporary, video.rate) if temporary else None
            for number, frame in enumerate(console.track(video, video.count or None, unit="frame", desc=_stem(path))):
                mask, _ = segment(frame, False)
                with open(os.path.join(made, f"{number:06d}.png"), "wb") as file:
                    file.write(encode_palette_png(mask, labels))
                if writer:
                    writer.add(overlay(frame[..., ::-1], mask, labels)[..., ::-1])
            if writer:
                writer.close()
        # Last, so that a call that was cut short in between segments the video again.
        os.replace(made, masks)


def _reason(error, path):
    """Why an image was left out, one line that names it. Raises the error if it is a fault of the program."""
    if isinstance(error, UserError):
        return str(error) if path in str(error) else f"{path}: {error}"
    if is_out_of_memory(error):
        return f"{path} is too large for the memory: segment it in windows, such as --window 1024, or make it smaller"
    raise error


def _check_depth_names(images):
    """Raise UserError if two images share a name, and so a file of depth."""
    found = {}
    for path in images:
        other = found.setdefault(_stem(path), path)
        if other != path:
            raise UserError(f"--depth: {_stem(path)}.png would be the depth of both {other} and {path}; segment them "
                            "in two calls")


def _read(path, planes, config, card, console):
    """(picture (H, W, 3) uint8 BGR, what the network sees: the picture itself, or planes as for `to_input`).

    Raises UserError if the file cannot be read, has other bands than the network takes, or depth is missing.
    """
    if planes != ("bands",):
        image = decode_photograph(data := read_bytes(path), path, config.bits)
        if not config.bits and (dark := dark_note(data, path)):
            console.say(dark)
        return image, image if planes == ("image",) else _with_planes(image, path, planes, config)
    bands = read_bands(path)
    if bands.shape[2] != card.preprocess.channels:
        raise UserError(f"{path} has {bands.shape[2]} bands, the network takes {card.preprocess.channels}")
    shown = card.training.get("settings", {}).get("data", {}).get("bands") or (3, 2, 1)
    return colors(bands, shown, path), {"bands": bands}


def _with_planes(image, path, planes, config):
    """The planes of a photograph as for `to_input`. Raises UserError if depth is missing or of another size."""
    # Imported here because it needs SciPy.
    from mindfcn.data.sources.nyud import hha_of_file, read_depth
    source = os.path.join(config.depth, _stem(path) + ".png")
    depth = read_depth(source)
    if depth.shape != image.shape[:2]:
        raise UserError(f"{source} is {depth.shape[1]}x{depth.shape[0]} pixels but {path} is "
                        f"{image.shape[1]}x{image.shape[0]}; correct one")
    readers = {"image": lambda: image, "depth": lambda: depth, "hha": lambda: hha_of_file(source, config.camera)}
    return {plane: readers[plane]() for plane in planes}


def _targets(config, name, second, video, labels):
    """The files to write for one image: {mask, overlay, probabilities, geometric: path or None}."""
    if video:
        return {"mask": os.path.join(config.out, name),
                "overlay": os.path.join(config.out, name + "_overlay.mp4") if config.overlay else None,
                "probabilities": None, "geometric": None}
    masks = os.path.join(config.out, VOC_FOLDER) if config.voc_names else config.out
    return {
        "mask": os.path.join(masks, name + (".tif" if labels.multilabel else ".png")),
        "overlay": os.path.join(config.out, name + "_overlay.jpg") if config.overlay else None,
        "probabilities": os.path.join(config.out, name + ".npz") if config.probabilities else None,
        "geometric": os.path.join(config.out, name + "_geometric.png") if second else None,
    }


def _check_overwriting(images, targets):
    """Raise UserError if a result would overwrite an input, also through another path or link."""
    results = {_file_id(path): path for target in targets for path in target.values() if path and os.path.exists(path)}
    for path in images if results else ():
        if _file_id(path) in results:
            raise UserError(f"{results[_file_id(path)]} would overwrite the image {path}; choose another `out`")


def _file_id(path):
    """(device, inode) of a file, the same for all its names."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _create_folders(targets):
    """Create the folders and try to write into them, to find a wrong `out` before the first image is segmented."""
    for folder in sorted({os.path.dirname(path) or "." for target in targets for path in target.values() if path}):
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UserError(f"cannot write into {folder}: {error.strerror}; choose another `out`") from None


def _exist(target):
    """Whether all files of one image are there. They appear when they are complete."""
    return all(os.path.exists(path) for path in target.values() if path)


def _write(target, image, mask, probabilities, labels, geometric, second):
    """Write the files of one image."""
    if target["overlay"]:
        write_picture(target["overlay"], overlay_with_legend(image[..., ::-1], mask, labels))
    if target["probabilities"]:
        with atomic_path(target["probabilities"]) as temporary:
            np.savez_compressed(temporary, probabilities=probabilities.astype(np.float16))
    if labels.multilabel:
        write_bands(target["mask"], mask)
    else:
        write_palette_png(target["mask"], mask, labels)
    if second:
        write_palette_png(target["geometric"], geometric, second)
