"""Your own folder through every verb: classes merged and left out, no validation, several folders."""

import dataclasses
import json
import os
import shlex
import shutil

import numpy as np
import pytest
import small_network  # noqa: F401  (its network is trained)
from helpers import one_line
from PIL import Image

from mindfcn.cli.main import main
from mindfcn.cli.parser import parse
from mindfcn.commands.compare import compare
from mindfcn.commands.evaluate import evaluate
from mindfcn.commands.inspect_data import inspect
from mindfcn.commands.prepare import find_records, prepare
from mindfcn.commands.train import train
from mindfcn.config import (
    AugmentConfig,
    CompareConfig,
    EvalConfig,
    InspectConfig,
    ModelConfig,
    OptimConfig,
    PrepareConfig,
    TrainConfig,
    Variant,
)
from mindfcn.console import Console
from mindfcn.data.records.mindrecord import read_manifest
from mindfcn.data.records.records import Records
from mindfcn.errors import UserError
from mindfcn.labels import LabelMap, LabelSet
from mindfcn.weights.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("uncompiled", "pynative", "unrendered")
HELD = LabelSet(("sky", "cat", "dog", "soil"), ((0, 0, 200), (200, 0, 0), (0, 200, 0), (90, 60, 9)))
COUNT = 6


@pytest.fixture
def folder(tmp_path):
    """Photographs with colour masks: stripes of four classes and a white outline, which is ignored as sky is."""
    root = tmp_path / "mine"
    colors = np.array([*HELD.colors, (255, 255, 255)], np.uint8)
    for inner in ("images", "masks"):
        (root / inner).mkdir(parents=True)
    for number in range(COUNT):
        mask = np.arange(40).reshape(-1, 1).repeat(48, 1) // 8
        photograph = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(photograph).save(root / "images" / f"p{number}.png")
        Image.fromarray(colors[mask]).save(root / "masks" / f"p{number}.png")
    LabelMap.of(HELD, {"animal": ["cat", "dog"]}, ["sky", [255, 255, 255]]).save(root / "labels.yaml")
    return root


def data_of(root, **options):
    return PrepareConfig(**{"records": str(root) + "-records", "source": "folder", "root": str(root), **options})


def settings(data, run_dir, **options):
    optim = OptimConfig(epochs=options.pop("epochs", 1), lr=0.001, min_lr=0.0001, ema=options.pop("ema", 0.0))
    return TrainConfig(run_dir=str(run_dir), device="CPU", data=data, augment=AugmentConfig(crop_size=0, batch_size=1),
                       model=ModelConfig("fcn32s_small", width=0.0625, fc_width=8), optim=optim, **options)


def test_a_map_of_classes_goes_through_training_and_evaluation(folder, tmp_path):
    result = train(settings(data_of(folder), tmp_path / "run"))
    card = load_checkpoint(result.checkpoint)[1]
    assert card.labels == LabelSet(("animal", "soil"), ((200, 0, 0), (90, 60, 9)))
    found = evaluate(EvalConfig(result.checkpoint, device="CPU", out=str(tmp_path / "out")))
    assert found.metrics == result.evaluation.metrics
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["classes"] == ["animal", "soil"]
    # Of 40 rows, 16 are animals and 8 soil; the others count nowhere.
    assert np.array(written["confusion matrix"]).sum() == found.images * 24 * 48


def test_without_validation_the_last_checkpoint_is_the_best(folder, tmp_path):
    data, lines = data_of(folder, val_fraction=0.0), []
    result = train(settings(data, tmp_path / "run"), Console(lines.append))
    assert (result.evaluation, result.best_epoch, result.epoch) == (None, None, 1)
    assert os.path.basename(result.checkpoint) == "best.ckpt" and "no validation: every image" in "\n".join(lines)
    weights, last = (load_checkpoint(tmp_path / "run" / "checkpoints" / name)[0] for name in ("best.ckpt", "last.ckpt"))
    assert weights.keys() == last.keys() and all((weights[name] == last[name]).all() for name in weights)
    assert "no validation" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    records = Records.open(data.records, HELD)
    assert records.val is None and records.images == COUNT and sorted(os.listdir(data.records)) == [
        "labels.yaml", *(f"train.mindrecord{end}" for end in ("", ".db", ".json"))]
    resumed = train(settings(data, tmp_path / "run", epochs=2, resume=True))
    again = load_checkpoint(resumed.checkpoint)[0]
    assert resumed.epoch == 2 and any((again[name] != weights[name]).any() for name in weights)
    averaged = train(settings(data, tmp_path / "averaged", ema=0.9))
    assert os.path.basename(averaged.checkpoint) == "best.ckpt"
    inspected = inspect(InspectConfig(data.records, out=str(tmp_path / "sheet")))
    assert list(inspected.splits) == ["train"] and not inspected.broken


