"""MindFCN's training input, timed by run.py."""

import pathlib
import sys

import mindspore as ms
import numpy as np
from serve import serve

from mindfcn.data.dataset import SegDataset

folder, batch, size = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
dataset = SegDataset(data_file=str(folder / "records"), batch_size=batch, crop_size=size, seed=1)
for number, name in enumerate((folder / "names.txt").read_text().split()[:8]):
    image, label = (np.fromfile(folder / (name + suffix), np.uint8) for suffix in (".jpg", ".png"))
    crop = dataset.preprocess_dataset(image, label, np.random.RandomState(number))
    np.savez(folder / f"mindspore{number}.npz", image=crop[0], label=crop[1])


def epoch():
    """Iterate over all batches of an epoch."""
    batches = dataset.get_dataset().create_tuple_iterator(num_epochs=1, output_numpy=True)
    assert sum(len(image) for image, _ in batches) == dataset.steps_per_epoch * batch


serve(epoch, f"MindSpore {ms.__version__}")
