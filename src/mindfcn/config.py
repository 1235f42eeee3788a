"""Every setting of every verb, with its default, unit and meaning.

jsonargparse makes the command line, `--help` and the YAML files from these classes.
"""

import dataclasses
import math
from dataclasses import field
from typing import Any, Literal, Optional

from mindfcn.errors import UserError

Device = Literal["auto", "CPU", "GPU", "Ascend"]
Precision = Literal["auto", "float32", "float32_strict", "float16", "bfloat16"]
# The network that comes with the repository (mindfcn.weights.catalogue), for verbs that are given no checkpoint.
SMALL_NETWORK = "fcn8s_vgg16_small"
MaskEncoding = Literal["auto", "palette", "grey", "rgb"]


def bounded(default, text, fits):
    """A setting with a bound.

    Args:
        default: default value; None, if it is the default, is always allowed.
        text: the bound in words, after "must be".
        fits: function (value) -> whether the value is within the bound.
    """
    return field(default=default, metadata={"bound": text, "fits": fits})


def at_least(default, minimum):
    """A setting with a minimum."""
    return bounded(default, f"at least {minimum}", lambda value: minimum <= value < math.inf)


def between(default, minimum, maximum):
    """A setting in a closed range."""
    return bounded(default, f"in {minimum}..{maximum}", lambda value: minimum <= value <= maximum)


def above_zero(default, maximum=math.inf):
    """A positive setting."""
    end = "" if maximum == math.inf else f" and at most {maximum}"
    return bounded(default, f"above 0{end}", lambda value: 0 < value <= maximum and value < math.inf)


def share(default, zero=False, one=False):
    """A setting in 0..1; `zero` and `one` allow the two ends."""
    excluded = [end for end, allowed in (("0", zero), ("1", one)) if not allowed]
    text = "in 0..1" + (f" ({' and '.join(excluded)} excluded)" if excluded else "")
    return bounded(default, text,
                   lambda value: (0 <= value if zero else 0 < value) and (value <= 1 if one else value < 1))


def check_bounds(config, prefix=""):
    """Check every bounded setting of a config and of the configs in it.

    Raises:
        UserError: names the first setting that is out of its bounds.
    """
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            check_bounds(value, f"{prefix}{entry.name}.")
        elif "fits" in entry.metadata and value is not None and not entry.metadata["fits"](value):
            raise UserError(f"--{prefix}{entry.name} {value}: must be {entry.metadata['bound']}")


