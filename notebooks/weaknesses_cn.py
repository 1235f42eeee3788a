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
# # DeconvNet、CRF 与仍然做不到的事
#
# [English](weaknesses.ipynb)
#
# [教程](fcn8s_cn.ipynb)的结尾提到 FCN 的不足：轮廓粗糙，小物体丢失，像素之间互不了解。本教程测量这些不足，并试用已发表的改进方法：
# 反池化和围绕物体的窗口（DeconvNet）、两个网络合用、全连接 CRF、多个尺度。论文说两种做法结果相等的地方，都加以检验。
#
# 在两个 CPU 核上只需几分钟。用于照片的命令见 [docs/refinement_cn.md](../docs/refinement_cn.md) 和 [docs/deconvnet_cn.md](../docs/deconvnet_cn.md)。
# 在 Colab 或昇腾云上，什么都没有安装？先输入哪几行，见 [docs/servers_cn.md](../docs/servers_cn.md#在云端运行笔记本)。
#
# 先用仓库自带的网络分割一张照片。

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
photo = cv2.imread("docs/pictures/photographs/astronaut.jpg")
mask, _ = segment(photo)
rgb = photo[..., ::-1]
show([rgb, card.labels.colorize(mask), mindfcn.overlay(rgb, mask, card.labels)],
     ("照片", "掩码", "叠加图"), card.labels, np.unique(mask))
print("找到的类别：", ", ".join(card.labels.names[number] for number in np.unique(mask)))

# %% [markdown]
# *您应当看到*一个人，照片中有棱角的地方，掩码的轮廓却是圆的，还有几处并不存在的类别。要测量这样的现象，需要许多带有真值掩码的照片，以及一个一分钟就能学会的网络：
# 使用由程序绘制的样例数据集。真值中的浅色线条是忽略标签，任何地方都不计入。

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

WORK = os.environ.get("MINDFCN_NOTEBOOK_DIR", "runs/weaknesses")  # 本教程写出的所有文件都在这里
QUICK = os.environ.get("MINDFCN_NOTEBOOK_QUICK", "") == "1"       # 一分钟的快速测试：少量照片，很少的步数

device = runtime.set_up(seed=1)
runtime.pynative_mode()  # 逐个算子执行，便于试验
random = np.random.default_rng(0)
data = mindfcn.PrepareConfig(records=f"{WORK}/records", source="sample", root=f"{WORK}/sample", samples=10 if QUICK else 160,
                             size=96 if QUICK else 128)
labels, train_samples, val_samples = mindfcn.list_samples(data)
photos = [cv2.imread(sample.image) for sample in val_samples]  # (H, W, 3) uint8 BGR
truths = [sample.read_label(sample.label) for sample in val_samples]
print(f"MindSpore {ms.__version__}，设备：{device}，结果保存在 {WORK}{'，快速测试' if QUICK else ''}")
print(f"训练照片 {len(train_samples)} 张，验证照片 {len(val_samples)} 张")
show([photos[0][..., ::-1], labels.colorize(truths[0]), photos[1][..., ::-1], labels.colorize(truths[1])],
     ("照片", "真值") * 2)

# %% [markdown]
# ## 1 FCN 的不足
#
# FCN-8s，宽度是论文的四分之一，从随机权重开始训练一分钟：

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
found = {}  # 每种方法的测量结果


def judge(name, segment):
    """分割全部验证照片并打印一行结果；`segment` 的调用方式与 Segmenter 相同。"""
    if not found:
        print("方法                       平均 IoU，%     小    中等         距边界 2 像素以内         秒/张")
    found[name] = judged = evaluate_network(segment, val_set, labels)
    sizes = judged.sizes.compute()
    print(f"{name:26} {100 * judged.metrics['mean IoU']:11.1f}  {100 * sizes['small']['mean IoU']:5.1f}  "
          f"{100 * sizes['medium']['mean IoU']:6.1f}  {100 * judged.trimap.mean_ious()[1]:24.1f}  "
          f"{judged.seconds:12.3f}")


judge("FCN-8s", fcn)
print("物体数：", ", ".join(f"{size['objects']} {name}" for name, size in found["FCN-8s"].sizes.compute().items()))

