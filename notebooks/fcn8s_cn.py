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
# # FCN 图像语义分割：FCN-8s
#
# [English](fcn8s.ipynb)
#
# **全卷积网络**（Fully Convolutional Networks，FCN）由 UC Berkeley 的 Long、Shelhamer 和 Darrell 于 2015 年提出，
# 是第一个能够端到端地为图像中*每个像素*预测类别的网络。本教程从基本思想讲起，一直到训练出一个可以用在您自己照片上的网络。
# 具体工作都由 `mindfcn` 软件包完成；教程展示每一步发生了什么，并且每个概念都先用一个数字或一幅图验证，然后才使用。
#
# 整个教程使用由程序自动绘制的小型**样例数据集**，在两个 CPU 核上从头到尾运行只需几分钟。
# 同样的代码也可以在 **PASCAL VOC 2012** 上训练：修改第二个代码单元中的 `DATA` 即可。
#
# 在 Colab 或昇腾云上，什么都没有安装？先输入哪几行，见 [docs/servers_cn.md](../docs/servers_cn.md#在云端运行笔记本)。
#
# 第一个单元切换到仓库所在的文件夹，用仓库自带的网络分割一张照片。

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
segment, card = mindfcn.load_segmenter()  # ckpt/ 中的小网络，认识 VOC 的 21 个类别
photo = cv2.imread("docs/pictures/photographs/cat.jpg")
mask, _ = segment(photo)
rgb = photo[..., ::-1]
show([rgb, card.labels.colorize(mask), mindfcn.overlay(rgb, mask, card.labels)],
     ("照片", "掩码：每个像素一个类别", "叠加图"), card.labels, np.unique(mask))
print(f"照片 {photo.shape} {photo.dtype}，掩码 {mask.shape} {mask.dtype}")

# %% [markdown]
# *您应当看到*：一只猫盖着暗红色的掩码，掩码大致沿着它的轮廓。这个网络是怎样训练的，见
# [ckpt/README.md](../ckpt/README.md)（英文）。本教程讲解这样的网络如何工作，并训练一个。
#
# 先看设置。随机种子固定，因此在同一台机器上每次运行得到的数字都相同。

# %%
DATA = "sample"               # "sample"：由程序在几秒内绘制；"voc"：PASCAL VOC 2012
VOC_ROOT = "data/VOCdevkit"   # 用于 "voc"：包含 VOC2012/ 的文件夹，相对于仓库目录
SBD_ROOT = ""                 # 用于 "voc"：填写 benchmark_RELEASE 文件夹后，SBD 的图像也参与训练
PHOTO = ""                    # 第 9 章：您自己的照片，例如 "/home/me/cat.jpg"
WORK = os.environ.get("MINDFCN_NOTEBOOK_DIR", "runs/notebook")  # 本教程写出的所有文件都在这里
QUICK = os.environ.get("MINDFCN_NOTEBOOK_QUICK", "") == "1"     # 一分钟的快速测试：少量图像，一个 epoch

import time
from pathlib import Path

import matplotlib.pyplot as plt
import mindspore as ms
import PIL.Image
from IPython.display import Image
from mindspore import nn, ops

from mindfcn import runtime
from mindfcn.report.notebook import show_legend

device = runtime.set_up(seed=1)  # Ascend、GPU 或 CPU
print(f"MindSpore {ms.__version__}，设备：{device}；数据：{DATA}，结果保存在 {WORK}{'，快速测试' if QUICK else ''}")

# %% [markdown]
# ## 1 什么是语义分割
#
# 对于一幅图像，可以提出三个问题，一个比一个难：
#
# | 任务 | 回答 |
# |---|---|
# | 图像分类 | 图像属于哪个类别？*每幅图像一个标签* |
# | 目标检测 | 哪些物体在什么位置？*每个物体一个标签和一个边框* |
# | **语义分割** | 每个像素属于什么？*每个像素一个标签* |
#
# 语义分割的结果称为**掩码**（mask）：一个与图像同样大小的数组，每个像素的值就是它的类别编号。
# 同一类别的两个物体编号相同（把它们区分开是*实例*分割的任务）。
#
# 下面是数据集中的几幅图像和它们的掩码，不同类别用不同颜色表示。

# %%
if DATA == "sample":
    data = mindfcn.PrepareConfig(records=f"{WORK}/records", source="sample", root=f"{WORK}/sample", samples=15 if QUICK else 320,
                                 size=96 if QUICK else 160)
else:
    data = mindfcn.PrepareConfig(records=f"{WORK}/voc-records", source="voc", root=VOC_ROOT, sbd=SBD_ROOT)
labels, train_samples, val_samples = mindfcn.list_samples(data)


def read(sample):
    """一个样本的图像 (H, W, 3) uint8 RGB 和掩码 (H, W) uint8。"""
    return cv2.imread(sample.image)[..., ::-1], sample.read_label(sample.label)


pairs = [read(sample) for sample in train_samples[:5]]
show([[photo for photo, _ in pairs], [labels.colorize(mask) for _, mask in pairs],
      [mindfcn.overlay(photo, mask, labels) for photo, mask in pairs]],
     labels=labels, classes=np.unique(np.concatenate([mask.ravel() for _, mask in pairs])))
