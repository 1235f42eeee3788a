"""The network of the repository: what it finds on photographs, and where it is used without being named."""

import functools
import pathlib

import cv2
import mindspore as ms
import numpy as np
import pytest

import mindfcn
from mindfcn.commands.predict import predict
from mindfcn.config import SMALL_NETWORK, PredictConfig, ServeConfig
from mindfcn.console import Console
from mindfcn.inference.open import open_segmenter
from mindfcn.labels import VOC, LabelSet
from mindfcn.storage.images import read_palette_mask
from mindfcn.weights.card import Card
from mindfcn.weights.checkpoint import save_checkpoint

PHOTOGRAPHS = pathlib.Path(__file__).parents[2] / "docs" / "pictures" / "photographs"

pytestmark = pytest.mark.usefixtures("uncompiled", "pynative")


@pytest.fixture(scope="module")
def found(uncompiled):
    """Function from a photograph's name to (image, mask, probabilities, card), computed once."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    segment, card = mindfcn.load_segmenter()

    @functools.cache
    def of(name):
        image = cv2.imread(str(PHOTOGRAPHS / f"{name}.jpg"))
        return (image, *segment(image, probabilities=True), card)
    return of


@pytest.mark.parametrize("name, expected, share", [("cat", "cat", 0.4), ("astronaut", "person", 0.3)])
def test_it_knows_photographs(found, name, expected, share):
    image, mask, probabilities, card = found(name)
    assert mask.shape == image.shape[:2] and card.labels == VOC
    assert probabilities.shape == (21, *mask.shape)
    pixels = np.bincount(mask.ravel(), minlength=21)
    pixels[0] = 0
    assert VOC.names[pixels.argmax()] == expected and pixels.max() > share * mask.size


def test_predict_takes_it_and_names_larger_ones(found, tmp_path):
    lines = []
    written, = predict(PredictConfig(images=[str(PHOTOGRAPHS / "cat.jpg")], out=str(tmp_path), device="CPU"),
                       Console(lines.append)).written
    assert (read_palette_mask(written["mask"]) == found("cat")[1]).mean() > 0.999
    note, = [line for line in lines if SMALL_NETWORK in line]
    for word in ("21 classes", "mIoU", "research use", "fcn_resnet50_coco", "135 MB", "BSD 3-Clause", "150 classes",
                 "mindfcn weights"):
        assert word in note


def test_serve_takes_it():
    assert ServeConfig().checkpoint == SMALL_NETWORK


@pytest.mark.parametrize("source, known", [("sample data/sample", False), ("rooms", False), ("voc data/samples", True)])
def test_a_network_of_drawn_shapes_says_so(tiny, tmp_path, source, known):
    card = Card({"name": "fcn8s_vgg16_bn", "width": 0.125, "fc_width": 8},
                LabelSet.from_dict({"names": ["background", "disc", "square"]}, "card"),
                data={"source": source, "identity": "x"})
    save_checkpoint(tmp_path / "net.ckpt", tiny("fcn8s_vgg16_bn"), card)
    lines = []
    open_segmenter(PredictConfig(str(tmp_path / "net.ckpt"), device="CPU"), Console(lines.append))
    assert any("drawn pictures" in line for line in lines) != known
