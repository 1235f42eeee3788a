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
# # The FCN family and what equals what
#
# [The walkthrough](fcn8s.ipynb) ([中文](fcn8s_cn.ipynb)) built and trained one network. The paper behind it says more:
# that a classifier and a fully convolutional network are the *same* function, that three ways to a dense prediction
# give the *same* scores, that training on patches and on whole photographs is the *same* sum, and that FCN-32s is where
# FCN-16s *begins*. Such statements can be checked, and this notebook checks each of them with the functions of `mindfcn`.
# In the end FCN-32s, 16s and 8s are trained one after another.
#
# It runs in a few minutes on two CPU cores. [docs/family.md](../docs/family.md) lists all networks and ideas.
# Nothing installed, as on Colab or in Ascend's cloud? [docs/servers.md](../docs/servers.md#notebooks-in-the-cloud) has the
# lines to type first.
#
# First, one of the family, the repository's own network, on a photograph.

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
mask, probabilities = segment(photo, probabilities=True)
names = card.labels.names
show([photo[..., ::-1], *(probabilities[names.index(name)] for name in ("background", "cat", "dog"))],
     ("photograph", "probability of background", "of cat", "of dog"), vmin=0, vmax=1)
print(card.model["name"], f"{probabilities.shape}: one map per class")

# %% [markdown]
# *You should see* the cat's map bright where the cat is, and the others dark there. A network of this family gives such a
# map for every class in one pass.
#
# The photographs from here on are those of the sample set, drawn by the program.

# %%
import time

import matplotlib.pyplot as plt
import mindspore as ms
from IPython.display import Image
from mindspore import nn

from mindfcn import runtime
from mindfcn.models import layers
from mindfcn.models.analysis.receptive_field import ReceptiveField, alignment
from mindfcn.models.analysis.trace import trace
from mindfcn.models.surgery.classifiers import vgg16_classifier
from mindfcn.report.published import published

WORK = os.environ.get("MINDFCN_NOTEBOOK_DIR", "runs/family")  # everything this notebook writes goes here
QUICK = os.environ.get("MINDFCN_NOTEBOOK_QUICK", "") == "1"   # a minute's test: few photographs, few steps

device = runtime.set_up(seed=1)
runtime.pynative_mode()  # operator by operator, to try things out
random = np.random.default_rng(0)
data = mindfcn.PrepareConfig(records=f"{WORK}/records", source="sample", root=f"{WORK}/sample", samples=15 if QUICK else 200,
                             size=96 if QUICK else 128)
labels, train_samples, val_samples = mindfcn.list_samples(data)
preprocess = mindfcn.Preprocess()


def read(sample):
    """(H, W, 3) uint8 RGB photograph, (3, H, W) float32 normalised, (H, W) uint8 mask of a sample."""
    photo = cv2.imread(sample.image)
    return photo[..., ::-1], preprocess.normalise(photo).transpose(2, 0, 1), sample.read_label(sample.label)


photo, image, truth = read(val_samples[1])
print(f"MindSpore {ms.__version__} on {device}, results in {WORK}{', quick test' if QUICK else ''}")
print(f"{len(train_samples)} photographs to learn from, {len(val_samples)} to judge by; this one is {truth.shape}")
show([photo, labels.colorize(truth)], ("photograph", "truth"))

# %% [markdown]
# ## 1 The family
#
# A network's name is HEAD_BACKBONE. The **backbone** is a classifier without its last layer: VGG16, AlexNet (Caffe's form,
# CaffeNet), GoogLeNet, or a backbone of mindcv. The **head** makes scores from the backbone's maps and enlarges them:
# FCN-32s from the coarsest map alone, 16s and 8s with one and two finer ones. The sizes of three of them, beside those
# that the paper's table 1 prints (`mindfcn describe NAME` shows every layer):

# %%
names = ("fcn32s_vgg16", "fcn32s_caffenet", "fcn32s_googlenet")
print("network            parameters   published  sees       stride")
for name in names[-1:] if QUICK else names:
    net = mindfcn.create_model(name, 21)
    count = sum(p.size for p in net.trainable_params() if "upscore" not in p.name)
    last = net.backbone.receptive_fields()["fc7"]
    print(f"{name:17} {count:11,}  {published(name)[0].parameters:3} million  {last.field} x {last.field}"
          f"  {last.stride}")
