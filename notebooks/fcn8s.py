# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Semantic segmentation with FCN-8s
#
# [中文](fcn8s_cn.ipynb)
#
# The **fully convolutional network** (FCN; Long, Shelhamer and Darrell, UC Berkeley, 2015) was the first network that
# learned to name the class of *every pixel* of a photograph end to end. This notebook walks through it, from the idea
# to a trained network that you can try on a photograph of your own. The package `mindfcn` does the work; the notebook
# shows what happens, and checks each idea with a number or a picture before it is used.
#
# It runs from top to bottom on two CPU cores in a few minutes, on a small **sample set** that the program draws
# itself. The same cells train on **PASCAL VOC 2012**: change `DATA` in the second cell.
#
# Nothing installed, as on Colab or in Ascend's cloud? [docs/servers.md](../docs/servers.md#notebooks-in-the-cloud) has the
# lines to type first.
#
# The first cell goes to the repository's folder and segments a photograph with the network that the repository brings.

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
photo = cv2.imread("docs/pictures/photographs/cat.jpg")
mask, _ = segment(photo)
rgb = photo[..., ::-1]
show([rgb, card.labels.colorize(mask), mindfcn.overlay(rgb, mask, card.labels)],
     ("photograph", "mask: a class for every pixel", "overlay"), card.labels, np.unique(mask))
print(f"photograph {photo.shape} {photo.dtype}, mask {mask.shape} {mask.dtype}")

# %% [markdown]
# *You should see* a cat under a dark red mask that follows its outline roughly. How the network was trained is told in
# [ckpt/README.md](../ckpt/README.md). This notebook explains how such a network works and trains one.
#
# Settings first. A fixed seed gives the same numbers in every run on the same machine.

# %%
DATA = "sample"               # "sample": drawn by the program in seconds; "voc": PASCAL VOC 2012
VOC_ROOT = "data/VOCdevkit"   # for "voc": the folder that holds VOC2012/, seen from the repository's folder
SBD_ROOT = ""                 # for "voc": the folder benchmark_RELEASE adds SBD's images to the training
PHOTO = ""                    # chapter 9: a photograph of yours, such as "/home/me/cat.jpg"
WORK = os.environ.get("MINDFCN_NOTEBOOK_DIR", "runs/notebook")  # everything this notebook writes goes here
QUICK = os.environ.get("MINDFCN_NOTEBOOK_QUICK", "") == "1"     # a minute's test: few photographs, one epoch

import time
from pathlib import Path

import matplotlib.pyplot as plt
import mindspore as ms
import PIL.Image
from IPython.display import Image
from mindspore import nn, ops

from mindfcn import runtime
from mindfcn.report.notebook import show_legend

device = runtime.set_up(seed=1)  # Ascend, GPU or CPU
print(f"MindSpore {ms.__version__} on {device}; data: {DATA}, results in {WORK}{', quick test' if QUICK else ''}")

# %% [markdown]
# ## 1 What is semantic segmentation?
#
# Three questions about a photograph, each harder than the one before:
#
# | task | answer |
# |---|---|
# | classification | which class is it? *one label per photograph* |
# | detection | which objects are where? *one label and one box per object* |
# | **semantic segmentation** | what does each pixel belong to? *one label per pixel* |
#
# The answer of a segmentation is a **mask**: an array as large as the photograph, with a class number in every pixel.
# Two objects of one class get the same number (telling them apart is *instance* segmentation).
#
# Here are photographs of the data set with their masks, coloured by class.

# %%
if DATA == "sample":
    data = mindfcn.PrepareConfig(records=f"{WORK}/records", source="sample", root=f"{WORK}/sample", samples=15 if QUICK else 320,
                                 size=96 if QUICK else 160)
else:
    data = mindfcn.PrepareConfig(records=f"{WORK}/voc-records", source="voc", root=VOC_ROOT, sbd=SBD_ROOT)
labels, train_samples, val_samples = mindfcn.list_samples(data)


def read(sample):
    """(H, W, 3) uint8 RGB photograph and (H, W) uint8 mask of a sample."""
    return cv2.imread(sample.image)[..., ::-1], sample.read_label(sample.label)


pairs = [read(sample) for sample in train_samples[:5]]
show([[photo for photo, _ in pairs], [labels.colorize(mask) for _, mask in pairs],
      [mindfcn.overlay(photo, mask, labels) for photo, mask in pairs]],
     labels=labels, classes=np.unique(np.concatenate([mask.ravel() for _, mask in pairs])))
print(f"{len(train_samples)} photographs to learn from, {len(val_samples)} to judge by, {len(labels)} classes:",
      ", ".join(labels.names))

# %% [markdown]
# *You should see* five pictures, their masks below them, and both laid over one another.
#
# The sample set is drawn by the program: six shapes with textures, shadows, noise and occlusion, of varied sizes. No
# cue alone (shape, texture or colour) gives a class away, so the network has to look at what surrounds a pixel.
#
# A mask is nothing but numbers. Below is a piece of one, at the edge of an object. **255** along the outline means
# "nobody can tell": these pixels count neither in training nor in the score.

# %%
mask = pairs[0][1]
rows_255, columns_255 = np.nonzero(mask == 255)
top = int(np.clip(rows_255[0] - 2, 0, mask.shape[0] - 8))
left = int(np.clip(columns_255[0] - 8, 0, mask.shape[1] - 16))
print(f"mask: {mask.shape} {mask.dtype}; rows {top} to {top + 7}, columns {left} to {left + 15}:\n")
print("\n".join(" ".join(f"{number:3d}" for number in row) for row in mask[top:top + 8, left:left + 16]))

