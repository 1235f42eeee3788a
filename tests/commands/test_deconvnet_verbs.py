"""DeconvNet through the verbs: two stages of training, evaluation, prediction, explanation, export."""

import dataclasses

import cv2
import numpy as np
import pytest

from mindfcn.cli import main as cli
from mindfcn.commands.evaluate import evaluate
from mindfcn.commands.explain import explain
from mindfcn.commands.train import train
from mindfcn.config import (
    AugmentConfig,
    EvalConfig,
    ExplainConfig,
    ModelConfig,
    OptimConfig,
    PredictConfig,
    PrepareConfig,
    TrainConfig,
)
from mindfcn.engine.build import build
from mindfcn.errors import UserError
from mindfcn.inference.load import load_network
from mindfcn.inference.open import open_segmenter
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE
from mindfcn.weights.checkpoint import Card, load_checkpoint, save_checkpoint

# No network runs often enough here to be worth compiling.
pytestmark = pytest.mark.usefixtures("uncompiled", "unrendered")


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of a tiny DeconvNet on the windows of a sample set's objects."""
    folder = tmp_path_factory.mktemp("deconvnet")
    return TrainConfig(
        run_dir=str(folder / "stage1"), eval_every=0,
        data=PrepareConfig(records=str(folder / "boxes"), source="sample", root=str(folder / "source"), samples=10,
                           size=64, instances="boxes", instance_size=36),
        augment=AugmentConfig(crop_size=32, min_scale=1, max_scale=1, batch_size=4),
        model=ModelConfig(name="deconvnet_vgg16", width=0.125, fc_width=8, side=32, decoder_width=0.5),
        optim=OptimConfig(epochs=1, lr=0.01, recalibrate=2))


@pytest.fixture(scope="module")
def run(settings):
    return train(settings)


@pytest.fixture(scope="module")
def fcn(run, scramble, tmp_path_factory):
    """A checkpoint of an FCN-8s of the same classes."""
    card = load_checkpoint(run.checkpoint)[1]
    net = scramble(create_model("fcn8s_vgg16", len(card.labels), width=0.125, fc_width=8))
    path = tmp_path_factory.mktemp("fcn") / "fcn.ckpt"
    save_checkpoint(path, net, Card({"name": "fcn8s_vgg16", "width": 0.125, "fc_width": 8}, card.labels, COURSE,
                                    card.records))
    return str(path)


@pytest.fixture
def boxes(monkeypatch):
    """Proposals by hand, for an OpenCV without them."""
    monkeypatch.setattr("mindfcn.inference.load.check_installed", lambda: None)
    monkeypatch.setattr("mindfcn.inference.load.propose", lambda image, **_: np.minimum(
        [[0, 0, 30, 40], [10, 5, 60, 44], [0, 0, 99, 99]], [*image.shape[1::-1]] * 2))


def test_a_run_leaves_averaged_statistics_and_an_evaluation(run):
    assert run.evaluation.images == 2 and 0 <= run.evaluation.metrics["mean IoU"] <= 1
    weights, card, _ = load_checkpoint(run.checkpoint)
    assert card.model == {"name": "deconvnet_vgg16", "width": 0.125, "fc_width": 8, "side": 32, "decoder_width": 0.5}
    # The moving averages of five steps would still be near 1.
    assert weights["conv1.1.moving_variance"].max() < 0.9 or weights["conv1.1.moving_variance"].min() > 1.1


def test_stage_2_begins_where_stage_1_ended(settings, run):
    second = dataclasses.replace(settings, model=dataclasses.replace(settings.model, pretrained=run.checkpoint))
    weights, card, _ = load_checkpoint(run.checkpoint)
    net, _, report = build(second, card.labels, None)
    assert "0 missing, 0 unexpected, 0 shape mismatches" in report.summary()
    for parameter in net.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), weights[parameter.name])


@pytest.mark.parametrize("change, message", [
    ({"augment": AugmentConfig(crop_size=16, batch_size=4)}, "crop_size 16: must be at least --model.side, 32"),
    ({"augment": AugmentConfig(crop_size=32, batch_size=1)}, "--augment.batch_size 1: must be at least 2"),
    ({"model": ModelConfig(name="deconvnet_vgg16", side=50)}, "--model.side 50: must be a multiple of 32"),
    ({"model": ModelConfig(name="deconvnet_vgg16", side=32, padding="pad100")}, "has no option padding")])
def test_impossible_settings_are_reported(settings, change, message):
    with pytest.raises(UserError, match=message):
        train(dataclasses.replace(settings, run_dir=settings.run_dir + "-x", **change))


def test_evaluation_by_proposals_and_in_an_ensemble(run, fcn, boxes, tmp_path):
    every = {}
    for name, options in {"plain": {}, "itself": {"ensemble": run.checkpoint}, "sum": {
            "proposals": "edge_boxes", "aggregate": "sum", "ensemble": fcn, "ensemble_rule": "product"}}.items():
        result = evaluate(EvalConfig(run.checkpoint, out=str(tmp_path / name), worst=1, best=0, **options))
        every[name] = result.metrics
        assert result.images == 2 and (tmp_path / name / "report.html").is_file()
    assert every["itself"] == every["plain"] != every["sum"]