del net

# %% [markdown]
# (The upsampling layers' weights are left out, as in the paper. Its table prints 907 pixels for GoogLeNet, because it
# counts an average pooling that the text drops.)
#
# ## 2 From a classifier to a dense prediction
#
# Let us follow one small classifier through the whole paper. It looks at a **patch** of 32x32 pixels and says what lies
# in the patch's middle. It has convolutions and poolings without padding, and two dense layers.

# %%
SIDE, STEP = 32, 4  # of a patch; pixels from one cell to the next behind two poolings
classifier = nn.SequentialCell(
    layers.conv_block(3, 16, (5,), padding=0), nn.MaxPool2d(2, 2),
    layers.conv_block(16, 32, (3,), padding=0), nn.MaxPool2d(2, 2),
    layers.conv_block(32, 32, (3,), padding=0), nn.Flatten(),
    nn.Dense(32 * 4 * 4, 64, weight_init="he_normal"), nn.ReLU(), nn.Dense(64, len(labels)))


def patches(samples, count):
    """Patches (count, 3, 32, 32) float32 and the classes (count,) int32 in their middles, all classes alike often."""
    found = [read(sample) for sample in samples]
    half = SIDE // 2
    places = [np.concatenate([np.insert(np.argwhere(mask[half:-half, half:-half] == number), 0, index, axis=1)
                              for index, (_, _, mask) in enumerate(found)]) for number in range(len(labels))]
    drawn = random.choice([number for number, there in enumerate(places) if len(there)], count).astype(np.int32)
    corners = [places[number][random.integers(len(places[number]))] for number in drawn]
    return np.stack([found[index][1][:, row:row + SIDE, column:column + SIDE] for index, row, column in corners]), drawn


steps, batch = 10 if QUICK else 300, 64
images, classes = patches(train_samples, steps * batch)
optimiser = nn.Momentum(classifier.trainable_params(), 0.02, 0.9)
learn = ms.value_and_grad(lambda x, y: nn.CrossEntropyLoss()(classifier(x), y), None, optimiser.parameters)
for at in range(0, steps * batch, batch):
    loss, gradients = learn(ms.Tensor(images[at:at + batch]), ms.Tensor(classes[at:at + batch]))
    optimiser(gradients)
classifier.set_train(False)
test_images, test_classes = patches(val_samples, 1000)
right = classifier(ms.Tensor(test_images)).asnumpy().argmax(1) == test_classes
print(f"{steps} steps of {batch} patches; right on {100 * right.mean():.0f} % of {right.size} new patches, "
      f"where chance is {100 / len(labels):.0f} %")
show([preprocess.denormalise(each.transpose(1, 2, 0)) for each in test_images[:8]],
     [labels.names[number] for number in test_classes[:8]])

# %% [markdown]
# *You should see* eight patches with the class in the middle of each, and a share of right answers far above chance.
#
# ### 2.1 A classifier is a fully convolutional network
#
# `convolutionalise` turns its dense layers into convolutions; no number changes. The new network takes the whole
# photograph, and must give what the classifier gives on each patch, 4 pixels apart:

# %%
scorer = mindfcn.convolutionalise(classifier, SIDE)
whole = ms.Tensor(image[None])
coarse = scorer(whole).asnumpy()
height, width = coarse.shape[2:]


def windows(rows, columns):
    """(N, 3, 32, 32): the patches of the photograph whose first pixels are given."""
    return np.stack([image[:, row:row + SIDE, column:column + SIDE] for row, column in zip(rows, columns)])


rows, columns = (STEP * place.ravel() for place in np.indices((height, width)))
slid = classifier(ms.Tensor(windows(rows, columns))).asnumpy().T.reshape(1, -1, height, width)
print(f"one pass {coarse.shape}; {slid[0, 0].size} patches {slid.shape}; largest difference "
      f"{np.abs(coarse - slid).max():.1e}, of scores up to {np.abs(slid).max():.1f}")


def work(net, *size):
    """Million multiply-adds of a network on a photograph."""
    return sum(layer.multiply_adds for layer in trace(net, *size)[0]) / 1e6


