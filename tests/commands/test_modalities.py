"""Depth, HHA and second labels through every verb: records, training, evaluation, prediction, export, comparison."""

import dataclasses
import json

import cv2
import mindspore as ms
import numpy as np
import pytest
import scipy.io
import small_network  # noqa: F401  (its networks are trained)
from PIL import Image

from mindfcn.cli.parser import parse
from mindfcn.commands.evaluate import evaluate, load_network
from mindfcn.commands.export import export
from mindfcn.commands.predict import segment_images
from mindfcn.commands.prepare import find_records, prepare
from mindfcn.commands.train import train
from mindfcn.commands.tune_crf import tune_crf
from mindfcn.config import (
    AugmentConfig,
    EvalConfig,
    ExportConfig,
    ModelConfig,
    OptimConfig,
    PredictConfig,
    PrepareConfig,
    TrainConfig,
    TuneCrfConfig,
)
from mindfcn.console import Console
from mindfcn.data.hha import encode_hha
from mindfcn.data.sources.nyud import NYUD, list_nyud
from mindfcn.data.sources.siftflow import GEOMETRIC, SCENES, SIFTFLOW
from mindfcn.data.synthetic.rooms import room_camera
from mindfcn.engine.build import build
from mindfcn.engine.settings import check_settings
from mindfcn.errors import UserError
from mindfcn.inference.onnx import OnnxSegmenter
from mindfcn.inference.open import open_segmenter
from mindfcn.metrics import ConfusionMatrix
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE
from mindfcn.weights.card import Card
from mindfcn.weights.checkpoint import load_checkpoint, save_checkpoint

TINY = {"width": 0.0625, "fc_width": 8}

pytestmark = pytest.mark.usefixtures("uncompiled", "pynative", "unrendered")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """PrepareConfig of six rooms, 48x36 pixels, recorded."""
    folder = tmp_path_factory.mktemp("rooms")
    config = PrepareConfig(records=str(folder / "records"), source="rooms", root=str(folder / "rooms"), samples=6,
                           size=48, train_split="trainval", val_split="test")
    result = prepare(config)
    assert (result.train.written, result.val.written, result.labels) == (5, 1, NYUD)
    return config


def settings(data, run_dir, name="fcn32s_small", **model):
    return TrainConfig(run_dir=str(run_dir), device="CPU", data=data, augment=AugmentConfig(crop_size=0, batch_size=1),
                       model=ModelConfig(name, **TINY, **model), optim=OptimConfig(epochs=1, lr=0.001, min_lr=0.0001))


def random_checkpoint(path, modality="rgb", labels=NYUD, name="fcn32s_small", seed=1, geometric=None, scramble=None):
    options = {**TINY, **({} if modality == "rgb" else {"modality": modality}),
               **({"geometric": len(geometric)} if geometric else {})}
    net = scramble(create_model(name, len(labels), **options), seed)
    save_checkpoint(path, net, Card({"name": name, **options}, labels, COURSE.to(modality), geometric=geometric))
    return net


def test_training_evaluation_and_prediction_get_the_same_input(rooms, tmp_path):
    result = train(settings(rooms, tmp_path / "run", modality="rgb_hha", preprocess="nyud"))
    weights, card, _ = load_checkpoint(result.checkpoint)
    assert card.model["modality"] == "rgb_hha" and card.preprocess.mean[0] == 116.190
    assert card.preprocess.std == (1,) * 6 and "hha.conv1.0.weight" in weights
    again = evaluate(EvalConfig(result.checkpoint, device="CPU", out=str(tmp_path / "eval"), worst=1, best=0))
    assert again.metrics == result.evaluation.metrics
    assert len(list((tmp_path / "eval" / "worst").iterdir())) == 1

    sample, = list_nyud(rooms.root, "test")
    depth = cv2.imread(sample.extras["depth"].path, cv2.IMREAD_UNCHANGED)
    image = cv2.imread(sample.image)
    camera = dataclasses.astuple(room_camera(48))
    config = PredictConfig(result.checkpoint, images=[sample.image], out=str(tmp_path / "out"), overlay=False,
                           device="CPU",
                           depth=f"{rooms.root}/data/depth", camera=camera)
    segment, card = open_segmenter(config)
    done = segment_images(config, segment, card.labels, card=card)
    found = np.array(Image.open(done.written[0]["mask"]))
    both = np.concatenate([image, encode_hha(depth / 1000, room_camera(48))], -1)
    both = (both - np.float32(card.preprocess.mean)).transpose(2, 0, 1)[None]
    expected = segment.net(ms.Tensor(both.astype(np.float32))).asnumpy()[0].argmax(0)
    np.testing.assert_array_equal(found, expected)
    matrix = ConfusionMatrix(len(NYUD))
    matrix.update(found, sample.read_label(sample.label))
    assert matrix.mean_iou() == pytest.approx(again.metrics["mean IoU"])

    with pytest.raises(UserError, match="takes image and hha; give the folder"):
        segment_images(dataclasses.replace(config, depth=""), segment, card.labels, card=card)
    with pytest.raises(UserError, match="takes image; leave it out"):
        segment_images(config, segment, card.labels)
    wrong = segment_images(dataclasses.replace(config, depth=str(tmp_path)), segment, card.labels, card=card)
    assert "cannot read" in wrong.failed[0][1] and not wrong.written
    with pytest.raises(UserError, match="needs rgb_hha, which photographs do not hold"):
        export(ExportConfig(result.checkpoint, str(tmp_path / "a.onnx"), photos=[sample.image]))


