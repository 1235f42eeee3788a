"""The published weights by name: where each file is, how it is verified, and what the network in it needs.

    locate("fcn_resnet50_coco")  ->  ckpt/fcn_resnet50_coco-1167a1af.pth, fetched once

Files are kept in the folder `ckpt`, or in the folder of the environment variable MINDFCN_HOME. The small network comes
with the repository, in its own `ckpt`.
"""

import dataclasses
import os
from typing import Any, Optional

from mindfcn.config import SMALL_NETWORK
from mindfcn.console import SILENT, Console, FilePath
from mindfcn.errors import UserError
from mindfcn.labels import VOC, LabelSet
from mindfcn.preprocess import CAFFE, COURSE, TORCHVISION, Preprocess
from mindfcn.storage.download import SOURCES, Source, checksum_of, download, fits
from mindfcn.weights.label_sets import ADE20K, CITYSCAPES, CONTEXT59, CONTEXT60


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """One published file.

    Attributes:
        name: its name here.
        model: the network that it belongs to, for `create_model`; of a classifier's weights the backbones.
        source: addresses, checksum and file name; without addresses, the file is part of the repository.
        megabytes: size in 2^20 bytes; None where it is not published.
        licence: as its publisher states it.
        score: published figure with the images that it was measured on.
        labels: classes and colours; None for a classifier's weights, which hold no segmentation network.
        preprocess: normalisation of the images.
        shorter_side: side that photographs are resized to, pixels, as in the published measurement; 0 keeps their size.
    """
    name: str
    model: str
    source: Source
    megabytes: Optional[float]
    licence: str
    score: str
    labels: Optional[LabelSet]
    preprocess: Preprocess
    shorter_side: int = 0

    @property
    def file_name(self) -> str:
        """Name of the file in the folder of published files."""
        return self.source.unpacks_to


def _source(name, url, checksum):
    file_name = url.rpartition("/")[2]
    return Source(name, (url,), None, checksum, file_name)


def _torchvision(name, model, file, megabytes, score, labels=None, preprocess=TORCHVISION, shorter_side=0):
    """A file whose name ends in the first eight digits of its SHA-256."""
    digits = file.removesuffix(".pth").rpartition("-")[2]
    source = _source(name, f"https://download.pytorch.org/models/{file}", f"sha256:{digits}")
    return PublishedWeights(name, model, source, megabytes, "BSD 3-Clause (torchvision)", score, labels, preprocess,
                            shorter_side)


def _mmsegmentation(stem, date, digits, score, labels, shorter_side):
    folder = "https://download.openmmlab.com/mmsegmentation/v0.5/fcn"
    model = f"{stem.partition('-')[0]}_d8"
    source = _source(stem, f"{folder}/{stem}/{stem}_{date}-{digits}.pth", f"sha256:{digits}")
    return PublishedWeights(stem, model, source, None, "Apache 2.0 (mmsegmentation)", score, labels, TORCHVISION,
                            shorter_side)


def _caffe(name, model, score, labels=VOC, checksum=None, licence="not stated (fcn.berkeleyvision.org)",
           megabytes=None, url="http://dl.caffe.berkeleyvision.org"):
    source = _source(name, f"{url}/{name}.caffemodel", checksum)
    return PublishedWeights(name, model, source, megabytes, licence, score, labels, CAFFE)


def _course(file, model, score, labels, megabytes=None):
    source = dataclasses.replace(SOURCES[file], name=file.removesuffix(".ckpt"))
    licence = "not stated (MindSpore course)"
    return PublishedWeights(source.name, model, source, megabytes, licence, score, labels, COURSE)


_COCO = "COCO val2017 with VOC's labels"
_VOC, _STREETS, _ADE, _CONTEXT = "VOC 2012 val", "Cityscapes val", "ADE20K val", "PASCAL-Context val"
_TOP1 = "top-1 on ImageNet"
# Caffe's mean colour, RGB, of the weights that torchvision took from amdegroot's SSD.
_AMDEGROOT = Preprocess("RGB", (123.0, 117.0, 104.0), (1, 1, 1))

