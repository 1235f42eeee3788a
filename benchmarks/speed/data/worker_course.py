"""The course's data set class, rewritten from its description and timed by run.py."""

import os
import pathlib
import sys

import cv2
import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from serve import serve

THREADS = min(4, os.cpu_count())
folder, batch, size = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
MEAN, STD = np.array([103.53, 116.28, 123.675], np.float32), np.array([57.375, 57.120, 58.395], np.float32)


def preprocess(image, label):
    """Decode, scale, normalise, pad, crop, flip; normalises before cropping. Draws from NumPy's global generator."""
    image = cv2.imdecode(np.frombuffer(image.tobytes(), np.uint8), cv2.IMREAD_COLOR)
    label = cv2.imdecode(np.frombuffer(label.tobytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    scale = np.random.uniform(0.5, 2.0)
    height, width = int(scale * image.shape[0]), int(scale * image.shape[1])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    image = (image - MEAN) / STD
    below, right = max(size - height, 0), max(size - width, 0)
    if below or right:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_CONSTANT, value=0)
        label = cv2.copyMakeBorder(label, 0, below, 0, right, cv2.BORDER_CONSTANT, value=255)
    top = np.random.randint(0, image.shape[0] - size + 1)
    left = np.random.randint(0, image.shape[1] - size + 1)
    image, label = image[top:top + size, left:left + size], label[top:top + size, left:left + size]
    if np.random.uniform(0.0, 1.0) > 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    return image.transpose(2, 0, 1).copy(), label.astype(np.int32)


def pipeline():
    """Read shuffled, preprocess in up to four threads (MindSpore allows one per core), shuffle again, batch."""
    records = ds.MindDataset(str(folder / "records"), ["data", "label"], shuffle=True, num_parallel_workers=2)
    crops = records.map(preprocess, ["data", "label"], ["data", "label"], num_parallel_workers=THREADS)
    return crops.shuffle(batch * 10).batch(batch, drop_remainder=True)


for number, name in enumerate((folder / "names.txt").read_text().split()[:8]):
    np.random.seed(number)
    image, label = (np.fromfile(folder / (name + suffix), np.uint8) for suffix in (".jpg", ".png"))
    crop = preprocess(image, label)
    np.savez(folder / f"course{number}.npz", image=crop[0], label=crop[1])


def epoch():
    """Iterate over all batches of an epoch."""
    for _ in pipeline().create_tuple_iterator(num_epochs=1, output_numpy=True):
        pass


serve(epoch, f"MindSpore {ms.__version__}")
