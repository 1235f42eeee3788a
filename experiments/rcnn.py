"""Segmentation by R-CNN and by an FCN: mean IoU and seconds per image, on the same photographs and features.

    python experiments/rcnn.py --checkpoint runs/sample/checkpoints/best.ckpt [--train_images 60] [--images 30]

Before FCNs, photographs were segmented by classifying regions (Girshick et al. 2014, section 5; Carreira et al. 2012;
Hariharan et al. 2014): propose about a hundred regions, warp each to a square, run the network on the square
(full) and on the square with its background set to the mean colour (fg), predict each class's overlap from the features
by linear regression, and paste the regions in ascending order of their scores. The network here is the checkpoint's
backbone, so both methods use the same features. Regions come from merging segments (`merged`), or from the boxes of
OpenCV's contributed modules.

Training records are read from the folder of the checkpoint's validation records. The regressors are fitted to the first
--train_images of them, except every fifth, which serve to choose the score threshold for pasting. Needs scikit-learn.
"""

import argparse
import os
import statistics
import sys
import time

import cv2
import mindspore as ms
import numpy as np
from mindspore import nn
from scipy import sparse

from mindfcn import runtime
from mindfcn.data.dataset import SegDataset
from mindfcn.data.regions import proposals
from mindfcn.data.transforms import to_input
from mindfcn.errors import UserError
from mindfcn.inference.load import load_network
from mindfcn.metrics import ConfusionMatrix
from mindfcn.models.fcn import FCN
from mindfcn.storage.images import decode_image

# Mean IoU % on the test sets of VOC 2011 and 2012, and seconds per image, as published (Long et al. 2015, table 3).
PUBLISHED = (("R-CNN", "47.9 / -", "-"), ("SDS", "52.6 / 51.6", "~50"), ("FCN-8s", "62.7 / 62.2", "~0.175"))
KINDS = {"full": slice(0, 1), "fg": slice(1, 2), "full+fg": slice(0, 2)}
SEGMENTS = 150
# Smallest side of a proposed box, pixels.
MIN_SIDE = 16
THRESHOLDS = np.arange(0.05, 0.8, 0.05)


# ----------------------------------------------------------------------------------------------------------- regions

