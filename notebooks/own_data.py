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
# [The walkthrough](fcn8s.ipynb) ([中文](fcn8s_cn.ipynb)) trained on a data set that was ready. This chapter begins where
# most people do: with a folder of photographs and one mask for each, made by somebody's labelling tool. It tells which
# classes the masks hold, checks them, trains a network that was made for *other* classes, deals with a class that is
# rare, and looks at what came out. [docs/own_data.md](../docs/own_data.md) does the same on the command line, with VGG16's
# ImageNet weights and larger photographs.
#
# It runs in about three minutes on two CPU cores. To try your own folder, change `DATA` in the second cell.

# %%
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("GLOG_v", "3")  # MindSpore: errors only
here = Path.cwd()
os.chdir(next((folder for folder in (here, *here.parents) if (folder / "src" / "mindfcn").is_dir()), here))
if importlib.util.find_spec("mindfcn") is None:
    sys.path.insert(0, str(Path("src").resolve()))

import cv2
import matplotlib.pyplot as plt
import mindspore as ms
import numpy as np
from IPython.display import Image

import mindfcn
from mindfcn.data.masks import scan_mask
from mindfcn.report.overlays import write_palette_png

WORK = os.environ.get("MINDFCN_NOTEBOOK_DIR", "runs/own_data_notebook")  # everything this notebook writes goes here
QUICK = os.environ.get("MINDFCN_NOTEBOOK_QUICK", "") == "1"              # a minute's test: few photographs, few steps
plt.rcParams.update({"figure.dpi": 72, "font.size": 9, "axes.titlesize": 9})
print(f"MindSpore {ms.__version__}, results in {WORK}{', quick test' if QUICK else ''}")

# %% [markdown]
# ## 1 A folder
#
# All that is needed is `images/` and, under the same names, `masks/`. No data at hand? A program draws some: garden beds
# with leaves, fruit and, now and then, a beetle. As labelling tools often do, it saves masks as RGB pictures and tells
# nobody what the colours mean.

# %%
DATA = f"{WORK}/mydata"  # or a folder of your own
if not os.path.isdir(f"{DATA}/images"):
    subprocess.run([sys.executable, "experiments/garden.py", DATA, "--images", "14" if QUICK else "160",
                    "--size", "64" if QUICK else "128"], check=True, stdout=subprocess.DEVNULL)


def show(pictures, titles=(), columns=4, width=10, height=2.1):
    """Draw pictures in rows, each below its title."""
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width, height * rows), layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, title in zip(axes.flat, pictures, titles or [""] * len(pictures)):
        axis.imshow(picture, interpolation="nearest")
        axis.set_title(title)
    plt.show()


def rgb(path):
    """(H, W, 3) uint8 RGB of a file."""
    return cv2.imread(str(path))[..., ::-1]


photographs = sorted(Path(DATA, "images").iterdir())
masks = [Path(DATA, "masks", f"{path.stem}.png") for path in photographs]
print(f"{len(photographs)} photographs, {len(list(Path(DATA, 'masks').iterdir()))} masks")
show([rgb(path) for path in photographs[:4] + masks[:4]], [path.name for path in photographs[:4] + masks[:4]])

# %% [markdown]
# ## 2 Which classes?
#
# `propose_labels` looks into every mask. Each colour is a class, black the first, then the larger before the smaller; the
# light border that VOC draws around things is recognised as the ignore label. Without names the classes are numbered, and
# the table says in which file to look each one up.

# %%
proposed = mindfcn.propose_labels(mindfcn.LabelsConfig(masks=f"{DATA}/masks", overwrite=True))
print(f"{proposed.encoding} masks, written to {Path(proposed.out).name}\n\n{proposed.table}")

# %% [markdown]
# Having looked, we know their names. The labels file is a few lines of YAML that everything else reads.

# %%
proposed = mindfcn.propose_labels(mindfcn.LabelsConfig(masks=f"{DATA}/masks", overwrite=True,
                                                       names=["soil", "leaf", "fruit", "beetle"]))
print(Path(proposed.out).read_text())

# %% [markdown]
# RGB is one of three ways to hold a class. The same mask as a palette PNG (numbers, with a colour table for looking at
# them) and as grey numbers, which look black to the eye. All of them are read alike:

# %%
labels = proposed.labels
colors = rgb(masks[1])
numbers = np.full(colors.shape[:2], labels.ignore_label, np.uint8)
for number, color in enumerate(labels.colors):
    numbers[(colors == color).all(-1)] = number
other = Path(WORK, "encodings")
other.mkdir(parents=True, exist_ok=True)
write_palette_png(str(other / "palette.png"), numbers, labels)
cv2.imwrite(str(other / "grey.png"), numbers)
files = [masks[1], other / "palette.png", other / "grey.png"]
show([rgb(path) for path in files], ["RGB", "palette", "grey: looks black"], columns=3, width=8)
for path in files:
    print(f"{path.name:14} is found to be {scan_mask(str(path)).encoding}")

# %% [markdown]
# ## 3 Is anything wrong?
#
# Training on broken masks fails quietly. `inspect` reads every photograph and every mask once. On this set it finds
# nothing; the last column is the weight that a pixel of each class would get (chapter 5).

# %%
found = mindfcn.inspect(mindfcn.InspectConfig(data=DATA, out=f"{WORK}/inspection", pictures=6))
print(found.to_text().split("\n\n" + DATA)[0])

# %% [markdown]
# Now a copy with three faults of the kind that real folders have: a mask of another size, a colour that is no class, and
# a photograph that stands in the set twice.