# %% [markdown]
# *您应当看到*平均 IoU 接近 50 %，小物体约 30 %，靠近边界处为 30 至 40 %。
#
# 小物体指少于 32x32 个像素的物体，中等物体不超过 96x96 个像素，这是 COCO 的界限。这里的照片宽 128 像素，所以没有大物体。小物体的得分较低，
# 靠近真实边界的像素更低。**trimap** 显示影响的范围：距离边界 1、2……个像素以内的像素的平均 IoU。

# %%
def draw_trimaps(*names):
    """每种方法在边界附近的平均 IoU。"""
    figure, axis = plt.subplots(figsize=(10, 3.6), layout="constrained")
    for number, name in enumerate(names):
        bands = 100 * found[name].trimap.mean_ious()
        axis.plot(range(1, len(bands) + 1), bands, "o-", markersize=3, color=f"C{number}", label=name)
        axis.axhline(100 * found[name].metrics["mean IoU"], color=f"C{number}", linestyle=":", linewidth=1)
    axis.set(xlabel="边界两侧的像素数；虚线：全部像素", ylabel="平均 IoU，%")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    plt.show()


draw_trimaps("FCN-8s")

# %% [markdown]
# 错误在哪里？下面用红色标出，照片是结果最差的几张：

# %%
worst = np.argsort(found["FCN-8s"].scores)[:3]
predicted = {index: fcn(photos[index])[0] for index in worst}
for index in worst:
    wrong = (predicted[index] != truths[index]) & (truths[index] != labels.ignore_label)
    red = photos[index] // 2
    red[wrong] = (40, 40, 230)
    show([photos[index][..., ::-1], labels.colorize(truths[index]), labels.colorize(predicted[index]), red[..., ::-1]],
         ("照片", "真值", "FCN-8s", f"错误：{100 * wrong.mean():.0f} %"))

# %% [markdown]
# *您应当看到*轮廓上的红色，以及类别弄错的整个红色物体。
#
# 原因之一是网络只在**一个尺度**上观察。它训练时见到的是这些尺寸的 0.75 至 1.5 倍。把同样的照片缩小和放大，再交给同一个网络：

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
print("照片放大的倍数", *(f"{factor:6}" for factor in factors))
print("平均 IoU，%   ", *(f"{score:6.1f}" for score in by_factor))
enlarged = cv2.resize(photos[1], None, fx=factors[-1], fy=factors[-1], interpolation=cv2.INTER_LINEAR)
show([photos[1][..., ::-1], labels.colorize(fcn(photos[1])[0]), labels.colorize(fcn(enlarged)[0])],
     ("照片", "原尺寸", f"放大 {factors[-1]} 倍：同样的物体断成几块"))

# %% [markdown]
# *您应当看到*在训练尺寸附近得分最高，两边都更低。
#
# ## 2 DeconvNet
#
# Noh、Hong 和 Han（2015）让网络只看*一个物体周围的一个窗口*，而且尺寸总是相同，并把池化丢掉的信息还给它。2x2 的池化保留四个数中最大的一个，
# 却忘记了是哪一个。如果记住这些位置（称为 **switches**），**反池化**就能把数值放回原处。一张照片（的亮度）经过三次池化和三次反池化，
# 得到的是各个最亮点及其位置；如果没有 switches，就只能放大：

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
print(f"{grey.shape} 池化为 {pooled.shape[2:]}，反池化为 {unpooled.shape}：{places.sum()} 个数，"
      f"每 {grey.size // places.sum()} 个中一个；在这些位置与照片的最大差值 "
      f"{np.abs(unpooled - grey)[places].max():.0f}")
