"""configs/resnet50_voc.yaml on real photographs, from random weights: it runs, learns, resumes and exports.

    bash run_tests.sh --long -s tests/real/test_resnet50_recipe.py

prints the losses. The network is narrow, the crops are small, and there are 64 photographs to train on.
"""

import pathlib

import numpy as np
import pytest
from helpers import read_table

from mindfcn.cli.parser import parse
from mindfcn.commands.export import export
from mindfcn.commands.train import train
from mindfcn.config import ExportConfig
from mindfcn.weights.checkpoint import load_checkpoint

ROOT = pathlib.Path(__file__).parents[2]
VOC_FOLDER = ROOT.parent / "shared" / "data" / "VOCdevkit" / "VOC2012"
pytestmark = [pytest.mark.long, pytest.mark.skipif(not VOC_FOLDER.is_dir(), reason="no real data in ../shared/data")]


@pytest.fixture
def voc(tmp_path):
    """A VOC folder of the first 64 training and 6 validation photographs."""
    lists = tmp_path / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name in ("JPEGImages", "SegmentationClass"):
        (tmp_path / "VOC2012" / name).symlink_to(VOC_FOLDER / name)
    for split, count in (("train", 64), ("val", 6)):
        names = (VOC_FOLDER / "ImageSets" / "Segmentation" / f"{split}.txt").read_text().split()
        (lists / f"{split}.txt").write_text("\n".join(names[:count]))
    return tmp_path / "VOC2012"


def test_the_recipe_learns_resumes_and_exports(voc, tmp_path):
    run = tmp_path / "run"

    def trained(*words):
        return train(parse([
            "train", "--config", str(ROOT / "configs" / "resnet50_voc.yaml"), "--run_dir", str(run), "--device", "CPU",
            "--data.root", str(voc), "--data.sbd", "", "--data.records", str(tmp_path / "records"),
            # The rate that the recipe names for a start without its weights.
            "--model.pretrained", "", "--optim.lr", "0.01", "--model.width", "0.125", "--augment.crop_size", "65",
            "--augment.batch_size", "8", *words])[1])

    first = trained("--optim.epochs", "2")
    assert (first.epoch, first.signal) == (2, None) and np.isfinite(list(first.evaluation.metrics.values())).all()
    result = trained("--optim.epochs", "4", "--resume", "true")
    losses = [float(row["loss"]) for row in read_table(run / "log.csv")]
    print("\nlosses of 32 steps:", " ".join(f"{loss:.2f}" for loss in losses))
    assert result.epoch == 4 and len(losses) == 32
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:4])
    weights, card, _ = load_checkpoint(result.checkpoint)
    assert card.model["name"] == "fcn_resnet50" and len(card.labels) == 21 and "auxiliary.score.weight" in weights
    for form in ("onnx", "mindir"):
        exported = export(ExportConfig(result.checkpoint, str(tmp_path / f"net.{form}"), form, size=(65, 97)))
        print(f"{form}: logits differ from MindSpore's by {exported.difference:.1e} of the largest")
        assert exported.compared == 1 and exported.difference <= 1e-4
