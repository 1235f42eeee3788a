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
# # Your own data
#
# [中文](own_data_cn.ipynb)
#
# [The walkthrough](fcn8s.ipynb) trained on a data set that was ready. This chapter begins where most people do: with a
# folder of photographs and one mask for each, made by somebody's labelling tool. It lists the classes that the masks
# hold, checks them, trains from a network of *other* classes, deals with a class that is rare, and looks at what came
# out. [docs/own_data.md](../docs/own_data.md) does the same on the command line.
#
# It runs in about five minutes on two CPU cores. To try your own folder, change `DATA` in the second cell.
# Nothing installed, as on Colab or in Ascend's cloud? [docs/servers.md](../docs/servers.md#notebooks-in-the-cloud) has the
# lines to type first.
#
# First, what the repository's network knows: VOC's 21 classes.

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
segment, card = mindfcn.load_segmenter()  # the small network in ckpt/
photo = cv2.imread("docs/pictures/photographs/astronaut.jpg")
mask, _ = segment(photo)
rgb = photo[..., ::-1]
show([rgb, card.labels.colorize(mask), mindfcn.overlay(rgb, mask, card.labels)],
     ("photograph", "mask", "overlay"), card.labels, np.unique(mask))
print(", ".join(card.labels.names))

# %% [markdown]
# *You should see* a person in pink. Your classes are others; the rest of this notebook teaches them to this network.
#
# ## 1 A folder
#
# All that is needed is `images/` and, under the same names, `masks/`. No data at hand? A program draws some: garden beds
# with leaves, fruit and, now and then, a beetle. As labelling tools often do, it saves masks as RGB pictures, and no file
# says what the colours mean.

# %%
DATA = ""   # a folder of yours; with "" a garden is drawn
NAMES = []  # your classes, in the order of chapter 2's table; with [] those of your labels.yaml, or numbers
SIDE = 96   # photographs are resized to this shorter side, pixels; 192 or more for real ones, which takes longer
WORK = os.environ.get("MINDFCN_NOTEBOOK_DIR", "runs/own_data_notebook")  # everything else that is written goes here
QUICK = os.environ.get("MINDFCN_NOTEBOOK_QUICK", "") == "1"              # a minute's test: few photographs, few steps

import json
import shutil
import subprocess
from pathlib import Path

from IPython.display import Image

from mindfcn.data.masks import scan_mask
from mindfcn.report.overlays import write_palette_png
from mindfcn.report.tables import text_table

folder = Path(DATA or f"{WORK}/garden")
if not DATA and not folder.exists():
    subprocess.run([sys.executable, "experiments/garden.py", str(folder), "--images", "14" if QUICK else "160",
                    "--size", "64" if QUICK else "128"], check=True, stdout=subprocess.DEVNULL)

photographs = sorted(folder.joinpath("images").iterdir())
masks = {path.stem: path for path in folder.joinpath("masks").iterdir()}
pairs = [(path, masks[path.stem]) for path in photographs if path.stem in masks]
print(f"{len(photographs)} photographs, {len(masks)} masks, {len(pairs)} pairs in {folder.name}")
show([[cv2.imread(str(pair[part]))[..., ::-1] for pair in pairs[:4]] for part in (0, 1)],
     [pair[part].name for part in (0, 1) for pair in pairs[:4]])

# %% [markdown]
# *You should see* four photographs above their masks. (Masks of grey numbers look black; that is no fault.)
#
# ## 2 Which classes?
#
# `propose_labels` looks into every mask. Each colour is a class, black the first, then the larger before the smaller; the
# light border that VOC draws around things is recognised as the ignore label. Without names the classes are numbered, and
# the table says in which file to look each one up.

# %%
proposed = mindfcn.propose_labels(mindfcn.LabelsConfig(masks=str(folder / "masks"), out_file=f"{WORK}/proposed.yaml",
                                                       overwrite=True))
print(f"{proposed.masks} {proposed.encoding} masks\n\n{proposed.table}")