blocks = grey.reshape(grey.shape[0] // 8, 8, -1, 8).max((1, 3))
print(f"它们是每 8x8 个像素中的最大值：{np.array_equal(blocks, pooled.asnumpy()[0, 0])}")
show([grey, pooled.asnumpy()[0, 0], cv2.resize(pooled.asnumpy()[0, 0], grey.shape[::-1]), cv2.dilate(
    unpooled, np.ones((3, 3)))], ("照片", "池化 8 倍", "放大", "反池化（点画得更大）"),
    cmap="gray", vmin=0, vmax=255)

# %% [markdown]
# *您应当看到* `True`，一张模糊的照片，右边是它的亮点。
#
# 反池化之后的特征图是稀疏的，所以每次反池化后面都有转置卷积，使它重新变得稠密。整个网络是 VGG16 加上它的镜像。训练从容易的窗口开始：
# 每个窗口中央只有一个物体，外扩到 1.2 倍，其余都算背景。`instances="boxes"` 生成这样的记录：

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
print(f"{windows.count} 个窗口，来自 {len(train_samples)} 张照片")

# %% [markdown]
# *您应当看到*五个窗口及其掩码，物体都在窗口中央。
#
# 网络怎样逐级处理一个窗口，可以看 `mindfcn explain` 的图：每次反池化和转置卷积之后响应最强的特征图。从上到下，由一个单元扩展到整个窗口；
# 反池化的结果是一些点，下一个转置卷积把它们连起来。

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
# ## 3 多个窗口，一张照片
#
# 一张照片通过**候选区域**来分割，即可能有物体的方框。每个窗口都经过网络，再缩放回它的方框；窗口重叠时取最大的得分（或者求和）。
# 这种*逐实例*预测必须满足两点：只有一个候选区域、即整张照片时，它就是普通的一次计算；取最大得分时，结果与窗口的顺序无关。

# %%
photo = photos[number]
height, width = photo.shape[:2]
plain, whole = deconvnet(photo, True)[1], mindfcn.InstanceWise(deconvnet, lambda _: [(0, 0, width, height)])
print(f"一个候选区域与普通计算相比：最大差值 {np.abs(whole(photo, True)[1] - plain).max():.1e}")

boxes = [(left, top, left + random.integers(24, width // 2), top + random.integers(24, height // 2))
         for left, top in zip(random.integers(0, width // 2, 12), random.integers(0, height // 2, 12))]
inputs = to_input(photo, card.preprocess)[None]
scores = [deconvnet.logits(resized(inputs[:, :, top:bottom, left:right], side, side))[0]
          for left, top, right, bottom in boxes]
pairs = list(zip(boxes, scores))
for rule in ("max", "sum"):
    one = aggregate(pairs, len(labels), height, width, rule)
    other = aggregate(pairs[::-1], len(labels), height, width, rule)
    print(f"{rule}：12 个窗口按两种顺序，最大差值 {np.abs(one - other).max():.1e}")

# %% [markdown]
# 这样能好到什么程度？先作弊，使用真实物体的方框；然后用什么都不知道的窗口网格；最后用 Edge Boxes 给出的候选区域，它需要 OpenCV 的扩展模块
# （opencv-contrib-python）。

# %%
true_boxes = {photo.tobytes(): [enlarge(thing.box, 1.2, *truth.shape)
                                for thing in mindfcn.find_objects(truth, labels.ignore_label)]
              for photo, truth in zip(photos, truths)}


def by_true_boxes(photo):
    """照片中物体的方框；记录中的照片就是文件原来的字节。"""
    return true_boxes[photo.tobytes()]


def by_edge_boxes(photo):
    """照片的 Edge Boxes，最好的在前。"""
    return mindfcn.propose(photo, max_proposals=12, min_side=20)


def by_grid(photo):
    """边长为短边一半的方形，间隔为边长的一半。"""
    side = min(photo.shape[:2]) // 2
    return [(left, top, left + side, top + side) for top in range(0, photo.shape[0] - side + 1, side // 2)
            for left in range(0, photo.shape[1] - side + 1, side // 2)]


judge("DeconvNet, one window", deconvnet)
ideal, by_proposals = (mindfcn.InstanceWise(deconvnet, boxes_of) for boxes_of in (by_true_boxes, by_grid))
judge("DeconvNet, true boxes", ideal)
judge("DeconvNet, grid of windows", by_proposals)
drawn = [(photo[..., ::-1], "照片"), (labels.colorize(truths[number]), "真值"),
         (labels.colorize(deconvnet(photo)[0]), "一个窗口"), (labels.colorize(ideal(photo)[0]), "真实方框"),
         (labels.colorize(by_proposals(photo)[0]), "网格")]
try:
    by_edge_boxes(photo)
except mindfcn.UserError as error:
    print("这里没有 Edge Boxes，下面用网格代替：", error)
else:
    by_proposals = mindfcn.InstanceWise(deconvnet, by_edge_boxes)
    judge("DeconvNet, Edge Boxes", by_proposals)
    boxed = photo.copy()
    for left, top, right, bottom in by_edge_boxes(photo):
        cv2.rectangle(boxed, (int(left), int(top)), (int(right) - 1, int(bottom) - 1), (255, 255, 255), 1)
    drawn += [(boxed[..., ::-1], "Edge Boxes"), (labels.colorize(by_proposals(photo)[0]), "用 Edge Boxes")]
show(*zip(*drawn))

# %% [markdown]
# *您应当看到*每种窗口一行，都远低于 FCN-8s。
#
# 两个各有 16 层、从随机数开始的网络，在这么少的窗口上训练三遍，学到的很少：这个 DeconvNet 知道物体在哪里，却几乎分不清类别，远不如 FCN-8s。
# （论文从 VGG16 的 ImageNet 权重开始，在 GPU 上训练了数天。）但是仍然可以看出次序：真实方框比整张照片一个窗口好。真实方框与 Edge Boxes 之间的差距，
# 来自候选区域的遗漏，以及没有物体的窗口，而这个网络从未见过这样的窗口。因此论文还有第二阶段，用候选区域的窗口训练
# （`instances="proposals"`）。
#
# ## 4 两个网络
#
# FCN 看整张照片，DeconvNet 看窗口，它们的错误各不相同。论文取两者概率图的**平均**，它发布的代码取得分的**乘积**，并把其中第二个的负值截断为零。
# 一个网络与自己合并，必须得到自己的类别（取乘积时，只在得分大于零的地方）：

# %%
logits = fcn.logits(to_input(photo, card.preprocess)[None])[0]
print(f"与自己取平均：最大差值 "
      f"{np.abs(softmax(combine([logits, logits])) - softmax(logits)).max():.1e}")
positive = logits.max(0) > 0
same = argmax(combine([logits, logits], "product")) == argmax(logits)
print(f"与自己取乘积：类别相同的占 {100 * same[positive].mean():.0f} %，"
      f"共 {positive.sum()} 个得分大于零的像素")
for rule in ("mean", "product"):
    judge(f"both networks, {rule}", mindfcn.Ensemble([fcn, by_proposals], rule))

# %% [markdown]
# 与这么弱的网络合用，还不如单独的 FCN-8s。两个网络水平相近时，合用才有好处：在论文中，VOC 2012 上的 62.2 和 69.6 % 合成 71.7 %。
#
# ## 5 全连接 CRF
#
# 两个网络都不知道，颜色相同的相邻像素很可能属于同一类别。连接所有像素对的 CRF 知道（Krähenbühl 和 Koltun 2011）。它从网络的概率开始，
# 每次迭代都把每个像素拉向其他所有像素的类别，距离越近、颜色越相似，作用越大。照片不超过 4,096 个像素时，可以逐对计算。为了看清它的作用，
# 取 FCN-8s 分割得最好的照片，先破坏它的概率：像更粗糙的网络那样使它平滑，再加上噪声。

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
     ("照片", *(f"{count} 次迭代\n正确 {right_of[count]:.1f} %" for count in after), "真值"))

off = mean_field(small, blurred, CRF(gaussian_weight=0, bilateral_weight=0))
print(f"没有这两个核时，10 次迭代改变了 {(argmax(off) != argmax(blurred)).sum()} 个像素，"
      f"共 {small_truth.size} 个")

# %% [markdown]
# *您应当看到*大多数斑点在第一次迭代中就消失了。在后面的迭代中，轮廓移动到照片中颜色变化的地方，正确像素的比例逐渐提高。
#
# 500x375 的照片约有 3.5e10 个像素对。**permutohedral 格**近似地计算同样的和，时间与像素数成正比；它来自软件包 pydensecrf2
# （`pip install -e '.[crf]'`）。

# %%
try:
    lattice = permutohedral(small, blurred, crf)
except mindfcn.UserError as error:
    print("没有使用 permutohedral 格：", error)
else:
    agree = 100 * (argmax(lattice) == argmax(after[10])).mean()
    print(f"用格与用所有像素对，{agree:.1f} % 的像素类别相同")


def refined(photo, parameters):
    """用 CRF 处理 FCN-8s 的概率：掩码和概率，形式与 Segmenter 相同。"""
    probabilities = permutohedral(photo, fcn(photo, True)[1], parameters)
    return argmax(probabilities), probabilities


if importlib.util.find_spec("pydensecrf"):
    weak = dataclasses.replace(PUBLISHED["deeplab_v1"], gaussian_weight=1, bilateral_weight=2, bilateral_sxy=15)
    judge("FCN-8s, deeplab_v1's CRF", lambda photo: refined(photo, PUBLISHED["deeplab_v1"]))
    judge("FCN-8s, a weaker CRF", lambda photo: refined(photo, weak))
    draw_trimaps("FCN-8s", "FCN-8s, deeplab_v1's CRF", "FCN-8s, a weaker CRF")

# %% [markdown]
# *您应当看到*两种 CRF 的曲线都高于 FCN-8s，左边相差最多。
#
# 在 FCN-8s 最差的地方，即边界旁边，提高最多，因为绘制的物体颜色分明。这些参数是为 500 像素的照片和另一个网络找到的；`mindfcn tune_crf`
# 在您自己的照片上搜索。如果一个物体没有任何像素被识别出来，CRF 无法把它找回来。
#
# ## 6 多尺度、镜像、滑动窗口
#
# 如果一个尺度太少，就取几个尺度以及它们的镜像，再对概率求平均：

# %%
whole_passes = mindfcn.EvalConfig(checkpoint=fcn_file)
judge("FCN-8s, mirrored too", mindfcn.Inference(fcn, dataclasses.replace(whole_passes, flip=True)))
judge("FCN-8s, scales, mirrored", mindfcn.Inference(fcn, dataclasses.replace(
    whole_passes, flip=True, scales=[1.0, 1.5] if QUICK else [0.75, 1.0, 1.5])))

# %% [markdown]
# 在这里，镜像使平均 IoU 提高约一个百分点，再加上多个尺度则没有更多提高：只训练了一分钟的网络在其他尺寸上没有把握。对您的照片是否值得，
# 用 `mindfcn eval --flip --scales` 测量。
#
# 照片大到内存放不下时，可以分成窗口处理。一个像素只取决于网络所及范围之内的内容；如果窗口重叠的宽度是它的两倍，结果必须与整张照片相同。
# 重叠更小则更快，但会留下接缝。下图是几张照片拼成的全景，它的下面是每一列的得分与整张照片的差别。

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
    name = f"{count} 个 {tiled.window} 像素的窗口，重叠 {tiled.overlap}"
    print(f"{name}：最大差值 {far.max():.1e}，得分最大 {np.abs(exact).max():.0f}")
    below.semilogy(np.maximum(far, 1e-8), label=name, linewidth=1)
below.set(ylabel="最大差值", xlim=(0, panorama.shape[1]))
below.legend(frameon=False)
plt.show()

# %% [markdown]
# *您应当看到*第一种窗口只有舍入误差，第二种窗口的曲线在每个接缝处升高。
#
# ## 7 仍然做不到的事
#
# 试过的全部方法，按平均 IoU 排列：

# %%
print("方法                       平均 IoU，%     小    中等         距边界 2 像素以内")
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
# 这里用的是绘制的形状和只训练一分钟的网络。在照片上各种方法有多大作用，是另一个问题；已发表的答案见
# [docs/refinement_cn.md](../docs/refinement_cn.md) 和 [docs/deconvnet_cn.md](../docs/deconvnet_cn.md)。
#
# 剩下的问题要靠训练解决，而不是靠事后处理。对像素求平均，就是让面积大的占主导。**难例像素**（`--optim.loss bootstrapped`）只对每张图像中损失最大的像素求平均，
# 已经正确的不再计入。**类别权重**（`--optim.class_weights median_frequency`）使稀有类别的像素作用更大。这两种方法与 focal、Dice 等损失都在
# [docs/training_aids_cn.md](../docs/training_aids_cn.md) 一页上，并说明已知的效果。
#
# 还有一些问题，以上方法都解决不了：
#
# - 只有几个像素的物体，或者比最细特征图的步长 8 还窄的物体，没有属于自己的单元；
# - 同一类别的两个物体挨在一起，会合成一个：语义分割没有办法区分它们；
# - CRF 跟随颜色，即使一个物体有两种颜色，或者它与周围颜色相同；
# - 候选区域每十个窗口要多一次计算，不在任何方框中的物体会变成背景；
# - 网络如果对错误的类别很有把握，在每个尺度和镜像上都是如此。
