"""The verb compare: small real runs, whose figures are in the table; what cannot be compared is refused at once."""

import csv
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import small_network  # noqa: F401  (its networks are compared)
import yaml
from helpers import read_table, sample_settings
from PIL import Image

from mindfcn.cli.parser import parse
from mindfcn.commands.compare import HEADER, Row, cells, compare, plan
from mindfcn.commands.evaluate import evaluate
from mindfcn.commands.train import train
from mindfcn.config import (
    AugmentConfig,
    CompareConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    Variant,
)
from mindfcn.console import Console
from mindfcn.data.dataset import evenly_spaced
from mindfcn.errors import UserError
from mindfcn.evaluation import WARM_UP, median_time
from mindfcn.labels import LabelSet
from mindfcn.models.factory import create_model
from mindfcn.preprocess import COURSE
from mindfcn.weights.checkpoint import Card, load_checkpoint, save_checkpoint

METRICS = ("pixel accuracy", "mean pixel accuracy", "mean IoU", "frequency weighted IoU")
FIRST, STAGED = "fcn32s_small_bn", "after 32s"
pytestmark = pytest.mark.usefixtures("uncompiled", "unrendered")
SHARED = {"conv1.0.weight", "conv4.0.weight", "conv6.0.weight", "score_fr.weight"}


def settings(records, out, *variants, **options):
    """A CompareConfig of the tiny sample set and tiny networks."""
    shared = sample_settings(records, ModelConfig(width=0.125, fc_width=8), OptimConfig(epochs=1, lr=0.05))
    for name, value in options.items():
        setattr(shared, name, value)
    return CompareConfig(str(out), list(variants), shared)


def all_variants(loaded):
    """Trained from random weights, staged from the first with another learning rate, and loaded."""
    return (Variant(FIRST), Variant("fcn16s_small_bn", STAGED, FIRST, settings={"optim.lr": 1e-9, "optim.min_lr": 0}),
            Variant(FIRST, "loaded", checkpoint=str(loaded)))


class StopAt(Console):
    """Sends this process a real signal at one step."""

    def __init__(self, step, say=None):
        super().__init__(say)
        self.stop_at = step

    def step(self, step, *_):
        if step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)


def table(out):
    """{first cell: {heading: cell}} of table.csv."""
    rows = read_table(out / "table.csv")
    assert tuple(rows[0]) == HEADER
    return {row["network"]: row for row in rows}


