"""The recipes of configs/: settings that can be, networks that exist, stages that follow one another."""

import dataclasses
import pathlib

import pytest
import yaml

from mindfcn.cli.parser import parse
from mindfcn.commands.train import check_settings
from mindfcn.models.factory import split_name

RECIPES = {path.stem: path for path in sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.yaml"))
           if "run_dir" in yaml.safe_load(path.read_text(encoding="utf-8"))}
# Of a photograph of each source.
PIXELS = {"voc": 500 * 375, "context": 500 * 375, "nyud": 425 * 560, "siftflow": 256 * 256}


def settings(name):
    return parse(["train", "--config", str(RECIPES[name])])[1]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_run(name):
    config = settings(name)
    check_settings(config)
    split_name(config.model.name)
    for source in filter(lambda path: path.startswith("runs/"), (config.model.pretrained, config.model.pretrained_hha)):
        before = settings(pathlib.Path(source).parts[1])
        assert source == f"{before.run_dir}/checkpoints/last.ckpt"
        assert (config.model.padding, config.model.preprocess) == (before.model.padding, before.model.preprocess)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_device_minutes_or_steps_and_score(name):
    text = RECIPES[name].read_text(encoding="utf-8")
    comment = text[:text.index("run_dir")]
    assert all(line.startswith("# ") and len(line) <= 121 for line in comment.splitlines())
    assert all(word in comment for word in ("Device:", "Score:")) and ("Minutes:" in comment or "Steps:" in comment)


@pytest.mark.parametrize("prefix", ["deconvnet_voc_cpu", "paper_deconvnet"])
def test_deconvnets_stages_are_of_one_network(prefix):
    first, second = (settings(f"{prefix}_stage{number}") for number in (1, 2))
    assert dataclasses.replace(first.model, pretrained="") == dataclasses.replace(second.model, pretrained="")
    assert (first.data.instances, second.data.instances) == ("boxes", "proposals")
    assert first.data.records != second.data.records and first.augment == second.augment


def test_summed_recipes_tell_the_rate_of_the_mean():
    summed = [name for name in RECIPES if settings(name).optim.loss == "sum"]
    assert len(summed) == 16
    for name in summed:
        config, text = settings(name), RECIPES[name].read_text(encoding="utf-8")
        pixels = PIXELS[config.data.source]
        assert f"it is {config.optim.lr * pixels:.1e}".replace("e-0", "e-") in text
        assert f"decay of {config.optim.weight_decay / pixels:.1e}".replace("e-0", "e-") in text
        assert config.augment.crop_size == 0 and config.optim.schedule == "constant"