# %% [markdown]
# **PASCAL VOC 2012** is the data set of the paper: photographs of 20 kinds of things and the background. Its own list
# has 1,464 training and 1,449 validation photographs with masks; **SBD** (the Semantic Boundaries Dataset) adds masks,
# and the usual training list of both, without any validation photograph, has 10,582. Its classes and colours:

# %%
show_legend(mindfcn.VOC)

# %% [markdown]
# ## 2 The model
#
# Three ideas turn a network that classifies photographs, such as VGG16, into one that segments them:
# **convolutionalisation**, **upsampling** and **skip layers**.
#
# ### 2.1 Convolutionalisation
#
# VGG16 ends in dense layers. The first of them, fc6, multiplies a 7x7 map of 512 channels, unrolled into 25,088
# numbers, with a matrix of 4,096 rows. It accepts no other size: this ties VGG16 to 224x224 photographs.
#
# But each row of the matrix, folded back to 512x7x7, is the kernel of a convolution. So a dense layer *is* a
# convolution whose kernel is as large as its input. The convolution accepts a larger map as well, slides over it, and
# gives what the dense layer would give at each place. `dense_to_conv` folds the matrix. The check, on fc6 as it is but
# for its outputs, of which 64 of the 4,096 do:

# %%
runtime.pynative_mode()  # operator by operator, to try things out
random = np.random.default_rng(0)
fc6 = nn.Dense(512 * 7 * 7, 64)
convolution = mindfcn.dense_to_conv(fc6, 7, 7)  # the same numbers, folded
print(f"weights: dense {fc6.weight.shape}, convolution {convolution.weight.shape}")

small = ms.Tensor(random.normal(size=(1, 512, 7, 7)).astype(np.float32))
difference = np.abs(convolution(small).asnumpy().ravel() - fc6(small.reshape(1, -1)).asnumpy().ravel()).max()
print(f"7x7 map: dense {fc6(small.reshape(1, -1)).shape}, convolution {convolution(small).shape}, "
      f"largest difference {difference:.1e}")

large = ms.Tensor(random.normal(size=(1, 512, 10, 12)).astype(np.float32))
slid = convolution(large).asnumpy()
differences = [np.abs(slid[0, :, top, left]
                      - fc6(large[:, :, top:top + 7, left:left + 7].reshape(1, -1)).asnumpy()[0]).max()
               for top in range(4) for left in range(6)]
print(f"10x12 map: convolution {slid.shape}, the dense layer at each of the {len(differences)} windows: "
      f"largest difference {max(differences):.1e}")

# %% [markdown]
# The same as a picture. The "classifier" below is one row of a dense layer: the numbers of a patch that was cut out of
# the photograph. It answers one question about one window: *how much do you look like my patch?* As a convolution it
# answers for all windows at once: a **heat map**, brightest where the patch came from. This is what an FCN computes,
# with one map per class and weights that were learned.

