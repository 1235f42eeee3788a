"""Functions that several test files use: parameters, random images, tables, settings of the tiny sample set."""

import csv
import os

import numpy as np


def parameters(net):
    """{name: array} of every parameter of a network."""
    return {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}


def picture(height, width, channels=3, seed=1, count=1):
    """(count, channels, height, width) float32 of standard normal numbers."""
    return np.random.default_rng(seed).standard_normal((count, channels, height, width)).astype(np.float32)


def run(net, image):
    """A network's output for an array, in evaluation mode, as an array."""
    import mindspore as ms
    return net.set_train(False)(ms.Tensor(image)).asnumpy()


def one_line(error, *words):
    """Assert that a caught error's message is one line that contains all words."""
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def sample_names(samples):
    """Names of samples, in order."""
    return [sample.name for sample in samples]


def read_mask(path, labels, encoding="auto"):
    """(H, W) uint8 class numbers of a mask file that is its whole data set."""
    from mindfcn.data.masks import MaskReader
    return MaskReader([path], labels, encoding)(path)


def read_table(path):
    """Rows of a CSV file as dictionaries {heading: cell}."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def sample_settings(records, model, optim, **options):
    """TrainConfig for the folder of the fixture `sample_records`: batches of four 32x32 crops, the run's device."""
    from mindfcn.config import AugmentConfig, PrepareConfig, TrainConfig
    return TrainConfig(
        device=os.environ["DEVICE_TARGET"],
        data=PrepareConfig(records=str(records / "records"), source="sample", root=str(records / "source"), samples=15,
                           size=64),
        augment=AugmentConfig(crop_size=32, batch_size=4), model=model, optim=optim, **options)