@dataclasses.dataclass
class PrepareConfig:
    """Photographs and masks -> MindRecord files `train.mindrecord` and `val.mindrecord`.

    Args:
        records: folder the records are written to
        source: where photographs and masks come from: drawn by the program (sample; rooms, with depth), a VOC folder
            (with SBD if `sbd` is given), your own folder (`images/`, `masks/`, `labels.yaml`), NYUDv2, SIFT Flow or
            PASCAL-Context; without it, records that exist are used whatever they were made from
        root: folder of the source: for sample and rooms, where images are drawn (data/sample, data/rooms if empty);
            for voc, with JPEGImages/ or VOCdevkit; for folder, with images/ and masks/; for nyud, siftflow and context,
            with the data set's files (see docs/modalities.md)
        more_roots: your own folder: further folders like `root`, with the same classes; the names of their photographs
            begin with their folder's, as in folder_name
        voc: PASCAL-Context: folder of VOC2010
        classes: PASCAL-Context: number of classes, 59 or 33, without background
        year: VOC year, to find VOCdevkit/VOC<year>
        sbd: SBD folder (benchmark_RELEASE or its dataset/); its images are added to the training records
        sbd_splits: SBD lists to use
        train_split: list of the training images (ImageSets/Segmentation/NAME.txt, or NAME.txt in your folder); the
            published protocols of nyud and siftflow use trainval
        val_split: list of the validation images, which never enter the training records; the published protocols of
            nyud and siftflow use test
        val_fraction: folder without lists: share of the images held out for validation, 0..1; 0 trains
            without validation
        image_dir: your own folder: folder of the photographs in `root`, searched at any depth
        mask_dir: your own folder: folder of the masks in `root`; it may be that of the photographs
        mask_suffix: your own folder: what a mask's name has after its photograph's, such as _mask
        group_by: your own folder without lists: pattern of a part of the names (a regular expression), such as
            patient[0-9]+; photographs that agree in it stay in one split
        folds: your own folder without lists: number of folds of a cross validation, instead of val_fraction; 0 is none
        fold: number of the fold held out for validation, 1..folds
        labels: labels file of classes, colours and ignore label; VOC's classes if empty
        mask_encoding: how masks of your own folder encode classes; voc: palette does not compare the masks' palettes
            with the classes' colours
        bits: folder: bits that photographs of 16 bits use, such as 12; they are recorded with 8 bits, 2^bits - 1 as
            255; 0 takes 16
        bands: folder: images/ holds multispectral TIFFs; numbers from 1 of the bands that pictures show as red, green
            and blue, such as [4, 3, 2] for Sentinel-2
        instances: record windows instead of photographs for training, for DeconvNet: boxes (stage 1: each object in its
            box, everything else background) or proposals (stage 2: Edge Boxes that overlap an object, with all labels)
        instance_size: side that windows are warped to, pixels
        per_image: maximum number of windows per photograph; 0 takes all
        duplicate_rare: repeat windows of rare classes
        shards: number of files per split
        processes: number of processes that read and check the pairs, 0 for one on each core; the records are the same.
            In a program of your own, several need the guard if __name__ == "__main__"
        skip_bad: leave out unreadable or inconsistent pairs instead of stopping
        overwrite: write records again that are already complete
        identity: hash that the records must have, as a run's settings.yaml names it; empty accepts any
        download: fetch a source first: voc2012 into `root`, sbd into `sbd`, course (ready MindRecord files) into
            `records`
        samples: sample, rooms: number of images to draw, for training and validation together
        size: sample, rooms: longer side in pixels
        seed: sample, rooms: the same seed draws the same pixels
    """
    records: str = "data/records/sample"
    source: Optional[Literal["sample", "rooms", "voc", "folder", "nyud", "siftflow", "context"]] = None
    root: str = ""
    more_roots: list[str] = field(default_factory=list)
    voc: str = ""
    classes: Literal[59, 33] = 59
    year: int = 2012
    sbd: str = ""
    sbd_splits: list[str] = field(default_factory=lambda: ["train", "val"])
    train_split: str = "train"
    val_split: str = "val"
    val_fraction: float = 0.2
    image_dir: str = "images"
    mask_dir: str = "masks"
    mask_suffix: str = ""
    group_by: str = ""
    folds: int = at_least(0, 0)
    fold: int = at_least(1, 1)
    labels: str = ""
    mask_encoding: MaskEncoding = "auto"
    bits: int = bounded(0, "in 9..16, or 0", lambda value: value == 0 or 9 <= value <= 16)
    bands: Optional[tuple[int, int, int]] = bounded(None, "three numbers from 1", lambda value: min(value) >= 1)
    instances: Literal["none", "boxes", "proposals"] = "none"
    instance_size: int = at_least(250, 16)
    per_image: int = at_least(0, 0)
    duplicate_rare: bool = True
    shards: int = 1
    processes: int = at_least(1, 0)
    skip_bad: bool = False
    overwrite: bool = False
    identity: str = ""
    download: Optional[list[Literal["voc2012", "sbd", "course"]]] = None
    samples: int = 640
    size: int = 160
    seed: int = 1


@dataclasses.dataclass
class ConvertConfig:
    """An annotation tool's export -> your own folder: images/, masks/, labels.yaml, and lists if it has splits.

    Args:
        source: file or folder that the tool exported
        out: folder to write, which must not exist yet
        format: labelme, JSON files, one a photograph; coco, JSON files of a whole split; labelmap, "segmentation mask"
            of CVAT and Datumaro; yolo, polygons with data.yaml; roboflow, masks with _classes.csv; cityscapes; auto
            recognises it from the files
        images: labelme, coco, labelmap: folder of the photographs, if they are not with the annotations
        names: labelme, yolo: class names in their order, or a text file with one per line; those in the files if not
            given
        rest: pixels in no shape: background, a class of its own, number 0; ignore, they do not count
        overlap: pixels in several shapes: order, later shapes cover earlier ones; area, smaller shapes cover larger
            ones; ignore, pixels of several classes do not count; auto, order for labelme, area for coco and yolo
        crowd: coco: areas with `iscrowd` are of their class, as the run lengths of CVAT and Datumaro are, or ignored,
            as COCO's own crowds may be
        overwrite: replace a folder that was converted before
    """
    source: str
    out: str = "mydata"
    format: Literal["auto", "labelme", "coco", "labelmap", "yolo", "roboflow", "cityscapes"] = "auto"
    images: str = ""
    names: Optional[list[str]] = None
    rest: Literal["background", "ignore"] = "background"
    overlap: Literal["auto", "order", "area", "ignore"] = "auto"
    crowd: Literal["class", "ignore"] = "class"
    overwrite: bool = False