# %% [markdown]
# *You should see* a row for each class. Now that we have looked, the garden's classes get their names; yours come from
# `NAMES` or from the `labels.yaml` of your folder. That file is a few lines of YAML that everything else reads.

# %%
names = NAMES if DATA else ["soil", "leaf", "fruit", "beetle"]
if names or not folder.joinpath("labels.yaml").exists():
    mindfcn.propose_labels(mindfcn.LabelsConfig(masks=str(folder / "masks"), names=names or None, overwrite=True))
print(folder.joinpath("labels.yaml").read_text(encoding="utf-8"))
data = mindfcn.PrepareConfig(source="folder", root=str(folder), records=f"{WORK}/records_{folder.name}")
labels, train_samples, held_out = mindfcn.list_samples(data)
print(f"{len(train_samples)} pairs to learn from, {len(held_out)} to judge by")

# %% [markdown]
# RGB is one of three ways to hold a class. The same mask as a palette PNG (numbers, with a colour table for looking at
# them) and as grey numbers, which look black to the eye. All of them are read alike:

# %%
numbers = train_samples[0].read_label(train_samples[0].label)
encodings = Path(WORK, "encodings")
encodings.mkdir(parents=True, exist_ok=True)
cv2.imwrite(str(encodings / "rgb.png"), labels.colorize(numbers)[..., ::-1])
write_palette_png(str(encodings / "palette.png"), numbers, labels)
cv2.imwrite(str(encodings / "grey.png"), numbers)
files = [encodings / f"{name}.png" for name in ("rgb", "palette", "grey")]
show([cv2.imread(str(path))[..., ::-1] for path in files], ["RGB", "palette", "grey: looks black"],
     labels, np.unique(numbers))
for path in files:
    print(f"{path.name:12} is found to be {scan_mask(str(path)).encoding}")

# %% [markdown]
# ## 3 Is anything wrong?
#
# Training on broken masks fails quietly. `inspect` reads every photograph and every mask once. The last column is the
# weight that a pixel of each class would get (chapter 5).

# %%
found = mindfcn.inspect(mindfcn.InspectConfig(data=str(folder), out=f"{WORK}/inspection", pictures=6))
print(found.to_text().split(f"\n\n{folder}")[0])

# %% [markdown]
# *You should see*, for the garden, two tables and no finding below them.
#
# Now a copy of some pairs with three faults of the kind that real folders have: a mask of another size, a colour that is
# no class, and a photograph that stands in the set twice.

# %%
spoiled = Path(WORK, "spoiled")
shutil.rmtree(spoiled, ignore_errors=True)
for part in ("images", "masks"):
    spoiled.joinpath(part).mkdir(parents=True)
labels.save(str(spoiled / "labels.yaml"))
for sample in train_samples[:12]:
    shutil.copy(sample.image, spoiled / "images")
    colors = labels.colorize(sample.read_label(sample.label))[..., ::-1]
    if sample is train_samples[3]:
        colors = cv2.resize(colors, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST)
    if sample is train_samples[4]:
        colors[5, 7] = (3, 2, 1)  # BGR
    cv2.imwrite(str(spoiled / "masks" / f"{Path(sample.image).stem}.png"), colors)
shutil.copy(train_samples[1].image, spoiled / "images" / Path(train_samples[0].image).name)
for finding in mindfcn.inspect(mindfcn.InspectConfig(data=str(spoiled), out=f"{WORK}/spoiled_inspection")).findings:
    print("-", finding.message.replace(f"{spoiled}/", ""))

# %% [markdown]
# *You should see* each of the three faults in a line, and the classes that so few pairs lack.
#
# No program sees a mask that is shifted or belongs to another photograph. People do, on the contact sheet: suspicious
# pairs first, then those with most of each class.

# %%
Image(found.sheet)

# %% [markdown]
# ## 4 Training from weights of other classes
#
# Few of us have photographs enough to begin at random numbers. Good beginnings are VGG16's ImageNet weights
# ([ckpt/README.md](../ckpt/README.md) says where from) or any network of this package, whatever its classes: here the
# small network of the first cell. Its score layers and the upsampling behind them are of other classes and are
# reinitialised; all other weights are kept, and conv1 to conv4 stay as they are (`freeze`). (`LiveCurve` draws while it
# trains.)