def test_what_needs_validation_is_refused_in_one_line(folder, tmp_path):
    data = data_of(folder, val_fraction=0.0)
    result = train(settings(data, tmp_path / "run"))
    for options, words in (({"patience": 2}, "--patience 2"), ({"best_by": "animal"}, "--best_by animal")):
        with pytest.raises(UserError) as caught:
            train(settings(data, tmp_path / "other", **options))
        one_line(caught, words, "no validation records", "--data.val_fraction")
    with pytest.raises(UserError) as caught:
        evaluate(EvalConfig(result.checkpoint, device="CPU"))
    one_line(caught, "trained without validation", "give --records")
    with pytest.raises(UserError) as caught:
        evaluate(EvalConfig(result.checkpoint, device="CPU", records=data.records))
    one_line(caught, "holds no validation records", "train.mindrecord")
    with pytest.raises(UserError) as caught:
        compare(CompareConfig(str(tmp_path / "c"), [Variant("fcn32s_small")], settings(data, "")))
    one_line(caught, "has no validation records")


def test_records_with_and_without_validation_are_not_taken_for_each_other(folder):
    with_it, without = data_of(folder), data_of(folder, val_fraction=0.0)
    prepare(with_it)
    with pytest.raises(UserError) as caught:
        find_records(without)
    one_line(caught, "validation images are held out there and none here", "--data.overwrite true")
    prepare(dataclasses.replace(without, overwrite=True))
    assert not os.path.exists(Records.paths(without.records)[1]) and find_records(without).val is None
    assert prepare(without).train.reused
    with pytest.raises(UserError) as caught:
        find_records(with_it)
    one_line(caught, "validation images are held out here and none there")
    assert find_records(dataclasses.replace(with_it, overwrite=True)).val


def test_a_list_of_training_images_may_be_alone(folder):
    (folder / "train.txt").write_text("p0\np3\n")
    with pytest.raises(UserError, match="train.txt and --val_fraction 0"):
        prepare(data_of(folder))
    assert prepare(data_of(folder, val_fraction=0.0)).train.written == 2
    (folder / "val.txt").write_text("p1\n")
    assert prepare(data_of(folder, val_fraction=0.0, overwrite=True)).val.written == 1, "lists decide"


@pytest.fixture
def second(folder, tmp_path):
    """Another folder with photographs of the same names and other contents."""
    root = tmp_path / "more"
    shutil.copytree(folder, root)
    for number in range(COUNT):
        Image.fromarray(np.full((40, 48, 3), 7 * number, np.uint8)).save(root / "images" / f"p{number}.png")
    return root


def names_of(data):
    """[names of the training records, of the validation records]."""
    return [list(read_manifest(path)["identity"]["samples"]) for path in Records.paths(data.records)]


def test_two_folders_make_one_data_set(folder, second, tmp_path):
    alone, both = data_of(folder, records=str(tmp_path / "a")), data_of(folder, more_roots=[str(second)])
    prepare(alone)
    prepare(both)
    (train_alone, val_alone), (train_names, val_names) = names_of(alone), names_of(both)
    assert sorted(train_names + val_names) == sorted(f"{prefix}p{n}" for prefix in ("", "more_") for n in range(COUNT))
    assert set(train_alone) <= set(train_names) | set(val_names) and len(set(train_names) & set(val_names)) == 0
    assert set(val_names) & set(train_alone + val_alone) <= set(val_alone), "the first folder keeps its split"
    records, lines = Records.open(both.records, HELD), []
    assert records.source == f"folder {folder} + {second}" and records.images == 2 * COUNT
    assert find_records(both, Console(lines.append)).identity == records.identity
    with pytest.raises(UserError) as caught:
        find_records(dataclasses.replace(both, more_roots=[]))
    one_line(caught, "there and not here", "--data.overwrite true")
    Image.new("RGB", (48, 40), (9, 9, 9)).save(second / "images" / "p1.png")
    with pytest.raises(UserError) as caught:
        find_records(both)
    one_line(caught, "1 image is changed, first the photograph of more_p1")
    assert "more_p1" in inspect(InspectConfig(both.records, out=str(tmp_path / "o"))).findings[0].message
    shutil.rmtree(second)
    assert find_records(both, Console(lines.append)).identity == records.identity
    assert any(f"{second} is not here" in line for line in lines)


