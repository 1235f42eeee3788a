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
# # 用自己的数据训练
#
# [English](own_data.ipynb)
#
# [教程](fcn8s_cn.ipynb)使用的是现成的数据集。这一章从大多数人的实际情况开始：一个文件夹，里面是照片和每张照片的一张掩码，由某个标注工具生成。
# 下面列出掩码中的类别，检查掩码，从*其他*类别的网络开始训练，处理一个稀有的类别，最后观察结果。
# [docs/own_data_cn.md](../docs/own_data_cn.md) 用命令行做同样的事。
#
# 在两个 CPU 核上约需五分钟。要使用自己的文件夹，修改第二个代码单元中的 `DATA`。
# 在 Colab 或昇腾云上，什么都没有安装？先输入哪几行，见 [docs/servers_cn.md](../docs/servers_cn.md#在云端运行笔记本)。
#
# 先看仓库自带的网络认识什么：VOC 的 21 个类别。

# %%
import os
import sys

os.environ.setdefault("GLOG_v", "3")  # MindSpore 的日志只显示错误
os.chdir(".." if os.path.isdir("../ckpt") else ".")  # 切换到仓库所在的文件夹
sys.path.insert(0, os.path.abspath("src"))

import cv2
import numpy as np

import mindfcn
from mindfcn.report.notebook import set_up, show

set_up()
segment, card = mindfcn.load_segmenter()  # ckpt/ 中的小网络
photo = cv2.imread("docs/pictures/photographs/astronaut.jpg")
mask, _ = segment(photo)
rgb = photo[..., ::-1]
show([rgb, card.labels.colorize(mask), mindfcn.overlay(rgb, mask, card.labels)],
     ("照片", "掩码", "叠加图"), card.labels, np.unique(mask))
print(", ".join(card.labels.names))

# %% [markdown]
# *您应当看到*一个粉色的人。您的类别与此不同，本教程的其余部分就是教这个网络认识它们。
#
# ## 1 一个文件夹
#
# 只需要 `images/` 和 `masks/`，两边文件名相同。手头没有数据？程序会画一些：花圃、叶子、果实，偶尔有一只甲虫。
# 与许多标注工具一样，它把掩码存成 RGB 图片，没有任何文件说明颜色的含义。

# %%
DATA = ""   # 自己的文件夹；"" 表示绘制花圃
NAMES = []  # 自己的类别，顺序与第 2 章的表格相同；[] 表示用 labels.yaml 中的名称，没有时用编号
SIDE = 96   # 照片缩放后短边的像素数；真实照片用 192 以上，耗时更长
WORK = os.environ.get("MINDFCN_NOTEBOOK_DIR", "runs/own_data_notebook")  # 写出的其他文件都在这里
QUICK = os.environ.get("MINDFCN_NOTEBOOK_QUICK", "") == "1"              # 一分钟的快速测试：少量照片，很少的步数

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
print(f"{len(photographs)} 张照片，{len(masks)} 张掩码，共 {len(pairs)} 对，位于 {folder.name}")
show([[cv2.imread(str(pair[part]))[..., ::-1] for pair in pairs[:4]] for part in (0, 1)],
     [pair[part].name for part in (0, 1) for pair in pairs[:4]])

# %% [markdown]
# *您应当看到*四张照片，下面是它们的掩码。（以灰度编号存储的掩码看起来是黑的，这不是错误。）
#
# ## 2 有哪些类别
#
# `propose_labels` 读取每张掩码。每种颜色是一个类别，黑色排在最前，然后按面积从大到小；VOC 画在物体周围的浅色边界会被识别为忽略标签。
# 没有名称时，类别用编号表示，表格指出在哪个文件中可以看到它。

# %%
proposed = mindfcn.propose_labels(mindfcn.LabelsConfig(masks=str(folder / "masks"), out_file=f"{WORK}/proposed.yaml",
                                                       overwrite=True))
print(f"{proposed.masks} 张掩码，编码方式 {proposed.encoding}\n\n{proposed.table}")

# %% [markdown]
# *您应当看到*每个类别一行。看过之后，就给花圃的类别取名；您自己的名称来自 `NAMES`，或者您的文件夹中的 `labels.yaml`。
# 这个文件只有几行 YAML，其他各步都读取它。

# %%
names = NAMES if DATA else ["soil", "leaf", "fruit", "beetle"]
if names or not folder.joinpath("labels.yaml").exists():
    mindfcn.propose_labels(mindfcn.LabelsConfig(masks=str(folder / "masks"), names=names or None, overwrite=True))
print(folder.joinpath("labels.yaml").read_text(encoding="utf-8"))
data = mindfcn.PrepareConfig(source="folder", root=str(folder), records=f"{WORK}/records_{folder.name}")
labels, train_samples, held_out = mindfcn.list_samples(data)
print(f"训练 {len(train_samples)} 对，验证 {len(held_out)} 对")

# %% [markdown]
# RGB 是保存类别的三种方式之一。同一张掩码也可以存成调色板 PNG（编号加上供查看的颜色表），或者灰度编号，后者看起来是黑的。三种都能读取：