# %%
spoiled = Path(WORK, "spoiled")
shutil.rmtree(spoiled, ignore_errors=True)
shutil.copytree(DATA, spoiled)
small = cv2.resize(cv2.imread(str(masks[4])), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_NEAREST)
cv2.imwrite(str(spoiled / "masks" / masks[4].name), small)
wrong = cv2.imread(str(masks[5]))
wrong[5, 7] = (3, 2, 1)  # BGR
cv2.imwrite(str(spoiled / "masks" / masks[5].name), wrong)
shutil.copy(photographs[1], spoiled / "images" / photographs[0].name)
for finding in mindfcn.inspect(mindfcn.InspectConfig(data=str(spoiled), out=f"{WORK}/spoiled_inspection")).findings:
    print("-", finding.message.replace(f"{spoiled}/", ""))

# %% [markdown]
# No program sees a mask that is shifted or belongs to another photograph. People do, on the contact sheet: suspicious
# pairs first, then those with most of each class.

# %%
Image(found.sheet, width=700)

# %% [markdown]
# ## 4 Training from weights of other classes
#
# Few of us have photographs enough to begin at random numbers. Good beginnings are VGG16's ImageNet weights
# ([ckpt/README.md](../ckpt/README.md) says where from) or any network of this package, whatever its classes. Here it is a
# narrow network that has learned the seven drawn shapes of the sample set in a minute. (`LiveCurve` draws while it trains.)

# %%
augment = mindfcn.AugmentConfig(crop_size=32 if QUICK else 96, min_scale=0.75, max_scale=1.5, batch_size=4)
narrow = {"name": "fcn8s_vgg16_bn", "width": 0.125, "fc_width": 64}
shapes = mindfcn.train(mindfcn.TrainConfig(
    run_dir=f"{WORK}/shapes", overwrite=True, eval_every=0, augment=augment, model=mindfcn.ModelConfig(**narrow),
    data=mindfcn.PrepareConfig(records=f"{WORK}/shapes_records", source="sample", root=f"{WORK}/shapes_data",
                               samples=15 if QUICK else 160, size=64 if QUICK else 128),
    optim=mindfcn.OptimConfig(epochs=1 if QUICK else 4, lr=0.05)), mindfcn.LiveCurve())
print(f"mean IoU of 7 classes of shapes: {shapes.evaluation.metrics['mean IoU']:.3f}")

# %% [markdown]
# The garden has four classes, so the score layers and the upsampling behind them cannot be used: they are reinitialised.
# All other weights are kept. `train` lists the result for each:

# %%
data = mindfcn.PrepareConfig(source="folder", root=DATA, records=f"{WORK}/records")


def garden(name, pretrained=shapes.checkpoint, class_weights="median_frequency", console=None):
    """Train on the garden; returns the TrainResult."""
    return mindfcn.train(mindfcn.TrainConfig(
        run_dir=f"{WORK}/{name}", overwrite=True, eval_every=0, data=data, augment=augment,
        model=mindfcn.ModelConfig(**narrow, pretrained=pretrained),
        optim=mindfcn.OptimConfig(epochs=1 if QUICK else 6, lr=0.05, class_weights=class_weights)), console or mindfcn.Console())


said = []
weighted = garden("weighted", console=mindfcn.LiveCurve(say=said.append))
with open(f"{WORK}/weighted/weights.txt", encoding="utf-8") as file:
    report = file.read().splitlines()
print(report[0].replace(f"{WORK}/", ""))
for line in report[1:]:
    if "conv1.0" in line or "score" in line:
        print(line)

# %% [markdown]
# ## 5 A rare class
#
# Three pixels in a thousand are beetle. A loss that counts all pixels alike hardly notices them, so that never saying
# "beetle" is a good bargain. `class_weights="median_frequency"` weighs each pixel by its class: the median of all classes'
# frequencies, divided by the class's own ([Eigen and Fergus 2015](https://arxiv.org/abs/1411.4734)). For comparison, the
# same run without them:

# %%
runs = {"with weights": weighted, "without": garden("unweighted", class_weights="none")}


def ious(result):
    """The class IoUs that the run's evaluation wrote."""
    return json.loads(Path(result.evaluation.out, "metrics.json").read_text())["class IoU"]


print(f"{'IoU %':12}", *(f"{name:>8}" for name in labels.names), "    mean")
for name, result in runs.items():
    cells = ("       -" if iou is None else f"{100 * iou:8.1f}" for iou in ious(result))
    print(f"{name:12}", *cells, f"{100 * result.evaluation.metrics['mean IoU']:8.1f}")

# %% [markdown]
# Weights buy what is rare with false alarms around it: the network looks for beetles, finds nearly three times as much of
# them, and draws everything that is not soil too large, which costs the other classes more than beetle gains. Weigh where
# a miss is worse than a false alarm; for a set whose classes are of similar size, leave weights out.
#
# ## 6 Looking at it
#
# Photographs of the validation part, which no training step has seen: truth and prediction of the first run.

# %%
_, _, held_out = mindfcn.list_samples(data)
segmenter, _ = mindfcn.load_segmenter(weighted.checkpoint)
rows = []
for sample in held_out[:3]:
    photo = cv2.imread(sample.image)
    truth, (prediction, _) = sample.read_label(sample.label), segmenter(photo)
    rows += [photo[..., ::-1], labels.colorize(truth), labels.colorize(prediction),
             mindfcn.overlay(photo[..., ::-1], prediction, labels)]
show(rows, ["photograph", "truth", "prediction", "overlay"] * 3)

# %% [markdown]
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