print(f"训练图像 {len(train_samples)} 幅，验证图像 {len(val_samples)} 幅，类别 {len(labels)} 个：",
      ", ".join(labels.names))

# %% [markdown]
# *您应当看到*五幅图像，下面是它们的掩码，最下面是两者的叠加。
#
# 样例数据集由程序绘制：六种形状，带有纹理、阴影、噪声和遮挡，大小不一。
# 单凭形状、纹理或颜色中的任何一种都不足以判断类别，所以网络必须观察像素周围的内容。
#
# 掩码只是一些数字。下面打印出一个物体边缘处的一小块掩码。轮廓上的 **255** 表示“无法判断”：
# 这些像素既不参与训练，也不计入得分。

# %%
mask = pairs[0][1]
rows_255, columns_255 = np.nonzero(mask == 255)
top = int(np.clip(rows_255[0] - 2, 0, mask.shape[0] - 8))
left = int(np.clip(columns_255[0] - 8, 0, mask.shape[1] - 16))
print(f"掩码：{mask.shape} {mask.dtype}；第 {top} 至 {top + 7} 行，第 {left} 至 {left + 15} 列：\n")
print("\n".join(" ".join(f"{number:3d}" for number in row) for row in mask[top:top + 8, left:left + 16]))

# %% [markdown]
# **PASCAL VOC 2012** 是论文使用的数据集：20 类物体加上背景。它自带的列表中有 1,464 幅训练图像和 1,449 幅验证图像带有掩码；
# **SBD**（Semantic Boundaries Dataset）又补充了许多掩码。两者合并并去掉全部验证图像之后，常用的训练列表共有 10,582 幅图像。
# 它的类别和颜色如下：

# %%
show_legend(mindfcn.VOC)

# %% [markdown]
# ## 2 模型简介
#
# 把 VGG16 这样的图像分类网络改造成分割网络，需要三项技术：**卷积化**（Convolutional）、**上采样**（Upsample）和
# **跳跃结构**（Skip Layer）。
#
# ### 2.1 卷积化
#
# VGG16 的末尾是全连接层。其中的第一层 fc6 把 512 个通道的 7x7 特征图展开成 25,088 个数，再与一个 4,096 行的矩阵相乘。
# 它不接受其他尺寸的输入，所以 VGG16 只能处理 224x224 的图像。
#
# 但是，把矩阵的每一行重新折叠成 512x7x7，就是一个卷积核。因此全连接层*就是*一个卷积核与输入同样大小的卷积。
# 卷积还可以接受更大的特征图：它在图上滑动，在每个位置给出全连接层在该位置会给出的结果。
# `dense_to_conv` 负责折叠这个矩阵。下面用 fc6 本身来验证，只是输出从 4,096 个减少到 64 个：

# %%
runtime.pynative_mode()  # 逐个算子执行，便于试验
random = np.random.default_rng(0)
fc6 = nn.Dense(512 * 7 * 7, 64)
convolution = mindfcn.dense_to_conv(fc6, 7, 7)  # 同样的数字，折叠成卷积核
print(f"权重：全连接层 {fc6.weight.shape}，卷积 {convolution.weight.shape}")

small = ms.Tensor(random.normal(size=(1, 512, 7, 7)).astype(np.float32))
difference = np.abs(convolution(small).asnumpy().ravel() - fc6(small.reshape(1, -1)).asnumpy().ravel()).max()
print(f"7x7 特征图：全连接层 {fc6(small.reshape(1, -1)).shape}，卷积 {convolution(small).shape}，"
      f"最大差值 {difference:.1e}")

large = ms.Tensor(random.normal(size=(1, 512, 10, 12)).astype(np.float32))
slid = convolution(large).asnumpy()
differences = [np.abs(slid[0, :, top, left]
                      - fc6(large[:, :, top:top + 7, left:left + 7].reshape(1, -1)).asnumpy()[0]).max()
               for top in range(4) for left in range(6)]
print(f"10x12 特征图：卷积 {slid.shape}，与全连接层在 {len(differences)} 个窗口上的结果相比："
      f"最大差值 {max(differences):.1e}")

# %% [markdown]
# 再用一幅图来说明。下面的“分类器”是全连接层的一行权重，它的数值取自图像中剪下的一小块。
# 它只对一个窗口回答一个问题：*你和我这一小块有多像？* 写成卷积以后，它一次就对所有窗口作出回答，得到一幅**热力图**，
# 最亮的地方就是这一小块原来的位置。FCN 计算的正是这样的热力图：每个类别一幅，权重则由训练得到。

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
for axis, title in zip(axes, (f"图像 {photo.shape[0]}x{photo.shape[1]}", "权重",
                              f"热力图 {heat.shape[0]}x{heat.shape[1]}")):
    axis.set_title(title)
plt.show()
print(f"小块剪自第 {top} 行、第 {left} 列；响应最高处在第 {peak[0]} 行、第 {peak[1]} 列")

