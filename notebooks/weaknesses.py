# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # DeconvNet, CRF and what is still missed
#
# [中文](weaknesses_cn.ipynb)
#
# [The walkthrough](fcn8s.ipynb) ends with what an FCN does badly: outlines are coarse, small objects are lost, pixels
# know nothing of one another. This notebook measures that, and tries what was published against it: unpooling and
# windows around objects (DeconvNet), two networks together, the fully connected CRF, several scales. Where a paper says
# that two ways give equal results, that is checked.
#
# It runs in a few minutes on two CPU cores. [docs/refinement.md](../docs/refinement.md) and
# [docs/deconvnet.md](../docs/deconvnet.md) have the commands for photographs.
# Nothing installed, as on Colab or in Ascend's cloud? [docs/servers.md](../docs/servers.md#notebooks-in-the-cloud) has the
# lines to type first.
#
# First, the repository's network on a photograph.

# %%
import os
import sys

os.environ.setdefault("GLOG_v", "3")  # MindSpore's log: errors only
os.chdir(".." if os.path.isdir("../ckpt") else ".")  # to the repository's folder
sys.path.insert(0, os.path.abspath("src"))

import cv2
import numpy as np

import mindfcn
from mindfcn.report.notebook import set_up, show

set_up()
segment, card = mindfcn.load_segmenter()  # the small network in ckpt/: VOC's 21 classes
photo = cv2.imread("docs/pictures/photographs/astronaut.jpg")
mask, _ = segment(photo)
rgb = photo[..., ::-1]
show([rgb, card.labels.colorize(mask), mindfcn.overlay(rgb, mask, card.labels)],
     ("photograph", "mask", "overlay"), card.labels, np.unique(mask))
print("classes found:", ", ".join(card.labels.names[number] for number in np.unique(mask)))

# %% [markdown]
# *You should see* a person whose outline is round where the photograph's has corners, and a few spots of classes that are
# not there. To measure such things, we need many photographs with true masks and a network that learns in a minute:
# those of the sample set, drawn by the program. Pale lines in the truth are its ignore label, which counts nowhere.

# %%
import dataclasses
import importlib.util

import matplotlib.pyplot as plt
import mindspore as ms
from IPython.display import Image

from mindfcn import runtime
from mindfcn.commands.evaluate import evaluate_network
from mindfcn.data.regions.proposals import enlarge
from mindfcn.data.transforms import to_input
from mindfcn.inference.crf import CRF, PUBLISHED, mean_field, permutohedral
from mindfcn.inference.ensemble import combine
from mindfcn.inference.instance_wise import aggregate
from mindfcn.inference.network import resized
from mindfcn.inference.sliding_window import SlidingWindow
from mindfcn.logits import argmax, softmax
from mindfcn.metrics import ConfusionMatrix
from mindfcn.models import layers

WORK = os.environ.get("MINDFCN_NOTEBOOK_DIR", "runs/weaknesses")  # everything this notebook writes goes here
QUICK = os.environ.get("MINDFCN_NOTEBOOK_QUICK", "") == "1"       # a minute's test: few photographs, few steps

device = runtime.set_up(seed=1)
runtime.pynative_mode()  # operator by operator, to try things out
random = np.random.default_rng(0)
data = mindfcn.PrepareConfig(records=f"{WORK}/records", source="sample", root=f"{WORK}/sample", samples=10 if QUICK else 160,
                             size=96 if QUICK else 128)
labels, train_samples, val_samples = mindfcn.list_samples(data)
photos = [cv2.imread(sample.image) for sample in val_samples]  # (H, W, 3) uint8 BGR
truths = [sample.read_label(sample.label) for sample in val_samples]
print(f"MindSpore {ms.__version__} on {device}, results in {WORK}{', quick test' if QUICK else ''}")
print(f"{len(train_samples)} photographs to learn from, {len(val_samples)} to judge by")
show([photos[0][..., ::-1], labels.colorize(truths[0]), photos[1][..., ::-1], labels.colorize(truths[1])],
     ("photograph", "truth") * 2)