def segments(image, count=SEGMENTS):
    """Cut a photograph into about `count` segments along its edges: watersheds flooded from a grid.

    Args:
        image: (H, W, 3) uint8 BGR.

    Returns:
        (H, W) int32, numbered from 0 without gaps.
    """
    height, width = image.shape[:2]
    side = max(2, int((height * width / count) ** 0.5))
    rows, columns = (np.arange(side // 2, length, side) for length in (height, width))
    markers = np.zeros((height, width), np.int32)
    markers[np.ix_(rows, columns)] = 1 + np.arange(len(rows) * len(columns)).reshape(len(rows), -1)
    cv2.watershed(cv2.GaussianBlur(image, (0, 0), 1), markers)
    # Watershed lines and the image border are -1; assign them to a neighbouring segment.
    labels = np.maximum(markers, 0).astype(np.float32)
    while not labels.all():
        labels = np.where(labels > 0, labels, cv2.dilate(labels, np.ones((3, 3), np.uint8)))
    return np.unique(labels, return_inverse=True)[1].reshape(height, width).astype(np.int32)


def merged(image, cut, count):
    """Regions by merging neighbouring segments of similar colour: the last `count` regions before one is left.

    Args:
        cut: (H, W) int32 of `segments`.

    Returns:
        (N, S) bool: which segments each region holds, the largest regions first, without the region of all segments.
    """
    from sklearn.cluster import AgglomerativeClustering
    number = cut.max() + 1
    if number < 3:
        return np.eye(number, dtype=bool)
    pairs = np.concatenate([np.stack([cut[:, 1:].ravel(), cut[:, :-1].ravel()]),
                            np.stack([cut[1:].ravel(), cut[:-1].ravel()])], 1)
    neighbours = sparse.coo_matrix((np.ones(pairs.shape[1]), pairs), (number, number)).tocsr()
    pixels = cv2.cvtColor(image, cv2.COLOR_BGR2LAB).reshape(-1, 3).astype(np.float64)
    colors = np.stack([np.bincount(cut.ravel(), channel, number) for channel in pixels.T], 1)
    colors /= np.bincount(cut.ravel(), minlength=number)[:, None]
    tree = AgglomerativeClustering(1, connectivity=neighbours + neighbours.T, compute_full_tree=True).fit(colors)
    held = list(np.eye(number, dtype=bool))
    for one, other in tree.children_:
        held.append(held[one] | held[other])
    return np.array(held[-2::-1][:count])


def inside(boxes, cut):
    """Boxes (N, 4) int left, top, right, bottom -> (N, S) bool: segments with over half of their pixels in each."""
    number = cut.max() + 1
    areas, held = np.bincount(cut.ravel(), minlength=number), []
    for left, top, right, bottom in boxes:
        held.append(np.bincount(cut[top:bottom, left:right].ravel(), minlength=number) > areas / 2)
    return np.array(held, bool).reshape(-1, number)


def propose(image, kind, count):
    """Up to `count` regions of a photograph: list of (H, W) bool."""
    cut = segments(image)
    if kind == "merged":
        held = merged(image, cut, count)
    else:
        boxes = proposals.propose(image, kind, 10 ** 6, MIN_SIDE)
        if kind == "selective_search":
            # Boxes are sorted by size; small objects need small boxes.
            boxes = boxes[np.unique(np.linspace(0, len(boxes) - 1, count).round().astype(int))] if len(boxes) else boxes
        held = inside(boxes[:count], cut)
    return [region for region in (flags[cut] for flags in held) if region.any()]


def components(mask, classes, ignore_label):
    """[(class, (H, W) bool)] of the connected parts of a mask's classes, without background (0)."""
    found = []
    for number in sorted(set(range(1, classes)) & set(np.unique(mask).tolist()) - {ignore_label}):
        count, parts = cv2.connectedComponents((mask == number).astype(np.uint8))
        found += [(number, parts == part) for part in range(1, count)]
    return found


def overlaps(regions, parts, classes):
    """(N, C) float64: each region's highest IoU with a part of each class."""
    found = np.zeros((len(regions), classes))
    for row, region in zip(found, regions):
        for number, part in parts:
            both = (region & part).sum()
            row[number] = max(row[number], both / (region.sum() + part.sum() - both))
    return found


def paste(regions, scores, threshold, shape):
    """Paint regions over one another in ascending order of their scores.

    Args:
        regions: list of (H, W) bool.
        scores: (N, C) float, of the classes; that of background (0) is not read.
        threshold: regions whose best score is below it are left out.
        shape: H, W.

    Returns:
        (H, W) uint8 class numbers, 0 where nothing is pasted.
    """
    mask = np.zeros(shape, np.uint8)
    best, classes = scores[:, 1:].max(1), 1 + scores[:, 1:].argmax(1)
    for number in np.argsort(best, kind="stable"):
        if best[number] >= threshold:
            mask[regions[number]] = classes[number]
    return mask


# ---------------------------------------------------------------------------------------------------------- features

class Pooled(nn.Cell):
    """Images (N, 3, side, side) -> means (N, channels) of the backbone's coarsest map."""

    def __init__(self, backbone):
        super().__init__(auto_prefix=False)
        self.backbone = backbone

    def construct(self, images):
        return self.backbone(images)["fc7"].mean((2, 3))


class Features:
    """The features of regions.

    Args:
        segmenter: Segmenter of the FCN.
        side: side of the warped squares, pixels.
        batch: squares per forward pass.
    """

    def __init__(self, segmenter, side, batch=10):
        if side % segmenter.net.backbone.multiple:
            raise UserError(f"--side {side}: must be a multiple of {segmenter.net.backbone.multiple}")
        self.preprocess, self.side, self.batch = segmenter.preprocess, side, batch
        self.net = Pooled(segmenter.net.backbone).set_train(False)

    def squares(self, image, region):
        """(2, 3, side, side) float32: a region's bounding box, full, and with its background at the mean colour."""
        rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        full = to_input(cv2.resize(image[box], (self.side, self.side)), self.preprocess)
        region = cv2.resize(region[box].astype(np.uint8), (self.side, self.side), interpolation=cv2.INTER_NEAREST)
        return np.stack([full, full * region])

    def __call__(self, image, regions):
        """Features (N, 2, channels) float32 of full and fg."""
        if not regions:
            return np.zeros((0, 2, self.net.backbone.channels["fc7"]), np.float32)
        squares = np.concatenate([self.squares(image, region) for region in regions])
        runtime.graph_mode()
        found = []
        for start in range(0, len(squares), self.batch):
            part = squares[start:start + self.batch]
            # Padding keeps the batch size constant, so that one graph is compiled.
            padded = np.concatenate([part, np.zeros((self.batch - len(part), *part.shape[1:]), np.float32)])
            found.append(self.net(ms.Tensor(padded)).asnumpy()[:len(part)])
        return np.concatenate(found).reshape(len(regions), 2, -1)


def flat(features, part):
    """Features (N, 2, channels) -> (N, D): one of KINDS."""
    chosen = features[:, part]
    return chosen.reshape(len(chosen), chosen.shape[1] * chosen.shape[2])


def fit_regressors(features, targets):
    """One linear support vector regression of the overlaps per class that occurs; features (N, D), targets (N, C).

    Returns:
        function: features (N, D) -> scores (N, C), -inf for the others.
    """
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVR
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    fitted = {number: LinearSVR(C=0.01, loss="squared_epsilon_insensitive", dual=False, epsilon=0.0).fit(scaled, column)
              for number, column in enumerate(targets.T) if number and column.any()}

    def score(features):
        scores = np.full((len(features), targets.shape[1]), -np.inf)
        for number, regressor in fitted.items() if len(features) else ():
            scores[:, number] = regressor.predict(scaler.transform(features))
        return scores
    return score


# -------------------------------------------------------------------------------------------------------- comparison

def photographs(path, count, classes):
    """Yield (image, mask) of the first `count` records."""
    dataset = SegDataset(data_file=path, training=False, num_classes=classes)
    for name, image, mask in dataset.samples(range(min(count, dataset.count))):
        yield decode_image(image, name), mask


def learn(features, path, options, labels):
    """Fit regressors and choose a threshold for each of KINDS: {kind: (score, threshold)}."""
    fit, held = [], []
    for number, (image, mask) in enumerate(photographs(path, options.train_images, len(labels))):
        regions = propose(image, options.proposals, options.regions)
        parts = components(mask, len(labels), labels.ignore_label)
        if number % 5 == 4:
            held.append((features(image, regions), regions, mask))
        else:
            # True regions are examples of full overlap.
            regions += [part for _, part in parts if part.sum() >= 100]
            fit.append((features(image, regions), overlaps(regions, parts, len(labels))))
        print(f"\rlearnt from {number + 1} images", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    learnt, targets = {}, np.concatenate([targets for _, targets in fit])
    for kind, part in KINDS.items():
        score = fit_regressors(np.concatenate([flat(rows, part) for rows, _ in fit]), targets)
        ious = []
        for threshold in THRESHOLDS:
            matrix = ConfusionMatrix(len(labels))
            for rows, regions, mask in held:
                matrix.update(paste(regions, score(flat(rows, part)), threshold, mask.shape), mask)
            ious.append(matrix.mean_iou())
        learnt[kind] = score, THRESHOLDS[int(np.argmax(ious))] if held else 0.3
    return learnt


def measure(segmenter, features, learnt, path, options, labels):
    """{row: (ConfusionMatrix, [seconds of each image])} of the FCN and of KINDS, and [seconds of the proposals]."""
    found = {name: (ConfusionMatrix(len(labels)), []) for name in ("FCN", *learnt)}
    proposing, counts = [], []
    for image, mask in photographs(path, options.images, len(labels)):
        start = time.perf_counter()
        prediction, _ = segmenter(image)
        found["FCN"][1].append(time.perf_counter() - start)
        found["FCN"][0].update(prediction, mask)
        start = time.perf_counter()
        regions = propose(image, options.proposals, options.regions)
        proposing.append(time.perf_counter() - start)
        counts.append(len(regions))
        start = time.perf_counter()
        rows = features(image, regions)
        taken = time.perf_counter() - start
        for kind, (score, threshold) in learnt.items():
            start = time.perf_counter()
            scores = score(flat(rows, KINDS[kind]))
            found[kind][0].update(paste(regions, scores, threshold, mask.shape), mask)
            passes = taken if kind == "full+fg" else taken / 2
            found[kind][1].append(proposing[-1] + passes + time.perf_counter() - start)
        print(f"\rmeasured {len(counts)} images", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found, proposing, counts


def main():
    """Fit, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a trained FCN, whose backbone gives the features")
    parser.add_argument("--records", help="folder of train.mindrecord and val.mindrecord; the checkpoint's by default")
    parser.add_argument("--train_images", type=int, default=60, help="images to fit the regressors to")
    parser.add_argument("--images", type=int, default=30, help="validation images")
    parser.add_argument("--regions", type=int, default=50, help="regions per image; R-CNN used 150")
    parser.add_argument("--side", type=int, default=96, help="side of the warped squares, pixels")
    parser.add_argument("--proposals", default="merged", choices=["merged", "selective_search", "edge_boxes"],
                        help="merged needs only OpenCV; the others need its contributed modules")
    options = parser.parse_args()
    try:
        report(options)
    except UserError as error:
        sys.exit(f"rcnn.py: {error}")


def report(options):
    """Run the comparison and print it. Raises UserError."""
    for name in ("train_images", "images", "regions", "side"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UserError("scikit-learn is not installed; pip install scikit-learn") from None
    if options.proposals != "merged":
        proposals.check_installed()
    runtime.set_up("auto", 1)
    segmenter, card = load_network(options.checkpoint)
    if not isinstance(segmenter.net, FCN):
        raise UserError(f"{options.checkpoint} is a {card.model['name']}; give the checkpoint of an FCN")
    folder = options.records or os.path.dirname(card.records)
    labels = card.labels
    features = Features(segmenter, options.side)
    train, val = (os.path.join(folder, f"{split}.mindrecord") for split in ("train", "val"))
    learnt = learn(features, train, options, labels)
    found, proposing, counts = measure(segmenter, features, learnt, val, options, labels)
    fcn = statistics.median(found["FCN"][1])
    print("| | mean IoU % | s/image | times the FCN's |\n|---|--:|--:|--:|")
    for name, (matrix, seconds) in found.items():
        taken = statistics.median(seconds)
        label = card.model["name"] if name == "FCN" else f"R-CNN, {name}"
        print(f"| {label} | {100 * matrix.mean_iou():.1f} | {taken:.2f} | {taken / fcn:.0f} |")
    for name, iou, seconds in PUBLISHED:
        print(f"| published, VOC 2011 / 2012 test: {name} | {iou} | {seconds} | |")
    print(f"\n{len(counts)} images of {val}, learnt from {options.train_images} images; "
          f"{statistics.median(counts):.0f} regions per image ({options.proposals}, "
          f"{statistics.median(proposing):.2f} s of the time), {options.side} pixels square; medians.")


if __name__ == "__main__":
    main()