def files(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def last_weights(folder):
    return load_checkpoint(folder / "checkpoints" / "last.ckpt")[0]


@pytest.fixture(scope="module")
def whole(sample_records, tmp_path_factory):
    """(settings, CompareResult) of a comparison of three variants; the third is what `train` makes of the first."""
    folder = tmp_path_factory.mktemp("compare")
    run = settings(sample_records, folder, run_dir=str(folder / "train")).train
    run.model.name = FIRST
    config = settings(sample_records, folder / "out", *all_variants(train(run).checkpoint))
    return config, compare(config)


@pytest.fixture
def out(whole):
    """The comparison's folder."""
    return pathlib.Path(whole[0].out)


def test_what_a_comparison_leaves(whole, out):
    assert sorted(os.listdir(out)) == sorted(["settings.yaml", "report.html", "table.txt", "table.csv", "table.md",
                                              "pictures.jpg", FIRST, STAGED, "loaded"])
    assert (out / "table.txt").read_text() == whole[1].table + "\n"
    verb, written = parse(["compare", "--config", str(out / "settings.yaml")])
    assert written.train.data.identity == load_checkpoint(whole[1].rows[0].checkpoint)[1].data["identity"]
    written.train.data.identity = ""
    assert (verb, written) == ("compare", whole[0])
    assert os.listdir(out / "loaded") == ["evaluation"]


def test_rows_are_the_metrics_of_the_runs(whole, out):
    rows = table(out)
    titles = {FIRST: FIRST, f"{STAGED} (fcn16s_small_bn)": STAGED, f"loaded ({FIRST})": "loaded"}
    assert list(rows) == list(titles)
    for title, label in titles.items():
        metrics = json.loads((out / label / "evaluation" / "metrics.json").read_text())["metrics"]
        found = [float(rows[title][heading]) for heading in HEADER[1:5]]
        np.testing.assert_allclose(found, [100 * metrics[name] for name in METRICS], atol=5e-5)
        assert float(rows[title]["ms/image"]) > 0
    assert rows[f"{STAGED} (fcn16s_small_bn)"]["started from"] == FIRST and rows[FIRST]["started from"] == ""
    assert rows[f"loaded ({FIRST})"]["started from"] == "best.ckpt" and rows[f"loaded ({FIRST})"]["training, min"] == ""


def test_parameters_are_those_of_the_layers(whole):
    """Counted by hand: three convolutions to 8 channels, each with normalisation, and 7 classes."""
    backbone = 9 * 8 * (3 + 8 + 8) + 3 * 2 * 8
    assert [row.parameters for row in whole[1].rows[:2]] == [
        backbone + 8 * 7 + 64 * 64 * 49, backbone + (8 + 8) * 7 + (4 * 4 + 32 * 32) * 49]


def test_minutes_are_those_of_the_log(whole, out):
    """The log's speeds are of three steps of four images each."""
    with open(out / FIRST / "log.csv", newline="", encoding="utf-8") as file:
        speeds = [float(row["images_per_s"]) for row in csv.DictReader(file)]
    assert whole[1].rows[0].minutes == pytest.approx(np.sum(4 / np.array(speeds)) / 60) and len(speeds) == 3


def test_published_figures_are_below_their_network(whole, out):
    figures = dict(zip(METRICS, (0.5, 0.25, 0.125, float("nan"))))
    lines = cells([Row("a", "fcn8s_vgg16", "best.ckpt", "", figures, 2500000, 0.25, 1.0),
                   Row("b", "fcn32s_vgg16_bn", "best.ckpt", "x.npz", figures, minutes=2.0)], 1)
    assert lines[0] == ["a (fcn8s_vgg16)", "50.0", "25.0", "12.5", "-", "2.50", "250.0", "1.0", "-"]
    assert lines[1] == ["published: CVPR 2015 table 2, seg11valid", "90.3", "75.9", "62.7", "83.2", *"----"]
    assert lines[-1][0] == "b (fcn32s_vgg16_bn)" and lines[-1][-1] == "x.npz" and len(lines) == 4
    assert "other training data" in whole[1].table and "other training data" in (out / "table.md").read_text()


def test_a_variant_is_trained_as_the_verb_train_does(whole, out):
    one, other = last_weights(out / FIRST), last_weights(out.parent / "train")
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_staged_variant_begins_from_the_weights_of_the_one_before(whole, out):
    """At a learning rate of 1e-9 weights keep their initial values."""
    first, staged = last_weights(out / FIRST), last_weights(out / STAGED)
    for name in SHARED:
        np.testing.assert_allclose(staged[name], first[name], rtol=0, atol=1e-7)
    random = create_model("fcn16s_small_bn", 7, width=0.125, fc_width=8)
    weights = {parameter.name: parameter.asnumpy() for parameter in random.get_parameters()}
    assert all(np.abs(weights[name] - first[name]).max() > 1e-3 for name in SHARED)
    assert "upscore16.weight" in staged and "upscore.weight" not in staged


def test_a_loaded_checkpoint_has_the_figures_of_eval(whole, out, tmp_path):
    loaded = whole[0].variants[2].checkpoint
    expected = evaluate(EvalConfig(loaded, out=str(tmp_path), device="CPU"))
    assert whole[1].rows[2].metrics == expected.metrics and whole[1].rows[2].checkpoint == loaded
    assert json.loads((tmp_path / "metrics.json").read_text())["seconds per image"] == expected.seconds > 0


def test_a_second_call_trains_nothing_and_gives_the_same_table(whole, out):
    before, output = [files(out / label) for label in (FIRST, STAGED)], []
    rows_before = table(out)
    again = compare(whole[0], StopAt(1, output.append))
    assert again.signal is None and sum("already trained" in line for line in output) == 2
    assert [files(out / label) for label in (FIRST, STAGED)] == before
    assert len(table(out)) == len(rows_before)
    for row, row_before in zip(table(out).values(), rows_before.values()):
        # times are measured again
        assert row | {"ms/image": ""} == row_before | {"ms/image": ""}


def test_the_pictures_show_every_network(whole, out):
    """Three photographs below one another, each with its truth and three masks next to it."""
    width, height = Image.open(out / "pictures.jpg").size
    assert width > 5 * 200 and height > 3 * 150


def test_the_page_has_the_table_and_every_mask(whole, out):
    text = (out / "report.html").read_text().replace("<wbr>", "")
    assert len(cells(whole[1].rows, 1)) == 3 and text.count("mean IoU: ") == 3
    for label, row in zip((FIRST, STAGED, "loaded"), cells(whole[1].rows, 1)):
        # Not the times after the parameters: another test's second call measures them again.
        assert f">{row[0]}</th><td>{'</td><td>'.join(row[1:6])}</td>" in text
        assert text.count(f'alt="{label}: ') == 3
        # three variants, whose runs have their own pages
        page = out / label / ("evaluation" if label == "loaded" else "") / "report.html"
        assert "Confusion matrix" in page.read_text()
    assert text.count('alt="photograph: ') == text.count('alt="truth: ') == 3
    assert f"<th scope=\"row\">{STAGED}.settings.optim.lr</th><td>1e-09</td>" in text


@pytest.mark.long
def test_an_interrupted_comparison_continues(whole, out, sample_records, tmp_path):
    """Stopped inside the first run by a real signal; the next call ends with the weights of an undisturbed one."""
    config = settings(sample_records, tmp_path / "out", *whole[0].variants[:2])
    stopped = compare(config, StopAt(2))
    assert (stopped.signal, stopped.rows, stopped.table) == (signal.SIGTERM, [], "")
    assert sorted(os.listdir(tmp_path / "out")) == [FIRST, "settings.yaml"]
    log = tmp_path / "out" / FIRST / "log.csv"
    before = log.read_text()
    done = compare(config)
    assert before.count("\n") == 3 and log.read_text().startswith(before), "it began again"
    assert done.signal is None and [row.metrics for row in done.rows] == [row.metrics for row in whole[1].rows[:2]]
    for label in (FIRST, STAGED):
        one, other = last_weights(out / label), last_weights(tmp_path / "out" / label)
        assert all(np.array_equal(one[name], other[name]) for name in one | other)


@pytest.mark.long
def test_the_command_ends_with_the_signal(sample_records, tmp_path):
    name = "fcn32s_vgg16_bn"
    config = settings(sample_records, tmp_path / "out", Variant(name), optim=OptimConfig(epochs=1000))
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump(dataclasses.asdict(config)))
    command = [sys.executable, "-m", "mindfcn", "compare", "--config", str(tmp_path / "compare.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        log, patience = tmp_path / "out" / name / "log.csv", time.monotonic() + 240
        while time.monotonic() < patience and not (log.exists() and log.read_text().count("\n") > 1):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, error = process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGTERM and "run the same command to continue" in output, error


def test_variants_of_one_network_may_differ_in_losses_and_augmentation(tmp_path):
    """The others stay as they are, and so do the settings that a variant does not name."""
    config = settings(tmp_path, tmp_path / "out", Variant(FIRST, "plain"), Variant(FIRST, "aided", settings={
        "augment.photometric": 1.0, "augment.max_class_share": 0.75, "optim.loss": "dice", "optim.ema": 0.99}))
    (_, plain), (_, aided) = plan(config)
    assert (aided.augment.photometric, aided.augment.max_class_share) == (1.0, 0.75)
    assert (aided.optim.loss, aided.optim.ema, aided.augment.crop_size) == ("dice", 0.99, 32)
    assert (plain.augment, plain.optim) == (config.train.augment, config.train.optim)


# ------------------------------------------------------------------------------------------------- mistakes

@pytest.mark.parametrize("change, words", [
    ({"variants": []}, "no variants"), ({"variants": [Variant("fcn9s_vgg16")]}, "fcn9s_vgg16"),
    ({"variants": [Variant(FIRST), Variant(FIRST)]}, "two variants have this label"),
    ({"variants": [Variant(FIRST, "truth")]}, "variants, truth: the report shows"),
    ({"variants": [Variant(FIRST, "photograph")]}, "variants, photograph: the report shows"),
    ({"variants": [Variant(FIRST, "a/b")]}, "names a folder"), ({"variants": [Variant(FIRST, "..")]}, "names a folder"),
    ({"variants": [Variant(FIRST, pretrained="b"), Variant(FIRST, "b")]}, "change the order"),
    ({"variants": [Variant(FIRST, pretrained=FIRST)]}, "change the order"),
    ({"variants": [Variant(FIRST, pretrained="away.npz")]}, "away.npz is neither a file nor the label"),
    ({"variants": [Variant(FIRST, settings={"optim.lrr": 1})]}, "optim.lrr cannot differ"),
    ({"variants": [Variant(FIRST, settings={"augment.crop_size": 1})]}, "augment.crop_size cannot differ"),
    ({"variants": [Variant(FIRST, settings={"augment.batch_size": 1})]}, "augment.batch_size cannot differ"),
    ({"variants": [Variant(FIRST, settings={"augment.flip": 1})]}, "augment.flip cannot be 1"),
    ({"variants": [Variant(FIRST, settings={"lr": 1})]}, "lr cannot differ"),
    ({"variants": [Variant(FIRST, settings={"optim.epochs": 9})]}, "optim.epochs cannot differ"),
    ({"variants": [Variant(FIRST, settings={"optim.lr": "fast"})]}, "optim.lr cannot be 'fast'"),
    ({"variants": [Variant(FIRST, settings={"optim.paper_biases": 1})]}, "optim.paper_biases cannot be 1"),
    ({"variants": [Variant(FIRST, settings={"optim.schedule": "steps"})]}, "optim.schedule cannot be 'steps'"),
    ({"variants": [Variant(FIRST, settings={"model.skip_scales": [1.0]})]}, "model.skip_scales cannot be"),
    ({"variants": [Variant(FIRST, checkpoint="a.ckpt", pretrained="b")]}, "not trained"),
    ({"train": {"resume": True}}, "--train.resume"), ({"train": {"overwrite": True}}, "--train.overwrite")])
def test_what_cannot_be_compared_is_refused_before_anything(sample_records, tmp_path, change, words):
    config = settings(sample_records, tmp_path / "out", *change.get("variants", [Variant(FIRST)]),
                      **change.get("train", {}))
    with pytest.raises(UserError, match=words) as caught:
        compare(config)
    assert "\n" not in str(caught.value) and not os.listdir(tmp_path)


@pytest.mark.parametrize("setting, value", [
    ("optim.lr", 1), ("optim.accumulate", 2), ("model.skip_scales", [0.5, 1]), ("optim.paper_biases", True)])
def test_settings_of_a_variant_reach_its_run_alone(sample_records, tmp_path, setting, value):
    config = settings(sample_records, tmp_path, Variant(FIRST, settings={setting: value}), Variant("fcn8s_vgg16_bn"))
    group, name = setting.split(".")
    (_, changed), (_, other) = plan(config)
    assert getattr(getattr(changed, group), name) == value
    assert getattr(getattr(other, group), name) == getattr(getattr(config.train, group), name) != value


@pytest.mark.parametrize("last, words", [
    (Variant("fcn8s_vgg16_bn", settings={"optim.lr": -1.0}), "--optim.lr -1.0"),
    (Variant("fcn8s_vgg16_bn", settings={"optim.precision": "float16"}), "use float32"),
    (Variant("fcn8s_vgg16_bn", pretrained="other.npz"), "other.npz"),
    (Variant("fcn16s_vgg16_bn", checkpoint="two.ckpt"), "2 .sky"),
    (Variant("fcn8s_vgg16_bn", checkpoint="two.ckpt"), "is a fcn16s_vgg16_bn"),
    (Variant("fcn8s_vgg16_bn", checkpoint="away.ckpt"), "away.ckpt"),
])
def test_all_variants_are_checked_before_the_first_is_trained(sample_records, tmp_path, monkeypatch, last, words):
    monkeypatch.chdir(tmp_path)
    np.savez("other.npz", a=np.zeros(3))
    labels, options = LabelSet(("sky", "earth"), ((0, 0, 0), (9, 9, 9))), {"width": 0.125, "fc_width": 8}
    save_checkpoint("two.ckpt", create_model("fcn16s_vgg16_bn", 2, **options),
                    Card({"name": "fcn16s_vgg16_bn", **options}, labels, COURSE))
    with pytest.raises(UserError, match=words) as caught:
        compare(settings(sample_records, tmp_path / "out", Variant(FIRST), last))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_reported_before_training(sample_records, tmp_path):
    (tmp_path / "file").write_text("a file\n")
    with pytest.raises(UserError, match="cannot write .*file"):
        compare(settings(sample_records, tmp_path / "file", Variant(FIRST)), StopAt(1))


def test_a_network_that_fails_is_a_row_and_the_others_go_on(sample_records, tmp_path):
    """Its successor fails, too; rows of other data are not trained already."""
    shutil.copytree(sample_records / "source", tmp_path / "source")
    name, messages = "fcn32s_small", []
    config = settings(tmp_path, tmp_path / "out", Variant(name, "bad", settings={"optim.lr": 1e30}),
                      Variant(name, "next", "bad"), Variant(name, "good"),
                      augment=AugmentConfig(crop_size=0, batch_size=1), eval_every=0)
    result = compare(config, Console(messages.append))
    bad, successor, good = result.rows
    assert "the loss is" in bad.failure and "--optim.lr" in bad.failure and "starts from bad" in successor.failure
    assert not good.failure and 0 < good.metrics["mean IoU"] <= 1
    assert f"bad failed: {bad.failure}" in result.table
    rows = read_table(tmp_path / "out" / "table.csv")
    assert [row["network"].split(" ")[0] for row in rows][:3] == ["bad", "next", "good"]
    assert [row["mIoU %"] for row in rows[:2]] == ["", ""]
    identity = load_checkpoint(good.checkpoint)[1].data["identity"]
    for path in (tmp_path / "out" / "settings.yaml", tmp_path / "out" / "good" / "settings.yaml"):
        assert f"identity: {identity}\n" in path.read_text()
    for path in (tmp_path / "source" / "SegmentationClass").iterdir():
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == 255, 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(UserError, match="--train.data.overwrite true"):
        compare(config)
    config.train.data.overwrite = True
    with pytest.raises(UserError, match=f"other settings: data.identity is '{re.escape(identity)}' there"):
        compare(config)


def test_runs_of_other_settings_stay_unchanged(whole, out, sample_records):
    before = files(out)
    config = settings(sample_records, out, *whole[0].variants, seed=2)
    with pytest.raises(UserError, match="seed is 1 there and 2 here") as caught:
        compare(config)
    assert "--out" in str(caught.value) and "\n" not in str(caught.value) and files(out) == before


def test_a_run_started_from_one_that_is_gone_is_refused(whole, out, sample_records, tmp_path):
    """Its successor would be listed with weights that it did not start from."""
    shutil.copytree(out, tmp_path / "out")
    config = settings(sample_records, tmp_path / "out", *whole[0].variants)
    for variant in config.variants[:2]:
        path = tmp_path / "out" / (variant.label or variant.name) / "settings.yaml"
        path.write_text(path.read_text().replace(str(out), str(tmp_path / "out")))
    shutil.rmtree(tmp_path / "out" / FIRST)
    with pytest.raises(UserError, match=f"started from an earlier .*{FIRST}.*delete .*{STAGED}"):
        compare(config)


def test_images_are_spread_over_the_records():
    assert evenly_spaced(3, 20) == [0, 1, 2] and evenly_spaced(1, 20) == [0]
    assert evenly_spaced(100, 5) == [0, 24, 49, 74, 99]


def test_the_first_passes_do_not_count():
    assert median_time([9.0] * WARM_UP + [1.0, 3.0, 2.0]) == 2 and median_time([7.0]) == 7