# %% [markdown]
# ## 1 What FCN misses
#
# FCN-8s, a quarter as wide as published, trained for a minute from random weights:

# %%
config = mindfcn.TrainConfig(
    run_dir=f"{WORK}/fcn8s", overwrite=True, seed=1, eval_every=0, keep=1, data=data,
    augment=mindfcn.AugmentConfig(crop_size=64 if QUICK else 96, batch_size=4, min_scale=0.75, max_scale=1.5),
    model=mindfcn.ModelConfig(name="fcn8s_vgg16_bn", width=0.125 if QUICK else 0.25, fc_width=128),
    optim=mindfcn.OptimConfig(epochs=1 if QUICK else 5, lr=0.05, min_lr=0.0005, warmup_epochs=0.5))
fcn_file = mindfcn.train(config).checkpoint
fcn, card = mindfcn.load_segmenter(fcn_file)
val_set = mindfcn.SegDataset(data_file=f"{data.records}/val.mindrecord", training=False, preprocess=card.preprocess,
                             num_classes=len(labels))
found = {}  # what was found out about each way to segment


def judge(name, segment):
    """Segment all validation photographs and print a line about it; `segment` is called as a Segmenter is."""
    if not found:
        print("way                        mean IoU, %  small  medium  2 pixels from boundaries  s/photograph")
    found[name] = judged = evaluate_network(segment, val_set, labels)
    sizes = judged.sizes.compute()
    print(f"{name:26} {100 * judged.metrics['mean IoU']:11.1f}  {100 * sizes['small']['mean IoU']:5.1f}  "
          f"{100 * sizes['medium']['mean IoU']:6.1f}  {100 * judged.trimap.mean_ious()[1]:24.1f}  "
          f"{judged.seconds:12.3f}")


judge("FCN-8s", fcn)
print("objects:", ", ".join(f"{size['objects']} {name}" for name, size in found["FCN-8s"].sizes.compute().items()))

# %% [markdown]
# *You should see* a mean IoU of nearly 50 %, about 30 % for small objects, and 30 to 40 % close to boundaries.
#
# Small is an object of less than 32x32 pixels, medium one of up to 96x96, which are COCO's limits. The photographs
# are 128 pixels wide, so that there is no large one. Small objects come off worse, and pixels close to a true boundary
# worse still. The **trimap** shows how far that reaches: the mean IoU of the pixels within 1, 2, ... pixels of a
# boundary.

# %%
def draw_trimaps(*names):
    """The mean IoU near boundaries, of each way to segment."""
    figure, axis = plt.subplots(figsize=(10, 3.6), layout="constrained")
    for number, name in enumerate(names):
        bands = 100 * found[name].trimap.mean_ious()
        axis.plot(range(1, len(bands) + 1), bands, "o-", markersize=3, color=f"C{number}", label=name)
        axis.axhline(100 * found[name].metrics["mean IoU"], color=f"C{number}", linestyle=":", linewidth=1)
    axis.set(xlabel="pixels on either side of the boundary; dotted: all pixels", ylabel="mean IoU, %")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    plt.show()


draw_trimaps("FCN-8s")

# %% [markdown]
# Where are the mistakes? Red below, on the photographs that came out worst:

# %%
worst = np.argsort(found["FCN-8s"].scores)[:3]
predicted = {index: fcn(photos[index])[0] for index in worst}
for index in worst:
    wrong = (predicted[index] != truths[index]) & (truths[index] != labels.ignore_label)
    red = photos[index] // 2
    red[wrong] = (40, 40, 230)
    show([photos[index][..., ::-1], labels.colorize(truths[index]), labels.colorize(predicted[index]), red[..., ::-1]],
         ("photograph", "truth", "FCN-8s", f"wrong: {100 * wrong.mean():.0f} %"))

# %% [markdown]
# *You should see* red along the outlines, and whole objects in red where a class was confused.
#
# One reason is that the network sees everything at **one scale**. It was trained at 0.75 to 1.5 times these sizes. The
# same photographs shrunk and enlarged, the same network:

# %%
factors, some = ((1, 2), range(1)) if QUICK else ((0.5, 0.75, 1, 1.5, 2, 3), range(8))
by_factor = []
for factor in factors:
    matrix = ConfusionMatrix(len(labels))
    for index in some:
        scaled = cv2.resize(photos[index], None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        mask, _ = fcn(scaled)
        matrix.update(mask, cv2.resize(truths[index], mask.shape[::-1], interpolation=cv2.INTER_NEAREST))
    by_factor.append(100 * matrix.mean_iou())
print("photographs enlarged by", *(f"{factor:6}" for factor in factors))
print("mean IoU, %            ", *(f"{score:6.1f}" for score in by_factor))
enlarged = cv2.resize(photos[1], None, fx=factors[-1], fy=factors[-1], interpolation=cv2.INTER_LINEAR)
show([photos[1][..., ::-1], labels.colorize(fcn(photos[1])[0]), labels.colorize(fcn(enlarged)[0])],
     ("photograph", "as it is", f"enlarged by {factors[-1]}: the same objects in parts"))

# %% [markdown]
# *You should see* the highest score near the sizes of the training, and less to either side.
#
# ## 2 DeconvNet
#
# Noh, Hong and Han (2015) let the network see *one window around one object*, always at the same size, and give back
# what pooling threw away. A 2x2 pooling keeps the largest of four numbers, and forgets which of the four it was. If it
# keeps these places, its **switches**, then **unpooling** can put the numbers back where they came from. Three times
# pooled and three times unpooled, a photograph (its brightness) is then a picture of its brightest points at their
# places; without switches, all that can be done is enlarging:

# %%
grey = cv2.cvtColor(photos[0], cv2.COLOR_BGR2GRAY)
grey = grey[:grey.shape[0] // 8 * 8, :grey.shape[1] // 8 * 8].astype(np.float32)
x, kept = ms.Tensor(grey[None, None]), []
for _ in range(3):
    shape = x.shape
    x, switches = layers.MaxPoolWithIndices()(x)
    kept.append((switches, shape))
pooled = y = x
for switches, shape in reversed(kept):
    y = layers.MaxUnpool()(y, switches, shape)
unpooled = y.asnumpy()[0, 0]
places = unpooled != 0
print(f"{grey.shape} pooled to {pooled.shape[2:]}, unpooled to {unpooled.shape}: {places.sum()} numbers, "
      f"one of {grey.size // places.sum()}; largest difference from the photograph there "
      f"{np.abs(unpooled - grey)[places].max():.0f}")
blocks = grey.reshape(grey.shape[0] // 8, 8, -1, 8).max((1, 3))
print(f"they are the largest of each 8x8 pixels: {np.array_equal(blocks, pooled.asnumpy()[0, 0])}")
show([grey, pooled.asnumpy()[0, 0], cv2.resize(pooled.asnumpy()[0, 0], grey.shape[::-1]), cv2.dilate(
    unpooled, np.ones((3, 3)))], ("photograph", "pooled by 8", "enlarged", "unpooled (points drawn larger)"),
    cmap="gray", vmin=0, vmax=255)

# %% [markdown]
# *You should see* `True`, a blurred photograph, and on the right its bright points.
#
# Unpooled maps are sparse, and so each unpooling is followed by deconvolutions, which make them dense again. The whole
# is VGG16 and its mirror. Training begins with easy windows: one object in each, in the middle, enlarged 1.2 times, and
# all else background. `instances="boxes"` makes such records:

# %%
stage1 = dataclasses.replace(data, records=f"{WORK}/windows", instances="boxes", instance_size=72)
side = 32 if QUICK else 64
config = mindfcn.TrainConfig(
    run_dir=f"{WORK}/deconvnet", overwrite=True, seed=1, eval_every=0, keep=1, data=stage1,
    augment=mindfcn.AugmentConfig(crop_size=side, batch_size=8, min_scale=1, max_scale=1),
    model=mindfcn.ModelConfig(name="deconvnet_vgg16", width=0.125, fc_width=128, side=side),
    optim=mindfcn.OptimConfig(epochs=1 if QUICK else 3, lr=0.05, min_lr=0.0005, warmup_epochs=0.2,
                              recalibrate=2 if QUICK else 20))
deconvnet_file = mindfcn.train(config).checkpoint
deconvnet, _ = mindfcn.load_segmenter(deconvnet_file)
windows = mindfcn.SegDataset(data_file=f"{stage1.records}/train.mindrecord", training=False,
                             preprocess=card.preprocess, num_classes=len(labels))
examples = [row[1:4:2] for row in windows.examples(np.linspace(0, windows.count - 1, 5))]
show([picture for photo, mask in examples for picture in (photo[..., ::-1], labels.colorize(mask))])
print(f"{windows.count} windows of {len(train_samples)} photographs")

# %% [markdown]
# *You should see* five windows, each with its object in the middle, and their masks.
#
# What the network makes of a window, stage by stage, is `mindfcn explain`'s picture: the strongest map after each
# unpooling and deconvolution. From above, it goes from one cell to the whole window; unpooled maps are points, which
# the next deconvolution joins.

# %%
number = int(np.argmax([len(mindfcn.find_objects(mask, labels.ignore_label)) > 0 for mask in truths]))
thing = max(mindfcn.find_objects(truths[number], labels.ignore_label), key=lambda thing: thing.pixels.sum())
left, top, right, bottom = enlarge(thing.box, 1.2, *truths[number].shape)
cv2.imwrite(f"{WORK}/window.png", photos[number][top:bottom, left:right])
explained = mindfcn.explain(mindfcn.ExplainConfig(checkpoint=deconvnet_file, image=f"{WORK}/window.png",
                                                  out_file=f"{WORK}/explanation.jpg"))
runtime.pynative_mode()
Image(explained.out)

# %% [markdown]
# ## 3 Many windows, one photograph
#
# A photograph is segmented by its **proposals**, boxes where an object may be. Each window goes through the network,
# is resized back into its box, and where windows overlap, the largest score counts (or their sum). Two things must hold
# of this *instance-wise* prediction: with one proposal, the whole photograph, it is a plain pass, and the largest score
# does not depend on the order of the windows.

# %%
photo = photos[number]
height, width = photo.shape[:2]
plain, whole = deconvnet(photo, True)[1], mindfcn.InstanceWise(deconvnet, lambda _: [(0, 0, width, height)])
print(f"one proposal against a plain pass: largest difference {np.abs(whole(photo, True)[1] - plain).max():.1e}")

boxes = [(left, top, left + random.integers(24, width // 2), top + random.integers(24, height // 2))
         for left, top in zip(random.integers(0, width // 2, 12), random.integers(0, height // 2, 12))]
inputs = to_input(photo, card.preprocess)[None]
scores = [deconvnet.logits(resized(inputs[:, :, top:bottom, left:right], side, side))[0]
          for left, top, right, bottom in boxes]
pairs = list(zip(boxes, scores))
for rule in ("max", "sum"):
    one = aggregate(pairs, len(labels), height, width, rule)
    other = aggregate(pairs[::-1], len(labels), height, width, rule)
    print(f"{rule}: 12 windows in two orders, largest difference {np.abs(one - other).max():.1e}")

# %% [markdown]
# How good can that be? Let us first cheat, and take the boxes of the true objects. Then a grid of windows, which knows
# nothing, and then proposals: by Edge Boxes, which needs OpenCV's contributed modules (opencv-contrib-python).

# %%
true_boxes = {photo.tobytes(): [enlarge(thing.box, 1.2, *truth.shape)
                                for thing in mindfcn.find_objects(truth, labels.ignore_label)]
              for photo, truth in zip(photos, truths)}


def by_true_boxes(photo):
    """The boxes of a photograph's objects; photographs in records are the files' own bytes."""
    return true_boxes[photo.tobytes()]


def by_edge_boxes(photo):
    """Edge Boxes of a photograph, the best first."""
    return mindfcn.propose(photo, max_proposals=12, min_side=20)


def by_grid(photo):
    """Squares of half the shorter side, half of that apart."""
    side = min(photo.shape[:2]) // 2
    return [(left, top, left + side, top + side) for top in range(0, photo.shape[0] - side + 1, side // 2)
            for left in range(0, photo.shape[1] - side + 1, side // 2)]


judge("DeconvNet, one window", deconvnet)
ideal, by_proposals = (mindfcn.InstanceWise(deconvnet, boxes_of) for boxes_of in (by_true_boxes, by_grid))
judge("DeconvNet, true boxes", ideal)
judge("DeconvNet, grid of windows", by_proposals)
drawn = [(photo[..., ::-1], "photograph"), (labels.colorize(truths[number]), "truth"),
         (labels.colorize(deconvnet(photo)[0]), "one window"), (labels.colorize(ideal(photo)[0]), "true boxes"),
         (labels.colorize(by_proposals(photo)[0]), "grid")]
try:
    by_edge_boxes(photo)
except mindfcn.UserError as error:
    print("No Edge Boxes here, and below the grid stands for them:", error)
else:
    by_proposals = mindfcn.InstanceWise(deconvnet, by_edge_boxes)
    judge("DeconvNet, Edge Boxes", by_proposals)
    boxed = photo.copy()
    for left, top, right, bottom in by_edge_boxes(photo):
        cv2.rectangle(boxed, (int(left), int(top)), (int(right) - 1, int(bottom) - 1), (255, 255, 255), 1)
    drawn += [(boxed[..., ::-1], "Edge Boxes"), (labels.colorize(by_proposals(photo)[0]), "by Edge Boxes")]
show(*zip(*drawn))

# %% [markdown]
# *You should see* a line for each kind of window, all far below FCN-8s.
#
# Twice 16 layers that begin at random learn little in three passes over so few windows: this DeconvNet knows where
# things are, but hardly one class from another, and stays far behind FCN-8s. (The paper begins from VGG16's ImageNet
# weights and trains for days on a GPU.) What can be seen all the same is the order: true boxes do better than one
# window for the whole photograph. Between true boxes and Edge Boxes lies what the proposals miss, and windows without
# an object, of which this network has seen none. That is why the paper trains a second stage, on the windows of
# proposals (`instances="proposals"`).
#
# ## 4 Two networks
#
# FCN sees the whole photograph, DeconvNet windows; they miss different things. The paper takes the **mean** of both
# probability maps, its released code the **product** of the scores, of which the second's are cut off at zero. A map
# with itself must give its own classes (by the product, where some score is above zero):

# %%
logits = fcn.logits(to_input(photo, card.preprocess)[None])[0]
print(f"the mean of a map with itself: largest difference "
      f"{np.abs(softmax(combine([logits, logits])) - softmax(logits)).max():.1e}")
positive = logits.max(0) > 0
same = argmax(combine([logits, logits], "product")) == argmax(logits)
print(f"the product of a map with itself: the same class in {100 * same[positive].mean():.0f} % of the "
      f"{positive.sum()} pixels with a score above zero")
for rule in ("mean", "product"):
    judge(f"both networks, {rule}", mindfcn.Ensemble([fcn, by_proposals], rule))

# %% [markdown]
# Beside so weak a partner FCN-8s alone is better. Two networks gain where they are about as good as one another: in the
# paper, 62.2 and 69.6 % on VOC 2012 become 71.7 %.
#
# ## 5 The fully connected CRF
#
# Neither network knows that neighbours of one colour are likely of one class. A CRF over all pairs of pixels does
# (Krähenbühl and Koltun 2011). It starts from the network's probabilities, and in each iteration every pixel is
# pulled towards the classes of all others, the more, the closer they are and the more alike their colours. On a
# photograph of at most 4,096 pixels that can be computed pair by pair. To see it at work, let us take the
# photograph that FCN-8s segments best and spoil its probabilities: smooth them, as a coarser network would, and add
# noise.

# %%
number = max(range(len(photos)), key=lambda index: (len(np.unique(truths[index])) > 3, found["FCN-8s"].scores[index]))
photo, (height, width) = photos[number], truths[number].shape
logits = fcn.logits(to_input(photo, card.preprocess)[None])[0]
longer = 40 if QUICK else 64
small = cv2.resize(photo, None, fx=longer / max(height, width), fy=longer / max(height, width),
                   interpolation=cv2.INTER_AREA)
blurred = resized(cv2.GaussianBlur(logits.transpose(1, 2, 0), (0, 0), 4).transpose(2, 0, 1)[None], *small.shape[:2])[0]
blurred = softmax(blurred + random.normal(0, 0.7, blurred.shape).astype(np.float32))
crf = CRF(gaussian_weight=3, gaussian_sxy=1.5, bilateral_weight=6, bilateral_sxy=20, bilateral_srgb=12)
after = {count: mean_field(small, blurred, dataclasses.replace(crf, iterations=count)) for count in (0, 1, 2, 5, 10)}
small_truth = cv2.resize(truths[number], small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
right_of = {}
for count, probabilities in after.items():
    right_of[count] = 100 * (argmax(probabilities) == small_truth)[small_truth != labels.ignore_label].mean()
show([small[..., ::-1], *(labels.colorize(argmax(probabilities)) for probabilities in after.values()),
      labels.colorize(small_truth)],
     ("photograph", *(f"{count} iterations\n{right_of[count]:.1f} % right" for count in after), "truth"))

off = mean_field(small, blurred, CRF(gaussian_weight=0, bilateral_weight=0))
print(f"without the two kernels, 10 iterations change {(argmax(off) != argmax(blurred)).sum()} of "
      f"{small_truth.size} pixels")

# %% [markdown]
# *You should see* most specks vanish in the first iteration. In the later ones outlines move to where the photograph's
# colours change, and the share of right pixels rises.
#
# All pairs of a photograph of 500x375 would be about 3.5e10. The **permutohedral lattice** computes the same sums in
# time linear in the pixels, approximately; it is the package pydensecrf2's (`pip install -e '.[crf]'`).

# %%
try:
    lattice = permutohedral(small, blurred, crf)
except mindfcn.UserError as error:
    print("The lattice is left out:", error)
else:
    agree = 100 * (argmax(lattice) == argmax(after[10])).mean()
    print(f"lattice and all pairs give {agree:.1f} % of the pixels the same class")


def refined(photo, parameters):
    """What a CRF makes of FCN-8s' probabilities: mask and probabilities, as a Segmenter gives them."""
    probabilities = permutohedral(photo, fcn(photo, True)[1], parameters)
    return argmax(probabilities), probabilities


if importlib.util.find_spec("pydensecrf"):
    weak = dataclasses.replace(PUBLISHED["deeplab_v1"], gaussian_weight=1, bilateral_weight=2, bilateral_sxy=15)
    judge("FCN-8s, deeplab_v1's CRF", lambda photo: refined(photo, PUBLISHED["deeplab_v1"]))
    judge("FCN-8s, a weaker CRF", lambda photo: refined(photo, weak))
    draw_trimaps("FCN-8s", "FCN-8s, deeplab_v1's CRF", "FCN-8s, a weaker CRF")

# %% [markdown]
# *You should see* the CRFs' curves above that of FCN-8s, most of all on the left.
#
# This gains most where FCN-8s was worst, next to the boundaries, for drawn objects have clear colours. The parameters
# were found for photographs of 500 pixels and for another network; `mindfcn tune_crf` searches them on your own. A CRF
# cannot bring back an object that no pixel was given to.
#
# ## 6 Scales, mirrors, sliding windows
#
# If one scale is too few, take several, and their mirror images, and average the probabilities:

# %%
whole_passes = mindfcn.EvalConfig(checkpoint=fcn_file)
judge("FCN-8s, mirrored too", mindfcn.Inference(fcn, dataclasses.replace(whole_passes, flip=True)))
judge("FCN-8s, scales, mirrored", mindfcn.Inference(fcn, dataclasses.replace(
    whole_passes, flip=True, scales=[1.0, 1.5] if QUICK else [0.75, 1.0, 1.5])))

# %% [markdown]
# Here the mirror images add about a point of mean IoU, and the scales nothing to that: a network of a minute
# is not sure of a class at other sizes. Whether they pay on your photographs, `mindfcn eval --flip --scales` tells.
#
# Photographs too large for the memory go through the network in windows. A pixel depends on no more than what lies
# within the network's reach; if the windows overlap by twice that, the result must be that of the whole photograph. A
# smaller overlap is quicker and leaves seams. The picture is a panorama of photographs, and below it stands, for every
# column, how far the scores are from those of the whole.

# %%
rows = min(photo.shape[0] for photo in photos) // 32 * 32
panorama, at = photos[0][:rows], 1
while panorama.shape[1] < 736:
    panorama, at = np.hstack([panorama, photos[at % len(photos)][:rows]]), at + 1
panorama = np.ascontiguousarray(panorama[:, :736])
exact = fcn.logits(to_input(panorama, card.preprocess)[None])[0]
figure, (above, below) = plt.subplots(2, 1, figsize=(10, 3.4), layout="constrained", sharex=True)
above.imshow(panorama[..., ::-1], aspect="auto")
above.set_yticks([])
for window, overlap in ((640, None), (256, 32)):
    tiled, pieces = SlidingWindow(fcn, window, overlap), np.empty_like(exact)
    count = 0
    for down, across, block in tiled.blocks(panorama):
        pieces[:, down.first:down.last, across.first:across.last] = block
        count += 1
    far = np.abs(pieces - exact).max((0, 1))
    name = f"{count} windows of {tiled.window}, overlap {tiled.overlap}"
    print(f"{name}: largest difference {far.max():.1e}, of scores up to {np.abs(exact).max():.0f}")
    below.semilogy(np.maximum(far, 1e-8), label=name, linewidth=1)
below.set(ylabel="largest difference", xlim=(0, panorama.shape[1]))
below.legend(frameon=False)
plt.show()

# %% [markdown]
# *You should see* rounding for the first windows, and for the second a curve that rises at each seam.
#
# ## 7 What is still missed
#
# All that was tried, in the order of its mean IoU:

# %%
print("way                        mean IoU, %  small  medium  2 pixels from boundaries")
for name, judged in sorted(found.items(), key=lambda item: -item[1].metrics["mean IoU"]):
    sizes = judged.sizes.compute()
    print(f"{name:26} {100 * judged.metrics['mean IoU']:11.1f}  {100 * sizes['small']['mean IoU']:5.1f}  "
          f"{100 * sizes['medium']['mean IoU']:6.1f}  {100 * judged.trimap.mean_ious()[1]:24.1f}")
bars = {name: judged.matrix.class_ious() for name, judged in found.items()
        if name in ("FCN-8s", "both networks, mean")}
figure, axis = plt.subplots(figsize=(10, 3.2), layout="constrained")
for shift, (name, ious) in enumerate(bars.items()):
    axis.bar(np.arange(len(labels)) + 0.4 * shift - 0.2, 100 * ious, 0.38, label=name)
axis.set(xticks=range(len(labels)), xticklabels=labels.names, ylabel="IoU, %")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# These are drawn shapes and networks trained for a minute: what helps how much on photographs is another question, and
# the published answers are in [docs/refinement.md](../docs/refinement.md) and [docs/deconvnet.md](../docs/deconvnet.md).
#
# The rest is a matter of training, not of what is done afterwards. A mean over pixels is a mean over what is large.
# **Hard-pixel bootstrapping** (`--optim.loss bootstrapped`) takes the mean over each image's greatest losses alone, so
# that what is right already no longer counts. **Class weights** (`--optim.class_weights median_frequency`) let a pixel
# count the more, the rarer its class. Both are on one page with focal loss, Dice and others,
# [docs/training_aids.md](../docs/training_aids.md), with what each is known to gain.
#
# And some things none of this mends:
#
# - a thing of a few pixels, or narrower than the finest map's stride of 8, has no cell of its own;
# - two objects of one class that touch come out as one: semantic segmentation has no names for them;
# - a CRF follows colours, also where an object has two, or its surroundings the same one;
# - proposals cost a pass for every ten windows, and what no box holds becomes background;
# - a network that is sure of a wrong class stays sure of it in every scale and mirror.