alone, together = work(scorer, SIDE) * slid[0, 0].size, work(scorer, *truth.shape)
print(f"million multiply-adds: {alone:.0f} for the patches, {together:.0f} in one pass, "
      f"{alone / together:.0f} times fewer")
show([photo, labels.colorize(truth), labels.colorize(coarse[0].argmax(0)), slid[0, 0], coarse[0, 0]],
     ("photograph", "truth", f"classes, {height}x{width}", "background, by patches", "background, one pass"))

# %% [markdown]
# *You should see* a difference of rounding only, and the last two maps, scores of the background, alike.
#
# The gain comes from overlapping patches, whose convolutions are computed once. Not every classifier is *equal* to its
# convolutional form: VGG16 pads its maps with zeros. In a patch the zeros lie at the patch's border, in one pass at the
# photograph's. At 224x224 both are one; on a larger photograph they are related, no more:

# %%
vgg = vgg16_classifier(num_classes=21, width=1 / 16, fc_width=32).set_train(False)
scores_224 = mindfcn.convolutionalise(vgg, 224)
large = random.normal(size=(1, 3, 384, 384)).astype(np.float32)
tiles = [ms.Tensor(large[:, :, row:row + 224, column:column + 224]) for row in (0, 32, 64) for column in (0, 32, 64)]
by_tile = np.stack([vgg(tile).asnumpy()[0] for tile in tiles])
at_once = scores_224(ms.Tensor(large)).asnumpy()
print(f"VGG16 at its own size, 224x224: {scores_224(tiles[0]).shape}, largest difference "
      f"{np.abs(scores_224(tiles[0]).asnumpy().ravel() - by_tile[0]).max():.1e}")
departure = np.linalg.norm(at_once[0, :, :3, :3].reshape(21, 9).T - by_tile) / np.linalg.norm(by_tile)
print(f"on 384x384: {at_once.shape}, {100 * departure:.0f} % away from windows of 224x224")

# %% [markdown]
# ### 2.2 Shift-and-stitch
#
# The map has one cell for 4x4 pixels. To get scores for *every* pixel, **shift** the photograph by 0 to 3 pixels in
# either direction, run the network on each of the 16, and interlace the results. This must equal the classifier on the
# patch around every single pixel. (Compared at 300 of them.)

# %%
stitched = mindfcn.shift_and_stitch(scorer, image[None], STEP)
rows, columns = random.integers(0, stitched.shape[2], 300), random.integers(0, stitched.shape[3], 300)
expected = classifier(ms.Tensor(windows(rows, columns))).asnumpy()
print(f"{coarse.shape} -> {stitched.shape}; largest difference from the patches "
      f"{np.abs(stitched[0][:, rows, columns].T - expected).max():.1e}")

# %% [markdown]
# ### 2.3 Filter rarefaction
#
# 16 passes can be had in one. Leave out a pooling's stride, and its map stays four times as large; the next filter then
# finds its neighbours twice as far apart, so put zeros between its weights. `dilate` does that to a whole network: the
# paper's *filter rarefaction*, or à trous, or, in today's words, dilation. The scores must be shift-and-stitch's.

# %%
rare_net = mindfcn.dilate(mindfcn.convolutionalise(classifier, SIDE), 1, image_size=64)
rare = rare_net(whole).asnumpy()
print(f"one pass of rarefied filters {rare.shape}: largest difference from shift-and-stitch "
      f"{np.abs(rare - stitched).max():.1e}; every fourth cell, from the coarse map "
      f"{np.abs(rare[:, :, ::STEP, ::STEP] - coarse).max():.1e}")
kernel = classifier[4][0].weight.asnumpy()[0, 0]


def rarefied(kernel, stride):
    """The kernel with zeros between its weights."""
    height, width = ((side - 1) * stride + 1 for side in kernel.shape)
    rare = np.zeros((height, width), kernel.dtype)
    rare[::stride, ::stride] = kernel
    return rare


show([rarefied(kernel, stride) for stride in (1, 2, 4)],
     ("a filter behind no pooling", "rarefied by 2", "rarefied by 4, as behind both poolings"), cmap="coolwarm",
     vmin=-np.abs(kernel).max(), vmax=np.abs(kernel).max())