@dataclasses.dataclass
class LabelsConfig:
    """Masks -> a labels file: the classes that they hold, found by their numbers or colours.

    Args:
        masks: folder of the masks
        out_file: labels file to write, .yaml or .json; labels.yaml next to the folder of the masks if empty
        names: names of the classes in their order, or a text file with one per line; numbered if not given
        mask_encoding: how masks encode classes; auto recognises it from the files
        overwrite: replace a labels file that exists
    """
    masks: str
    out_file: str = ""
    names: Optional[list[str]] = None
    mask_encoding: MaskEncoding = "auto"
    overwrite: bool = False


@dataclasses.dataclass
class InspectConfig:
    """Check a data set before use: counts, sizes, classes, suspicious masks, and a contact sheet.

    Args:
        data: your folder (images/, masks/, labels.yaml), a VOC folder, a folder of records or a MindRecord file
        more_roots: further folders like `data`, as in training
        out: folder for inspection.json and sheet.jpg
        labels: labels file; the data set's own if empty
        mask_encoding: how masks of your own folder encode classes
        year: VOC year, to find VOCdevkit/VOC<year>
        train_split: list of the training images
        val_split: list of the validation images
        val_fraction: folder without lists: share of the images held out for validation, 0..1; 0 trains
            without validation
        image_dir: your own folder: folder of the photographs in `root`, searched at any depth
        mask_dir: your own folder: folder of the masks in `root`; it may be that of the photographs
        mask_suffix: your own folder: what a mask's name has after its photograph's, such as _mask
        group_by: your own folder without lists: pattern of a part of the names (a regular expression), such as
            patient[0-9]+; photographs that agree in it stay in one split
        folds: your own folder without lists: number of folds of a cross validation, instead of val_fraction; 0 is none
        fold: number of the fold held out for validation, 1..folds
        pictures: number of photographs on the sheet
        json: print inspection.json instead of tables
    """
    data: str
    out: str = "inspection"
    more_roots: list[str] = field(default_factory=list)
    labels: str = ""
    mask_encoding: MaskEncoding = "auto"
    year: int = 2012
    train_split: str = "train"
    val_split: str = "val"
    val_fraction: float = 0.2
    image_dir: str = "images"
    mask_dir: str = "masks"
    mask_suffix: str = ""
    group_by: str = ""
    folds: int = at_least(0, 0)
    fold: int = at_least(1, 1)
    pictures: int = at_least(12, 0)
    json: bool = False


@dataclasses.dataclass
class WeightsConfig:
    """The published weights by name: which there are and which are here, and fetching them.

    Args:
        action: list the files, or fetch those named
        names: names of the catalogue; all of them, for a list, if none is given
    """
    action: Literal["list", "fetch"] = "list"
    names: list[str] = field(default_factory=list)


@dataclasses.dataclass
class AugmentConfig:
    """Training crops, in the course's order: scale, crop, flip; a rotation comes before the crop.

    Args:
        crop_size: side of the square crops, pixels; 0 takes one complete photograph a step, neither scaled nor flipped
        shorter_side: resize photographs so that their shorter side has this many pixels, before the random scale and
            before each evaluation; the checkpoint's card keeps it for prediction; 0 keeps their size
        min_scale: smallest random scale
        max_scale: largest random scale
        flip: mirror half of the crops
        vertical_flip: turn half of the crops upside down, for photographs from above
        rotate: largest angle that photographs are rotated by, degrees to either side; pixels from outside are ignored
        rare_crops: share of the crops that are placed around a random pixel of a class drawn from those of the
            photograph, each as likely as the others, as in nnU-Net (Isensee et al. 2021; 0.33 there)
        photometric: strength of random changes of brightness, contrast, saturation and hue; 0 is none, 1 is SSD's
            (Liu et al. 2016); masks do not change
        max_class_share: draw a crop again if one class has a larger share of its labelled pixels, 0..1; 1 accepts any
        crop_tries: maximum number of times that a crop is drawn for that
        repeat_rare: repeat photographs of rare classes in each epoch: one whose rarest class is in a share f of the
            photographs is taken sqrt(repeat_rare / f) times, at least once (repeat factor sampling, Gupta et al. 2019);
            0 takes each once
        pipeline: YAML file of an albumentations pipeline, as A.save(..., data_format="yaml") writes it, applied to each
            crop before photometric; masks keep whole numbers, and pixels from outside the crop are ignored
        batch_size: crops per device and step
        workers: threads that decode and augment
    """
    crop_size: int = bounded(512, "in 1..8192, or 0", lambda value: 0 <= value <= 8192)
    shorter_side: int = between(0, 0, 8192)
    min_scale: float = above_zero(0.5)
    max_scale: float = above_zero(2.0, 16)
    flip: bool = True
    vertical_flip: bool = False
    rotate: float = between(0.0, 0, 180)
    rare_crops: float = share(0.0, zero=True, one=True)
    photometric: float = between(0.0, 0, 1)
    max_class_share: float = share(1.0, one=True)
    crop_tries: int = at_least(10, 1)
    repeat_rare: float = share(0.0, zero=True, one=True)
    pipeline: str = ""
    batch_size: int = at_least(4, 1)
    workers: int = at_least(2, 1)


