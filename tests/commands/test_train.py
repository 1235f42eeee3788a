"""The verb train from records to checkpoints: the files of a run, and that it resumes where it was stopped."""

import base64
import dataclasses
import functools
import gc
import importlib.util
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time

import mindspore as ms
import numpy as np
import pytest
import small_network
from helpers import read_table, sample_settings
from mindspore import nn, ops
from PIL import Image

from mindfcn import runtime
from mindfcn.cli.main import main
from mindfcn.cli.parser import parse
from mindfcn.commands.prepare import prepare
from mindfcn.commands.train import train
from mindfcn.config import AugmentConfig, ModelConfig, OptimConfig, PrepareConfig, TrainConfig
from mindfcn.console import Console
from mindfcn.data.dataset import SegDataset
from mindfcn.data.records.records import Records
from mindfcn.data.synthetic.shapes import SAMPLE
from mindfcn.engine.build import build
from mindfcn.engine.optimiser import UNDECAYED, optimiser
from mindfcn.engine.resume import network_options
from mindfcn.engine.run_dir import EVALUATION, LOG
from mindfcn.engine.step import TrainStep
from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.losses import CrossEntropy
from mindfcn.models import layers
from mindfcn.models.factory import create_model
from mindfcn.models.precision import compute_in
from mindfcn.report import plots
from mindfcn.schedules import learning_rates
from mindfcn.weights.checkpoint import Card, load_checkpoint, save_checkpoint
from mindfcn.weights.load import is_state, load_weights

long = pytest.mark.long
pytestmark = pytest.mark.usefixtures("unrendered")
EPOCHS, STEPS = 4, 3
TINY = ["--augment.crop_size", "32", "--augment.batch_size", "4", "--model.width", "0.125", "--model.fc_width", "8"]
# With three steps an epoch and two batches an update, an update's batches lie in two epochs. Of each batch's four cells
# about three count.
PAPER = {"model": {"name": "fcn8s_small"},
         "optim": {"paper_biases": True, "accumulate": 2, "head_lr": 2.0, "keep_cells": 0.75}}
COURSE = {"model": {"name": "fcn8s_small_bn"}}
# Quicker to compile, for tests that do not depend on the network.
QUICK = {"model": {"name": "fcn32s_small"}}
# `python -c` with these words is the command mindfcn, which then knows the small networks.
MINDFCN = f"import sys; sys.path.insert(0, {os.path.dirname(small_network.__file__)!r}); import small_network; " \
          "from mindfcn.cli.main import main; sys.exit(main(sys.argv[1:]))"


def network(options):
    """A word for the names of the tests."""
    return {PAPER["model"]["name"]: "paper", COURSE["model"]["name"]: "course"}[options["model"]["name"]]


def on(*options):
    """Parametrise a test by networks."""
    return pytest.mark.parametrize("whole", options, indirect=True, ids=["course", "paper"][:len(options)])


def settings(records, run_dir, model=None, optim=None, **options):
    return sample_settings(
        records, ModelConfig(**{**COURSE["model"], "width": 0.125, "fc_width": 8, **(model or {})}),
        OptimConfig(**{"epochs": EPOCHS, "lr": 0.05, "warmup_epochs": 1.0, **(optim or {})}), run_dir=str(run_dir),
        **options)


class StopAt(Console):
    """Sends this process a real signal at the end of one step."""

    def __init__(self, step, number=signal.SIGTERM):
        super().__init__()
        self.stop_at, self.number = step, number

    def step(self, step, *_):
        if step == self.stop_at:
            os.kill(os.getpid(), self.number)


def figures(run_dir):
    """The rows of both tables without the speed, which differs from run to run."""
    log = [{name: value for name, value in row.items() if name != "images_per_s"}
           for row in read_table(run_dir / "log.csv")]
    return log, read_table(run_dir / "evaluation.csv")


def assert_same_checkpoint(one, other):
    for first, second in zip(load_checkpoint(one)[::2], load_checkpoint(other)[::2]):
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert value.dtype == second[name].dtype and value.tobytes() == second[name].tobytes(), name


def assert_same_run(one, other):
    assert figures(one) == figures(other)
    for name in ("last.ckpt", "best.ckpt"):
        assert_same_checkpoint(one / "checkpoints" / name, other / "checkpoints" / name)


def assert_events_are_the_tables(run_dir):
    """TensorBoard's own reader finds every row once, including the earlier ones of a resumed run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray
    read = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    groups = {"train": (run_dir / "log.csv", LOG), "evaluation": (run_dir / "evaluation.csv", EVALUATION)}
    assert sorted(read.Tags()["tensors"]) == sorted(f"{group}/{name}" for group, (_, header) in groups.items()
                                                    for name in header[2:])
    for group, (path, header) in groups.items():
        for name in header[2:]:
            events = [(event.step, make_ndarray(event.tensor_proto).item())
                      for event in read.Tensors(f"{group}/{name}")]
            assert events == [(int(row["step"]), pytest.approx(float(row[name]), rel=1e-6)) for row in read_table(path)]


def checkpoints(run_dir):
    return sorted(os.listdir(run_dir / "checkpoints"))


# {word for a network: number of graphs that MindSpore compiled for its training step}
GRAPHS = {}


@pytest.fixture(scope="module")
def whole_run(sample_records, unrendered, tmp_path_factory):
    """Function (word for a network) -> folder of a run that nothing interrupted; each is made once, with its plots."""
    @functools.cache
    def made(name):
        folder = tmp_path_factory.mktemp(name) / "run"
        module = sys.modules[train.__module__]
        fit = module.fit

        def counted(run, *arguments):
            fit(run, *arguments)
            GRAPHS[name] = len(run.step.compile_cache)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "fit", counted)
            patch.setattr(plots, "_save", unrendered)
            result = train(settings(sample_records, folder, keep=3, **{"course": COURSE, "paper": PAPER}[name]))
        assert (result.epoch, result.signal, result.run_dir) == (EPOCHS, None, str(folder))
        return folder
    return made


@pytest.fixture
def uncompiled(monkeypatch):
    """No network of the test is compiled."""
    monkeypatch.setenv("MINDFCN_COMPILE", "0")


@pytest.fixture(params=[COURSE, PAPER], ids=network)
def whole(request, whole_run, monkeypatch):
    """(settings, folder) of a run that nothing interrupted; without --long only the course's is compiled."""
    if request.param is PAPER and not request.config.getoption("--long"):
        monkeypatch.setenv("MINDFCN_COMPILE", "0")
    return request.param, whole_run(network(request.param))


