"""The course's worker: its data set class, network, settings and loop, rewritten from its description.

    worker_course.py train FOLDER MINUTES STEPS     checkpoints after each epoch and at the end in FOLDER/course

The schedule changes the rate every step, as in the course's text; the course's code uses one constant rate. Its
checkpoints every 10 steps, half a gigabyte each, are left out.
"""

import json
import os
import sys

import cv2
import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore import nn
from mindspore.train import Callback, Model
from step_log import StepLog, snapshot

from mindfcn import load_backbone

EPOCHS = 2
BASE_LR, MIN_LR = 0.05, 0.0005
BATCH, CROP = 4, 512
MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.120, 58.395)


class SegDataset:
    """MindRecord -> batches of random crops; unseeded."""

    def __init__(self, data_file, batch_size=BATCH, crop_size=CROP, min_scale=0.5, max_scale=2.0, ignore_label=255):
        self.data_file, self.batch_size, self.crop_size = data_file, batch_size, crop_size
        self.min_scale, self.max_scale, self.ignore_label = min_scale, max_scale, ignore_label

    def preprocess(self, image, label):
        """Encoded image and mask -> (3, crop, crop) float32 and (crop, crop) int32."""
        image = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        label = cv2.imdecode(np.frombuffer(label, np.uint8), cv2.IMREAD_GRAYSCALE)
        scale = np.random.uniform(self.min_scale, self.max_scale)
        size = int(scale * image.shape[1]), int(scale * image.shape[0])
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        image = (image - np.array(MEAN)) / np.array(STD)
        below, right = max(self.crop_size - size[1], 0), max(self.crop_size - size[0], 0)
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=0)
        label = cv2.copyMakeBorder(label, 0, below, 0, right, cv2.BORDER_CONSTANT, value=self.ignore_label)
        top = np.random.randint(0, image.shape[0] - self.crop_size + 1)
        left = np.random.randint(0, image.shape[1] - self.crop_size + 1)
        image = image[top:top + self.crop_size, left:left + self.crop_size]
        label = label[top:top + self.crop_size, left:left + self.crop_size]
        if np.random.uniform(0.0, 1.0) > 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        return image.transpose(2, 0, 1).astype(np.float32), label.astype(np.int32)

    def get_dataset(self):
        """The pipeline."""
        dataset = ds.MindDataset(self.data_file, columns_list=["data", "label"], shuffle=True, num_parallel_workers=2)
        dataset = dataset.map(self.preprocess, ["data", "label"], ["data", "label"],
                              num_parallel_workers=min(4, os.cpu_count()))
        return dataset.shuffle(self.batch_size * 10).batch(self.batch_size, drop_remainder=True)


def block(channels, outputs, kernels):
    """[convolution, normalisation, ReLU] for each kernel size."""
    cells = []
    for kernel in kernels:
        cells += [nn.Conv2d(channels, outputs, kernel, weight_init="xavier_uniform"), nn.BatchNorm2d(outputs),
                  nn.ReLU()]
        channels = outputs
    return nn.SequentialCell(cells)


class FCN8s(nn.Cell):
    """The course's network, layer by layer."""

    # Layers that load_backbone fills from the pretrained file.
    blocks = ("conv1", "conv2", "conv3", "conv4", "conv5")

    def __init__(self, n_class):
        super().__init__()
        self.conv1, self.conv2 = block(3, 64, (3, 3)), block(64, 128, (3, 3))
        self.conv3, self.conv4 = block(128, 256, (3, 3, 3)), block(256, 512, (3, 3, 3))
        self.conv5 = block(512, 512, (3, 3, 3))
        self.conv6, self.conv7 = block(512, 4096, (7,)), block(4096, 4096, (1,))
        self.pool = nn.MaxPool2d(2, 2)
        self.score_fr, self.score_pool4, self.score_pool3 = (
            nn.Conv2d(channels, n_class, 1, weight_init="xavier_uniform") for channels in (4096, 512, 256))
        self.upscore2, self.upscore_pool4, self.upscore8 = (
            nn.Conv2dTranspose(n_class, n_class, 2 * stride, stride, weight_init="xavier_uniform")
            for stride in (2, 2, 8))

    def construct(self, x):
        pool2 = self.pool(self.conv2(self.pool(self.conv1(x))))
        pool3 = self.pool(self.conv3(pool2))
        pool4 = self.pool(self.conv4(pool3))
        fc7 = self.conv7(self.conv6(self.pool(self.conv5(pool4))))
        fuse_pool4 = self.score_pool4(pool4) + self.upscore2(self.score_fr(fc7))
        return self.upscore8(self.score_pool3(pool3) + self.upscore_pool4(fuse_pool4))


class SaveCallback(Callback):
    """Records the steps; saves at the end of each epoch and at the time limit."""

    def __init__(self, net, log, folder, steps_per_epoch):
        super().__init__()
        self.net, self.log, self.folder, self.steps_per_epoch = net, log, folder, steps_per_epoch

    def on_train_step_end(self, run_context):
        """Record the step; save and stop when due."""
        run = run_context.original_args()
        over = self.log.add(run.cur_step_num, run.net_outputs.asnumpy())
        if over or run.cur_step_num % self.steps_per_epoch == 0:
            ms.save_checkpoint(self.net, snapshot(self.folder, run.cur_step_num, self.steps_per_epoch, ".ckpt"))
            self.log.begin()
        if over:
            run_context.request_stop()


def train(folder, minutes, steps):
    """Train as the course does, for a limited time."""
    with open(os.path.join(folder, "plan.json"), encoding="utf-8") as file:
        plan = json.load(file)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    ms.set_seed(plan["settings"]["seed"])
    net = FCN8s(plan["classes"])
    print(load_backbone(net, plan["settings"]["model"]["pretrained"]).summary())
    dataset = SegDataset(plan["train"]).get_dataset()
    per_epoch, own = dataset.get_dataset_size(), os.path.join(folder, "course")
    rates = nn.cosine_decay_lr(MIN_LR, BASE_LR, EPOCHS * per_epoch, EPOCHS * per_epoch, 1)
    update = nn.Momentum(net.trainable_params(), ms.Tensor(rates, ms.float32), 0.9, weight_decay=0.0001)
    log = StepLog(own, minutes, min(int(steps), EPOCHS * per_epoch))
    log.begin()
    Model(net, nn.CrossEntropyLoss(ignore_index=plan["ignore"]), update).train(
        EPOCHS, dataset, callbacks=[SaveCallback(net, log, own, per_epoch)], dataset_sink_mode=False)


if __name__ == "__main__":
    train(*sys.argv[2:])