@dataclasses.dataclass
class ModelConfig:
    """The network.

    Args:
        name: HEAD_BACKBONE: fcn32s, fcn16s, fcn8s, fcn8s_atonce (all streams trained at once) or fcn32s_fixed (only the
            score layer is trained) on vgg16 (the paper's: biases, dropout), vgg16_bn (the course's: batch
            normalisation), alexnet (torchvision's), caffenet (the paper's AlexNet), googlenet, or mindcv_NAME; or
            deconvnet_vgg16; or on a dilated ResNet: fcn_resnet50 and fcn_resnet101 (torchvision's), fcn_r18_d8,
            fcn_r50_d8 and fcn_r101_d8 (mmsegmentation's), fcn_r18b_d8, fcn_r50b_d8 and fcn_r101b_d8 (the same on
            torchvision's ResNet)
        padding: same keeps sizes by padding the image to a multiple of 32; pad100 pads the image by 100 and crops the
            scores, as in the paper
        width: factor on the channels of the backbone's convolutions, for small machines; 1 if not given
        fc_width: channels of fc6 and fc7; 4096, as in the papers, if not given
        side: deconvnet: side of the windows that it segments, pixels, a multiple of 32; 224, as published, if not given
        decoder_width: deconvnet: factor on the channels of the deconvolutions, relative to the convolutions', for small
            machines; unpooling then uses the switches of the first channels; 1 if not given
        upsampling: kernels of the upsampling layers: bilinear, bilinear at first and then learned; fixed, always
            bilinear; final_fixed, learned except for the last one; xavier, random at first and then learned
        dropout: share of the activations before the scores (fc6 and fc7) dropped in training; 0.5 (googlenet 0.4, on
            ResNet 0.1) if not given; vgg16_bn has none
        auxiliary: on ResNet: weight of the loss of a second head on the map before the last one; 0.5 for torchvision's,
            0.4 for mmsegmentation's if not given; 0 leaves out the head
        skip_scales: fixed factors on pool4 and pool3; [1, 1], or [0.01, 0.0001] for fcn8s_atonce, if not given;
            fcn16s uses pool4 only, fcn32s neither
        output_stride: ResNet and mindcv backbones: 16 or 8 replaces larger strides by dilation; 8 (mindcv 32) if not
            given
        pretrained: weights of the backbone (.ckpt .pth .safetensors .npz .caffemodel) or a checkpoint of a complete
            network to start from, or a name that mindfcn weights lists, which is fetched once; random if empty
        preprocess: normalisation of the images; auto follows from the names of the pretrained weights; nyud and
            siftflow subtract those data sets' mean colours, as the released nets do
        modality: input of the network: rgb, colours; rgbd, colours and depth in one backbone (early fusion); hha, made
            from depth; rgb_hha, a backbone for each, their scores averaged (late fusion); bands, those of multispectral
            TIFFs (data.bands), normalised by their means and deviations in the training records
        pretrained_hha: rgb_hha: weights or checkpoint that the HHA stream starts from; those of `pretrained` if empty
        geometric: a second head for the records' geometric classes (siftflow); the losses are added
    """
    name: str = "fcn8s_vgg16_bn"
    padding: Literal["same", "pad100"] = "same"
    width: Optional[float] = above_zero(None, 4)
    fc_width: Optional[int] = at_least(None, 1)
    side: Optional[int] = bounded(None, "a multiple of 32", lambda value: value >= 32 and value % 32 == 0)
    decoder_width: Optional[float] = above_zero(None, 1)
    upsampling: Literal["bilinear", "fixed", "final_fixed", "xavier"] = "bilinear"
    dropout: Optional[float] = share(None, zero=True)
    auxiliary: Optional[float] = between(None, 0, 10)
    skip_scales: Optional[tuple[float, float]] = None
    output_stride: Optional[Literal[8, 16, 32]] = None
    pretrained: str = ""
    preprocess: Literal["auto", "course", "caffe", "nyud", "siftflow"] = "auto"
    modality: Literal["rgb", "rgbd", "hha", "rgb_hha", "bands"] = "rgb"
    pretrained_hha: str = ""
    geometric: bool = False


