"""From classifier to dense prediction (Long et al. 2015, sections 3.1 to 3.3): cost of each method, effect of padding.

    python benchmarks/speed/dense_prediction/run.py [--size 64] [--width 0.25] [--runs 3] [--photos 2]

Table 1: seconds for one image through VGG16's backbone and a score layer, at output stride 32, and with dense output
by learned upsampling, dilation (filter rarefaction) and shift-and-stitch. Float32, compiled (graph mode), initial
weights.
Table 2: difference between fully convolutional VGG16 on a complete photograph and VGG16 on sliding windows. Needs the
ImageNet weights and photographs in ../shared next to the repository; without them the table is left out.
Both take about two minutes of CPU time.
"""

import argparse
import os
import pathlib
import platform
import statistics
import time

import cv2
import mindspore as ms
import numpy as np
from mindspore import nn

from mindfcn import runtime
from mindfcn.inference.shift_and_stitch import shift_and_stitch
from mindfcn.models import layers
from mindfcn.models.surgery.classifiers import vgg16_classifier
from mindfcn.models.surgery.convolutionalise import convolutionalise
from mindfcn.models.surgery.dilate import dilate
from mindfcn.preprocess import Preprocess

SHARED = pathlib.Path(__file__).resolve().parents[4] / "shared"
WEIGHTS = SHARED / "weights" / "vgg16_imagenet_features.npz"
PHOTOS = SHARED / "data" / "VOCdevkit" / "VOC2012" / "JPEGImages"
TORCHVISION = Preprocess("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CLASSES = 21
STRIDE = 32


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side of the image of table 1, a multiple of 32")
    parser.add_argument("--width", type=float, default=0.25, help="factor on VGG16's channels in table 1")
    parser.add_argument("--runs", type=int, default=3, help="timed runs of each row of table 1")
    parser.add_argument("--photos", type=int, default=2, help="photographs of table 2")
    options = parser.parse_args()
    runtime.set_up("CPU")
    print(f"MindSpore {ms.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores "
          f"({platform.machine()}), float32\n")
    print_costs(options.size, options.width, options.runs)
    print()
    if not WEIGHTS.exists() or not PHOTOS.is_dir():
        print(f"table 2 is left out: it needs {WEIGHTS} and {PHOTOS}")
        return
    print_differences(options.photos)


def backbone(width):
    """conv1 to conv7 with padding and a score layer: from (1, 3, H, W) to (1, CLASSES, H / 32, W / 32)."""
    cells = list(vgg16_classifier(width=width, fc_width=1)[:10])
    deepest, fc_width = round(512 * width), round(4096 * width)
    return nn.SequentialCell(cells + [layers.conv_block(deepest, fc_width, (7,)),
                                      layers.conv_block(fc_width, fc_width, (1,)),
                                      layers.conv(fc_width, CLASSES, 1, bias=True)]).set_train(False)


def print_costs(size, width, runs):
    """Table 1."""
    runtime.graph_mode()
    image = np.random.default_rng(1).standard_normal((1, 3, size, size)).astype(np.float32)
    coarse = backbone(width)
    learned = nn.SequentialCell(backbone(width), layers.deconv(CLASSES, 64, STRIDE, 16)).set_train(False)
    rows = [("coarse scores", 32, 1, coarse), ("learned upsampling", 1, 1, learned)]
    for stride in (8, 1):
        shifts = (STRIDE // stride) ** 2
        rows += [("filter rarefaction", stride, 1, dilate(backbone(width), stride, 64)),
                 ("shift-and-stitch", stride, shifts,
                  lambda image, stride=stride: shift_and_stitch(coarse, image, STRIDE, stride, fill=True))]
    print(f"1. VGG16's backbone at width {width:g}, image {size}x{size}: seconds, median (least, most) of {runs}")
    print(f"{'':20}{'output stride':>14}{'passes':>8}{'scores':>10}{'seconds':>10}{'least':>9}{'most':>9}"
          f"{'x coarse':>10}")
    first = None
    for name, stride, passes, net in rows:
        shape, seconds = timed(net, ms.Tensor(image), runs, warm=passes == 1)
        median = statistics.median(seconds)
        first = first or median
        print(f"{name:20}{stride:14}{passes:8}{f'{shape[2]}x{shape[3]}':>10}{median:10.4f}{min(seconds):9.4f}"
              f"{max(seconds):9.4f}{median / first:10.1f}", flush=True)


def timed(net, image, runs, warm):
    """(shape of the result, seconds of each run); with `warm`, an untimed first run compiles the network."""
    seconds = []
    for _ in range(runs + warm):
        start = time.perf_counter()
        result = net(image)
        shape = (result if isinstance(result, np.ndarray) else result.asnumpy()).shape
        seconds.append(time.perf_counter() - start)
    return shape, seconds[warm:]


def print_differences(photos):
    """Table 2."""
    classifier = vgg16_classifier(CLASSES, fc_width=256).set_train(False)
    load_imagenet(classifier)
    dense = convolutionalise(classifier, 224)
    unpadded = (without_padding(classifier),)
    paths = sorted(PHOTOS.glob("*.jpg"))[:photos]
    print(f"2. The complete image in one pass and 6x6 windows {STRIDE} pixels apart: |difference| / |window's|, L2,\n"
          f"   over the windows of {len(paths)} photographs. VGG16's convolutions with ImageNet weights; dense layers "
          f"(256, 256, {CLASSES})\n   with initial weights")
    plain = [differences(unpadded, unpadded, path, 212) for path in paths]
    padded = [differences((classifier[:10], classifier[10:]), (dense[:10], dense[10:]), path, 224) for path in paths]
    print(f"{'':44}{'mean':>10}{'most':>10}")
    print_row("without padding, 212 in 372: pool5, 1x1", [found for (found, _), in plain])
    print_row("zero-padded, 224 in 384: pool5, 7x7", [found for (found, _), _ in padded])
    for ring in range(4):
        name = f"  its cells {ring} from the centre" if ring else "  its cell at the centre"
        print_row(name, [rings[:, ring] for (_, rings), _ in padded])
    print_row("zero-padded, 224 in 384: logits, 1x1", [found for _, (found, _) in padded])


def load_imagenet(classifier):
    """Load the 13 convolutions of VGG16 trained on ImageNet, in order."""
    with np.load(WEIGHTS) as file:
        for name, parameter in zip(file.files, classifier.get_parameters()):
            if parameter.shape != file[name].shape:
                raise SystemExit(f"{WEIGHTS}: {name} is {file[name].shape}, {parameter.name} is {parameter.shape}")
            parameter.set_data(ms.Tensor(file[name]))


def without_padding(classifier):
    """Copy of conv1 to pool5 with the same weights and no padding."""
    cells = []
    for block in range(5):
        for cell in classifier[2 * block].cells():
            if isinstance(cell, nn.Conv2d):
                weight, bias = (ms.Tensor(parameter.asnumpy()) for parameter in (cell.weight, cell.bias))
                cell = nn.Conv2d(cell.in_channels, cell.out_channels, 3, pad_mode="valid", has_bias=True,
                                 weight_init=weight, bias_init=bias)
            cells.append(cell)
        cells.append(nn.MaxPool2d(2, 2))
    return nn.SequentialCell(cells).set_train(False)


def differences(stages, dense, path, size):
    """Compare stages of a network on 36 windows of a photograph with the same stages on the complete photograph.

    Returns:
        for each stage (36,) |difference| / |window's|, and the same in rings of cells around the centre, (36, rings).
    """
    image = photograph(path, size + 5 * STRIDE)
    maps, found = stage_outputs(dense, image), [([], []) for _ in stages]
    for i in range(6):
        for j in range(6):
            corner = np.s_[:, :, STRIDE * i:STRIDE * i + size, STRIDE * j:STRIDE * j + size]
            for of_dense, window, (all_cells, rings) in zip(maps, stage_outputs(stages, image[corner]), found):
                side = window.shape[2]
                difference = of_dense[:, :, i:i + side, j:j + side] - window
                away = np.abs(np.arange(side) - side // 2)
                ring = np.maximum(away[:, None], away)
                all_cells.append(np.linalg.norm(difference) / np.linalg.norm(window))
                rings.append([np.linalg.norm(difference[:, :, ring == r]) / np.linalg.norm(window[:, :, ring == r])
                              for r in range(side // 2 + 1)])
    return [(np.array(all_cells), np.array(rings)) for all_cells, rings in found]


def stage_outputs(stages, image):
    """[map (1, C, h, w) after each stage]; vectors become 1x1 maps."""
    maps, x = [], ms.Tensor(image)
    for stage in stages:
        x = stage(x)
        maps.append(x.asnumpy().reshape(*x.shape, *(1,) * (4 - x.ndim)))
    return maps


def photograph(path, side):
    """(1, 3, side, side) float32: the middle of a photograph whose shorter side is scaled to `side`."""
    image = cv2.imread(str(path))
    scale = side / min(image.shape[:2])
    image = cv2.resize(image, None, fx=scale, fy=scale)
    top, left = ((length - side) // 2 for length in image.shape[:2])
    image = TORCHVISION.normalise(image[top:top + side, left:left + side])
    return np.ascontiguousarray(image.transpose(2, 0, 1))[None]


def print_row(name, values):
    """One row of table 2."""
    values = np.concatenate(values)
    print(f"{name:44}{values.mean():10.1e}{values.max():10.1e}", flush=True)


if __name__ == "__main__":
    main()