# %% [markdown]
# *您应当看到*响应最亮的地方在小圆圈里，正是剪下小块的位置：打印出的行和列都一致。
#
# ### 2.2 上采样
#
# VGG16 五次将特征图缩小一半，所以它的得分图比原图粗糙 32 倍。要给每个像素一个标签，必须把得分图重新放大。
# FCN 用**转置卷积**（又称逆卷积、反卷积，deconvolution）完成上采样：小图中的每个数乘以一个核，“盖章”到大图上，
# 重叠的部分相加。如果核是边长为 $2s$ 的金字塔形，步长为 $s$，那么它*就是*放大 $s$ 倍的双线性插值；
# 而且核本身是权重，训练可以让它变得比插值更好。
#
# 因此，一个刚刚用双线性插值参数初始化的转置卷积，应当能像双线性缩放那样把一幅图像放大一倍：

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
print(f"双线性转置卷积与双线性缩放相比，最大差值（0 到 255）："
      f"内部 {difference[:, :, 1:-1, 1:-1].max():.1e}，最外圈像素 {difference.max():.0f}，"
      "因为图像之外没有邻居，叠加时按零计算")

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
for axis, title in zip(axes, ("双线性核，4x4", "图像", "转置卷积，双线性初始值",
                              "转置卷积，随机初始值")):
    axis.set_title(title)
    axis.set_xticks([])
    axis.set_yticks([])
plt.show()

# %% [markdown]
# *您应当看到*放大一倍的图像，旁边是颜色错误的点阵。
#
# 最右边是同样的层，只是权重随机：它得先学会什么是插值。论文用双线性插值的参数来初始化上采样层，`mindfcn` 也是如此
# （另一种选择是 `upsampling="xavier"`）。
#
# ### 2.3 跳跃结构
#
# 深层特征图知道*有什么*，因为其中每个数都看到了图像的很大一部分，但是它们很粗糙。
# 浅层特征图知道边缘*在哪里*，但是看到的范围很小。先来看主干网络对一幅图像给出的三幅特征图。

# %%
found = [str(path) for path in sorted(Path("ckpt").glob("*vgg16*.*"))]
WEIGHTS = found[0] if found else ""  # VGG16 的权重，见 6.1 节
normalised = "bn" in WEIGHTS or "pretrain" in WEIGHTS  # 带批归一化的形式

square = min(photo.shape[:2])
photo_256 = cv2.resize(photo[:square, :square], (256, 256), interpolation=cv2.INTER_CUBIC)
preprocess = mindfcn.Preprocess()
backbone = mindfcn.VGG16(batch_norm=normalised, fc_width=64)
if WEIGHTS:
    mindfcn.load_vgg16(backbone, WEIGHTS)
backbone.set_train(False)
maps = backbone(ms.Tensor(preprocess.normalise(photo_256[..., ::-1]).transpose(2, 0, 1)[None]))
print("VGG16 的权重：", f"来自 {WEIGHTS}（fc7 随机）" if WEIGHTS else "随机，没有找到预训练文件，见 6.1 节")
for name, one_map in maps.items():
    print(f"{name:6} {one_map.shape}：每个数对应 {256 // one_map.shape[2]:2} x {256 // one_map.shape[3]:2} 个像素")
show([[photo_256, *(one_map[0].mean(0).asnumpy() for one_map in maps.values())]],
     titles=("图像，256x256", *(f"{name}，各通道的平均" for name in maps)))

# %% [markdown]
# *您应当看到*从左到右越来越粗糙的特征图。
#
# 粗糙要付出多大代价？假设一个网络知道完全正确的答案，但是每个 32x32 的方块只能写一个类别。
# 下面是各种步长下它能达到的平均 IoU（见 6.3 节，1 为满分）：