@dataclasses.dataclass
class OptimConfig:
    """The optimiser, the loss and the learning-rate schedule.

    Args:
        name: optimiser: sgd, momentum SGD, as published; adam (Kingma and Ba 2015), with L2 decay; or adamw, with
            decoupled decay (Loshchilov and Hutter 2019). Both keep a second array of each weight, and biases and
            normalisation parameters do not decay in them
        epochs: passes over the training records
        lr: base learning rate; the published 1e-10 belongs to the loss summed over pixels; adam and adamw take at most
            0.01, usually 0.0001 to 0.001
        min_lr: learning rate at the end
        schedule: shape of the decay, per step
        power: exponent of the polynomial decay
        warmup_epochs: epochs of linear growth from 0 to `lr`
        momentum: momentum; for adam and adamw, decay of the mean of the gradients (beta1)
        beta2: adam, adamw: decay of the mean of the squared gradients
        weight_decay: L2 weight decay; for adamw, share of a weight taken off per step and unit of learning rate
        clip_norm: scale the gradients down where their norm, over all parameters together, exceeds this; 0 never does
        paper_biases: biases and normalisation parameters learn at twice the rate and do not decay
        head_lr: factor on the learning rate of fc6, fc7, the score layers and the upsampling layers, whatever weights
            they start from
        loss: over the labelled pixels of a batch: mean or sum of the cross entropy (the sum multiplies the gradients by
            the number of pixels); bootstrapped, the mean over each image's hardest pixels; focal; or dice, soft Dice
            over the classes of each image
        hard_pixels: bootstrapped loss: number of pixels kept in each image
        focal_gamma: focal loss: exponent of 1 - p, which reduces the loss of pixels that are already right
        label_smoothing: share of a pixel's label spread evenly over all classes (Szegedy et al. 2016), for the losses
            mean, sum and bootstrapped
        class_weights: weight of a pixel by its class: none, all alike; median_frequency, the median frequency of the
            classes divided by its own class's, counted in the training records (Eigen and Fergus 2015), for rare
            classes
        keep_cells: patchwise training: probability that a 32x32 cell of the output counts in a step
        accumulate: number of batches whose gradients are averaged into one step
        recalibrate: number of mini-batches over which the statistics of batch normalisation are averaged after
            training, instead of its moving averages (DeconvNet: 501); 0 keeps the moving averages
        ema: decay of the weights' exponential moving average, such as 0.99; the average is evaluated and kept as
            best.ckpt; 0 is none
        freeze: do not train the backbone up to and including this block (conv3, inception_4a, ...)
        precision: type that the layers compute in; normalisation, loss and weights stay float32. CPU supports float32,
            GPU also float16, Ascend all; auto is float32 on CPU and for the summed loss, else float16. On GPU, float32
            rounds the factors of convolutions to TF32 (10 bits instead of 23), and float32_strict does not
        loss_scale: float16: fixed factor on the loss, or 0 for a dynamic one that skips steps with overflows
    """
    name: Literal["sgd", "adam", "adamw"] = "sgd"
    epochs: int = at_least(1, 1)
    lr: float = above_zero(0.05)
    min_lr: float = at_least(0.0005, 0)
    schedule: Literal["cosine", "polynomial", "constant"] = "cosine"
    power: float = above_zero(0.9)
    warmup_epochs: float = at_least(0.0, 0)
    momentum: float = share(0.9, zero=True)
    beta2: float = share(0.999, zero=True)
    weight_decay: float = at_least(0.0001, 0)
    clip_norm: float = at_least(0.0, 0)
    paper_biases: bool = False
    head_lr: float = above_zero(1.0)
    loss: Literal["mean", "sum", "bootstrapped", "focal", "dice"] = "mean"
    hard_pixels: int = at_least(512, 1)
    focal_gamma: float = bounded(2.0, "at least 1, or 0", lambda value: value == 0 or 1 <= value < math.inf)
    label_smoothing: float = share(0.0, zero=True)
    class_weights: Literal["none", "median_frequency"] = "none"
    keep_cells: float = share(1.0, one=True)
    accumulate: int = at_least(1, 1)
    recalibrate: int = at_least(0, 0)
    ema: float = share(0.0, zero=True)
    freeze: str = ""
    precision: Precision = "auto"
    loss_scale: float = bounded(0.0, "at least 1, or 0", lambda value: value == 0 or value >= 1)