# %% [markdown]
# ### 2.4 Upsampling
#
# Or leave the map coarse, and enlarge the scores by a bilinear transposed convolution. Where it lies on the photograph
# follows from kernels, strides and paddings, which `ReceptiveField` adds up. The result is not the same, but how far is it?

# %%
place = ReceptiveField().after(scorer)
factor, size, offset = alignment(place, ReceptiveField())
print(f"a cell sees {place.field} pixels, the next one lies {place.stride} further, cell 0 in the middle of pixels "
      f"{np.floor(float(place.centre)):.0f} and {np.ceil(float(place.centre)):.0f}")
print(f"upsampling by {factor} with a kernel of {size}; its first pixel is pixel {-offset} of the photograph")
deconv = layers.deconv(len(labels), size, factor, 0)
enlarged = deconv(ms.Tensor(coarse)).asnumpy()

half = SIDE // 2
inside = np.s_[half:half + stitched.shape[2], half:half + stitched.shape[3]]  # pixels in the middle of a patch
first = half + offset
upsampled = enlarged[:, :, first:first + stitched.shape[2], first:first + stitched.shape[3]]
counted = truth[inside] != labels.ignore_label
costs = {"every patch by itself": work(scorer, SIDE) * stitched[0, 0].size, "shift-and-stitch": STEP ** 2 * together,
         "rarefied filters": work(rare_net, *truth.shape),
         "upsampled scores": together + deconv.weight.size * height * width / 1e6}
print("\nway                     million multiply-adds  right, % of pixels")
for (name, cost), scores in zip(costs.items(), (stitched, stitched, rare, upsampled)):
    accuracy = 100 * (scores[0].argmax(0) == truth[inside])[counted].mean()
    print(f"{name:23} {cost:21,.0f}  {accuracy:.1f}")
show([photo[inside], labels.colorize(truth[inside]), labels.colorize(stitched[0].argmax(0)),
      labels.colorize(rare[0].argmax(0)), labels.colorize(upsampled[0].argmax(0))],
     ("photograph", "truth", "shift-and-stitch", "rarefied filters", "upsampled scores"))

# %% [markdown]
# *You should see* four ways with nearly the same accuracy at very different costs.
#
# That is the paper's bargain: upsampling costs next to nothing. From stride 4 it loses nothing, either; what it loses
# from stride 32, skips to finer maps bring back.
#
# ### 2.5 Training on patches is sampling of the loss
#
# Before FCNs, segmentation was learned from batches of patches. The paper: a whole photograph *is* the batch of all its
# patches, and drawing patches is leaving out terms of the loss. `CrossEntropy(keep=...)` leaves them out. So two
# gradients must be equal: of the sampled loss on the photograph in one pass, and of the patches that it kept.

# %%
cell_truth = truth[half:half + STEP * height:STEP, half:half + STEP * width:STEP].astype(np.int32)[None]


def gradients_of(loss, x, y):
    """The gradients of a loss of the scores for photographs x and labels y, by the network's parameters."""
    function = ms.value_and_grad(lambda x, y: loss(scorer(x), y), None, scorer.trainable_params())
    return [gradient.asnumpy() for gradient in function(ms.Tensor(x), ms.Tensor(y))[1]]


sampled, same = (mindfcn.CrossEntropy(reduction="sum", keep=0.25, cell=1, seed=5).set_train() for _ in range(2))
one_pass = gradients_of(sampled, image[None], cell_truth)
touched = ms.grad(same)(ms.Tensor(np.zeros_like(coarse)), ms.Tensor(cell_truth)).asnumpy()[0].any(0)
rows, columns = np.nonzero(touched)  # the cells that this draw kept
batch_of_patches = gradients_of(mindfcn.CrossEntropy(reduction="sum"), windows(STEP * rows, STEP * columns),
                                cell_truth[0, rows, columns].reshape(-1, 1, 1))
print(f"{len(rows)} of {touched.size} patches kept")
for parameter, one, other in zip(scorer.trainable_params(), one_pass, batch_of_patches):
    print(f"{parameter.name:12} largest gradient {np.abs(one).max():7.2f}, "
          f"largest difference {np.abs(one - other).max():.1e}")

