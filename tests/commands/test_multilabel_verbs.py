"""Overlapping classes through the verbs: training, resuming, evaluation, prediction, export, and what is refused."""

import dataclasses
import json
import os
import shutil

import cv2
import numpy as np
import pytest
import small_network  # noqa: F401  (its networks are trained)
from helpers import one_line, read_table

from mindfcn.commands.compare import compare
from mindfcn.commands.evaluate import evaluate
from mindfcn.commands.export import export
from mindfcn.commands.inspect_data import inspect
from mindfcn.commands.predict import predict
from mindfcn.commands.train import train
from mindfcn.config import (
    AugmentConfig,
    CompareConfig,
    EvalConfig,
    ExportConfig,
    InspectConfig,
    ModelConfig,
    OptimConfig,
    PredictConfig,
    PrepareConfig,
    TrainConfig,
    Variant,
)
from mindfcn.data.bands import write_bands
from mindfcn.data.multilabel import read_multilabel
from mindfcn.errors import UserError
from mindfcn.inference.load import load_network
from mindfcn.inference.open import open_segmenter
from mindfcn.labels import LabelSet
from mindfcn.weights.checkpoint import load_checkpoint

tifffile = pytest.importorskip("tifffile", reason="pip install tifffile")
NAMES = ("left", "top", "dark")

pytestmark = pytest.mark.usefixtures("uncompiled", "pynative", "unrendered")


def leaf(seed, height=40, width=48):
    """(photograph BGR, bands): a left part that is blue, an upper part that is red, and dark squares; all overlap."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width, 3), np.uint8)
    mask[:, :int(random.integers(12, 36)), 0] = mask[:int(random.integers(10, 30)), :, 1] = 1
    mask[int(random.integers(0, 20)):, int(random.integers(0, 20)):, 2] = 1
    image = 60 + 120 * mask[..., [0, 2, 1]]
    image[..., 1] = 180 - 120 * mask[..., 2]
    return (image + random.integers(0, 20, image.shape)).astype(np.uint8), mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten photographs with masks of three bands; the first rows of a mask do not count in one band."""
    root = tmp_path_factory.mktemp("leaves")
    for inner in ("images", "masks"):
        (root / inner).mkdir()
    for number in range(10):
        image, mask = leaf(number)
        mask[:2, :, 0] = 254
        cv2.imwrite(str(root / "images" / f"{number}.png"), image)
        write_bands(str(root / "masks" / f"{number}.tif"), mask)
    (root / "labels.yaml").write_text(f"names: [{', '.join(NAMES)}]\nmultilabel: true\n")
    return root


def settings(folder, run_dir, epochs=2, **changes):
    config = TrainConfig(
        run_dir=str(run_dir), device="CPU",
        data=PrepareConfig(records=str(folder / "records"), source="folder", root=str(folder)),
        augment=AugmentConfig(crop_size=32, batch_size=2, rotate=10.0),
        model=ModelConfig("fcn8s_small_bn", width=0.125, fc_width=8), optim=OptimConfig(epochs=epochs, lr=0.1))
    return dataclasses.replace(config, **changes)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """TrainResult of a run of twelve epochs."""
    return train(settings(folder, tmp_path_factory.mktemp("runs") / "run", 12))


def test_training_and_evaluation_count_each_class(trained, folder, tmp_path):
    sklearn = pytest.importorskip("sklearn.metrics")
    assert load_checkpoint(trained.checkpoint)[1].labels == LabelSet.load(folder / "labels.yaml")
    rows = read_table(os.path.join(trained.run_dir, "evaluation.csv"))
    assert list(rows[0]) == ["step", "epoch", "mean IoU", "mean precision", "mean recall"] and len(rows) == 12
    again = evaluate(EvalConfig(trained.checkpoint, device="CPU", out=str(tmp_path / "eval"), worst=1, best=1))
    assert again.metrics == trained.evaluation.metrics and again.metrics["mean IoU"] > 0.5
    assert again.table.splitlines()[0].split() == "class IoU % precision % recall % share %".split()
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    truth, found = [], []
    out = predict(PredictConfig(trained.checkpoint, "CPU", out=str(tmp_path / "out"), images=[
        str(folder / "images" / f"{name}.png") for name in written["image IoU"]]))
    for entry in out.written:
        name = os.path.splitext(os.path.basename(entry["image"]))[0]
        labels = LabelSet.load(folder / "labels.yaml")
        truth.append(read_multilabel(str(folder / "masks" / f"{name}.tif"), labels).reshape(-1, 3))
        found.append(read_multilabel(entry["mask"], labels).reshape(-1, 3))
        assert os.path.exists(entry["overlay"])
    truth, found = np.concatenate(truth), np.concatenate(found)
    for band in range(3):
        counted = truth[:, band] != 254
        pair = truth[counted, band], found[counted, band]
        assert written["class IoU"][band] == pytest.approx(sklearn.jaccard_score(*pair))
        assert written["class precision"][band] == pytest.approx(sklearn.precision_score(*pair))
        assert written["class recall"][band] == pytest.approx(sklearn.recall_score(*pair))
        np.testing.assert_array_equal(written["binary counts"][band], sklearn.confusion_matrix(*pair))
    page = (tmp_path / "eval" / "report.html").read_text(encoding="utf-8")
    assert "mean precision" in page and ">recall<" in page and "Confusion matrix" not in page