@dataclasses.dataclass
class TrainConfig:
    """Train a network; prepare the records first if they are missing.

    Args:
        run_dir: folder of this run: settings, log, curves, checkpoints, evaluation
        resume: continue from the last checkpoint in `run_dir`; start at the first step if the run has no checkpoint yet
        overwrite: delete an earlier run in `run_dir`
        device: device to compute on; auto takes the one that MindSpore was built for
        seed: seed of weights, augmentation and dropout
        eval_every: epochs between evaluations on the validation records; 0 evaluates only at the end
        best_by: what best.ckpt is best by: pixel accuracy, mean pixel accuracy, mean IoU, frequency weighted IoU (of
            overlapping classes: mean IoU, mean precision, mean recall), or the name of a class, for its IoU
        patience: end the run after an evaluation that comes this many epochs after the last improvement; 0 trains all
            epochs
        keep: number of newest checkpoints kept besides the best
        watch_every: steps between two checks of the loss, which is computed a second time, apart from the step; a run
            whose losses differ is stopped. 0 checks none; 50 on GPU and 0 on other devices if not given
        tensorboard: also write loss, learning rate, speed and metrics for TensorBoard, into `run_dir`/tensorboard
        data: records to train on, and how to prepare them
        augment: training crops
        model: the network
        optim: optimiser
    """
    run_dir: str = "runs/sample"
    resume: bool = False
    overwrite: bool = False
    device: Device = "auto"
    seed: int = 1
    eval_every: int = at_least(1, 0)
    best_by: str = "mean IoU"
    patience: int = at_least(0, 0)
    keep: int = at_least(2, 1)
    watch_every: Optional[int] = at_least(None, 0)
    tensorboard: bool = False
    data: PrepareConfig = field(default_factory=PrepareConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclasses.dataclass
class CheckpointConfig:
    """A trained network, and the device and precision it computes in.

    Args:
        checkpoint: checkpoint file, or a name that mindfcn weights lists, which is fetched once
        device: device to compute on; auto takes the one that MindSpore was built for
        fallback_model: network name for a checkpoint without a card (official ones)
        precision: type that the layers compute in, as in training; auto is float32 on CPU, else float16
    """
    checkpoint: str
    device: Device = "auto"
    fallback_model: str = "fcn8s_vgg16_bn"
    precision: Precision = "auto"


@dataclasses.dataclass
class InferenceConfig(CheckpointConfig):
    """How a mask is computed: windows, scales, mirroring, proposals, an ensemble, a CRF.

    Args:
        checkpoint: checkpoint file, or a name that mindfcn weights lists, which is fetched once
        device: device to compute on; auto takes the one that the runtime was built for
        fallback_model: network name for a checkpoint without a card (official ones)
        precision: type that the layers compute in, as in training; auto is float32 on CPU, else float16
        shorter_side: resize photographs so that their shorter side has this many pixels, and masks back; 0 keeps their
            size; if not given, as the network was published
        scales: factors by which each photograph is resized after that; probabilities are averaged over them
        flip: also segment the mirrored photograph; probabilities are averaged
        window: side of sliding windows, pixels, for photographs too large for the memory; 0 uses complete photographs
        overlap: pixels that neighbouring windows share; enough to leave no seam if not given
        crf: a fully connected CRF over the probabilities: a published set of parameters by name (krahenbuhl,
            deeplab_v1, deeplab_v2_vgg16, deeplab_v2_resnet101, deconvnet, pydensecrf), or a file of mindfcn tune_crf
        proposals: segment the windows of proposals and combine them, as in DeconvNet's paper; needs
            opencv-contrib-python
        max_proposals: maximum number of proposals per photograph, the best ones
        min_side: skip proposals with a shorter side, pixels
        aggregate: how the windows' scores are combined into one map
        ensemble: a second checkpoint of the same classes; it segments complete photographs, and the maps are combined
        ensemble_rule: mean of the probabilities (DeconvNet's paper), or product of the scores (its released code)
    """
    shorter_side: Optional[int] = between(None, 0, 8192)
    scales: list[float] = field(default_factory=lambda: [1.0])
    flip: bool = False
    window: int = 0
    overlap: Optional[int] = None
    crf: str = ""
    proposals: Literal["none", "edge_boxes", "selective_search"] = "none"
    max_proposals: int = at_least(50, 1)
    min_side: int = at_least(112, 1)
    aggregate: Literal["max", "sum"] = "max"
    ensemble: str = ""
    ensemble_rule: Literal["mean", "product"] = "mean"


@dataclasses.dataclass
class EvalConfig(InferenceConfig):
    """Evaluate a checkpoint on a complete split.

    Args:
        records: MindRecord file to evaluate on; the validation records of the checkpoint's run if empty
        out: folder for metrics, pictures and tables; a folder next to the checkpoint if empty
        protocol: native, every image at its own size; course, as in the course: random scaled crops, last batch dropped
        worst: number of images with the lowest IoU to show side by side
        best: number of images with the highest IoU to show, without those among the worst
        limit: number of records to evaluate on, evenly spread over all; 0 takes all
        seed: seed of the crops of the course's protocol
    """
    records: str = ""
    out: str = ""
    protocol: Literal["native", "course"] = "native"
    worst: int = at_least(8, 0)
    best: int = at_least(8, 0)
    limit: int = at_least(0, 0)
    seed: int = 1


@dataclasses.dataclass
class TuneCrfConfig(CheckpointConfig):
    """Search for the best parameters of a fully connected CRF on validation records.

    Args:
        out_file: file to write the best parameters to, for --crf of eval and predict
        records: MindRecord file to search on; the validation records of the checkpoint's run if empty
        limit: number of records to search on, evenly spread over all; 0 takes all
        start: published set, or file, that gives all other parameters
        bilateral_weight: weights of the appearance kernel to try
        bilateral_sxy: standard deviations of the appearance kernel to try, pixels
        bilateral_srgb: standard deviations of the appearance kernel to try, on the 0..255 colour scale
    """
    out_file: str = "crf.yaml"
    records: str = ""
    limit: int = at_least(20, 0)
    start: str = "deeplab_v1"
    bilateral_weight: list[float] = field(default_factory=lambda: [4.0, 10.0])
    bilateral_sxy: list[float] = field(default_factory=lambda: [30.0, 60.0, 100.0])
    bilateral_srgb: list[float] = field(default_factory=lambda: [3.0, 6.0, 12.0])


@dataclasses.dataclass
class PredictConfig(InferenceConfig):
    """Photographs and videos -> masks.

    Args:
        checkpoint: checkpoint file, .onnx file of mindfcn export, or a name that mindfcn weights lists, which is
            fetched once; the small network of the repository if not given
        images: image or video files, folders or glob patterns
        out: folder for NAME.png (palette mask; NAME.tif with a band for each class where classes overlap) and
            NAME_overlay.jpg; for a video, the folder NAME with a mask for each frame, and NAME_overlay.mp4
        overlay: write the overlay, that of photographs with its legend
        probabilities: write NAME.npz with `probabilities` (classes, H, W) float16
        voc_names: write masks under results/VOC2012/Segmentation/comp6_test_cls, as the VOC server expects
        skip_existing: leave out images whose results are all there, to continue a call that was cut short; the other
            settings must be the same, as results are not compared with them
        depth: networks with depth or HHA input: folder of the images' depth, NAME.png of 16 bit in mm, 0 where unknown
        camera: the depth camera, to make HHA: focal lengths and principal point, pixels: fx, fy, cx, cy; NYUDv2's,
            cropped for 425x560 pixels, if not given
        bits: bits that photographs of 16 bits use, as in training (`data.bits`); 0 takes 16
        runtime: runtime to compute with; auto takes ONNX Runtime for .onnx files, which needs no MindSpore
    """
    checkpoint: str = SMALL_NETWORK
    images: list[str] = field(default_factory=list)
    out: str = "predictions"
    overlay: bool = True
    probabilities: bool = False
    voc_names: bool = False
    skip_existing: bool = False
    depth: str = ""
    camera: Optional[tuple[float, float, float, float]] = None
    bits: int = bounded(0, "in 9..16, or 0", lambda value: value == 0 or 9 <= value <= 16)
    runtime: Literal["auto", "mindspore", "onnx"] = "auto"


@dataclasses.dataclass
class ExportConfig:
    """A checkpoint -> a file for another runtime; its results are compared with MindSpore's before it is kept.

    Args:
        checkpoint: checkpoint file, or a name that mindfcn weights lists, which is fetched once
        out_file: file to write: NAME.onnx; NAME.mindir with its card next to it as NAME.mindir.json; or NAME.ckpt
        format: onnx takes images of any size and number; mindir takes one image of `size`; ckpt is a checkpoint
            to share: weights in half precision, without the training's settings and paths
        photos: photographs for the comparison: files, folders or patterns; a random image if none
        size: mindir: height and width of the image, pixels
        shorter_side: side that photographs are resized to for prediction, pixels, for the file's card; the checkpoint's
            if not given
        fallback_model: network name for a checkpoint without a card (official ones)
    """
    checkpoint: str
    out_file: str
    format: Literal["onnx", "mindir", "ckpt"] = "onnx"
    photos: list[str] = field(default_factory=list)
    size: tuple[int, int] = (512, 512)
    shorter_side: Optional[int] = between(None, 0, 8192)
    fallback_model: str = "fcn8s_vgg16_bn"


@dataclasses.dataclass
class ServeConfig(CheckpointConfig):
    """Serve a page and an HTTP interface to try a checkpoint: a photograph in, classes and areas out.

    Args:
        checkpoint: checkpoint file, .onnx file of mindfcn export, or a name that mindfcn weights lists, which is
            fetched once; the small network of the repository if not given
        host: address to listen on; 127.0.0.1 can be reached from this machine only
        port: port to listen on; 0 takes a free one
        hostnames: host names that requests may use, besides localhost and addresses
        max_megabytes: largest upload, 10^6 bytes
        max_megapixels: largest photograph, 10^6 pixels
        queue: number of requests that may wait while one is computed; more are refused
        patience: seconds until a request without an answer is refused
        runtime: runtime to compute with; auto takes ONNX Runtime for .onnx files, which needs no MindSpore
        shorter_side: resize photographs so that their shorter side has this many pixels, and masks back; 0 keeps their
            size; if not given, as the network was published
        images: image files, folders or glob patterns; the page offers the first 8 to try, and anyone who reaches it can
            see them; if not given, drawn ones for a network of the sample set
    """
    checkpoint: str = SMALL_NETWORK
    host: str = "127.0.0.1"
    port: int = between(8000, 0, 65535)
    hostnames: list[str] = field(default_factory=list)
    max_megabytes: float = above_zero(20.0, 1000)
    max_megapixels: float = above_zero(50.0, 128)
    queue: int = between(16, 0, 1000)
    patience: float = above_zero(300.0, 3600)
    runtime: Literal["auto", "mindspore", "onnx"] = "auto"
    shorter_side: Optional[int] = between(None, 0, 8192)
    images: list[str] = field(default_factory=list)


@dataclasses.dataclass
class Variant:
    """One network of a comparison.

    Args:
        name: name of the network
        label: name in the table and of the folder in `out`; the network's name if empty
        pretrained: weights file, or the label of an earlier variant, whose last checkpoint it starts from;
            train.model.pretrained if empty
        checkpoint: a trained checkpoint of this network, to evaluate instead of training one
        settings: settings that differ from `train`, by dotted name, such as optim.lr or model.skip_scales
    """
    name: str
    label: str = ""
    pretrained: str = ""
    checkpoint: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclasses.dataclass
class CompareConfig:
    """Train or load several networks on one data set and compare them in one table.

    Args:
        out: folder for the tables, the pictures and a run directory of each network
        variants: the networks, in the order of the table
        train: shared settings; run_dir, model.name, resume and overwrite are set for each network
    """
    out: str = "runs/compare"
    variants: list[Variant] = field(default_factory=list)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclasses.dataclass
class ExplainConfig(CheckpointConfig):
    """Show the maps of a trained network for one photograph, layer by layer, in one picture.

    Args:
        checkpoint: checkpoint file, or a name that mindfcn weights lists, which is fetched once; the small network of
            the repository if not given
        image: photograph
        out_file: picture to write, .jpg or .png
    """
    checkpoint: str = SMALL_NETWORK
    image: str = ""
    out_file: str = "explanation.jpg"


@dataclasses.dataclass
class DescribeConfig:
    """Show a network layer by layer: sizes, receptive fields, parameters, multiply-adds.

    Args:
        name: name of the network, such as fcn32s_vgg16
        size: side of the image, pixels, up to 1024
        classes: number of classes
        padding: same keeps sizes by padding the image to a multiple of 32; pad100 pads the image by 100 and crops the
            scores, as in the paper
        width: factor on the channels of the backbone's convolutions; 1 if not given
        fc_width: channels of fc6 and fc7; 4096 if not given
        output_stride: ResNet and mindcv backbones: 16 or 8 replaces larger strides by dilation; 8 (mindcv 32) if not
            given
    """
    name: str
    size: int = between(500, 1, 1024)
    classes: int = between(21, 1, 1000)
    padding: Literal["same", "pad100"] = "same"
    width: Optional[float] = above_zero(None, 4)
    fc_width: Optional[int] = at_least(None, 1)
    output_stride: Optional[Literal[8, 16, 32]] = None


def flat(settings, prefix=""):
    """Flatten nested dictionaries to {dotted name: value}."""
    found = {}
    for name, value in settings.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