# %%
pretrained = "fcn8s_vgg16_small"
augment = mindfcn.AugmentConfig(crop_size=32 if QUICK else SIDE, shorter_side=SIDE, min_scale=0.75, max_scale=1.5,
                                batch_size=4)


def learn(name, class_weights):
    """Train on the folder; returns the TrainResult."""
    return mindfcn.train(mindfcn.TrainConfig(
        run_dir=f"{WORK}/{name}", overwrite=True, eval_every=0, data=data, augment=augment,
        model=mindfcn.ModelConfig(**card.model, dropout=0.0, pretrained=pretrained),
        optim=mindfcn.OptimConfig(epochs=1 if QUICK else 3, lr=0.002, min_lr=0.00002, head_lr=10, freeze="conv4",
                                  class_weights=class_weights)), mindfcn.LiveCurve())


weighted = learn("weighted", "median_frequency")
report = Path(weighted.run_dir, "weights.txt").read_text(encoding="utf-8").splitlines()
print(report[0])
for line in report[1:]:
    if "conv1.0" in line or "score" in line:
        print(line)

# %% [markdown]
# *You should see* the loss fall from 1.4 to about 0.2 in the first hundred steps, and below it which weights were kept.
#
# ## 5 A rare class
#
# Three pixels in a thousand are beetle. A loss that counts all pixels alike hardly notices them, so that never saying
# "beetle" is a good bargain. `class_weights="median_frequency"` weighs each pixel by its class: the median of all classes'
# frequencies, divided by the class's own ([Eigen and Fergus 2015](https://arxiv.org/abs/1411.4734)). For comparison, the
# same run without them:

# %%
runs = {"with weights": weighted, "without": learn("unweighted", "none")}


def scores(result):
    """IoU of each class and the mean, in %, as the run's evaluation wrote them."""
    written = json.loads(Path(result.evaluation.out, "metrics.json").read_text())["class IoU"]
    return ["-" if iou is None else f"{100 * iou:.1f}" for iou in (*written, result.evaluation.metrics["mean IoU"])]


print(text_table(("IoU %", *runs), list(zip((*labels.names, "mean"), *map(scores, runs.values())))))

# %% [markdown]
# *You should see*, for the garden, an IoU of the beetles of about 14 % with weights and none without, and the other classes
# lower with them. Weights buy what is rare with false alarms around it: everything that is not soil is drawn too large, which
# costs the other classes more than beetle gains. Weigh where a miss is worse than a false alarm; for a set whose classes
# are of similar size, leave weights out.
#
# ## 6 Looking at it
#
# Photographs of the validation part, which no training step has seen: truth and prediction of the first run.

# %%
segmenter, _ = mindfcn.load_segmenter(weighted.checkpoint)
rows = []
for sample in held_out[:3]:
    photo = cv2.imread(sample.image)
    truth, (prediction, _) = sample.read_label(sample.label), segmenter(photo)
    rows.append([photo[..., ::-1], labels.colorize(truth), labels.colorize(prediction),
                 mindfcn.overlay(photo[..., ::-1], prediction, labels)])
show(rows, ["photograph", "truth", "prediction", "overlay"], labels, range(min(len(labels), 24)))

# %% [markdown]
# *You should see* the truth's shapes in the third column, larger than they are.
#
# `report.html` in the run's folder has all of it on one page: curves, bars, the confusion matrix, the worst photographs
# under a slider. The checkpoint is used like any other:
#
# | to | run |
# |---|---|
# | segment a folder of photographs | `mindfcn predict --checkpoint CHECKPOINT photos/` |
# | try it in the browser | `mindfcn serve --checkpoint CHECKPOINT` |
# | use it without MindSpore | `mindfcn export --checkpoint CHECKPOINT --out_file net.onnx` |

# %%
print("report     ", Path(weighted.run_dir, "report.html"))
print("checkpoint ", weighted.checkpoint)