# %% [markdown]
# *You should see* for each parameter a difference about a million times smaller than its gradient.
#
# ## 3 Where maps lie
#
# To be summed, maps have to lie on one another. The published networks pad the photograph by 100 pixels and crop each
# upsampled map by hand-typed numbers: 19 for FCN-32s, 5 and 27 for 16s, 5, 9 and 31 for 8s. They all follow from the
# layers. Below: the middles of the cells, in this package's usual way of padding and in the paper's. In both, a cell
# lies midway between two cells of the finer map. But in the paper's, fc6 has no padding, so that fc7 begins 96 pixels
# later than the others: what they have before it is cropped.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 2.6), layout="constrained", sharey=True)
for axis, padding in zip(axes, ("same", "pad100")):
    net = mindfcn.create_model("fcn8s_vgg16", 2, padding=padding, width=0.03, fc_width=2)
    for line, at in enumerate(net.backbone.receptive_fields().values()):
        middles = [float(at.centre + cell * at.stride) for cell in range(40)]
        axis.plot(middles, [line] * 40, "o", markersize=2 + 2 * line)
    axis.axvspan(-0.5, 63.5, color="lightgrey", zorder=0)
    axis.set(xlim=(-110, 110), ylim=(-0.7, 2.7), yticks=range(3), yticklabels=list(net.backbone.receptive_fields()),
             title=f"padding {padding}; grey: the first 64 pixels")
plt.show()
print("crops that the package derives (negative: of the finer map)")
for name in ("fcn32s_vgg16", "fcn16s_vgg16", "fcn8s_vgg16", "fcn32s_caffenet"):
    head = mindfcn.create_model(name, 2, padding="pad100", width=0.03, fc_width=2).head
    print(f"{name:16}", *(getattr(head, crop) for crop in ("offset2", "offset4", "offset") if hasattr(head, crop)))

# %% [markdown]
# The windows themselves can be checked by pixels: in a network of positive weights without biases, one bright line in
# the dark shows in every cell that sees it, and in no other.

# %%
net = mindfcn.VGG16(batch_norm=False, width=0.03, fc_width=2).set_train(False)
for parameter in net.get_parameters():
    if parameter.name.endswith("weight"):
        parameter.set_data(ms.Tensor(np.full(parameter.shape, 1 / np.prod(parameter.shape[2:]), np.float32)))
print("map    cell  window        line at, seen by the cell")
for name, at in net.receptive_fields().items():
    cell = int(480 / at.stride)
    middle = at.centre + cell * at.stride
    low, high = (int(middle + sign * (at.field - 1) / 2) for sign in (-1, 1))
    seen = []
    for line in (low - 1, low, high, high + 1):
        dark = np.zeros((1, 3, 32, 960), np.float32)
        dark[..., line] = 1
        seen.append(f"{line}: {'yes' if net(ms.Tensor(dark))[name].asnumpy()[..., cell].max() > 0 else 'no'}")
    print(f"{name:6} {cell:4}  {low:4} to {high:4}  {', '.join(seen)}")

# %% [markdown]
# ## 4 How fine can a stride be?
#
# If a network knew everything, but had to say it in cells of its stride, how well could it score? Take true masks,
# write each cell's most frequent class, enlarge that bilinearly, and compare (the paper's appendix; its numbers are of
# VOC, whose objects are larger).

# %%
sys.path.append("experiments")
from upper_bound import coarse as coarsen
from upper_bound import upper_bound

masks = [read(sample)[2] for sample in val_samples]
print("stride   mean IoU at most, %   the paper's, on VOC")
for stride, paper in ((32, 86.1), (16, 92.8), (8, 96.4), (4, 98.5)):
    print(f"{stride:6}   {100 * upper_bound(masks, stride, num_classes=len(labels)):19.1f}   {paper}")
show([labels.colorize(mask) for mask in (truth, *(coarsen(truth, stride) for stride in (32, 16, 8)))],
     ("truth", "at best, stride 32", "at best, stride 16", "at best, stride 8"))

# %% [markdown]
# ## 5 FCN-32s, 16s and 8s
#
# ### 5.1 Where a stage begins
#
# The paper trains FCN-32s first and FCN-16s from its weights: a new score layer on pool4 starts at zero, and the new
# upsampling bilinear. So at its first step FCN-16s computes nothing new: it must give FCN-32s' own scores, upsampled
# twice (by 2, then by 16) instead of once by 32.