# %%
numbers = train_samples[0].read_label(train_samples[0].label)
encodings = Path(WORK, "encodings")
encodings.mkdir(parents=True, exist_ok=True)
cv2.imwrite(str(encodings / "rgb.png"), labels.colorize(numbers)[..., ::-1])
write_palette_png(str(encodings / "palette.png"), numbers, labels)
cv2.imwrite(str(encodings / "grey.png"), numbers)
files = [encodings / f"{name}.png" for name in ("rgb", "palette", "grey")]
show([cv2.imread(str(path))[..., ::-1] for path in files], ["RGB", "调色板", "灰度：看起来是黑的"],
     labels, np.unique(numbers))
for path in files:
    print(f"{path.name:12} 识别为 {scan_mask(str(path)).encoding}")

# %% [markdown]
# ## 3 有没有错误
#
# 用有错误的掩码训练，不会有任何提示。`inspect` 把每张照片和每张掩码都读一遍。最后一列是每个类别的像素会得到的权重（第 5 章）。

# %%
found = mindfcn.inspect(mindfcn.InspectConfig(data=str(folder), out=f"{WORK}/inspection", pictures=6))
print(found.to_text().split(f"\n\n{folder}")[0])

# %% [markdown]
# 对于花圃，*您应当看到*两张表，下面没有任何问题。
#
# 再取一部分数据复制出来，加入真实文件夹中常见的三种错误：尺寸不符的掩码、不属于任何类别的颜色，以及出现两次的照片。

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
# *您应当看到*三个错误各占一行，以及这么少的几对中缺少的类别。
#
# 掩码错位，或者配错了照片，程序是看不出来的。人可以在总览图上看出来：可疑的排在最前，然后是各类别最多的。

# %%
Image(found.sheet)

# %% [markdown]
# ## 4 从其他类别的权重开始训练
#
# 很少有人的照片多到可以从随机数开始训练。好的起点是 VGG16 的 ImageNet 权重（从哪里获取见 [ckpt/README.md](../ckpt/README.md)），
# 或者本软件包的任何网络，类别不同也可以：这里用第一个单元的小网络。它的打分层和后面的上采样层属于其他类别，因此重新初始化；其余权重全部保留，
# conv1 至 conv4 保持不变（`freeze`）。（`LiveCurve` 在训练时绘制曲线。）

# %%
pretrained = "fcn8s_vgg16_small"
augment = mindfcn.AugmentConfig(crop_size=32 if QUICK else SIDE, shorter_side=SIDE, min_scale=0.75, max_scale=1.5,
                                batch_size=4)


def learn(name, class_weights):
    """用这个文件夹训练，返回 TrainResult。"""
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
# *您应当看到*损失在最初一百步内从 1.4 降到约 0.2，下面是哪些权重得到保留。
#
# ## 5 稀有的类别
#
# 每一千个像素中只有三个是甲虫。如果损失对所有像素一视同仁，就几乎不会注意到它们，从不回答“甲虫”反而划算。
# `class_weights="median_frequency"` 按类别给每个像素加权：所有类别频率的中位数除以该类别的频率
# （[Eigen and Fergus 2015](https://arxiv.org/abs/1411.4734)）。作为比较，再做一次不加权的训练：

# %%
runs = {"加权": weighted, "不加权": learn("unweighted", "none")}


def scores(result):
    """每个类别的 IoU 和平均值（%），取自训练结束时的评估。"""
    written = json.loads(Path(result.evaluation.out, "metrics.json").read_text())["class IoU"]
    return ["-" if iou is None else f"{100 * iou:.1f}" for iou in (*written, result.evaluation.metrics["mean IoU"])]


print(text_table(("IoU %", *runs), list(zip((*labels.names, "平均"), *map(scores, runs.values())))))

# %% [markdown]
# 对于花圃，*您应当看到*加权时甲虫的 IoU 约 14 %，不加权时为零，而其他类别在加权时更低。加权用误检换取稀有的类别：除土壤以外，
# 一切都画得过大，其他类别的损失超过甲虫的所得。漏检比误检更严重时使用加权；各类别面积相近的数据集不要加权。
#
# ## 6 观察结果
#
# 下面是验证部分的照片，训练中没有见过：第一次训练的真值与预测。

# %%
segmenter, _ = mindfcn.load_segmenter(weighted.checkpoint)
rows = []
for sample in held_out[:3]:
    photo = cv2.imread(sample.image)
    truth, (prediction, _) = sample.read_label(sample.label), segmenter(photo)
    rows.append([photo[..., ::-1], labels.colorize(truth), labels.colorize(prediction),
                 mindfcn.overlay(photo[..., ::-1], prediction, labels)])
show(rows, ["照片", "真值", "预测", "叠加图"], labels, range(min(len(labels), 24)))

# %% [markdown]
# *您应当看到*第三列有真值中的形状，但比真值大。
#
# 运行目录中的 `report.html` 把所有内容放在一页上：曲线、条形图、混淆矩阵、可以用滑块查看的最差照片。检查点的用法与其他检查点相同：
#
# | 目的 | 命令 |
# |---|---|
# | 分割一个文件夹的照片 | `mindfcn predict --checkpoint CHECKPOINT photos/` |
# | 在浏览器中试用 | `mindfcn serve --checkpoint CHECKPOINT` |
# | 不安装 MindSpore 使用 | `mindfcn export --checkpoint CHECKPOINT --out_file net.onnx` |

# %%
print("报告  ", Path(weighted.run_dir, "report.html"))
print("检查点", weighted.checkpoint)