def test_late_fusion_starts_from_two_checkpoints(rooms, tmp_path, scramble):
    color, hha = str(tmp_path / "color.ckpt"), str(tmp_path / "hha.ckpt")
    random_checkpoint(color, scramble=scramble)
    random_checkpoint(hha, "hha", seed=2, scramble=scramble)
    records = find_records(rooms, Console(print))
    config = settings(rooms, tmp_path, modality="rgb_hha", pretrained=color, pretrained_hha=hha)
    check_settings(config)
    net, card, report = build(config, records.labels, records.val)
    both = {parameter.name: parameter.asnumpy() for parameter in net.get_parameters()}
    for path, stream in ((color, "color"), (hha, "hha")):
        weights, _, _ = load_checkpoint(path)
        np.testing.assert_array_equal(both[f"{stream}.conv4.0.weight"], weights["conv4.0.weight"])
        np.testing.assert_array_equal(both[f"score_fr.{stream}.weight"], weights["score_fr.weight"])
    assert card.preprocess == COURSE.to("rgb_hha")
    assert "color.ckpt" in str(report) and "score_fr.hha.weight" in str(report)
    for swapped, message in (((hha, color), "not a checkpoint of a network for rgb"),
                             ((color, color), "not a checkpoint of a network for hha")):
        config = settings(rooms, tmp_path, modality="rgb_hha", pretrained=swapped[0], pretrained_hha=swapped[1])
        with pytest.raises(UserError, match=message):
            build(config, records.labels, records.val)
    with pytest.raises(UserError, match="--model.pretrained_hha"):
        check_settings(settings(rooms, tmp_path, modality="hha", pretrained=color, pretrained_hha=hha))


def test_early_fusion_starts_from_a_color_checkpoint(rooms, tmp_path, scramble):
    random_checkpoint(tmp_path / "color.ckpt", scramble=scramble)
    records = find_records(rooms, Console(print))
    net, card, _ = build(settings(rooms, tmp_path, modality="rgbd", pretrained=str(tmp_path / "color.ckpt")),
                         records.labels, records.val)
    first = next(p for p in net.get_parameters() if p.name == "conv1.0.weight").asnumpy()
    np.testing.assert_allclose(first[:, 3], first[:, :3].mean(1), rtol=1e-6)
    assert card.preprocess == COURSE.to("rgbd")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """PrepareConfig of four scenes in SIFT Flow's files, 40x48 pixels, recorded: sky above, road below, a building."""
    root = tmp_path_factory.mktemp("siftflow")
    rng = np.random.default_rng(1)
    for kind in ("Images", "SemanticLabels", "GeoLabels"):
        (root / kind / SCENES).mkdir(parents=True)
    for index in range(4):
        semantic, geometric = np.full((40, 48), 28), np.full((40, 48), 1)
        horizon, left = rng.integers(15, 25), rng.integers(5, 25)
        semantic[horizon:], geometric[horizon:] = 22, 2
        semantic[horizon - 10:horizon + 3, left:left + 15], geometric[horizon - 10:horizon + 3, left:left + 15] = 6, 3
        semantic[0, :5], geometric[0, :5] = 0, -1
        colors = rng.integers(0, 40, (40, 48, 3)) + np.array([200, 60, 120])[geometric.clip(1) - 1][..., None]
        cv2.imwrite(str(root / "Images" / SCENES / f"street_{index}.jpg"), colors.astype(np.uint8))
        for kind, mask in (("SemanticLabels", semantic), ("GeoLabels", geometric)):
            scipy.io.savemat(root / kind / SCENES / f"street_{index}.mat", {"S": mask.astype(np.int16)})
    (root / "trainval.txt").write_text("street_0\nstreet_1\nstreet_2\n")
    (root / "test.txt").write_text("street_3\n")
    config = PrepareConfig(records=str(root / "records"), source="siftflow", root=str(root), train_split="trainval",
                           val_split="test")
    prepare(config)
    return config


