"""docs/own_data.md: every command of the page runs, one after the other, as typed but with fewer and smaller images."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from mindfcn.cli.main import main
from mindfcn.labels import VOC, LabelSet
from mindfcn.models.factory import create_model
from mindfcn.weights.checkpoint import Card, load_checkpoint, save_checkpoint

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
TINY = {"width": 0.125, "fc_width": 8}
# What is added to a command, by its first words.
SMALLER = {"python experiments/garden.py": ["--images", "14", "--size", "64"],
           "mindfcn train": ["--model.width", "0.125", "--model.fc_width", "8", "--augment.crop_size", "32",
                             "--optim.epochs", "1"]}
# In place of the recipe's weights, which would be fetched.
WEIGHTS = ["--model.pretrained", "ckpt/vgg16.npz"]


def commands():
    """The lines of the page's bash blocks, those that end in a backslash joined."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip()]


def smaller(line):
    words = shlex.split(line, comments=True) + next(
        (more for begin, more in SMALLER.items() if line.startswith(begin)), [])
    return words + WEIGHTS * (words[:2] == ["mindfcn", "train"] and "--model.pretrained" not in words)


def status(words):
    if words[0] == "mindfcn":
        return main(words[1:])
    return subprocess.run([sys.executable, *words[1:]], check=False).returncode


@pytest.fixture(scope="module")
def walk(uncompiled, tmp_path_factory):
    """A folder in which the page's commands were typed, in their order."""
    folder, before = tmp_path_factory.mktemp("newcomer"), os.getcwd()
    for inner in ("configs", "experiments"):
        (folder / inner).symlink_to(ROOT / inner)
    weights_beforehand(folder)
    os.chdir(folder)
    try:
        for line in commands():
            assert status(smaller(line)) == 0, line
        yield folder
    finally:
        os.chdir(before)


def weights_beforehand(folder):
    """A backbone, as from ImageNet, and a network of VOC's classes, where the page expects them."""
    net = create_model("fcn8s_vgg16", len(VOC), **TINY)
    (folder / "ckpt").mkdir()
    np.savez(folder / "ckpt" / "vgg16.npz",
             **{parameter.name: parameter.asnumpy() for parameter in net.get_parameters()
                if parameter.name[:5] in ("conv1", "conv2", "conv3", "conv4", "conv5")})
    ms.set_seed(1)
    card = Card({"name": "fcn8s_vgg16", **TINY, "skip_scales": [0.1, 0.02]}, VOC)
    save_checkpoint(folder / "runs" / "voc_cpu" / "checkpoints" / "best.ckpt", net, card)


def test_the_page_goes_from_a_folder_to_masks(walk):
    verbs = [line.split()[1] for line in commands() if line.startswith("mindfcn")]
    assert {"labels", "inspect", "train", "predict"} <= set(verbs)
    assert LabelSet.load(walk / "mydata" / "labels.yaml").names == ("soil", "leaf", "fruit", "beetle")
    assert json.loads((walk / "inspection" / "inspection.json").read_text())["broken"] == 0
    photographs = os.listdir(walk / "mydata" / "images")
    assert len(photographs) == 14 and (walk / "inspection" / "sheet.jpg").exists()
    for name in photographs:
        mask = Image.open(walk / "predictions" / name.replace(".jpg", ".png"))
        assert np.asarray(mask).max() < 4


def test_the_recipe_keeps_its_class_weights(walk):
    card = load_checkpoint(walk / "runs" / "own_data" / "checkpoints" / "best.ckpt")[1]
    assert len(card.training["class_weights"]) == 4 and card.training["class_weights"][0] < 1
    plain = load_checkpoint(walk / "runs" / "unweighted" / "checkpoints" / "best.ckpt")[1]
    assert "class_weights" not in plain.training
    assert load_checkpoint(walk / "runs" / "from_voc" / "checkpoints" / "best.ckpt")[1].labels.names[3] == "beetle"


def test_the_labels_shown_are_those_that_are_proposed(walk):
    for shown, folder in zip(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL), ("mydata", "whole")):
        (walk / "shown.yaml").write_text(shown, encoding="utf-8")
        assert LabelSet.load(walk / "shown.yaml") == LabelSet.load(walk / folder / "labels.yaml")


def test_overlapping_classes_go_from_drawn_bands_to_predicted_ones(walk):
    tifffile = pytest.importorskip("tifffile", reason="pip install tifffile")
    labels = load_checkpoint(walk / "runs" / "whole" / "checkpoints" / "best.ckpt")[1].labels
    assert labels.names == ("leaf", "fruit", "beetle") and labels.multilabel
    drawn = [tifffile.imread(walk / "whole" / "masks" / f"bed_{number:04d}.tif") for number in range(1, 15)]
    assert any(((mask == 255).sum(0) > 1).any() for mask in drawn)
    for number, mask in enumerate(drawn, 1):
        found = tifffile.imread(walk / "predictions" / "whole" / f"bed_{number:04d}.tif")
        assert found.shape == mask.shape and set(np.unique(found)) <= {0, 1}


@pytest.mark.parametrize("encoding", ["palette", "grey"])
def test_the_other_encodings_give_the_same_masks(walk, encoding):
    made = f"other_{encoding}"
    assert status(smaller(f"python experiments/garden.py {made} --encoding {encoding}")) == 0
    assert status(["mindfcn", "labels", "--from", f"{made}/masks", "--names", "soil", "leaf", "fruit", "beetle"]) == 0
    assert status(["mindfcn", "inspect", made, "--out", f"{made}-inspection"]) == 0
    first, second = (json.loads((walk / folder / "inspection.json").read_text())["splits"]
                     for folder in ("inspection", f"{made}-inspection"))
    assert first == second