def test_what_a_run_leaves(whole, sample_records):
    options, folder = whole
    assert sorted(os.listdir(folder)) == ["checkpoints", "curves.png", "evaluation", "evaluation.csv", "log.csv",
                                          "report.html", "settings.yaml", "versions.json"]
    assert checkpoints(folder) == ["best.ckpt", "epoch-0002.ckpt", "epoch-0003.ckpt", "epoch-0004.ckpt", "last.ckpt"]
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["mindspore"] == ms.__version__ and versions["numpy"] == np.__version__
    assert "git revision" in versions
    verb, written = parse(["train", "--config", str(folder / "settings.yaml")])
    identity = Records.open(str(sample_records / "records"), SAMPLE).identity
    card = load_checkpoint(folder / "checkpoints" / "best.ckpt")[1]
    assert written.data.identity == card.data["identity"] == identity
    written.data.identity = ""
    assert (verb, written) == ("train", settings(sample_records, folder, keep=3, **options))
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    for name in ("metrics.json", "classes.txt", "confusion.png", "classes.png", "worst"):
        assert (folder / "evaluation" / name).exists()


def test_evaluations_and_earlier_runs_do_not_make_it_compile_again(whole):
    """With accumulation there are two graphs, with and without the update."""
    options, _ = whole
    graphs = options.get("optim", {}).get("accumulate", 1) if runtime.compiles() else 0
    assert GRAPHS[network(options)] == graphs


def test_the_page_shows_the_whole_run(whole):
    _, folder = whole
    text = (folder / "report.html").read_text().replace("<wbr>", "")
    best = json.loads((folder / "evaluation" / "metrics.json").read_text())["metrics"]
    for name, value in best.items():
        assert f"<dt>{name}</dt><dd>{100 * value:.2f}<" in text
    assert "Worst images" in text
    assert base64.b64encode((folder / "curves.png").read_bytes()).decode() in text
    assert '<th scope="row">optim.lr</th><td>0.05</td>' in text and ms.__version__ in text
    assert f"Epoch {EPOCHS}" not in text