CATALOGUE = {entry.name: entry for entry in (
    # Its card holds its normalisation and shorter side.
    PublishedWeights(
        SMALL_NETWORK, "fcn8s_vgg16",
        Source(SMALL_NETWORK, (), None, "sha256:45167135a1ddd766", f"{SMALL_NETWORK}.ckpt"), 37.6,
        "research use (VOC photographs, ImageNet weights)", "48.9 mIoU, 221 images of VOC 2012 val", VOC, COURSE),
    _torchvision("fcn_resnet50_coco", "fcn_resnet50", "fcn_resnet50_coco-1167a1af.pth", 135.009,
                 f"60.5 mIoU, {_COCO}", VOC, shorter_side=520),
    _torchvision("fcn_resnet101_coco", "fcn_resnet101", "fcn_resnet101_coco-7ecb50ca.pth", 207.711,
                 f"63.7 mIoU, {_COCO}", VOC, shorter_side=520),
    _mmsegmentation("fcn_r50-d8_512x512_20k_voc12aug", "20200617_010715", "52dc5306", f"67.08 mIoU, {_VOC}", VOC, 512),
    _mmsegmentation("fcn_r101-d8_512x512_20k_voc12aug", "20200617_010842", "0bb4e798", f"71.16 mIoU, {_VOC}", VOC, 512),
    _mmsegmentation("fcn_r50-d8_512x512_40k_voc12aug", "20200613_161222", "5e2dbf40", f"66.97 mIoU, {_VOC}", VOC, 512),
    _mmsegmentation("fcn_r101-d8_512x512_40k_voc12aug", "20200613_161240", "4c8bcefd", f"69.91 mIoU, {_VOC}", VOC, 512),
    _mmsegmentation("fcn_r18-d8_512x1024_80k_cityscapes", "20201225_021327", "6c50f8b4", f"71.11 mIoU, {_STREETS}",
                    CITYSCAPES, 1024),
    _mmsegmentation("fcn_r50-d8_512x1024_80k_cityscapes", "20200606_113019", "03aa804d", f"73.61 mIoU, {_STREETS}",
                    CITYSCAPES, 1024),
    _mmsegmentation("fcn_r101-d8_512x1024_80k_cityscapes", "20200606_113038", "3fb937eb", f"75.13 mIoU, {_STREETS}",
                    CITYSCAPES, 1024),
    _mmsegmentation("fcn_r101-d8_fp16_512x1024_80k_cityscapes", "20200717_230921", "fb13e883",
                    f"76.80 mIoU, {_STREETS}", CITYSCAPES, 1024),
    _mmsegmentation("fcn_r18b-d8_512x1024_80k_cityscapes", "20201225_230143", "92c0f445", f"70.24 mIoU, {_STREETS}",
                    CITYSCAPES, 1024),
    _mmsegmentation("fcn_r50b-d8_512x1024_80k_cityscapes", "20201225_094221", "82957416", f"75.65 mIoU, {_STREETS}",
                    CITYSCAPES, 1024),
    _mmsegmentation("fcn_r101b-d8_512x1024_80k_cityscapes", "20201226_160213", "4543858f", f"77.37 mIoU, {_STREETS}",
                    CITYSCAPES, 1024),
    _mmsegmentation("fcn_r50-d8_512x512_80k_ade20k", "20200614_144016", "f8ac5082", f"35.94 mIoU, {_ADE}", ADE20K, 512),
    _mmsegmentation("fcn_r101-d8_512x512_80k_ade20k", "20200615_014143", "bc1809f7", f"39.61 mIoU, {_ADE}", ADE20K,
                    512),
    _mmsegmentation("fcn_r50-d8_512x512_160k_ade20k", "20200615_100713", "4edbc3b4", f"36.10 mIoU, {_ADE}", ADE20K,
                    512),
    _mmsegmentation("fcn_r101-d8_512x512_160k_ade20k", "20200615_105816", "fd192bd5", f"39.91 mIoU, {_ADE}", ADE20K,
                    512),
    # Context was measured with the longer side at 520 pixels, about the photographs' own size.
    _mmsegmentation("fcn_r101-d8_480x480_40k_pascal_context", "20210421_154757", "b5e97937", f"44.43 mIoU, {_CONTEXT}",
                    CONTEXT60, 0),
    _mmsegmentation("fcn_r101-d8_480x480_80k_pascal_context", "20210421_163310", "4711813f", f"44.13 mIoU, {_CONTEXT}",
                    CONTEXT60, 0),
    _mmsegmentation("fcn_r101-d8_480x480_40k_pascal_context_59", "20210415_230724", "8cf83682",
                    f"48.42 mIoU, {_CONTEXT}", CONTEXT59, 0),
    _caffe("fcn32s-heavy-pascal", "fcn32s_vgg16", "63.6 mIoU, VOC seg11valid"),
    _caffe("fcn16s-heavy-pascal", "fcn16s_vgg16", "65.0 mIoU, VOC seg11valid"),
    _caffe("fcn8s-heavy-pascal", "fcn8s_vgg16", "65.5 mIoU, VOC seg11valid"),
    _caffe("fcn8s-atonce-pascal", "fcn8s_atonce_vgg16", "65.4 mIoU, VOC seg11valid"),
    _caffe("fcn-alexnet-pascal", "fcn32s_caffenet", "48.0 mIoU, VOC seg11valid"),
    _course("FCN8s.ckpt", "fcn8s_vgg16_bn", "not published", VOC),
    _torchvision("vgg16_imagenet", "vgg16, vgg16_bn", "vgg16-397923af.pth", 527.796, f"71.6 % {_TOP1}"),
    _torchvision("vgg16_features", "vgg16, vgg16_bn", "vgg16_features-amdegroot-88682ab5.pth", 527.802,
                 "features alone", preprocess=_AMDEGROOT),
    _caffe("VGG_ILSVRC_16_layers", "vgg16, vgg16_bn", "not published", None, None,
           "Creative Commons Attribution", 528, "http://www.robots.ox.ac.uk/~vgg/software/very_deep/caffe"),
    _torchvision("vgg16_bn_imagenet", "vgg16_bn", "vgg16_bn-6c64b313.pth", 527.866, f"73.4 % {_TOP1}"),
    _torchvision("alexnet_imagenet", "alexnet", "alexnet-owt-7be5be79.pth", 233.087, f"56.5 % {_TOP1}"),
    _caffe("bvlc_reference_caffenet", "caffenet", f"57.4 % {_TOP1}", None,
           "sha1:4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46", "unrestricted"),
    _caffe("bvlc_googlenet", "googlenet", f"68.7 % {_TOP1}", None, "sha1:405fc5acd08a3bb12de8ee5e23a96bec22f08204",
           "unrestricted"),
    _torchvision("resnet50_imagenet", "fcn_resnet50, fcn_r50b_d8", "resnet50-0676ba61.pth", 97.781, f"76.1 % {_TOP1}"),
    _torchvision("resnet101_imagenet", "fcn_resnet101, fcn_r101b_d8", "resnet101-63fe2227.pth", 170.511,
                 f"77.4 % {_TOP1}"),
    _course("fcn8s_vgg16_pretrain.ckpt", "vgg16_bn", "not published", None),
)}


