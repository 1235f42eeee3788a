"""FCNs on dilated ResNets through the verbs: trained for a few steps, resumed, exported, refined."""

import dataclasses

import cv2
import numpy as np
import pytest
from helpers import sample_settings

from mindfcn.commands.evaluate import evaluate
from mindfcn.commands.export import export
from mindfcn.commands.predict import predict
from mindfcn.commands.train import train
from mindfcn.config import EvalConfig, ExportConfig, ModelConfig, OptimConfig, PredictConfig
from mindfcn.models.backbones import resnet
from mindfcn.weights.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("uncompiled", "pynative", "unrendered")


@pytest.fixture(scope="module", autouse=True)
def shallow():
    """ResNet-18 has six of its eight blocks, of every kind: with projection, stride and dilation, and without."""
    kernels, expansion, _ = resnet.DEPTHS[18]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.DEPTHS, 18, (kernels, expansion, (1, 2, 1, 2)))
        yield


@pytest.fixture(scope="module")
def run(sample_records, shallow, tmp_path_factory):
    """TrainResult of one epoch."""
    return train(settings(sample_records, tmp_path_factory.mktemp("run") / "run"))


def settings(records, run_dir):
    # Few steps lead to a network that finds background everywhere; initial weights tell photographs of two sizes apart.
    config = sample_settings(records, ModelConfig(name="fcn_r18b_d8", width=0.125),
                             OptimConfig(epochs=1, lr=1e-6, min_lr=0),
                             run_dir=str(run_dir), eval_every=0)
    return dataclasses.replace(config, augment=dataclasses.replace(config.augment, shorter_side=24, batch_size=6))


def test_a_run_ends_with_a_network_that_has_both_heads(run):
    weights, card, _ = load_checkpoint(run.checkpoint)
    assert run.epoch == 1 and card.model["name"] == "fcn_r18b_d8"
    assert np.isfinite(list(run.evaluation.metrics.values())).all()
    assert {"score.weight", "auxiliary.score.weight"} <= set(weights)
    assert np.abs(weights["auxiliary.score.bias"]).max() > 0, "the second head has learned"


def test_the_run_and_eval_segment_photographs_of_the_same_shorter_side(run):
    assert load_checkpoint(run.checkpoint)[1].shorter_side == 24
    assert evaluate(EvalConfig(run.checkpoint, worst=0, best=0)).metrics == run.evaluation.metrics
    other = evaluate(EvalConfig(run.checkpoint, worst=0, best=0, shorter_side=0))
    assert other.metrics != run.evaluation.metrics


def test_the_exported_file_predicts_the_same_masks(run, tmp_path):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime")
    photo = str(tmp_path / "photo.png")
    cv2.imwrite(photo, np.random.default_rng(4).integers(0, 255, (30, 44, 3), np.uint8))
    exported = export(ExportConfig(run.checkpoint, str(tmp_path / "net.onnx")))
    assert exported.difference <= 1e-4
    masks = []
    for name, checkpoint in (("mindspore", run.checkpoint), ("onnx", exported.path)):
        result = predict(PredictConfig(checkpoint, device="CPU", images=[photo], out=str(tmp_path / name), flip=True,
                                       scales=[1.0, 1.5]))
        masks.append(cv2.imread(result.written[0]["mask"]))
    assert (masks[0] == masks[1]).mean() > 0.999


def test_a_crf_follows_it(run, tmp_path):
    pytest.importorskip("pydensecrf", reason="pydensecrf2 is not installed: pip install pydensecrf2")
    photo = str(tmp_path / "photo.png")
    cv2.imwrite(photo, np.full((30, 44, 3), 90, np.uint8))
    written, = predict(PredictConfig(run.checkpoint, device="CPU", images=[photo], out=str(tmp_path / "out"),
                                     crf="deeplab_v1")).written
    assert cv2.imread(written["mask"]).shape == (30, 44, 3)


@pytest.mark.long
def test_a_run_is_resumed(sample_records, tmp_path):
    config = settings(sample_records, tmp_path / "run")
    train(config)
    assert train(dataclasses.replace(config, optim=OptimConfig(epochs=2), resume=True)).epoch == 2