# %%
photo, mask = pairs[3]
side = 31
objects = cv2.erode(((mask > 0) & (mask < 255)).astype(np.uint8), np.ones((5, 5), np.uint8))
objects[:side // 2] = objects[-(side // 2) - 1:] = objects[:, :side // 2] = objects[:, -(side // 2) - 1:] = 0
rows_in, columns_in = np.nonzero(objects)
top, left = int(rows_in[len(rows_in) // 2]) - side // 2, int(columns_in[len(rows_in) // 2]) - side // 2
pixels = (photo - photo.mean((0, 1))).astype(np.float32).transpose(2, 0, 1)
patch = pixels[:, top:top + side, left:left + side]
weight = patch - patch.mean((1, 2), keepdims=True)
detector = nn.Conv2d(3, 1, side, pad_mode="valid", weight_init=ms.Tensor(weight[None]))
heat = detector(ms.Tensor(pixels[None])).asnumpy()[0, 0]
peak = np.unravel_index(heat.argmax(), heat.shape)

figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained", width_ratios=(1, 0.4, 1))
axes[0].imshow(photo)
axes[0].add_patch(plt.Rectangle((left, top), side, side, fill=False, color="white", linewidth=2))
axes[1].imshow(photo[top:top + side, left:left + side])
axes[2].imshow(heat)
axes[2].plot(peak[1], peak[0], "o", color="white", fillstyle="none", markersize=12)
for axis, title in zip(axes, (f"photograph {photo.shape[0]}x{photo.shape[1]}", "the weights",
                              f"heat map {heat.shape[0]}x{heat.shape[1]}")):
    axis.set_title(title)
plt.show()
print(f"patch cut at row {top}, column {left}; highest answer at row {peak[0]}, column {peak[1]}")

# %% [markdown]
# *You should see* the answer brightest inside the small circle, where the patch was cut out: both rows and columns agree.
#
# ### 2.2 Upsampling
#
# VGG16 halves the map five times, so its scores are 32 times coarser than the photograph. To label every pixel, they
# must grow again. The FCN does this with a **transposed convolution** ("deconvolution"): each number of the small map
# stamps a kernel, scaled by that number, onto a larger map, and overlapping stamps add up. With a pyramid-shaped
# kernel of side $2s$ and stride $s$ this *is* bilinear interpolation by $s$; and because the kernel is a weight,
# training may improve on it.
#
# So a fresh bilinear deconvolution must double a photograph just as a bilinear resize does:

# %%
from mindfcn.models import layers

small_photo = cv2.resize(photo, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
tensor = ms.Tensor(small_photo.transpose(2, 0, 1)[None].astype(np.float32))
doubled = {start: layers.deconv(channels=3, kernel=4, stride=2, padding=1, upsampling=start)(tensor).asnumpy()
           for start in ("bilinear", "xavier")}
resized = ops.interpolate(tensor, size=(2 * tensor.shape[2], 2 * tensor.shape[3]), mode="bilinear",
                          align_corners=False).asnumpy()
difference = np.abs(doubled["bilinear"] - resized)
print(f"{tensor.shape} -> {resized.shape}")
print(f"bilinear deconvolution against bilinear resize, on the 0..255 scale: largest difference "
      f"{difference[:, :, 1:-1, 1:-1].max():.1e} inside, {difference.max():.0f} on the outermost pixels, "
      "where the stamps of missing neighbours are zero")

figure, axes = plt.subplots(1, 4, figsize=(10, 3.6), layout="constrained", width_ratios=(0.8, 0.6, 1, 1))
kernel = layers.bilinear_kernel(4)
axes[0].imshow(kernel, cmap="Greys", vmin=0, vmax=1)
for (row, column), value in np.ndenumerate(kernel):
    axes[0].text(column, row, f"{value:.2f}", ha="center", va="center",
                 color="white" if value > 0.5 else "black")
axes[1].imshow(small_photo)
random_double = doubled["xavier"][0].transpose(1, 2, 0)
axes[2].imshow(doubled["bilinear"][0].transpose(1, 2, 0).astype(np.uint8))
axes[3].imshow((random_double - random_double.min()) / np.ptp(random_double))
for axis, title in zip(axes, ("bilinear kernel, 4x4", "photograph", "deconvolution, bilinear start",
                              "deconvolution, random start")):
    axis.set_title(title)
    axis.set_xticks([])
    axis.set_yticks([])
plt.show()

# %% [markdown]
# *You should see* the photograph twice as large, and beside it dots in wrong colours.
#
# On the right is the same layer with random weights: it would first have to learn what interpolation is. The paper
# starts from the bilinear kernel, and so does `mindfcn` (`upsampling="xavier"` is the other choice).
#
# ### 2.3 Skip layers
#
# Deep maps know *what* is there, because each of their numbers has seen much of the photograph; but they are coarse.
# Early maps know *where* edges run, but have seen little. Let us look at three maps of the backbone for one photograph.

# %%
found = [str(path) for path in sorted(Path("ckpt").glob("*vgg16*.*"))]
WEIGHTS = found[0] if found else ""  # VGG16's weights, see 6.1
normalised = "bn" in WEIGHTS or "pretrain" in WEIGHTS  # the form with batch normalisation

square = min(photo.shape[:2])
photo_256 = cv2.resize(photo[:square, :square], (256, 256), interpolation=cv2.INTER_CUBIC)
preprocess = mindfcn.Preprocess()
backbone = mindfcn.VGG16(batch_norm=normalised, fc_width=64)
if WEIGHTS:
    mindfcn.load_vgg16(backbone, WEIGHTS)
backbone.set_train(False)
maps = backbone(ms.Tensor(preprocess.normalise(photo_256[..., ::-1]).transpose(2, 0, 1)[None]))
print("VGG16 with", f"the weights of {WEIGHTS} (fc7 random)" if WEIGHTS else "random weights: no pretrained file found, see 6.1")
for name, one_map in maps.items():
    print(f"{name:6} {one_map.shape}: one number for {256 // one_map.shape[2]:2} x {256 // one_map.shape[3]:2} pixels")
show([[photo_256, *(one_map[0].mean(0).asnumpy() for one_map in maps.values())]],
     titles=("photograph, 256x256", *(f"{name}, mean of channels" for name in maps)))

# %% [markdown]
# *You should see* maps that become coarser from left to right.
#
# How much does coarseness cost? Suppose a network knew the exact truth, but could only write one class per 32x32
# square. The mean IoU (chapter 6.3; 1 is perfect) it would reach at each stride:

# %%
def coarsen(mask, stride):
    """Give each square of `stride` pixels the class in its middle."""
    middles = [np.minimum(np.arange(side) // stride * stride + stride // 2, side - 1) for side in mask.shape]
    return np.where(mask == 255, 0, mask)[np.ix_(*middles)]


truths = [read(sample)[1] for sample in val_samples[:16]]
for stride in (32, 16, 8):
    matrix = mindfcn.ConfusionMatrix(len(labels))
    for truth in truths:
        matrix.update(coarsen(truth, stride), truth)
    print(f"stride {stride:2}: mean IoU at most about {matrix.mean_iou():.2f}")
show([[labels.colorize(truths[0]), *(labels.colorize(coarsen(truths[0], stride)) for stride in (32, 16, 8))]],
     titles=("truth", "stride 32", "stride 16", "stride 8"))

# %% [markdown]
# (The paper measured 0.86, 0.93 and 0.96 on VOC, whose objects are larger.)
#
# So the FCN takes scores from three depths and sums them, the coarser always upsampled to the finer:
#
# ```
# fc7   (stride 32) ── score_fr ── upscore2 ─┐
# pool4 (stride 16) ── score_pool4 ─────────(+)── upscore_pool4 ─┐
# pool3 (stride 8)  ── score_pool3 ─────────────────────────────(+)── upscore8 ── logits
# ```
#
# | network | uses | last upsampling | mean IoU, VOC 2011 validation (paper) |
# |---|---|---|---|
# | FCN-32s | fc7 | x32 | 59.4 |
# | FCN-16s | fc7, pool4 | x16 | 62.4 |
# | **FCN-8s** | fc7, pool4, pool3 | x8 | 62.7 |

# %% [markdown]
# ## 3 What is special about this network
#
# 1. **No dense layer**: photographs of any size go in; a mask of the same size comes out.
# 2. **Learned upsampling**: deconvolutions bring the scores back to full resolution.
# 3. **Skip layers**: coarse, sure answers are refined by fine, local ones.
#
# How much of the photograph does one number of a map see? A convolution of side $k$ adds $(k-1)$ steps of the current
# stride to this **receptive field**; a 2x2 pooling adds one step and doubles the stride:

# %%
field, stride, fields = 1, 1, {}
for block, convolutions in enumerate((2, 2, 3, 3, 3), 1):
    field += 2 * convolutions * stride  # 3x3 convolutions
    field += stride                     # the pooling
    stride *= 2
    fields[f"pool{block}"] = field, stride
fields["fc6, fc7"] = field + 6 * stride, stride  # 7x7, then 1x1
print("map       sees (pixels)  stride")
for name, (field, stride) in fields.items():
    print(f"{name:9} {field:4} x {field:<4}   {stride:6}")

# %% [markdown]
# Is it true? Take the cell in the middle of each map that FCN-8s uses, and ask by how much each pixel of the photograph
# moves it: that is the **gradient** of the cell with respect to the photograph. It must vanish outside the window that
# the count gives. (The windows do not depend on the weights. Here the weights are random and the network is narrow; the
# package places the windows. The brightness is the fifth root of the gradient, which falls off steeply.)

# %%
seer = mindfcn.VGG16(batch_norm=False, width=0.1, fc_width=64).set_train(False)
side = 448  # pixels: more than fc7 sees
wide = cv2.resize(photo_256, (side, side), interpolation=cv2.INTER_CUBIC)
pixels = ms.Tensor(preprocess.normalise(wide[..., ::-1]).transpose(2, 0, 1)[None])
figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
axes[0].imshow(wide)
axes[0].set_title("photograph, 448x448")
for axis, (name, place), color in zip(axes[1:], seer.receptive_fields().items(), ("white", "gold", "tomato")):
    cell = int(side / place.stride) // 2
    gradient = ms.grad(lambda image: seer(image)[name][0, :, cell, cell].sum())(pixels).asnumpy()
    moved = np.abs(gradient[0]).sum(0)
    first, length = float(place.centre + cell * place.stride - place.field / 2), float(place.field)
    reach = [np.ptp(np.flatnonzero(moved.any(along))) + 1 for along in (1, 0)]
    print(f"{name:6} counted {place.field} x {place.field}, gradient reaches {reach[0]} x {reach[1]} pixels")
    axis.imshow(moved ** 0.2, cmap="magma")
    axis.set_title(f"{name}, cell ({cell}, {cell})")
    for each in (axes[0], axis):
        each.add_patch(plt.Rectangle((first, first), length, length, fill=False, color=color, linewidth=1.5))
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# *You should see* each bright spot fill its frame and nothing outside it, and the counted numbers equal to those that the
# gradient reaches.
#
# So fc7 (the course's conv7) judges from nearly the whole photograph, pool4 from a large part of an object, and pool3
# from an edge and what is next to it.

# %% [markdown]
# ## 4 Data
#
# ### 4.1 Preparation: photographs and masks become MindRecord
#
# Thousands of small files are slow to read. `prepare` packs each split into one **MindRecord** file (columns
# `file_name`, `data`, `label`: the encoded photograph and mask as bytes), checks every pair, and reads everything back
# before the file gets its final name. No validation photograph can enter the training file.

# %%
prepared = mindfcn.prepare(data, mindfcn.Console(print))
name, encoded, mask = next(mindfcn.SegDataset(data_file=prepared.train_path, batch_size=1).samples([0]))
print(f"first record: file_name {name!r}, data {len(encoded):,} bytes ({encoded[6:10].decode()}), mask {mask.shape}")

# %% [markdown]
# *You should see* two lines of records without a pair left out, and the first record.
#
# ### 4.2 Loading for training
#
# `SegDataset` turns records into batches. Each training crop is
#
# 1. **scaled** by a random factor, so that the network sees objects in many sizes,
# 2. **cropped** at a random place, or padded at the bottom and right, so that a batch has one size,
# 3. **flipped** left to right, every second time,
# 4. **normalised** (minus the mean, divided by the deviation of the ImageNet colours, in the order blue, green, red)
#    and laid out as channels, height, width.
#
# Masks go the same way, without blending numbers: they are resized to the nearest pixel. Padding gets the label 255.
# The same seed gives the same crops; every epoch draws new ones.

# %%
if DATA == "sample":
    augment = mindfcn.AugmentConfig(crop_size=128, batch_size=4, min_scale=0.75, max_scale=1.5)
else:
    augment = mindfcn.AugmentConfig(crop_size=256, batch_size=4, min_scale=0.5, max_scale=1.25)
if QUICK:
    augment.crop_size = 64
train_set = mindfcn.SegDataset(data_file=prepared.train_path, batch_size=augment.batch_size, num_classes=len(labels),
                               crop_size=augment.crop_size, min_scale=augment.min_scale, max_scale=augment.max_scale,
                               seed=1)
images, masks = next(train_set.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True))
print(f"{train_set.count} records, {train_set.steps_per_epoch} batches per epoch")
print(f"images {images.shape} {images.dtype}, mean {images.mean():.2f}, deviation {images.std():.2f}")
print(f"masks  {masks.shape} {masks.dtype}, numbers {np.unique(masks).tolist()}")

# %% [markdown]
# To look at the crops, the normalisation is undone. (Normalised numbers shown as a picture have false colours.)

# %%
crops = [train_set.preprocess.denormalise(image.transpose(1, 2, 0)) for image in images]
colored = [labels.colorize(mask) for mask in masks]
show([crops, colored], labels=labels, classes=np.unique(masks))

# %% [markdown]
# Where does 255 come from? Below: an outline, enlarged. A pixel on an edge belongs half to the object and half to what
# is behind it, and the people who draw masks do not agree on it to the pixel. VOC paints this border with 255; the
# sample set does, too. In a crop, padding is the other source.

# %%
photo, mask = pairs[1]
rows_255, columns_255 = np.nonzero(mask == 255)
top, left = (int(np.clip(place[len(place) // 3] - 16, 0, size - 32)) for place, size in
             zip((rows_255, columns_255), mask.shape))
window = np.s_[top:top + 32, left:left + 32]
show([[photo[window], labels.colorize(mask[window]), mindfcn.overlay(photo, mask, labels, show_ignore=True)[window]]],
     titles=("photograph, 32x32 pixels", "mask", "one over the other"),
     labels=labels, classes=np.unique(mask[window]))
print(f"255 is {100 * (mask == 255).mean():.1f} % of this mask, "
      f"and {100 * (masks == 255).mean():.1f} % of the batch above")

# %% [markdown]
# *You should see* a light border, a few pixels wide, between the colours.
#
# ### 4.3 Loading for evaluation
#
# A score must not depend on luck: with `training=False` every validation photograph comes once, in its own size,
# without scaling, cropping or flipping.

# %%
val_set = mindfcn.SegDataset(data_file=prepared.val_path, training=False)
print(f"{val_set.count} photographs; the first ones:")
batches = val_set.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True)
for name, (image, mask) in zip(val_set.names()[:4], batches):
    print(f"  {name}: image {image.shape}, mask {mask.shape}")

# %% [markdown]
# ## 5 Network
#
# The course's form of FCN-8s, layer by layer, for a 512x512 photograph. Each convolution of conv1 to conv7 is
# followed by batch normalisation and ReLU.
#
# | step | layers | result (channels, side) |
# |---|---|---|
# | 1 | conv1: two 3x3 convolutions; pooling | 64, 256 |
# | 2 | conv2: two; pooling | 128, 128 |
# | 3 | conv3: three; pooling → **pool3** | 256, 64 |
# | 4 | conv4: three; pooling → **pool4** | 512, 32 |
# | 5 | conv5: three; pooling | 512, 16 |
# | 6 | conv6: 7x7 (VGG16's fc6); conv7: 1x1 (fc7) → **fc7** | 4096, 16 |
# | 7 | score_fr → upscore2, + score_pool4 → upscore_pool4, + score_pool3 → upscore8 | 21, 512 |
#
# `FCN8s(21)` builds it; parameter names and shapes are those of the course's checkpoints.

# %%
course_net = mindfcn.FCN8s(21)
blocks = {}
for parameter in course_net.trainable_params():
    blocks.setdefault(parameter.name.split(".")[0], []).append(parameter)
print("block          weights      of which")
for block, parameters in blocks.items():
    kernels = [f"{p.name} {tuple(p.shape)}" for p in parameters if p.name.endswith("weight")]
    print(f"{block:14} {sum(p.size for p in parameters):11,}  {kernels[0]}{', ...' if len(kernels) > 1 else ''}")
print(f"{'sum':14} {sum(p.size for p in course_net.trainable_params()):11,}")

# %% [markdown]
# Three quarters of all weights are conv6, the former dense layer.
#
# Pooling halves sides, and an odd one has no half; without care the maps no longer fit together (the course's code
# stops with an error unless both sides are multiples of 32). Here the photograph is padded to the next multiple of 32
# at the bottom and right, and the logits are cut back, so that **the output is as large as the input, always**:

# %%
course_net.set_train(False)
for size in ((1, 1), (61, 97), (224, 224), (187, 250)):
    logits = course_net(ms.Tensor(random.normal(size=(1, 3, *size)).astype(np.float32)))
    print(f"photograph {size[0]:3} x {size[1]:<3} -> logits {tuple(logits.shape)}")

# %% [markdown]
# ## 6 Before training
#
# ### 6.1 Pretrained weights
#
# A few hundred masks are too few to learn what the world looks like. VGG16 has seen more than a million photographs
# of ImageNet; the FCN takes over its convolutions. `load_vgg16` reads the weights of MindSpore, torchvision and others,
# and accounts for each: loaded, converted, missing. The first layer of weights that expect red-green-blue, such as
# torchvision's, is reversed for our blue-green-red. What the file does not have keeps its initial numbers. The file is the
# first of `ckpt/` with `vgg16` in its name: from a fresh clone the small network, whose conv1 to conv4 are ImageNet's.

# %%
weights_net = mindfcn.FCN8s(21, batch_norm=normalised, fc_width=256)
before = weights_net.backbone.conv1[0].weight.asnumpy().copy()
if WEIGHTS:
    report = mindfcn.load_vgg16(weights_net, WEIGHTS)
    lines = str(report).splitlines()
    print("\n".join([lines[0], *lines[1:4], "  ...", *lines[-4:]]))
else:
    print("No pretrained weights found, and none are needed for the sample set.\n"
          "ckpt/README.md says where to get them; put them into ckpt/ and run the notebook again.")


def filters(weight):
    """(64, 3, 3, 3) kernels of the first layer -> one RGB picture, 8 rows of 8."""
    kernels = weight[:, ::-1].transpose(0, 2, 3, 1)
    low, high = kernels.min((1, 2, 3), keepdims=True), kernels.max((1, 2, 3), keepdims=True)
    tiles = np.pad((kernels - low) / (high - low), ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1)
    return tiles.reshape(8, 8, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(32, 32, 3)


show([[filters(before), filters(weights_net.backbone.conv1[0].weight.asnumpy())]],
     titles=("64 kernels of conv1, random", "after load_vgg16: edges and colours" if WEIGHTS else "unchanged"))

# %% [markdown]
# *You should see* noise on the left; on the right, where weights were found, stripes and spots of colour.
#
# ### 6.2 Loss
#
# Cross entropy: for each pixel, minus the logarithm of the probability that the network gives to the true class,
# averaged over the pixels that count. Three checks:
#
# - Before it knows anything, a network that scores all 21 classes alike must have a loss of $\ln 21$.
# - Pixels of label 255 change nothing.
# - A crop in which *no* pixel counts gives 0 and no gradient. (MindSpore's own layer divides 0 by 0 there; one such
#   batch would turn all weights into NaN.)

# %%
loss_function = mindfcn.CrossEntropy(ignore_label=255)
zero_scores = ms.Tensor(np.zeros((1, 21, 8, 8), np.float32))
truth = ms.Tensor(random.integers(0, 21, (1, 8, 8)).astype(np.int32))
nothing = ms.Tensor(np.full((1, 8, 8), 255, np.int32))
loss, gradient = ms.value_and_grad(loss_function)(zero_scores, nothing)
print(f"equal scores:           {loss_function(zero_scores, truth).asnumpy():.4f} (ln 21 = {np.log(21):.4f})")
print(f"all ignored:            {loss.asnumpy() + 0:.4f}, largest gradient {np.abs(gradient.asnumpy()).max():.4f}")
print(f"nn.CrossEntropyLoss:    {nn.CrossEntropyLoss(ignore_index=255)(zero_scores, nothing).asnumpy():.4f}")

# %% [markdown]
# *You should see* 3.0445 in the first line, zeros in the second and `nan` in the third.
#
# ### 6.3 Metrics
#
# Count in a **confusion matrix** how many pixels of true class $i$ were predicted as class $j$: $n_{ij}$. With
# $t_i = \sum_j n_{ij}$, the number of true pixels of class $i$, and $n$ classes:
#
# | metric | formula | says |
# |---|---|---|
# | pixel accuracy (PA) | $\sum_i n_{ii} \,/\, \sum_i t_i$ | share of pixels that are right |
# | mean pixel accuracy (MPA) | $\frac{1}{n}\sum_i n_{ii}/t_i$ | the same per class, then averaged |
# | mean IoU (MIoU) | $\frac{1}{n}\sum_i \mathrm{IoU}_i$, $\quad\mathrm{IoU}_i = \dfrac{n_{ii}}{t_i + \sum_j n_{ji} - n_{ii}}$ | overlap of truth and prediction over their union, per class, averaged: the usual score |
# | frequency weighted IoU (FWIoU) | $\sum_i t_i \,\mathrm{IoU}_i \,/\, \sum_k t_k$ | IoU, frequent classes weigh more |
#
# A class that is neither in the truth nor predicted is left out of the mean. An example to follow by hand: three
# classes, 18 pixels, two of them not counting.

# %%
truth = np.array([[0, 0, 0, 1, 1, 255], [0, 0, 1, 1, 1, 255], [2, 2, 1, 1, 0, 0]])
prediction = np.array([[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 2], [2, 0, 1, 1, 0, 0]])
matrix = mindfcn.ConfusionMatrix(3)
matrix.update(prediction, truth)
print("confusion matrix, rows are the truth:", matrix.counts, sep="\n")
for number, iou in enumerate(matrix.class_ious()):
    right, true, predicted = matrix.counts[number, number], matrix.counts[number].sum(), matrix.counts[:, number].sum()
    print(f"IoU of class {number}: {right} / ({true} + {predicted} - {right}) = {iou:.4f}")
print(matrix)

# %% [markdown]
# For MindSpore's `Model(metrics=...)` the four metrics are also `Metric` objects: `PixelAccuracy`,
# `PixelAccuracyClass`, `MeanIntersectionOverUnion` and `FrequencyWeightedIntersectionOverUnion`. They take logits or
# classes, in any batch and image size, and share one confusion matrix:

# %%
metrics = mindfcn.segmentation_metrics(3)
logits = np.eye(3, dtype=np.float32)[prediction].transpose(2, 0, 1)[None]  # the predicted class scores 1, the others 0
for name, metric in metrics.items():
    metric.clear()
    metric.update(ms.Tensor(logits), ms.Tensor(truth[None].astype(np.int32)))
    print(f"{name:24} {metric.eval():.4f}   {type(metric).__name__}")

# %% [markdown]
# ### 6.4 Learning rate
#
# Large steps at first, small ones at the end; and a short warm-up, because the first gradients of a fresh network
# are wild. The rate changes at *every step*.

# %%
epochs = 1 if QUICK else 6
if DATA == "sample":
    optim = mindfcn.OptimConfig(epochs=epochs, lr=0.05, min_lr=0.0005, schedule="cosine", warmup_epochs=0.5)
else:
    optim = mindfcn.OptimConfig(epochs=epochs, lr=0.001, min_lr=0.00001, schedule="polynomial", weight_decay=0.0005,
                                paper_biases=True, head_lr=10, freeze="conv3" if WEIGHTS else "")

steps = train_set.steps_per_epoch
figure, axes = plt.subplots(figsize=(10, 3.2), layout="constrained")
for schedule in ("cosine", "polynomial"):
    for warmup, line in ((0, "-"), (0.5, "--")):
        rates = mindfcn.learning_rates(steps * epochs, optim.lr, optim.min_lr, schedule, optim.power,
                                       round(warmup * steps))
        used = schedule == optim.schedule and warmup == optim.warmup_epochs
        axes.plot(rates, line, linewidth=2.5 if used else 0.8, label=f"{schedule}{', warm-up' if warmup else ''}"
                  f"{': this run' if used else ''}")
        if used:
            print(f"{len(rates)} steps: first {rates[0]:.2g}, highest {rates.max():.2g}, last {rates[-1]:.2g}")
axes.set(xlabel="step", ylabel="learning rate", ylim=0)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# *You should see* four curves; the thick one is the schedule of this run.
#
# ## 7 Training
#
# `train` puts the pieces together and hands them to MindSpore's `Model.train`: `SegDataset`, `FCN8s`, `CrossEntropy`,
# momentum SGD with weight decay and the schedule; callbacks write the log, guard against NaN, evaluate and keep the
# best checkpoint. All settings are in one object, and the run's folder keeps a copy.
#
# For two CPU cores the network is narrower (a quarter of VGG16's channels, 128 instead of 4,096 in fc6 and fc7) and
# starts from random weights. Six epochs are few: enough to see it learn. `bash run_train.sh` trains longer. For VOC
# the network has full width up to conv5 and starts from ImageNet weights.

# %%
if DATA == "sample":
    model = mindfcn.ModelConfig(name="fcn8s_vgg16_bn", width=0.25, fc_width=128)
else:
    model = mindfcn.ModelConfig(name="fcn8s_vgg16_bn" if normalised else "fcn8s_vgg16", fc_width=512,
                                skip_scales=(1, 1) if normalised else (0.1, 0.02), pretrained=WEIGHTS)
config = mindfcn.TrainConfig(
    run_dir=f"{WORK}/run", overwrite=True, seed=1, eval_every=2, keep=1, data=data, augment=augment, model=model,
    optim=optim)
result = mindfcn.train(config, mindfcn.LiveCurve(say=lambda text: print(text.splitlines()[0])))
print("best checkpoint:", result.checkpoint)

# %% [markdown]
# *You should see* the curves grow while it trains: the loss falls from above 3 to about 0.3, and the mean IoU of the
# sample set rises to about 0.56 in two to five minutes.
#
# The log of every step is a table in the run's folder. For $n$ classes, equal scores would start at a loss of
# $\ln n$ (chapter 6.2); the random scores of a fresh network are sure of wrong answers and start above it. What counts
# is where the curve goes from there.

# %%
log = np.genfromtxt(f"{result.run_dir}/log.csv", delimiter=",", names=True)
print(f"ln {len(labels)} = {np.log(len(labels)):.3f}")
for row in (*log[:3], *log[-3:]):
    print(f"epoch {row['epoch']:.0f}  step {row['step']:3.0f}  loss {row['loss']:.4f}  "
          f"learning rate {row['learning_rate']:.5f}")

# %% [markdown]
# ## 8 Evaluation
#
# The best checkpoint, on the validation photographs: none of them was seen in training, each counts once, in its own
# size. (A score on training photographs would say little. And because the best epoch was chosen on these photographs,
# even this one is a little kind: for a score to publish, a third set decides.)

# %%
evaluated = mindfcn.evaluate(mindfcn.EvalConfig(checkpoint=result.checkpoint, out=f"{WORK}/evaluation", worst=3))
print(f"{evaluated.images} photographs")
for name, value in evaluated.metrics.items():
    print(f"{name:24} {value:.4f}")
print(f"\n{evaluated.table}")

# %% [markdown]
# *You should see* a pixel accuracy of about 0.9, a mean IoU of about 0.56, and the crosses as the weakest class.
#
# Pixel accuracy looks good early, because most pixels are background; mean IoU does not let the background hide the
# rest. The confusion matrix says *which* classes are taken for which: each row shows where the pixels of one true
# class went, in per cent.

# %%
Image(f"{evaluated.out}/confusion.png")

# %% [markdown]
# Looking at failures teaches more than looking at successes. The photograph with the lowest IoU:

# %%
worst = min(Path(evaluated.out, "worst").glob("*.jpg"))
print(f"worst of {evaluated.images}; more in {evaluated.out}/worst")
Image(worst)

# %% [markdown]
# ## 9 Inference
#
# ### 9.1 Photographs of the validation set
#
# A **`Segmenter`** is a network with the normalisation that belongs to its weights; both come from the checkpoint. It
# takes a photograph of any size, as OpenCV reads it, and returns the mask.

# %%
segmenter, card = mindfcn.load_segmenter(result.checkpoint)
pairs = [read(sample) for sample in val_samples[:4]]
predictions = [segmenter(np.ascontiguousarray(photo[..., ::-1]))[0] for photo, _ in pairs]
show([[photo, labels.colorize(truth), labels.colorize(prediction), mindfcn.overlay(photo, prediction, labels)]
      for (photo, truth), prediction in zip(pairs, predictions)],
     titles=("photograph", "truth", "prediction", "overlay"),
     labels=labels,
     classes=np.unique(np.concatenate([mask.ravel() for mask in (*predictions, *(truth for _, truth in pairs))])))
print("trained network:", card.model)

# %% [markdown]
# *You should see* predictions that have the truth's colours in most places, with rounder outlines.
#
# Backgrounds and large parts are right, mistakes are mostly between classes; and outlines are rounder than the truth's,
# because the finest scores have stride 8.
#
# ### 9.2 One map per class
#
# A mask shows only which class won. Behind it are the network's scores: one map per class, here turned into
# probabilities (a softmax over the classes), bright where the network is sure. It is chapter 2.1's heat map again,
# with weights that were learned, and upsampled to the photograph's size.

# %%
photo, truth = pairs[0]
prediction, probabilities = segmenter(np.ascontiguousarray(photo[..., ::-1]), probabilities=True)
largest = np.argsort(-probabilities.mean((1, 2)))[:6]
print(f"probabilities {probabilities.shape}; their sum is {probabilities.sum(0).min():.3f} at least, "
      f"{probabilities.sum(0).max():.3f} at most")
print(f"mean probability of the chosen class: {probabilities.max(0).mean():.2f}")
show([[photo, *probabilities[largest]]], vmin=0, vmax=1,
     titles=("photograph", *(labels.names[number] for number in largest)))

# %% [markdown]
# ### 9.3 A photograph of your own
#
# Name it in `PHOTO` in the second cell. Without one, a new picture is drawn, larger than any in training.
# `predict` takes files, folders and patterns, and writes for each a mask (a palette PNG whose pixels are the class
# numbers) and an overlay with its legend. A network trained on the sample set knows its six shapes only: on a
# real photograph it will be wrong, and confident. Use `DATA = "voc"` for those.

# %%
if PHOTO:
    own = PHOTO
elif DATA == "sample":
    from mindfcn.data.synthetic.shapes import draw_image
    own = f"{WORK}/own.png"
    cv2.imwrite(own, draw_image(size=260, seed=2024, index=3)[0])
else:
    own = val_samples[-1].image
request = mindfcn.PredictConfig(checkpoint=result.checkpoint, images=[own], out=f"{WORK}/predictions")
predicted = mindfcn.predict(request)
for path, reason in predicted.failed:
    print("left out:", reason)
for written in predicted.written:
    print("written:", written["mask"], "and", written["overlay"])
    photo, mask = cv2.imread(own)[..., ::-1], np.array(PIL.Image.open(written["mask"]))
    show([[photo, labels.colorize(mask), mindfcn.overlay(photo, mask, labels)]], labels=labels,
         classes=np.unique(mask),
         titles=(f"photograph, {photo.shape[0]}x{photo.shape[1]}", "prediction", "overlay"))

# %% [markdown]
# *You should see* most shapes found, and some in the colour of another class.
#
# ## 10 Summary
#
# **Merits**
#
# - Any size goes in and the same size comes out, in one pass: no cutting into patches, no computing the same
#   convolution again for overlapping windows. The whole network, upsampling included, is trained end to end from
#   pixels to pixels.
# - It takes over what a classifier has learned. Pretrained VGG16 weights fit as they are, even the dense layers,
#   so that a few thousand masks are enough.
#
# **Limits**
#
# - Results are not fine. The last step enlarges eightfold, so thin parts vanish and outlines are rounded, although
#   upsampling by 8 is far better than by 32 (chapter 2.3).
# - Every pixel is judged by itself from a fixed window. Nothing makes neighbouring labels agree, an object much larger
#   than the window falls into pieces, and one much smaller than the stride is overlooked.
#
# **What comes next.** [The FCN family and its identities](family.ipynb) trains FCN-32s, 16s and 8s one after another
# and checks the paper's other ideas. The limits above are what later work took up: a decoder that mirrors the whole
# network (DeconvNet), and a conditional random field that lets neighbours agree.
#
# To go on from here:
#
# | | |
# |---|---|
# | the full sample run | `bash run_train.sh` |
# | PASCAL VOC | `DATA = "voc"` here, or `bash run_train.sh configs/voc_cpu.yaml` |
# | all settings, with their meaning | `mindfcn train --help_all` |

# %%
print(f"mean IoU {evaluated.metrics['mean IoU']:.3f} on {evaluated.images} validation photographs; epochs: {epochs}; "
      f"processor time in all: {time.process_time() / 60:.1f} minutes")

# %% [markdown]
# ## References
#
# 1. J. Long, E. Shelhamer, T. Darrell: *Fully Convolutional Networks for Semantic Segmentation.* CVPR 2015.
# 2. K. Simonyan, A. Zisserman: *Very Deep Convolutional Networks for Large-Scale Image Recognition.* ICLR 2015
#    (VGG16).
# 3. M. Everingham, L. Van Gool, C. Williams, J. Winn, A. Zisserman: *The PASCAL Visual Object Classes (VOC)
#    Challenge.* IJCV 2010.
# 4. B. Hariharan, P. Arbeláez, L. Bourdev, S. Maji, J. Malik: *Semantic Contours from Inverse Detectors.* ICCV 2011
#    (SBD).