def test_the_log_has_a_row_for_every_step(whole):
    options, folder = whole
    rows, evaluations = read_table(folder / "log.csv"), read_table(folder / "evaluation.csv")
    assert tuple(rows[0]) == LOG and tuple(evaluations[0]) == EVALUATION
    assert [(int(row["step"]), int(row["epoch"])) for row in rows] == [
        (step, (step - 1) // STEPS + 1) for step in range(1, EPOCHS * STEPS + 1)]
    assert all(math.isfinite(float(row["loss"])) and float(row["images_per_s"]) > 0 for row in rows)
    accumulate = options.get("optim", {}).get("accumulate", 1)
    rates = learning_rates(EPOCHS * STEPS // accumulate, 0.05, 0.0005, warmup_steps=round(STEPS / accumulate))
    np.testing.assert_allclose([float(row["learning_rate"]) for row in rows], np.repeat(rates, accumulate), rtol=1e-5)
    assert [(int(row["step"]), int(row["epoch"])) for row in evaluations] == [
        (STEPS * epoch, epoch) for epoch in range(1, EPOCHS + 1)]


def test_the_best_checkpoint_is_the_best(whole):
    _, folder = whole
    best = max(float(row["mean IoU"]) for row in read_table(folder / "evaluation.csv"))
    card = load_checkpoint(folder / "checkpoints" / "best.ckpt")[1]
    assert round(card.training["best"]["mean IoU"], 6) == best
    written = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert round(written["metrics"]["mean IoU"], 6) == best
    # Its card has the metrics of its own weights; other checkpoints are written before they are evaluated.
    assert {name: card.metrics[name] for name in EVALUATION[2:]} == pytest.approx(written["metrics"])
    assert load_checkpoint(folder / "checkpoints" / "last.ckpt")[1].metrics == {}
    assert_same_checkpoint(folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "epoch-0004.ckpt")


# In the middle of an epoch (for the paper's network between two batches of one update), and at an epoch's end, whose
# evaluation is left to the resumed run.
@pytest.mark.parametrize("whole, stops", [
    pytest.param(COURSE, (3 * STEPS,), id="course"), pytest.param(PAPER, (STEPS + 2,), id="paper"),
    pytest.param(COURSE, (STEPS + 2, 3 * STEPS), id="course-twice", marks=long),
    pytest.param(PAPER, (3 * STEPS,), id="paper-epoch", marks=long)], indirect=["whole"])
def test_an_interrupted_run_ends_with_the_same_bits(whole, stops, sample_records, tmp_path):
    """Also where the loss of every step is computed a second time."""
    options, folder = whole
    has_tensorboard = bool(importlib.util.find_spec("tensorboard"))
    config = settings(sample_records, tmp_path, keep=3, tensorboard=has_tensorboard, watch_every=1, **options)
    for stop in stops:
        result = train(config, StopAt(stop))
        assert (result.signal, result.epoch, result.evaluation) == (signal.SIGTERM, stop // STEPS, None)
        assert len(read_table(tmp_path / "log.csv")) == stop
        evaluated = [int(row["epoch"]) for row in read_table(tmp_path / "evaluation.csv")]
        assert evaluated == list(range(1, (stop - 1) // STEPS + 1))
        name = f"epoch-{stop // STEPS:04d}" + (f"-step-{stop % STEPS:06d}" if stop % STEPS else "") + ".ckpt"
        assert_same_checkpoint(tmp_path / "checkpoints" / name, result.checkpoint)
        page = (tmp_path / "report.html").read_text()
        assert f"Epoch {stop // STEPS} of {EPOCHS}." in page and ("mean IoU" in page) == bool(evaluated)
        config = dataclasses.replace(config, resume=True)
    assert train(config).epoch == EPOCHS
    assert_same_run(folder, tmp_path)
    if has_tensorboard:
        assert_events_are_the_tables(tmp_path)
    assert f" of {EPOCHS}." not in (tmp_path / "report.html").read_text()
    weights, card, state = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    counters = [int(weights[name][0]) for name in weights if is_state(name)]
    assert counters == ([EPOCHS * STEPS] if options is PAPER else [])
    assert card.training["precision"] == "float32"
    assert card.training["step"] == EPOCHS * STEPS and int(state["global_step"].ravel()[0]) > 0
    assert any(name.startswith("moments.") for name in state)
    assert any(name.startswith("accumulated.") for name in state) == (options is PAPER)
    assert state.get("loss.step", np.array(0)).item() == (EPOCHS * STEPS if options is PAPER else 0)


class Watch(StopAt):
    """Notes in which mode each step ran."""

    def __init__(self, step=0):
        super().__init__(step)
        self.modes = set()

    def step(self, step, *arguments):
        self.modes.add(ms.get_context("mode"))
        super().step(step, *arguments)


def test_whole_photographs_train_operator_by_operator_and_resume_to_the_same_bits(tmp_path):
    """The published recipes: native sizes, summed loss, momentum 0.99. Otherwise each size would be compiled again."""
    data = PrepareConfig(records=str(tmp_path / "records"), source="sample", root=str(tmp_path / "source"), samples=5,
                         size=64)
    records = SegDataset(data_file=prepare(data).train_path, training=False)
    assert len({image.shape for image, _ in records.get_dataset().create_tuple_iterator(output_numpy=True)}) > 1
    config = dataclasses.replace(
        settings(tmp_path, tmp_path / "whole", model={**QUICK["model"], "upsampling": "fixed"},
                 optim={"epochs": 2, "loss": "sum", "lr": 1e-6, "min_lr": 0, "schedule": "constant", "momentum": 0.99,
                        "warmup_epochs": 0, "paper_biases": True}),
        augment=AugmentConfig(crop_size=0, batch_size=1), data=data)
    steps, watch = records.count, Watch()
    assert train(config, watch).epoch == 2
    assert watch.modes == {ms.PYNATIVE_MODE}
    losses = [float(row["loss"]) for row in read_table(tmp_path / "whole" / "log.csv")]
    assert len(losses) == 2 * steps and sum(losses[steps:]) < sum(losses[:steps])
    config = dataclasses.replace(config, run_dir=str(tmp_path / "halves"), watch_every=5)
    assert train(config, Watch(steps + 1)).signal == signal.SIGTERM
    train(dataclasses.replace(config, resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


@long
@on(COURSE, PAPER)
def test_rows_after_the_checkpoint_are_dropped(whole, sample_records, tmp_path):
    """A run that was killed without notice has logged steps that no checkpoint holds."""
    options, folder = whole
    shutil.copytree(folder, tmp_path / "run")
    kept = tmp_path / "run" / "checkpoints"
    shutil.copy(kept / "epoch-0003.ckpt", kept / "last.ckpt")
    train(dataclasses.replace(settings(sample_records, tmp_path / "run", keep=3, **options), resume=True))
    assert_same_run(folder, tmp_path / "run")


@long
@on(COURSE, PAPER)
def test_another_seed_gives_other_bits(whole, sample_records, tmp_path):
    options, folder = whole
    train(settings(sample_records, tmp_path, seed=2, **options), StopAt(1))
    assert float(read_table(tmp_path / "log.csv")[0]["loss"]) != float(read_table(folder / "log.csv")[0]["loss"]) or (
        options is PAPER)  # zero scores: the first loss is that of equal classes, whatever the seed
    one = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")[0]
    other = load_checkpoint(folder / "checkpoints" / "last.ckpt")[0]
    assert not np.array_equal(one["conv1.0.weight"], other["conv1.0.weight"])


def test_tensorboard_is_checked_before_anything_is_done(sample_records, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"tensorboard is not installed; pip install 'mindfcn\[tensorboard\]'"):
        train(settings(sample_records, tmp_path / "run", tensorboard=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change, words", [
    ({"seed": 2}, "seed 1, not 2"),
    ({"augment": AugmentConfig(crop_size=32, batch_size=3)}, "augment.batch_size 4, not 3"),
    ({"optim": OptimConfig(accumulate=3)}, "optim.accumulate"),
    ({"model": ModelConfig(width=0.125, fc_width=16)}, "model.fc_width 8, not 16")])
def test_a_run_does_not_resume_with_other_settings(whole, sample_records, tmp_path, change, words):
    options, folder = whole
    shutil.copytree(folder, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    config = settings(sample_records, tmp_path / "run", model=options["model"], resume=True)
    if "model" in change:
        change = {"model": dataclasses.replace(change["model"], **options["model"])}
    if "optim" in change:
        change = {"optim": dataclasses.replace(config.optim, **{**options.get("optim", {}), "accumulate": 3})}
    with pytest.raises(UserError, match=words) as caught:
        train(dataclasses.replace(config, **change))
    assert "settings.yaml" in str(caught.value) and "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("uncompiled")
def test_a_resumed_run_names_what_changes_and_keeps_to_its_data(sample_records, tmp_path):
    for folder in ("records", "source"):
        shutil.copytree(sample_records / folder, tmp_path / folder)
    messages = []
    config = settings(tmp_path, tmp_path / "run", **QUICK, optim={"epochs": 2, "warmup_epochs": 0}, eval_every=0)
    train(config, StopAt(STEPS))
    changed = dataclasses.replace(config, resume=True, optim=dataclasses.replace(config.optim, lr=0.2))
    train(changed, Console(messages.append))
    assert "optim.lr changes from 0.05 to 0.2" in messages
    rates = [float(row["learning_rate"]) for row in read_table(tmp_path / "run" / "log.csv")]
    expected = [learning_rates(2 * STEPS, rate, 0.0005)[step] for rate, step in ((0.05, STEPS - 1), (0.2, STEPS))]
    assert rates[STEPS - 1:STEPS + 1] == pytest.approx(expected, rel=1e-5)
    jump, = (line for line in messages if "jumps" in line)
    assert f"from {expected[0]:.3g} at step {STEPS} to {expected[1]:.3g}" in jump
    text = (tmp_path / "run" / "settings.yaml").read_text()
    assert text.startswith(f"# until step {STEPS}: optim.lr 0.05\n")
    assert parse(["train", "--config", str(tmp_path / "run" / "settings.yaml")])[1].optim.lr == 0.2
    # Other masks under the same names, and as many of them.
    for path in (tmp_path / "source" / "SegmentationClass").iterdir():
        mask = np.array(Image.open(path))
        Image.fromarray(np.where(mask == 255, 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(UserError, match="the mask of sample_.*--data.overwrite true"):
        train(changed)
    with pytest.raises(UserError, match="trained on other records: the hash is"):
        train(dataclasses.replace(changed, data=dataclasses.replace(config.data, overwrite=True)))


@pytest.mark.usefixtures("uncompiled")
def test_class_weights_follow_from_the_training_records_and_stay_with_the_run(sample_records, tmp_path):
    weighted = {**QUICK, "optim": {"epochs": 2, "class_weights": "median_frequency"}}
    messages = []
    config = settings(sample_records, tmp_path / "whole", **weighted)
    train(config, Console(messages.append))
    records = SegDataset(data_file=str(sample_records / "records" / "train.mindrecord"), training=False)
    masks = [mask for _, _, mask in records.samples(range(records.count))]
    frequencies = np.array([sum((mask == number).sum() for mask in masks)
                            / sum((mask != 255).sum() for mask in masks if (mask == number).any())
                            for number in range(7)])
    expected = np.median(frequencies) / frequencies
    kept = load_checkpoint(tmp_path / "whole" / "checkpoints" / "last.ckpt")[1].training
    np.testing.assert_allclose(kept["class_weights"], expected)
    assert kept["settings"]["optim"]["class_weights"] == "median_frequency"
    assert any("background" in line and f"{expected[0]:.3g}" in line for line in messages)
    train(settings(sample_records, tmp_path / "plain", **QUICK, optim={"epochs": 2}), StopAt(2))
    # The first loss is that of zero scores, whatever the weights.
    first, plain = (float(read_table(tmp_path / name / "log.csv")[1]["loss"]) for name in ("whole", "plain"))
    assert abs(first - plain) > 1e-3, "the same weights and crops"

    halves = dataclasses.replace(config, run_dir=str(tmp_path / "halves"))
    train(halves, StopAt(STEPS + 1))
    with pytest.raises(UserError, match="optim.class_weights median_frequency, not none.*settings.yaml"):
        train(settings(sample_records, tmp_path / "halves", **QUICK, optim={"epochs": 2}, resume=True))
    train(dataclasses.replace(halves, resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.long
def test_averaged_weights_are_evaluated_kept_as_best_and_resumed(sample_records, tmp_path):
    """Batches of two in each update, so that an update's batches lie in two epochs; a stop between two of them."""
    averaged = {**COURSE, "optim": {"epochs": 3, "ema": 0.9, "accumulate": 2}}
    config = settings(sample_records, tmp_path / "whole", **averaged)
    train(config)
    kept = tmp_path / "whole" / "checkpoints"
    best, card, state = load_checkpoint(kept / "best.ckpt")
    assert not state
    last, _, state = load_checkpoint(kept / f"epoch-{card.training['best']['epoch']:04d}.ckpt")
    averages = {name[len("ema."):]: value for name, value in state.items() if name.startswith("ema.")}
    assert averages.keys() == last.keys() and any("moving_mean" in name for name in averages)
    for name, value in best.items():
        np.testing.assert_array_equal(value, averages[name], name)
        assert "upscore" in name or not np.array_equal(value, last[name]), name
    # What was noted while training is what the checkpoint gives, and not what the weights in training give.
    noted = card.metrics["mean IoU"]
    for name, same in (("best", True), ("last", False)):
        out = tmp_path / name
        assert main(["eval", "--checkpoint", str(kept / f"{name}.ckpt"), "--out", str(out), "--device", "CPU"]) == 0
        assert (json.loads((out / "metrics.json").read_text())["metrics"]["mean IoU"] == noted) == same

    halves = dataclasses.replace(config, run_dir=str(tmp_path / "halves"))
    train(halves, StopAt(STEPS + 2))
    with pytest.raises(UserError, match="ema.*settings.yaml"):
        train(dataclasses.replace(halves, resume=True, optim=dataclasses.replace(halves.optim, ema=0.0)))
    train(dataclasses.replace(halves, resume=True))
    assert_same_run(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("loss", ["bootstrapped", *(pytest.param(loss, marks=pytest.mark.long)
                                                   for loss in ("focal", "dice"))])
def test_a_run_with_another_loss_and_all_options_learns(loss, sample_records, tmp_path):
    epochs = 12 if loss == "dice" else 6
    config = settings(sample_records, tmp_path, optim={"epochs": epochs, "loss": loss, "warmup_epochs": 0, "lr": 0.02})
    config.augment = AugmentConfig(crop_size=32, batch_size=4, photometric=1.0, max_class_share=0.75)
    train(dataclasses.replace(config, eval_every=0))
    losses = [float(row["loss"]) for row in read_table(tmp_path / "log.csv")]
    assert np.mean(losses[-STEPS:]) < 0.97 * np.mean(losses[:STEPS])


HEADS = ("score", "upscore")


@on(COURSE, PAPER)
@pytest.mark.parametrize("names", [["sky", "earth", "sea"], [f"thing {number}" for number in range(7)], SAMPLE.names])
def test_a_checkpoint_of_other_classes_gives_all_but_its_scores(whole, names, tmp_path):
    """Of another number of classes, of as many others, and of the same ones."""
    options, folder = whole
    labels = SAMPLE if names is SAMPLE.names else LabelSet(names, [(0, 0, number) for number in range(len(names))])
    path = str(folder / "checkpoints" / "last.ckpt")
    config = TrainConfig(model=ModelConfig(width=0.125, fc_width=8, pretrained=path, **options["model"]))
    ms.set_seed(4)
    net, _, report = build(config, labels, None)
    ms.set_seed(4)
    fresh = build(dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained="")), labels, None)[0]
    theirs, same = load_checkpoint(path)[0], labels is SAMPLE
    initial = {parameter.name: parameter.asnumpy() for parameter in fresh.get_parameters()}
    for parameter in net.get_parameters():
        if not is_state(parameter.name):
            reinitialised = parameter.name.startswith(HEADS) and not same
            source = initial if reinitialised else theirs
            np.testing.assert_array_equal(parameter.asnumpy(), source[parameter.name], parameter.name)
            line = next(line for line in str(report).splitlines() if line.split()[0] == parameter.name)
            assert ("reinitialised: the file's is for other classes" in line) == reinitialised
            assert ("loaded" in line) != reinitialised
    assert ("reinitialised for other classes" in report.summary()) != same


def as_older(path, written):
    """Write a checkpoint of the course's network again, with options in its card that are the defaults."""
    weights, card, state = load_checkpoint(path)
    card.model.update(written)
    net = create_model(COURSE["model"]["name"], len(card.labels), width=0.125, fc_width=8)
    load_weights(net, weights)
    save_checkpoint(path, net, card, {name: ms.Parameter(ms.Tensor(value)) for name, value in state.items()})


@on(COURSE)
def test_a_run_of_an_older_release_resumes(whole, sample_records, tmp_path):
    """Its card names every option, including defaults; other values are another network's."""
    _, folder = whole
    shutil.copytree(folder, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    config = settings(sample_records, tmp_path / "run", **COURSE, resume=True)
    as_older(last, {"skip_scales": [1.0, 1.0]})
    assert train(config).epoch == EPOCHS
    as_older(last, {"skip_scales": [0.5, 1.0]})
    with pytest.raises(UserError, match="another network"):
        train(config)


@pytest.mark.parametrize("written, same", [
    ({"width": 1.0, "fc_width": 4096, "skip_scales": [1.0, 1.0]}, True), ({"width": 0.5}, False),
    ({"fc_width": 512}, False), ({"geometry": "paper"}, False), ({"skip_scales": [0.1, 1.0]}, False)])
def test_a_default_that_is_written_out_is_the_same_network(written, same):
    name = {"name": "fcn8s_vgg16"}
    assert (network_options(Card({**name, **written})) == network_options(Card(name))) == same


@pytest.mark.usefixtures("uncompiled")
def test_a_worse_epoch_after_resume_leaves_the_best_checkpoint(sample_records, tmp_path):
    """last.ckpt is written before its epoch is evaluated: the next run still needs that epoch's figures."""
    config = settings(sample_records, tmp_path, **QUICK, optim={"epochs": 3, "lr": 0.02}, eval_every=0)
    train(config)
    kept = (tmp_path / "checkpoints" / "best.ckpt").read_bytes()
    # A rate this high forgets what was learned.
    worse = OptimConfig(epochs=4, lr=3.0, schedule="constant", warmup_epochs=0)
    train(dataclasses.replace(config, optim=worse, resume=True))
    first, second = (float(row["mean IoU"]) for row in read_table(tmp_path / "evaluation.csv"))
    assert second < first
    assert (tmp_path / "checkpoints" / "best.ckpt").read_bytes() == kept


@pytest.mark.usefixtures("uncompiled")
def test_a_run_ends_when_it_has_not_improved_and_keeps_the_best_by_a_class(sample_records, tmp_path):
    """At this learning rate evaluations are equal, which is no improvement; a resumed run ends at the same epoch."""
    config = settings(sample_records, tmp_path / "whole", **QUICK, patience=2, best_by="background",
                      optim={"epochs": 40, "lr": 1e-9, "min_lr": 0, "warmup_epochs": 0})
    said = []
    result = train(config, Console(said.append))
    assert sum(line.startswith("stopping after epoch") for line in said) == 1
    # Three photographs after every three small steps are more than a tenth of the time.
    assert sum(line.startswith("evaluation took ") and "--eval_every" in line for line in said) == 1
    assert len(read_table(tmp_path / "whole" / "evaluation.csv")) == result.epoch
    best = load_checkpoint(result.checkpoint)[1].training["best"]
    assert best["epoch"] == result.best_epoch and best["since"] + 2 == result.epoch < 40
    table = json.loads((tmp_path / "whole" / "evaluation" / "metrics.json").read_text())
    assert best["background"] == pytest.approx(table["class IoU"][table["classes"].index("background")])
    halves = dataclasses.replace(config, run_dir=str(tmp_path / "halves"))
    train(halves, StopAt(STEPS + 1))
    assert train(dataclasses.replace(halves, resume=True)).epoch == result.epoch
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert train(dataclasses.replace(halves, resume=True)).epoch == result.epoch


@pytest.mark.usefixtures("uncompiled")
def test_frozen_layers_stay_as_they_are(sample_records, tmp_path):
    config = settings(sample_records, tmp_path, **COURSE, optim={"epochs": 2, "freeze": "conv1"})
    config.model.pretrained = str(tmp_path / "start.ckpt")
    save_checkpoint(config.model.pretrained, *build(dataclasses.replace(config, model=ModelConfig(
        width=0.125, fc_width=8, **COURSE["model"])), SAMPLE, "")[:2])
    said = []
    train(config, Console(said.append))
    listed = (tmp_path / "weights.txt").read_text().splitlines()
    assert said.count(f"{listed[0]}; listed in {tmp_path / 'weights.txt'}") == 1
    assert any(line.split() == ["conv1.0.weight", "loaded"] for line in listed)
    assert not any("conv1.0.weight" in line for line in said)
    one, other = (load_checkpoint(tmp_path / "checkpoints" / f"epoch-000{epoch}.ckpt")[0] for epoch in (1, 2))
    frozen = [name for name in one if name.startswith("conv1.")]
    assert any(name.endswith("moving_mean") for name in frozen)
    assert all(np.array_equal(one[name], other[name]) for name in frozen)
    assert not any(np.array_equal(one[name], other[name]) for name in one if name.startswith("conv4."))
    assert all(not one[name].any() for name in frozen if name.endswith("moving_mean"))


@on(COURSE)
@pytest.mark.usefixtures("uncompiled")
def test_a_loss_that_is_not_finite_stops_the_run(whole, sample_records, tmp_path, capfd):
    _, folder = whole
    shutil.copytree(folder, tmp_path / "run")
    kept = tmp_path / "run" / "checkpoints"
    shutil.copy(kept / "epoch-0002.ckpt", kept / "last.ckpt")
    before = {name: (kept / name).read_bytes() for name in checkpoints(tmp_path / "run")}
    config = folder / "settings.yaml"
    status = main(["train", "--config", str(config), "--run_dir", str(tmp_path / "run"), "--resume",
                   "--optim.lr", "1e30", "--optim.schedule", "constant", "--optim.warmup_epochs", "0"])
    error = capfd.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert status == 1
    assert error.startswith("mindfcn train: the loss is ") and "--optim.lr" in error
    step = int(error.split("at step ")[1].split()[0])
    assert 2 * STEPS < step <= EPOCHS * STEPS
    assert error.count("sample_0") == 4
    assert {name: (kept / name).read_bytes() for name in before} == before
    assert [int(row["step"]) for row in read_table(tmp_path / "run" / "log.csv")] == list(range(1, step))


@pytest.mark.parametrize("whole, number", [
    pytest.param(COURSE, signal.SIGTERM, id="course"),
    pytest.param(PAPER, signal.SIGINT, id="paper", marks=long)], indirect=["whole"])
def test_a_signal_from_outside(whole, sample_records, tmp_path, number):
    """The command in a separate process, stopped at an arbitrary step, ends with the bits of `whole`."""
    _, folder = whole
    command = [sys.executable, "-c", MINDFCN, "train", "--config", str(folder / "settings.yaml"),
               "--run_dir", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        log, patience = tmp_path / "run" / "log.csv", time.monotonic() + 240
        while process.poll() is None and time.monotonic() < patience:
            if log.exists() and log.read_text().count("\n") > STEPS:
                break
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=240)
    # While a graph runs, MindSpore itself turns an interrupt into SIGTERM.
    assert process.returncode in (128 + number, 128 + signal.SIGTERM), err
    assert "stopped by a signal; saved" in out and "--resume" in out and "Traceback" not in err
    assert 0 < len(read_table(log)) < EPOCHS * STEPS
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")[1].training["step"] == len(read_table(log))
    assert main([*command[3:], "--resume"]) == 0
    assert_same_run(folder, tmp_path / "run")


# ------------------------------------------------------------------------------------------------- one step

def batch(seed, count=4, side=32, classes=3):
    random = np.random.default_rng(seed)
    return (ms.Tensor(random.standard_normal((count, 3, side, side)).astype(np.float32)),
            ms.Tensor(random.integers(0, classes, (count, side, side)).astype(np.int32)))


class SmallNet(nn.Cell):
    """Three convolutions whose names put them into every group of the optimiser; quick to compile."""

    def __init__(self):
        super().__init__(auto_prefix=True)
        self.conv1 = layers.conv(3, 6, 3, bias=True)
        self.conv6 = layers.conv(6, 6, 1, bias=True)
        self.score_fr = layers.conv(6, 3, 1, bias=True)

    def construct(self, image):
        return self.score_fr(ops.relu(self.conv6(ops.relu(self.conv1(image)))))


def tiny_step(optim=None, steps=4, compiled=True, **options):
    """A small network, its TrainStep in training mode, and the learning rates."""
    runtime.set_up(seed=1)
    if compiled:
        runtime.graph_mode()
    else:
        runtime.pynative_mode()
    net = SmallNet()
    config = optim or OptimConfig(epochs=1, lr=0.1)
    update, rates = optimiser(net, config, steps)
    step = TrainStep(net, update, accumulate=config.accumulate, **options)
    step.set_train()
    # If an earlier network were deleted after the first step, MindSpore would compile again.
    gc.collect()
    return net, step, rates


def values(net):
    return {parameter.name: parameter.asnumpy().copy() for parameter in net.get_parameters()}


def test_two_half_batches_make_one_update():
    image, label = batch(1)
    net, step, _ = tiny_step()
    start = values(net)
    step(image, label)
    expected = values(net)
    net, step, _ = tiny_step(OptimConfig(epochs=1, lr=0.1, accumulate=2))
    step(image[:2], label[:2])
    assert all(np.array_equal(start[name], value) for name, value in values(net).items())
    step(image[2:], label[2:])
    assert len(step.compile_cache) == 2, "with and without the update"
    for name, value in values(net).items():
        moved = np.abs(expected[name] - start[name]).max()
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-3 * moved + 1e-7, err_msg=name)
    assert not any(np.array_equal(start[name], value) for name, value in expected.items())


def test_updates_are_those_of_the_formula():
    """Momentum SGD written out: decay, doubled undecayed biases, faster heads, and the schedule's rate of each step."""
    config = OptimConfig(epochs=1, lr=0.1, min_lr=0.01, schedule="polynomial", momentum=0.8, weight_decay=0.05,
                         paper_biases=True, head_lr=3.0, warmup_epochs=0.25)
    net, step, rates = tiny_step(config, steps=4)
    np.testing.assert_allclose(rates[:2], [0.1, 0.1])
    assert rates[-1] == np.float32(0.01) and rates[2] < 0.1
    loss = CrossEntropy(255)

    def forward(image, label):
        return loss(net(image), label)

    gradient = ms.value_and_grad(forward, None, net.trainable_params())
    velocity = {parameter.name: 0.0 for parameter in net.trainable_params()}
    for number in range(4):
        image, label = batch(number, count=2)
        before = values(net)
        gradients = {parameter.name: found.asnumpy()
                     for parameter, found in zip(net.trainable_params(), gradient(image, label)[1])}
        step(image, label)
        after = values(net)
        for name, found in gradients.items():
            bias = name.endswith(UNDECAYED)
            rate = rates[number] * (2 if bias else 1)
            rate *= 3 if name.startswith(("conv6", "conv7", "score", "upscore")) else 1
            velocity[name] = 0.8 * velocity[name] + found + (0 if bias else 0.05) * before[name]
            expected = before[name] - rate * velocity[name]
            scale = np.abs(rate * velocity[name]).max()
            np.testing.assert_allclose(after[name], expected, rtol=0, atol=2e-3 * scale + 1e-6, err_msg=name)


@pytest.mark.usefixtures("uncompiled")
def test_the_summed_loss_is_the_mean_loss_at_another_rate_and_decay():
    """Published rates are for the sum: of P counted pixels, lr and decay of the mean are lr P and decay / P.

    The decay's share of an update is lr decay weight: with the published decay unchanged, it would be P times larger.
    """
    image, label = batch(1, side=16)
    counted, lr, decay = label.size, 1e-5, 0.02
    results = {}
    for name, reduction, rate, weight_decay in (
            ("sum", "sum", lr, decay), ("mean", "mean", lr * counted, decay / counted),
            ("naive", "mean", lr * counted, decay), ("none", "mean", lr * counted, 0.0)):
        config = OptimConfig(lr=rate, min_lr=0, schedule="constant", momentum=0.99, weight_decay=weight_decay)
        net, step, _ = tiny_step(config, compiled=False, loss=CrossEntropy(255, reduction))
        start = values(net)
        for _ in range(1 if name in ("naive", "none") else 3):
            step(image, label)
        results[name] = values(net)
    for name, value in results["sum"].items():
        moved = np.abs(value - start[name]).max()
        assert moved > 1e-4
        np.testing.assert_allclose(results["mean"][name], value, rtol=0, atol=1e-5 * moved + 1e-7, err_msg=name)
        np.testing.assert_allclose(results["naive"][name] - results["none"][name],
                                   -lr * counted * decay * start[name], rtol=0, atol=1e-7, err_msg=name)


@pytest.mark.usefixtures("uncompiled")
def test_accumulation_uses_every_rate_once():
    """Three batches an epoch and two an update: an update in each half of the run has its own rate, none is 0."""
    config = OptimConfig(epochs=4, lr=0.1, min_lr=0.05, accumulate=2, momentum=0.0, weight_decay=0.0)
    net, step, rates = tiny_step(config, steps=3, compiled=False)
    assert len(rates) == 6
    image, label = batch(1, count=2)
    for number in range(12):
        before = values(net)
        step(image, label)
        changed = not np.array_equal(before["score_fr.weight"], values(net)["score_fr.weight"])
        assert changed == (number % 2 == 1), number
    assert int(step.update.global_step.asnumpy()[0]) == 6


@pytest.mark.parametrize("scaler", [lambda: ms.amp.StaticLossScaler(1024.0),
                                    lambda: ms.amp.DynamicLossScaler(2.0 ** 10, 2, 2)], ids=["static", "dynamic"])
def test_loss_scaling_changes_no_value(scaler):
    made, results = scaler(), []
    for chosen in (None, made):
        net, step, _ = tiny_step(scaler=chosen, compiled=isinstance(made, ms.amp.DynamicLossScaler))
        losses = [float(step(*batch(seed)).asnumpy()) for seed in (1, 2)]
        results.append((losses, values(net)))
    assert results[0][0] == results[1][0]
    for name, value in results[0][1].items():
        np.testing.assert_allclose(results[1][1][name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    if isinstance(chosen, ms.amp.DynamicLossScaler):
        assert float(chosen.scale_value.asnumpy()) == 2.0 ** 11
        assert {"scale_value", "counter"} <= step.state().keys()


def test_a_step_that_overflows_is_skipped():
    scaler = ms.amp.DynamicLossScaler(2.0 ** 127, 2, 2000)
    net, step, _ = tiny_step(scaler=scaler)
    start = values(net)
    image, label = batch(1)
    step(image * 1e4, label)
    assert float(scaler.scale_value.asnumpy()) == 2.0 ** 126
    assert all(np.array_equal(start[name], value) for name, value in values(net).items())
    assert all(not parameter.asnumpy().any() for name, parameter in step.state().items() if name.startswith("moments"))


# ------------------------------------------------------------------------------------------------- two processes

TWO = """
    import sys
    import numpy as np
    from mindfcn import runtime
    from mindfcn.cli.parser import parse
    from mindfcn.commands import train as module
    from mindfcn.console import Console

    class Kept(module.TrainStep):
        def __init__(self, net, *arguments, **options):
            super().__init__(net, *arguments, **options)
            Kept.net = net

    module.TrainStep = Kept
    folder, arguments = sys.argv[1], sys.argv[2:]

    class Save(Console):
        def step(self, step, *_):
            np.savez(f"{folder}/rank{runtime.rank()}-{step}.npz",
                     **{parameter.name: parameter.asnumpy() for parameter in Kept.net.trainable_params()})

    module.train(parse(["train", *arguments])[1], Save())
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@long
@pytest.mark.parametrize("ready", [True, False], ids=["records", "no-records"])
def test_two_processes_hold_the_same_weights(ready, sample_records, tmp_path):
    msrun = os.path.join(os.path.dirname(sys.executable), "msrun")
    if not os.path.exists(msrun):
        pytest.skip("this MindSpore has no msrun")
    (tmp_path / "two.py").write_text(textwrap.dedent(TWO))
    source = sample_records if ready else tmp_path
    # msrun starts the first `python` on PATH.
    environment = {**os.environ, "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])}
    done = subprocess.run(
        [msrun, "--worker_num=2", "--local_worker_num=2", f"--master_port={free_port()}", "--join=True",
         f"--log_dir={tmp_path / 'log'}", str(tmp_path / "two.py"), str(tmp_path), "--device", "CPU", *TINY,
         "--augment.batch_size", "2", "--optim.epochs", "2", "--run_dir", str(tmp_path / "run"),
         "--data.records", str(source / "records"), "--data.source", "sample", "--data.root", str(source / "source"),
         "--data.samples", "15", "--data.size", "64", "--watch_every", "1"],
        capture_output=True, text=True, timeout=500, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    one, other = (np.load(tmp_path / f"rank{rank}-6.npz") for rank in (0, 1))
    first = np.load(tmp_path / "rank0-1.npz")
    assert one.files == other.files
    assert all(one[name].tobytes() == other[name].tobytes() for name in one.files)
    assert not all(np.array_equal(one[name], first[name]) for name in one.files)
    assert len(read_table(tmp_path / "run" / "log.csv")) == 6
    assert checkpoints(tmp_path / "run") == ["best.ckpt", "epoch-0001.ckpt", "epoch-0002.ckpt", "last.ckpt"]


@pytest.mark.parametrize("name", ["fcn8s_small_bn", pytest.param("fcn8s_small", marks=long)])
def test_mixed_precision_learns_and_keeps_float32_weights(name):
    """What GPU and Ascend run by default: float16 layers, dynamic loss scale, float32 weights under the same names."""
    runtime.set_up()
    ms.set_seed(1)
    net = create_model(name, 5, width=0.125, fc_width=16, dropout=0.0)
    names = [parameter.name for parameter in net.get_parameters()]
    update, _ = optimiser(net, OptimConfig(lr=0.01, min_lr=0.01), 10)
    compute_in(net, ms.float16)
    step = TrainStep(net, update, scaler=ms.amp.DynamicLossScaler(2 ** 10, 2, 100))
    runtime.graph_mode()
    step.set_train()
    # As in `tiny_step`.
    gc.collect()
    random = np.random.default_rng(1)
    images = ms.Tensor(random.standard_normal((2, 3, 64, 64), np.float32))
    labels = ms.Tensor(random.integers(0, 2, (2, 64, 64), np.int32))
    losses = [float(step(images, labels).asnumpy()) for _ in range(6)]
    assert losses[-1] < losses[0] and np.isfinite(losses).all()
    assert [parameter.name for parameter in net.get_parameters()] == names
    assert all(parameter.dtype == ms.float32 for parameter in update.parameters)