def test_a_resumed_run_is_the_run_that_went_on(folder, tmp_path):
    def constant(epochs):
        return OptimConfig(epochs=epochs, lr=0.1, schedule="constant")

    one = train(settings(folder, tmp_path / "one", optim=constant(2)))
    train(settings(folder, tmp_path / "cut", optim=constant(1)))
    two = train(settings(folder, tmp_path / "cut", optim=constant(2), resume=True))
    assert [list(row) for row in map(dict.values, read_table(tmp_path / "one" / "evaluation.csv"))] == [
        list(row) for row in map(dict.values, read_table(tmp_path / "cut" / "evaluation.csv"))]
    ends = [load_checkpoint(os.path.join(result.run_dir, "checkpoints", "last.ckpt"))[0] for result in (one, two)]
    for name, weight in ends[0].items():
        np.testing.assert_array_equal(weight, ends[1][name])


def test_scales_flips_windows_and_probabilities(trained, folder, tmp_path):
    photo = str(folder / "images" / "0.png")
    image = cv2.imread(photo)
    segmenter, card = load_network(trained.checkpoint)
    batch = segmenter.image_logits(image)
    expected = 1 / (1 + np.exp(-batch.astype(np.float64)))
    mask, probabilities = segmenter(image, probabilities=True)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(mask, (expected > 0.5).transpose(1, 2, 0))
    flipped = 1 / (1 + np.exp(-segmenter.image_logits(image[:, ::-1]).astype(np.float64)))[:, :, ::-1]
    for setting, maps in (({"flip": True}, (expected + flipped) / 2), ({"window": 512, "overlap": 64}, expected)):
        config = PredictConfig(trained.checkpoint, "CPU", images=[photo], out=str(tmp_path / "out"), overlay=False,
                               probabilities=True, **setting)
        done = predict(config).written[0]
        found = np.moveaxis(tifffile.imread(done["mask"]), 0, -1)
        np.testing.assert_array_equal(found, (maps > 0.5).transpose(1, 2, 0))
        np.testing.assert_allclose(np.load(done["probabilities"])["probabilities"], maps, atol=1e-3)


def test_onnx_files_give_the_same_bands(trained, folder, tmp_path):
    pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
    result = export(ExportConfig(trained.checkpoint, str(tmp_path / "a.onnx")))
    assert result.difference < 1e-4
    segment, card = open_segmenter(PredictConfig(str(tmp_path / "a.onnx"), device="CPU"))
    image = cv2.imread(str(folder / "images" / "1.png"))
    assert card.labels.multilabel
    np.testing.assert_array_equal(segment(image)[0], load_network(trained.checkpoint)[0](image)[0])


@pytest.mark.parametrize("what", ["folder", "records"])
def test_inspect_counts_each_class(trained, folder, tmp_path, what):
    result = inspect(InspectConfig(str(folder if what == "folder" else folder / "records"), out=str(tmp_path)))
    assert not result.findings and result.labels.multilabel and os.path.exists(result.sheet)
    masks = [leaf(number)[1] for number in range(10)]
    for mask in masks:
        mask[:2, :, 0] = 254
    pixels = sum(split.classes.pixels for split in result.splits.values())
    assert pixels.tolist() == [sum((mask[..., band] == 1).sum() for mask in masks) for band in range(3)]
    ignored = sum(split.ignored for split in result.splits.values())
    assert ignored == sum((mask == 254).sum() for mask in masks) // 3
    text = result.to_text()
    assert "dark" in text and "weight" not in text and "nothing to fix, 0 to check" in text


def test_inspect_names_masks_of_other_bands(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "spoiled", ignore=shutil.ignore_patterns("records"))
    write_bands(str(tmp_path / "spoiled" / "masks" / "3.tif"), np.zeros((40, 48, 2), np.uint8))
    write_bands(str(tmp_path / "spoiled" / "masks" / "4.tif"), np.full((40, 48, 3), 254, np.uint8))
    found = inspect(InspectConfig(str(tmp_path / "spoiled"), out=str(tmp_path))).findings
    assert [(finding.kind, finding.name) for finding in found] == [("unreadable", "3"), ("ignored", "4")]
    assert "2 bands, and labels.yaml names 3" in found[0].message


@pytest.mark.parametrize("change, words", [
    ({"optim": OptimConfig(loss="dice")}, ["--optim.loss dice and multilabel do not go together"]),
    ({"optim": OptimConfig(class_weights="median_frequency")}, ["--optim.class_weights and multilabel"]),
    ({"augment": AugmentConfig(rare_crops=0.5)}, ["--augment.rare_crops and multilabel"]),
    ({"best_by": "pixel accuracy"}, ["mean IoU, mean precision, mean recall, left, top, dark"])])
def test_settings_that_do_not_go_with_overlapping_classes_are_refused(folder, tmp_path, change, words):
    with pytest.raises(UserError) as error:
        train(settings(folder, tmp_path / "run", **change))
    one_line(error, *words)


def test_verbs_that_do_not_go_with_overlapping_classes_are_refused(trained, folder, tmp_path):
    photo = str(folder / "images" / "0.png")

    def segment(**setting):
        return predict(PredictConfig(trained.checkpoint, "CPU", images=[photo], out=str(tmp_path / "out"), **setting))

    calls = {
        "--crf and multilabel": lambda: segment(crf="deeplab_v1"),
        "--ensemble and multilabel": lambda: segment(ensemble=trained.checkpoint),
        "--voc_names is for masks with one class": lambda: segment(voc_names=True),
        "--protocol course is for": lambda: evaluate(EvalConfig(trained.checkpoint, protocol="course", device="CPU")),
        "compare and multilabel": lambda: compare(CompareConfig(str(tmp_path), [Variant("fcn32s_small")], settings(
            folder, tmp_path)))}
    for words, call in calls.items():
        if "crf" in words:
            pytest.importorskip("pydensecrf", reason="pydensecrf2 is not installed")
        with pytest.raises(UserError) as error:
            call()
        one_line(error, words)