def test_a_prediction_by_proposals_is_put_together_from_its_windows(run, boxes):
    image = cv2.resize(np.random.default_rng(1).integers(0, 255, (4, 6, 3), np.uint8), (64, 48))
    plain, _ = load_network(run.checkpoint)
    segment, _ = open_segmenter(PredictConfig(run.checkpoint, proposals="edge_boxes"))
    mask, probabilities = segment(image, True)
    assert mask.shape == (48, 64) and probabilities.shape[1:] == (48, 64)
    assert np.abs(probabilities - plain(image, True)[1]).max() > 1e-3


def test_an_ensemble_of_other_classes_is_refused(run, scramble, tmp_path):
    save_checkpoint(tmp_path / "other.ckpt", scramble(create_model("fcn32s_vgg16", 21, width=0.125, fc_width=8)),
                    Card({"name": "fcn32s_vgg16", "width": 0.125, "fc_width": 8}))
    with pytest.raises(UserError, match="--ensemble .*other.ckpt has other classes than .* 21 classes"):
        evaluate(EvalConfig(run.checkpoint, ensemble=str(tmp_path / "other.ckpt"), out=str(tmp_path)))


def test_without_contrib_proposals_are_refused_in_one_line(run, tmp_path, monkeypatch, capsys):
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    assert cli.main(["eval", "--checkpoint", run.checkpoint, "--proposals", "edge_boxes", "--out", str(tmp_path)]) == 1
    messages = capsys.readouterr().err.strip()
    assert "opencv-contrib-python" in messages and "\n" not in messages


def test_every_unpooling_and_deconvolution_is_in_the_explanation(run, tmp_path):
    photograph = tmp_path / "photo.jpg"
    cv2.imwrite(str(photograph), np.random.default_rng(1).integers(0, 255, (48, 64, 3), np.uint8))
    found = explain(ExplainConfig(run.checkpoint, image=str(photograph), out_file=str(tmp_path / "maps.jpg")))
    names = [title.split(",")[0] for title, _ in found.maps]
    assert names == ["deconv6", *(f"{kind}{number}" for number in (5, 4, 3, 2, 1) for kind in ("unpool", "deconv"))]
    assert [values.shape[0] for _, values in found.maps] == [1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32]
    # An unpooled map is its input among zeros, at least three quarters of it.
    for title, values in found.maps:
        if title.startswith("unpool"):
            assert (values == 0).mean() >= 0.75
    assert cv2.imread(str(tmp_path / "maps.jpg")).shape[1] == 1200


@pytest.mark.parametrize("head, names", [
    ("fcn32s", ["pool3", "pool4", "fc7", "score_fr", "upscore"]),
    ("fcn16s", ["pool3", "pool4", "fc7", "score_fr", "upscore2", "score_pool4", "fuse_pool4", "upscore16"]),
    ("fcn8s", ["pool3", "pool4", "fc7", "score_fr", "upscore2", "score_pool4", "fuse_pool4", "upscore_pool4",
               "score_pool3", "fuse_pool3", "upscore8"])])
def test_an_fcns_maps_are_those_of_its_head(head, names, scramble, tmp_path):
    net = scramble(create_model(f"{head}_vgg16", 21, width=0.125, fc_width=8))
    save_checkpoint(tmp_path / "net.ckpt", net, Card({"name": f"{head}_vgg16", "width": 0.125, "fc_width": 8}))
    cv2.imwrite(str(tmp_path / "photo.png"), np.random.default_rng(1).integers(0, 255, (40, 70, 3), np.uint8))
    found = explain(ExplainConfig(str(tmp_path / "net.ckpt"), image=str(tmp_path / "photo.png"),
                                  out_file=str(tmp_path / "maps.png")))
    assert [title.replace(":", ",").split(",")[0] for title, _ in found.maps] == names
    maps = dict(zip(names, (values for _, values in found.maps)))
    if head != "fcn32s":
        np.testing.assert_allclose(maps["fuse_pool4"], maps["upscore2"] + maps["score_pool4"], rtol=1e-4, atol=1e-5)
    if head == "fcn8s":
        expected = maps["upscore_pool4"] + maps["score_pool3"]
        np.testing.assert_allclose(maps["fuse_pool3"], expected, rtol=1e-4, atol=1e-5)
    # The final scores are the network's own, of the most frequent class.
    segmenter, card = load_network(str(tmp_path / "net.ckpt"))
    mask, _ = segmenter(cv2.imread(str(tmp_path / "photo.png")))
    assert found.found == card.labels.names[1 + np.bincount(mask.ravel(), minlength=21)[1:].argmax()]


def test_mistakes_of_explain_are_reported(run, tmp_path):
    with pytest.raises(UserError, match="ends in .jpg or .png"):
        explain(ExplainConfig(run.checkpoint, image="x.jpg", out_file="maps.txt"))
    with pytest.raises(UserError, match="cannot read .*x.jpg"):
        explain(ExplainConfig(run.checkpoint, image=str(tmp_path / "x.jpg"), out_file="maps.jpg"))


def test_it_exports_to_mindir_and_not_to_onnx(run, tmp_path, capsys):
    path = str(tmp_path / "net.mindir")
    assert cli.main(["export", "--checkpoint", run.checkpoint, "--out_file", path, "--format", "mindir", "--size",
                     "[32, 32]"]) == 0
    assert cli.main(["export", "--checkpoint", run.checkpoint, "--out_file", str(tmp_path / "net.onnx")]) == 1
    assert "DeconvNet" in capsys.readouterr().err