# %%
narrow = {"width": 0.125, "fc_width": 32}
first = mindfcn.create_model("fcn32s_vgg16", 7, **narrow).set_train(False)
score_fr = first.head.score_fr.weight
score_fr.set_data(ms.Tensor(random.normal(size=score_fr.shape).astype(np.float32)))  # as if trained
second = mindfcn.create_model("fcn16s_vgg16", 7, **narrow).set_train(False)
report = mindfcn.load_stage(second, {p.name: p.asnumpy() for p in first.get_parameters()}, "FCN-32s")
print(report.summary())
print("new in FCN-16s:", ", ".join(report.missing))

picture = ms.Tensor(random.normal(size=(1, 3, 128, 160)).astype(np.float32))
score = first.head.score_fr(first.backbone(picture)["fc7"])
twice = second.head.upscore16(second.head.upscore2(score)).asnumpy()
by_32, by_16 = first(picture).asnumpy(), second(picture).asnumpy()
print(f"FCN-16s against FCN-32s' scores upsampled twice: largest difference {np.abs(by_16 - twice).max():.1e}; "
      f"the same class as FCN-32s in {100 * (by_16.argmax(1) == by_32.argmax(1)).mean():.1f} % of pixels")

# %% [markdown]
# ### 5.2 Training in stages
#
# `compare` trains several networks on the same data and puts them into one table. Here 16s begins from the trained 32s,
# and 8s from 16s, at a smaller learning rate. (The course's form of VGG16 with batch normalisation, a quarter of its
# width, learns fast from random weights. Its new score layers start at random, so that a stage begins a little lower
# than the one before it ended.)

# %%
variants = [mindfcn.Variant("fcn32s_vgg16_bn"),
            mindfcn.Variant("fcn16s_vgg16_bn", pretrained="fcn32s_vgg16_bn", settings={"optim.lr": 0.02}),
            mindfcn.Variant("fcn8s_vgg16_bn", pretrained="fcn16s_vgg16_bn", settings={"optim.lr": 0.02})]
config = mindfcn.CompareConfig(out=f"{WORK}/compare", variants=variants, train=mindfcn.TrainConfig(
    seed=1, eval_every=0, keep=1, data=data,
    augment=mindfcn.AugmentConfig(crop_size=64 if QUICK else 96, batch_size=4, min_scale=0.75, max_scale=1.5),
    model=mindfcn.ModelConfig(width=0.25, fc_width=128),
    optim=mindfcn.OptimConfig(epochs=1 if QUICK else 4, lr=0.05, min_lr=0.0005, warmup_epochs=0.5)))
compared = mindfcn.compare(config, mindfcn.Console(lambda text: print(text.splitlines()[0])))

# %%
print("network             mean IoU, %  pixel accuracy, %  parameters  initial weights")
for row in compared.rows:
    print(f"{row.name:18} {100 * row.metrics['mean IoU']:12.1f}  {100 * row.metrics['pixel accuracy']:17.1f}  "
          f"{row.parameters:10,}  {row.start or 'random weights'}")
Image(f"{compared.out}/pictures.jpg")

# %% [markdown]
# *You should see* the mean IoU rise from row to row, and outlines get finer from picture to picture.
#
# Each stage has learned longer than the one before it, so that not all of its gain is the skip's; but outlines get
# finer from left to right, and that no longer training gives FCN-32s, whose bound is the one of chapter 4.
# `mindfcn compare --config configs/compare/sample.yaml` trains the three with equal budgets, and
# `configs/compare/voc_cpu.yaml` on real photographs from ImageNet weights.
#
# ## 6 What was equal
#
# | | equal to | how far |
# |---|---|---|
# | one pass of the convolutional form | the classifier on every patch | rounding; not with zero padding |
# | shift-and-stitch | the classifier around every pixel | rounding |
# | rarefied filters | shift-and-stitch | rounding |
# | the sampled loss of a photograph | a batch of the kept patches | rounding |
# | crops typed into the published networks | those derived from the layers | exactly |
# | FCN-16s at its first step | FCN-32s, upsampled twice | exactly |
#
# The tests of the package check these; [docs/family.md](../docs/family.md) says which file is which
# idea.

# %%
print(f"processor time in all: {time.process_time() / 60:.1f} minutes")