def test_two_heads_are_trained_evaluated_and_predicted(scenes, tmp_path):
    config = settings(scenes, tmp_path / "run", geometric=True, preprocess="siftflow")
    result = train(config)
    _, card, _ = load_checkpoint(result.checkpoint)
    assert card.geometric == GEOMETRIC and card.labels == SIFTFLOW and card.model["geometric"] == 3
    again = evaluate(EvalConfig(result.checkpoint, device="CPU", out=str(tmp_path / "eval"), worst=0, best=0))
    assert again.geometric == result.evaluation.geometric and set(again.geometric) == set(again.metrics)
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert written["excluded"] == ["cow", "desert", "moon"]
    # The same counts by hand, from the network's own logits.
    photo = f"{scenes.root}/Images/{SCENES}/street_3.jpg"
    predicted = PredictConfig(result.checkpoint, images=[photo], out=str(tmp_path / "out"), overlay=False, device="CPU")
    segment, card = open_segmenter(predicted)
    done, = segment_images(predicted, segment, card.labels, card=card).written
    for key, kind, classes, block in (("mask", "SemanticLabels", 33, written),
                                      ("geometric", "GeoLabels", 3, written["geometric"])):
        truth = scipy.io.loadmat(f"{scenes.root}/{kind}/{SCENES}/street_3.mat")["S"].astype(int)
        counted = truth > 0
        counts = np.zeros((classes, classes), int)
        np.add.at(counts, (truth[counted] - 1, np.array(Image.open(done[key]))[counted]), 1)
        np.testing.assert_array_equal(block["confusion matrix"], counts)
    with pytest.raises(UserError, match="hold no geometric classes"):
        train(settings(PrepareConfig(records=str(tmp_path / "r"), source="sample", root=str(tmp_path / "s"), samples=5,
                                     size=32),
                       tmp_path / "other", geometric=True))
    with pytest.raises(UserError, match="native protocol"):
        evaluate(EvalConfig(result.checkpoint, device="CPU", out=str(tmp_path / "c"), protocol="course"))
    with pytest.raises(UserError, match="keep_cells"):
        check_settings(dataclasses.replace(config, optim=OptimConfig(keep_cells=0.5)))


@pytest.mark.parametrize("modality,name,geometric", [
    ("rgbd", "fcn32s_vgg16", None), ("rgb_hha", "fcn16s_vgg16_bn", None), ("rgb", "fcn32s_vgg16", GEOMETRIC)])
def test_exported_networks_compute_the_same(tmp_path, modality, name, geometric, scramble):
    pytest.importorskip("onnxruntime")
    labels = SIFTFLOW if geometric else NYUD
    random_checkpoint(tmp_path / "a.ckpt", modality, labels, name, geometric=geometric, scramble=scramble)
    result = export(ExportConfig(str(tmp_path / "a.ckpt"), str(tmp_path / "a.onnx")))
    assert result.difference < 1e-4 and result.compared == 1
    channels = COURSE.to(modality).channels
    assert result.inputs == ("N", channels, "H", "W")
    segment, (other, _) = OnnxSegmenter(tmp_path / "a.onnx", "CPU"), load_network(tmp_path / "a.ckpt")
    batch = np.random.default_rng(2).standard_normal((2, channels, 37, 45)).astype(np.float32)
    logits = segment.logits(batch)
    assert logits.shape == (2, len(labels) + (3 if geometric else 0), 37, 45)
    np.testing.assert_allclose(logits, other.logits(batch), atol=1e-4 * np.abs(logits).max())
    assert segment.card.geometric == geometric
    if geometric:
        image = np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8)
        np.testing.assert_array_equal(segment.geometric(image), other.geometric(image))
        np.testing.assert_array_equal(segment(image)[0], other(image)[0])
        assert segment.geometric(image).max() <= 2


def test_checkpoints_of_depth_are_refused_by_the_page(tmp_path, scramble):
    pytest.importorskip("fastapi")
    from mindfcn.config import ServeConfig
    from mindfcn.serve.server import serve
    random_checkpoint(tmp_path / "a.ckpt", "hha", scramble=scramble)
    with pytest.raises(UserError, match="serve and hha do not go together: the page sends photographs alone"):
        serve(ServeConfig(str(tmp_path / "a.ckpt"), port=0, device="CPU"), Console(print))


def test_checkpoints_of_depth_have_no_crf(tmp_path, scramble):
    pytest.importorskip("pydensecrf")
    random_checkpoint(tmp_path / "a.ckpt", "hha", scramble=scramble)
    with pytest.raises(UserError, match="tune_crf and hha do not go together"):
        tune_crf(TuneCrfConfig(str(tmp_path / "a.ckpt"), device="CPU"))


def test_settings_from_the_command_line():
    _, config = parse(["train", "--model.modality", "rgb_hha", "--data.source", "nyud", "--model.preprocess", "nyud"])
    assert (config.model.modality, config.data.source) == ("rgb_hha", "nyud")
    _, config = parse(["prepare", "--source", "context", "--classes", "33", "--voc", "data"])
    assert config.classes == 33
    _, config = parse(["predict", "--checkpoint", "a.ckpt", "a.png", "--depth", "d", "--camera",
                       "[518, 519, 325, 253]"])
    assert tuple(config.camera) == (518, 519, 325, 253)