def test_each_folder_has_its_lists_and_groups_stay_together(folder, second):
    (second / "train.txt").write_text("p4\np2\n")
    (second / "val.txt").write_text("p0\n")
    data = data_of(folder, more_roots=[str(second)])
    prepare(data)
    train_names, val_names = names_of(data)
    assert train_names[:2] == ["more_p4", "more_p2"] and val_names[0] == "more_p0"
    assert sorted(train_names[2:] + val_names[1:]) == [f"p{number}" for number in range(COUNT)]
    for split in ("train", "val"):
        (second / f"{split}.txt").unlink()
    grouped = dataclasses.replace(data, group_by="p[0-9]", val_fraction=0.5, overwrite=True)
    prepare(grouped)
    splits = [{name[-2:] for name in names} for names in names_of(grouped)]
    assert not splits[0] & splits[1] and sum(map(len, splits)) == COUNT


def test_folders_that_do_not_fit_are_one_line(folder, second, tmp_path):
    twin = tmp_path / "inner" / "more"
    shutil.copytree(second, twin)
    link = tmp_path / "link"
    link.symlink_to(folder)
    (folder / "images" / "more_p1.png").write_bytes((folder / "images" / "p1.png").read_bytes())
    cases = [([str(second)], "would both be named more_p1; rename one"), ([str(link)], "is given twice"),
             ([str(tmp_path / "away")], "no folder")]
    for more_roots, words in cases:
        with pytest.raises(UserError) as caught:
            prepare(data_of(folder, more_roots=more_roots))
        one_line(caught, words)
    (folder / "images" / "more_p1.png").unlink()
    with pytest.raises(UserError) as caught:
        prepare(data_of(folder, more_roots=[str(second), str(twin)]))
    one_line(caught, "would both be named more_p0")
    HELD.save(second / "labels.yaml")
    with pytest.raises(UserError) as caught:
        prepare(data_of(folder, more_roots=[str(second)]))
    one_line(caught, str(second / "labels.yaml"), "merge or ignore differ", "make them one, or give --labels")
    LabelSet(HELD.names[::-1], HELD.colors).save(second / "labels.yaml")
    with pytest.raises(UserError, match="class 0 .soil. is called soil there and sky here"):
        prepare(data_of(folder, more_roots=[str(second)]))
    with pytest.raises(UserError, match="--more_roots is for your own folders, not for source voc"):
        prepare(data_of(folder, source="voc", more_roots=[str(second)]))
    with pytest.raises(UserError, match="--data.more_roots .* does not apply without --data.source"):
        find_records(PrepareConfig(records=prepare(data_of(folder)).train_path.rpartition(os.sep)[0],
                                   more_roots=[str(second)]))


def test_inspect_reads_all_folders_and_its_next_line_names_them(folder, second, tmp_path, capsys):
    (second / "images" / "p0.png").write_bytes((folder / "images" / "p0.png").read_bytes())
    (second / "masks" / "lonely.png").write_bytes((second / "masks" / "p0.png").read_bytes())
    result = inspect(InspectConfig(str(folder), out=str(tmp_path / "o"), more_roots=[str(second)]))
    found = {finding.kind: finding for finding in result.findings}
    same = (found.get("twice") or found["leak"]).message
    assert found["missing"].name == "more_lonely" and ": more_p0" in same and ": p0" in same
    assert sum(split.pairs for split in result.splits.values()) == 2 * COUNT
    (second / "masks" / "lonely.png").unlink()
    Image.new("RGB", (48, 40), (9, 90, 9)).save(second / "images" / "p0.png")
    assert main(["inspect", str(folder), "--more_roots", str(second), "--out", str(tmp_path / "o")]) == 0
    line, = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next")]
    assert f"""--data.more_roots '["{second}"]'""" in line
    config = parse(shlex.split(line)[2:])[1]
    assert (config.data.root, config.data.more_roots) == (str(folder), [str(second)])


def test_inspect_names_a_set_without_validation(folder, tmp_path):
    result = inspect(InspectConfig(str(folder), out=str(tmp_path / "o"), val_fraction=0.0))
    finding, = [finding for finding in result.findings if finding.kind == "unvalidated"]
    assert "cure: --val_fraction 0.2" in result.to_text() and "no metrics" in finding.message
    assert list(result.splits) == ["train"] and not result.broken