# %%
def coarsen(mask, stride):
    """把每个边长为 `stride` 像素的方块都写成它中间的类别。"""
    middles = [np.minimum(np.arange(side) // stride * stride + stride // 2, side - 1) for side in mask.shape]
    return np.where(mask == 255, 0, mask)[np.ix_(*middles)]


truths = [read(sample)[1] for sample in val_samples[:16]]
for stride in (32, 16, 8):
    matrix = mindfcn.ConfusionMatrix(len(labels))
    for truth in truths:
        matrix.update(coarsen(truth, stride), truth)
    print(f"步长 {stride:2}：平均 IoU 最高约为 {matrix.mean_iou():.2f}")
show([[labels.colorize(truths[0]), *(labels.colorize(coarsen(truths[0], stride)) for stride in (32, 16, 8))]],
     titles=("真值", "步长 32", "步长 16", "步长 8"))

# %% [markdown]
# （论文在 VOC 上测得 0.86、0.93 和 0.96，因为 VOC 中的物体更大。）
#
# 所以 FCN 从三个深度取得分并相加，每次都把较粗的得分图上采样到较细的尺寸：
#
# ```
# fc7   (stride 32) ── score_fr ── upscore2 ─┐
# pool4 (stride 16) ── score_pool4 ─────────(+)── upscore_pool4 ─┐
# pool3 (stride 8)  ── score_pool3 ─────────────────────────────(+)── upscore8 ── logits
# ```
#
# | 网络 | 使用的特征图 | 最后一次上采样 | VOC 2011 验证集上的平均 IoU（论文） |
# |---|---|---|---|
# | FCN-32s | fc7 | x32 | 59.4 |
# | FCN-16s | fc7, pool4 | x16 | 62.4 |
# | **FCN-8s** | fc7, pool4, pool3 | x8 | 62.7 |

# %% [markdown]
# ## 3 网络特点
#
# 1. **不含全连接层**：可以输入任意尺寸的图像，输出同样尺寸的掩码。
# 2. **可学习的上采样**：用转置卷积把得分图恢复到原图的分辨率。
# 3. **跳跃结构**：用精细的局部信息修正粗糙但可靠的结果。
#
# 特征图中的一个数能看到图像的多大范围？边长为 $k$ 的卷积使这个**感受野**增加 $(k-1)$ 个当前步长；
# 2x2 的池化使它增加一个步长，并使步长加倍：

# %%
field, stride, fields = 1, 1, {}
for block, convolutions in enumerate((2, 2, 3, 3, 3), 1):
    field += 2 * convolutions * stride  # 3x3 卷积
    field += stride                     # 池化
    stride *= 2
    fields[f"pool{block}"] = field, stride
fields["fc6, fc7"] = field + 6 * stride, stride  # 先 7x7，再 1x1
print("特征图    感受野（像素）  步长")
for name, (field, stride) in fields.items():
    print(f"{name:9} {field:4} x {field:<4}   {stride:6}")

# %% [markdown]
# 真是这样吗？对于 FCN-8s 用到的每幅特征图，取正中间的一个单元，看图像中每个像素对它有多大影响，
# 也就是求这个单元对图像的**梯度**。在上面算出的窗口之外，梯度必须为零。
# （窗口与权重无关，所以这里使用随机权重和较窄的网络；窗口的位置由软件包计算。
# 图中的亮度是梯度的五次方根，因为梯度从中心向外衰减得很快。）

# %%
seer = mindfcn.VGG16(batch_norm=False, width=0.1, fc_width=64).set_train(False)
side = 448  # 像素，大于 fc7 的感受野
wide = cv2.resize(photo_256, (side, side), interpolation=cv2.INTER_CUBIC)
pixels = ms.Tensor(preprocess.normalise(wide[..., ::-1]).transpose(2, 0, 1)[None])
figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
axes[0].imshow(wide)
axes[0].set_title("图像，448x448")
for axis, (name, place), color in zip(axes[1:], seer.receptive_fields().items(), ("white", "gold", "tomato")):
    cell = int(side / place.stride) // 2
    gradient = ms.grad(lambda image: seer(image)[name][0, :, cell, cell].sum())(pixels).asnumpy()
    moved = np.abs(gradient[0]).sum(0)
    first, length = float(place.centre + cell * place.stride - place.field / 2), float(place.field)
    reach = [np.ptp(np.flatnonzero(moved.any(along))) + 1 for along in (1, 0)]
    print(f"{name:6} 感受野 {place.field} x {place.field}，梯度范围 {reach[0]} x {reach[1]} 像素")
    axis.imshow(moved ** 0.2, cmap="magma")
    axis.set_title(f"{name}，单元 ({cell}, {cell})")
    for each in (axes[0], axis):
        each.add_patch(plt.Rectangle((first, first), length, length, fill=False, color=color, linewidth=1.5))
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# *您应当看到*每个亮斑填满自己的方框，方框之外什么也没有；算出的感受野与梯度的范围相等。
#
# 可见，fc7（即课程中的 conv7）几乎根据整幅图像作出判断，pool4 看到物体的很大一部分，pool3 只看到一段边缘和它附近的内容。

# %% [markdown]
# ## 4 数据处理
#
# ### 4.1 数据准备：把图像和掩码转换成 MindRecord
#
# 读取成千上万个小文件很慢。`prepare` 把每个数据划分打包成一个 **MindRecord** 文件
# （三列 `file_name`、`data`、`label`：文件名，以及编码后的图像和掩码的字节），检查每一对图像和掩码，
# 并且把全部内容重新读出核对之后，才让文件以正式的名字出现。验证图像不可能混入训练文件。

# %%
prepared = mindfcn.prepare(data, mindfcn.Console(print))
name, encoded, mask = next(mindfcn.SegDataset(data_file=prepared.train_path, batch_size=1).samples([0]))
print(f"第一条记录：file_name {name!r}，data {len(encoded):,} 字节（{encoded[6:10].decode()}），掩码 {mask.shape}")

# %% [markdown]
# *您应当看到*两行记录数，没有任何一对被排除，以及第一条记录。
#
# ### 4.2 训练数据加载
#
# `SegDataset` 把记录变成一批一批的训练数据。每幅图像依次经过：
#
# 1. **缩放**：随机的倍数，使网络见到各种大小的物体；
# 2. **裁剪**：随机的位置，太小时在下方和右方填充，使一批图像大小一致；
# 3. **翻转**：每两幅中平均有一幅左右翻转；
# 4. **标准化**：减去 ImageNet 的颜色均值再除以标准差，通道顺序为蓝、绿、红，最后排列成“通道、高、宽”。
#
# 掩码经过同样的处理，但是不混合数字：缩放时取最近的像素，填充处的标签为 255。
# 相同的随机种子得到相同的裁剪；每个 epoch 都会重新抽取。

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
print(f"记录 {train_set.count} 条，每个 epoch {train_set.steps_per_epoch} 个批次")
print(f"图像 {images.shape} {images.dtype}，均值 {images.mean():.2f}，标准差 {images.std():.2f}")
print(f"掩码 {masks.shape} {masks.dtype}，数值 {np.unique(masks).tolist()}")

# %% [markdown]
# 要观察这些裁剪，先把标准化还原。（把标准化之后的数字直接当作图像显示，颜色是错的。）

# %%
crops = [train_set.preprocess.denormalise(image.transpose(1, 2, 0)) for image in images]
colored = [labels.colorize(mask) for mask in masks]
show([crops, colored], labels=labels, classes=np.unique(masks))

# %% [markdown]
# 255 从哪里来？下面把一段轮廓放大。边缘上的像素一半属于物体，一半属于物体后面的内容，标注的人也无法精确到每个像素。
# VOC 把这条边界涂成 255，样例数据集也是这样。在裁剪中，填充是 255 的另一个来源。

# %%
photo, mask = pairs[1]
rows_255, columns_255 = np.nonzero(mask == 255)
top, left = (int(np.clip(place[len(place) // 3] - 16, 0, size - 32)) for place, size in
             zip((rows_255, columns_255), mask.shape))
window = np.s_[top:top + 32, left:left + 32]
show([[photo[window], labels.colorize(mask[window]), mindfcn.overlay(photo, mask, labels, show_ignore=True)[window]]],
     titles=("图像，32x32 像素", "掩码", "叠在一起"),
     labels=labels, classes=np.unique(mask[window]))
print(f"255 占这幅掩码的 {100 * (mask == 255).mean():.1f} %，"
      f"占上面那个批次的 {100 * (masks == 255).mean():.1f} %")

# %% [markdown]
# *您应当看到*颜色之间有一条几个像素宽的浅色边界。
#
# ### 4.3 评估数据加载
#
# 得分不应取决于运气：设置 `training=False` 之后，每幅验证图像恰好出现一次，保持原来的尺寸，不缩放、不裁剪、不翻转。

# %%
val_set = mindfcn.SegDataset(data_file=prepared.val_path, training=False)
print(f"共 {val_set.count} 幅图像，前几幅是：")
batches = val_set.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True)
for name, (image, mask) in zip(val_set.names()[:4], batches):
    print(f"  {name}：图像 {image.shape}，掩码 {mask.shape}")

# %% [markdown]
# ## 5 网络构建
#
# 课程中的 FCN-8s 逐层如下，以 512x512 的图像为例。conv1 到 conv7 的每个卷积之后都有批归一化和 ReLU。
#
# | 步骤 | 层 | 结果（通道数，边长） |
# |---|---|---|
# | 1 | conv1：两个 3x3 卷积；池化 | 64, 256 |
# | 2 | conv2：两个；池化 | 128, 128 |
# | 3 | conv3：三个；池化 → **pool3** | 256, 64 |
# | 4 | conv4：三个；池化 → **pool4** | 512, 32 |
# | 5 | conv5：三个；池化 | 512, 16 |
# | 6 | conv6：7x7（VGG16 的 fc6）；conv7：1x1（fc7）→ **fc7** | 4096, 16 |
# | 7 | score_fr → upscore2，+ score_pool4 → upscore_pool4，+ score_pool3 → upscore8 | 21, 512 |
#
# `FCN8s(21)` 构建这个网络；参数的名称和形状与课程的检查点一致。

# %%
course_net = mindfcn.FCN8s(21)
blocks = {}
for parameter in course_net.trainable_params():
    blocks.setdefault(parameter.name.split(".")[0], []).append(parameter)
print("模块            权重数      其中")
for block, parameters in blocks.items():
    kernels = [f"{p.name} {tuple(p.shape)}" for p in parameters if p.name.endswith("weight")]
    print(f"{block:14} {sum(p.size for p in parameters):11,}  {kernels[0]}{', ...' if len(kernels) > 1 else ''}")
print(f"{'sum':14} {sum(p.size for p in course_net.trainable_params()):11,}")

# %% [markdown]
# 全部权重的四分之三都在 conv6，也就是原来的全连接层中。
#
# 池化把边长减半，而奇数无法正好减半；如果不加处理，后面的特征图就对不齐
# （课程的代码要求两条边都是 32 的倍数，否则报错）。这里先在图像的下方和右方填充到 32 的倍数，再把输出裁剪回来，
# 所以**输出的尺寸总是与输入相同**：

# %%
course_net.set_train(False)
for size in ((1, 1), (61, 97), (224, 224), (187, 250)):
    logits = course_net(ms.Tensor(random.normal(size=(1, 3, *size)).astype(np.float32)))
    print(f"图像 {size[0]:3} x {size[1]:<3} -> logits {tuple(logits.shape)}")

# %% [markdown]
# ## 6 训练准备
#
# ### 6.1 导入预训练权重
#
# 几百个掩码不足以让网络认识世界。VGG16 见过 ImageNet 的一百多万幅图像，FCN 直接沿用它的卷积。
# `load_vgg16` 可以读取 MindSpore、torchvision 等多种来源的权重，并逐个说明去向：已载入、已转换或缺失。
# 有些权重（例如 torchvision 的）要求红、绿、蓝的通道顺序，它们的第一层会被反转成我们的蓝、绿、红。
# 文件中没有的权重保持初始值。这里使用 `ckpt/` 中名称含有 `vgg16` 的第一个文件：在刚克隆的仓库里就是小网络，它的 conv1 至
# conv4 来自 ImageNet。

# %%
weights_net = mindfcn.FCN8s(21, batch_norm=normalised, fc_width=256)
before = weights_net.backbone.conv1[0].weight.asnumpy().copy()
if WEIGHTS:
    report = mindfcn.load_vgg16(weights_net, WEIGHTS)
    lines = str(report).splitlines()
    print("\n".join([lines[0], *lines[1:4], "  ...", *lines[-4:]]))
else:
    print("没有找到预训练权重；样例数据集也不需要。\n"
          "从哪里获取见 ckpt/README.md；放到 ckpt/ 中，再重新运行本教程即可。")


def filters(weight):
    """第一层的卷积核 (64, 3, 3, 3) -> 一幅 RGB 图像，8 行 8 列。"""
    kernels = weight[:, ::-1].transpose(0, 2, 3, 1)
    low, high = kernels.min((1, 2, 3), keepdims=True), kernels.max((1, 2, 3), keepdims=True)
    tiles = np.pad((kernels - low) / (high - low), ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1)
    return tiles.reshape(8, 8, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(32, 32, 3)


show([[filters(before), filters(weights_net.backbone.conv1[0].weight.asnumpy())]],
     titles=("conv1 的 64 个卷积核，随机", "load_vgg16 之后：边缘和颜色" if WEIGHTS else "没有改变"))

# %% [markdown]
# *您应当看到*左边是噪声；如果找到了权重，右边是条纹和色斑。
#
# ### 6.2 损失函数
#
# 语义分割对每个像素做分类，所以使用交叉熵损失：对每个像素，取网络给真实类别的概率的负对数，
# 再对所有计入的像素求平均。三项检验：
#
# - 网络什么都不知道、给 21 个类别同样的得分时，损失必须是 $\ln 21$。
# - 标签为 255 的像素不产生任何影响。
# - 如果一个裁剪中*没有*任何像素计入，损失为 0，梯度也为 0。（MindSpore 自带的损失函数在这里会计算 0 除以 0；
#   只要有一个这样的批次，所有权重都会变成 NaN。）

# %%
loss_function = mindfcn.CrossEntropy(ignore_label=255)
zero_scores = ms.Tensor(np.zeros((1, 21, 8, 8), np.float32))
truth = ms.Tensor(random.integers(0, 21, (1, 8, 8)).astype(np.int32))
nothing = ms.Tensor(np.full((1, 8, 8), 255, np.int32))
loss, gradient = ms.value_and_grad(loss_function)(zero_scores, nothing)
print(f"得分全部相同：          {loss_function(zero_scores, truth).asnumpy():.4f} （ln 21 = {np.log(21):.4f}）")
print(f"全部像素不计入：        {loss.asnumpy() + 0:.4f}，最大梯度 {np.abs(gradient.asnumpy()).max():.4f}")
print(f"nn.CrossEntropyLoss:    {nn.CrossEntropyLoss(ignore_index=255)(zero_scores, nothing).asnumpy():.4f}")

# %% [markdown]
# *您应当看到*第一行是 3.0445，第二行是零，第三行是 `nan`。
#
# ### 6.3 评价指标
#
# 用**混淆矩阵**统计真实类别为 $i$ 的像素中有多少被预测为类别 $j$：$n_{ij}$。
# 记 $t_i = \sum_j n_{ij}$ 为类别 $i$ 的真实像素数，$n$ 为类别数：
#
# | 指标 | 公式 | 含义 |
# |---|---|---|
# | 像素准确率（PA） | $\sum_i n_{ii} \,/\, \sum_i t_i$ | 预测正确的像素所占的比例 |
# | 平均像素准确率（MPA） | $\frac{1}{n}\sum_i n_{ii}/t_i$ | 先按类别计算，再求平均 |
# | 平均交并比（MIoU） | $\frac{1}{n}\sum_i \mathrm{IoU}_i$, $\quad\mathrm{IoU}_i = \dfrac{n_{ii}}{t_i + \sum_j n_{ji} - n_{ii}}$ | 每个类别的真值与预测的交集除以并集，再求平均：最常用的得分 |
# | 频率加权交并比（FWIoU） | $\sum_i t_i \,\mathrm{IoU}_i \,/\, \sum_k t_k$ | 按出现频率加权的 IoU |
#
# 真值和预测中都没有出现的类别不计入平均。下面是一个可以手算的例子：三个类别，18 个像素，其中有像素不计入。

# %%
truth = np.array([[0, 0, 0, 1, 1, 255], [0, 0, 1, 1, 1, 255], [2, 2, 1, 1, 0, 0]])
prediction = np.array([[0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 2], [2, 0, 1, 1, 0, 0]])
matrix = mindfcn.ConfusionMatrix(3)
matrix.update(prediction, truth)
print("混淆矩阵，每行是一个真实类别：", matrix.counts, sep="\n")
for number, iou in enumerate(matrix.class_ious()):
    right, true, predicted = matrix.counts[number, number], matrix.counts[number].sum(), matrix.counts[:, number].sum()
    print(f"类别 {number} 的 IoU：{right} / ({true} + {predicted} - {right}) = {iou:.4f}")
print(matrix)

# %% [markdown]
# 为了配合 MindSpore 的 `Model(metrics=...)`，这四个指标也都是 `Metric` 对象：`PixelAccuracy`、
# `PixelAccuracyClass`、`MeanIntersectionOverUnion` 和 `FrequencyWeightedIntersectionOverUnion`。
# 它们接受 logits 或类别编号，批次和图像的大小不限，并且共用一个混淆矩阵：

# %%
metrics = mindfcn.segmentation_metrics(3)
logits = np.eye(3, dtype=np.float32)[prediction].transpose(2, 0, 1)[None]  # 预测的类别得 1 分，其余得 0 分
for name, metric in metrics.items():
    metric.clear()
    metric.update(ms.Tensor(logits), ms.Tensor(truth[None].astype(np.int32)))
    print(f"{name:24} {metric.eval():.4f}   {type(metric).__name__}")

# %% [markdown]
# ### 6.4 学习率
#
# 开始时步子大，结束时步子小；最前面再加一段短暂的预热（warm-up），因为刚初始化的网络梯度很不稳定。
# 学习率在*每一步*都会改变。

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
        axes.plot(rates, line, linewidth=2.5 if used else 0.8, label=f"{schedule}{'，预热' if warmup else ''}"
                  f"{'：本次运行' if used else ''}")
        if used:
            print(f"共 {len(rates)} 步：第一步 {rates[0]:.2g}，最高 {rates.max():.2g}，最后一步 {rates[-1]:.2g}")
axes.set(xlabel="步", ylabel="学习率", ylim=0)
axes.legend(frameon=False)
plt.show()

# %% [markdown]
# *您应当看到*四条曲线，粗的一条是本次运行的学习率。
#
# ## 7 模型训练
#
# `train` 把前面的各个部分组装起来，交给 MindSpore 的 `Model.train`：`SegDataset`、`FCN8s`、`CrossEntropy`、
# 带权重衰减的动量 SGD 和学习率策略；回调函数负责写日志、防范 NaN、定期评估并保留最好的检查点。
# 所有设置都在一个对象中，运行目录里也会保存一份。
#
# 为了适应两个 CPU 核，这里的网络较窄（通道数为 VGG16 的四分之一，fc6 和 fc7 从 4,096 减到 128），并且从随机权重开始。
# 六个 epoch 不多，但足以看出网络在学习；`bash run_train.sh` 会训练得更久。
# 使用 VOC 时，直到 conv5 都是完整的宽度，并且从 ImageNet 权重开始。

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
print("最好的检查点：", result.checkpoint)

# %% [markdown]
# *您应当看到*曲线在训练中不断延长：损失从 3 以上降到约 0.3；在样例数据集上，平均 IoU 在两到五分钟内升到约 0.56。
#
# 每一步的日志都以表格形式保存在运行目录中。对于 $n$ 个类别，如果各类得分相同，损失应从 $\ln n$ 开始（见 6.2 节）；
# 而刚初始化的网络得分随机，会对错误的答案很有把握，所以起点更高。重要的是曲线随后的走向。

# %%
log = np.genfromtxt(f"{result.run_dir}/log.csv", delimiter=",", names=True)
print(f"ln {len(labels)} = {np.log(len(labels)):.3f}")
for row in (*log[:3], *log[-3:]):
    print(f"epoch {row['epoch']:.0f}  步 {row['step']:3.0f}  损失 {row['loss']:.4f}  "
          f"学习率 {row['learning_rate']:.5f}")

# %% [markdown]
# ## 8 模型评估
#
# 用最好的检查点评估验证图像：它们都没有参与训练，每幅计算一次，保持原来的尺寸。
# （在训练图像上得到的分数说明不了什么。而且最好的 epoch 正是用这些验证图像选出来的，所以这个分数仍然略微偏高；
# 要公布分数，应当再用第三个数据集。）

# %%
evaluated = mindfcn.evaluate(mindfcn.EvalConfig(checkpoint=result.checkpoint, out=f"{WORK}/evaluation", worst=3))
print(f"{evaluated.images} 幅图像")
for name, value in evaluated.metrics.items():
    print(f"{name:24} {value:.4f}")
print(f"\n{evaluated.table}")

# %% [markdown]
# *您应当看到*像素准确率约 0.9，平均 IoU 约 0.56，得分最低的类别是 cross。
#
# 大多数像素是背景，所以像素准确率很早就显得不错；平均 IoU 则不让背景掩盖其他类别。
# 混淆矩阵说明*哪些*类别被当成了哪些类别：每一行表示一个真实类别的像素都去了哪里，以百分比表示。

# %%
Image(f"{evaluated.out}/confusion.png")

# %% [markdown]
# 看失败的例子比看成功的例子收获更多。下面是 IoU 最低的一幅：

# %%
worst = min(Path(evaluated.out, "worst").glob("*.jpg"))
print(f"{evaluated.images} 幅中最差的一幅；更多见 {evaluated.out}/worst")
Image(worst)

# %% [markdown]
# ## 9 模型推理
#
# ### 9.1 验证集中的图像
#
# **`Segmenter`** 是一个网络加上与其权重相配的标准化方法，两者都来自检查点。
# 它接受 OpenCV 读入的任意尺寸的图像，返回掩码。

# %%
segmenter, card = mindfcn.load_segmenter(result.checkpoint)
pairs = [read(sample) for sample in val_samples[:4]]
predictions = [segmenter(np.ascontiguousarray(photo[..., ::-1]))[0] for photo, _ in pairs]
show([[photo, labels.colorize(truth), labels.colorize(prediction), mindfcn.overlay(photo, prediction, labels)]
      for (photo, truth), prediction in zip(pairs, predictions)],
     titles=("图像", "真值", "预测", "叠加图"),
     labels=labels,
     classes=np.unique(np.concatenate([mask.ravel() for mask in (*predictions, *(truth for _, truth in pairs))])))
print("训练好的网络：", card.model)

# %% [markdown]
# *您应当看到*预测的颜色在大多数地方与真值相同，轮廓更圆滑。
#
# 背景和大的部分是正确的，错误大多发生在类别之间；轮廓比真值圆滑，因为最细的得分图步长也有 8。
#
# ### 9.2 每个类别一幅概率图
#
# 掩码只显示哪个类别获胜。在它背后是网络的得分：每个类别一幅图。这里把得分变成概率（在类别之间做 softmax），
# 越亮表示网络越有把握。这又是 2.1 节的热力图，只不过权重由训练得到，并且上采样到了图像的尺寸。

# %%
photo, truth = pairs[0]
prediction, probabilities = segmenter(np.ascontiguousarray(photo[..., ::-1]), probabilities=True)
largest = np.argsort(-probabilities.mean((1, 2)))[:6]
print(f"概率 {probabilities.shape}；各类之和最小 {probabilities.sum(0).min():.3f}，"
      f"最大 {probabilities.sum(0).max():.3f}")
print(f"所选类别的平均概率：{probabilities.max(0).mean():.2f}")
show([[photo, *probabilities[largest]]], vmin=0, vmax=1,
     titles=("图像", *(labels.names[number] for number in largest)))

# %% [markdown]
# ### 9.3 您自己的照片
#
# 把照片的路径写到第二个代码单元的 `PHOTO` 中。如果没有，这里会绘制一幅新的图像，比训练用的图像都大。
# `predict` 接受文件、文件夹和通配符，为每幅图像写出一个掩码（调色板 PNG，像素值就是类别编号）和一幅带图例的叠加图。
# 用样例数据集训练的网络只认识它的六种形状：面对真实的照片，它会很有把握地给出错误的答案。
# 要处理真实照片，请使用 `DATA = "voc"`。

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
    print("跳过：", reason)
for written in predicted.written:
    print("已写出：", written["mask"], "和", written["overlay"])
    photo, mask = cv2.imread(own)[..., ::-1], np.array(PIL.Image.open(written["mask"]))
    show([[photo, labels.colorize(mask), mindfcn.overlay(photo, mask, labels)]], labels=labels,
         classes=np.unique(mask),
         titles=(f"图像，{photo.shape[0]}x{photo.shape[1]}", "预测", "叠加图"))

# %% [markdown]
# *您应当看到*大多数形状都被找到，有一些的颜色属于别的类别。
#
# ## 10 总结
#
# **优点**
#
# - 输入任意尺寸，一次计算就得到同样尺寸的输出：不必切成小块，也不必对重叠的窗口重复计算同样的卷积。
#   整个网络连同上采样都是端到端、从像素到像素地训练的。
# - 它继承了分类网络学到的知识。VGG16 的预训练权重可以直接使用，连全连接层也不例外，所以几千个掩码就足够了。
#
# **缺点**
#
# - 结果不够精细。最后一步放大八倍，所以细小的部分会消失，轮廓会变圆；不过上采样 8 倍的效果已经比 32 倍好得多（见 2.3 节）。
# - 每个像素都是根据固定大小的窗口独立判断的，没有考虑相邻标签之间的一致性；比窗口大得多的物体会被拆散，
#   比步长小得多的物体会被忽略。
#
# **下一步。**[FCN 家族中的等价关系](family.ipynb)（英文）依次训练 FCN-32s、16s 和 8s，并验证论文中的其他想法。
# 上述缺点由后来的工作加以改进：与整个网络对称的解码器（DeconvNet），以及让相邻像素保持一致的条件随机场。
#
# 您可以从这里继续：
#
# | | |
# |---|---|
# | 完整的样例训练 | `bash run_train.sh` |
# | PASCAL VOC | 在这里设置 `DATA = "voc"`，或运行 `bash run_train.sh configs/voc_cpu.yaml` |
# | 所有设置及其含义 | `mindfcn train --help_all` |

# %%
print(f"平均 IoU {evaluated.metrics['mean IoU']:.3f}（{evaluated.images} 幅验证图像，{epochs} 个 epoch），"
      f"处理器时间共 {time.process_time() / 60:.1f} 分钟")

# %% [markdown]
# ## 引用
#
# 1. J. Long, E. Shelhamer, T. Darrell: *Fully Convolutional Networks for Semantic Segmentation.* CVPR 2015.
# 2. K. Simonyan, A. Zisserman: *Very Deep Convolutional Networks for Large-Scale Image Recognition.* ICLR 2015
#    (VGG16).
# 3. M. Everingham, L. Van Gool, C. Williams, J. Winn, A. Zisserman: *The PASCAL Visual Object Classes (VOC)
#    Challenge.* IJCV 2010.
# 4. B. Hariharan, P. Arbeláez, L. Bourdev, S. Maji, J. Malik: *Semantic Contours from Inverse Detectors.* ICCV 2011
#    (SBD).