# Larger networks to name next to the small one.
SUGGESTED = ("fcn_resnet50_coco", "fcn_r101-d8_512x512_20k_voc12aug", "fcn_r50-d8_512x512_160k_ade20k")
# The folder that holds ckpt/ and src/, if the package runs from a clone.
REPOSITORY = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))


def small_network_note() -> str:
    """What the repository's network is, and which larger ones there are, in one line."""
    small, *larger = (CATALOGUE[name] for name in (SMALL_NETWORK, *SUGGESTED))
    texts = (f"{entry.name} ({len(entry.labels or ())} classes, "
             f"{f'{entry.megabytes:.0f} MB, ' if entry.megabytes else ''}{entry.licence})" for entry in larger)
    return (f"{small.name}: {len(small.labels or ())} classes, {small.score}, {small.licence}; better ones, fetched "
            f"once, with --checkpoint NAME: {', '.join(texts)}; mindfcn weights lists all")


def home() -> str:
    """The folder of published files."""
    return os.environ.get("MINDFCN_HOME") or "ckpt"


def path_of(entry: PublishedWeights) -> str:
    """Where a published file is kept; the repository's own is found from any folder."""
    path = os.path.join(home(), entry.file_name)
    return path if entry.source.urls or os.path.exists(path) else os.path.join(REPOSITORY, "ckpt", entry.file_name)


def entry_of(path: FilePath) -> Optional[PublishedWeights]:
    """The entry of a file with a published file's name; None for any other file."""
    name = os.path.basename(os.fspath(path))
    return next((entry for entry in CATALOGUE.values() if entry.file_name == name), None)


def locate(checkpoint: FilePath, console: Console = SILENT, network: bool = False) -> str:
    """The path of a file, or of a published one by its name, which is fetched where it is missing.

    Args:
        checkpoint: a path, the folder of a run, or a name of CATALOGUE.
        console: Console that shows the progress of the download.
        network: whether the file must hold a segmentation network.

    Returns:
        The path, of a run's folder that of its best checkpoint, else its last; a name that is none of them is returned
        as it is.

    Raises:
        UserError: a folder without checkpoints, the file cannot be fetched, its checksum is not the published one, or
            it holds no network.
    """
    checkpoint = os.fspath(checkpoint)
    if os.path.isdir(checkpoint):
        checkpoint = _of_run(checkpoint)
        console.say(f"checkpoint {checkpoint}")
    entry = CATALOGUE.get(checkpoint) if not os.path.exists(checkpoint) else entry_of(checkpoint)
    if network and entry and entry.labels is None:
        raise UserError(f"{checkpoint} holds a classifier's weights and no segmentation network; train one from it "
                        f"with --model.pretrained {entry.name}, or take a network that `mindfcn weights` lists")
    return fetch(entry, console) if entry and checkpoint == entry.name else checkpoint


def _of_run(folder: str) -> str:
    """The best checkpoint in the folder of a run, else the last one. Raises UserError."""
    found = [path for name in ("best.ckpt", "last.ckpt") for inner in ("checkpoints", "")
             if os.path.isfile(path := os.path.join(folder, inner, name))]
    if not found:
        raise UserError(f"{folder} is a folder without checkpoints: it has no checkpoints/best.ckpt; give a run's "
                        "folder or a checkpoint file")
    return found[0]


def fetch(entry: PublishedWeights, console: Console = SILENT) -> str:
    """Fetch a published file, or verify it where it is here already. Returns its path. Raises UserError."""
    path = path_of(entry)
    if not os.path.exists(path):
        if not entry.source.urls:
            raise UserError(f"{entry.file_name} is part of the repository, in its folder ckpt, and is not here; copy "
                            f"it into {home()}, or take a network that can be fetched, such as --checkpoint "
                            f"{SUGGESTED[0]}")
        size = f", {entry.megabytes:.0f} MB" if entry.megabytes else ""
        console.say(f"fetching {entry.name}{size}: {entry.source.urls[0]} -> {path}")
        return download(entry.name, home(), console.track, {entry.name: entry.source})
    expected = entry.source.checksum
    if expected and not fits(checksum_of(path, expected), expected):
        raise UserError(f"{path} is not the published file: its checksum is {checksum_of(path, expected)}, expected "
                        f"{expected}; delete it, and fetch it again with mindfcn weights fetch {entry.name}")
    return path


def with_checkpoint_paths(config: Any, console: Console = SILENT) -> Any:
    """A config whose `checkpoint`, and `ensemble` where it has one, are paths. Raises UserError as `locate` does."""
    if config.checkpoint == SMALL_NETWORK:
        console.say(small_network_note())
    paths = {name: locate(getattr(config, name), console, network=True)
             for name in ("checkpoint", "ensemble") if getattr(config, name, "")}
    return dataclasses.replace(config, **paths)
