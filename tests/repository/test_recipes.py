"""The recipes of configs/: valid settings, existing networks, stages that follow one another, and files with a base."""

import dataclasses
import functools
import pathlib

import pytest
import yaml

from mindfcn.cli.main import main
from mindfcn.cli.parser import parse
from mindfcn.cli.recipes import merge, read_recipe
from mindfcn.engine.settings import check_settings
from mindfcn.errors import UserError
from mindfcn.models.factory import split_name

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
PATHS = {path.relative_to(CONFIGS).with_suffix("").as_posix(): path for path in sorted(CONFIGS.rglob("*.yaml"))
         if path.stem != "base"}
RECIPES = [name for name in PATHS if not name.startswith("compare/")]
COMPARISONS = [name for name in PATHS if name.startswith("compare/")]
SUMMED = {"paper/heavy_32s": 1e-10, "paper/heavy_16s": 1e-12, "paper/heavy_8s": 1e-14, "paper/atonce": 1e-10,
          "paper/online": 1e-10, "paper/accum": 1e-10, "nyud/rgb": 1e-10, "nyud/rgbd": 1e-10, "nyud/hha": 1e-10,
          "nyud/rgb_hha": 1e-12, "siftflow/32s": 1e-10, "siftflow/16s": 1e-12, "siftflow/8s": 1e-12,
          "context/32s": 1e-10, "context/16s": 1e-12, "context/8s": 1e-14}
# Epochs, momentum, images in one step.
SCHEMES = {"paper/heavy_32s": (10, 0.99, 1), "paper/heavy_16s": (10, 0.99, 1), "paper/heavy_8s": (10, 0.99, 1),
           "paper/atonce": (28, 0.99, 1), "paper/online": (10, 0.9, 1), "paper/accum": (10, 0.9, 20),
           "paper/cvpr_32s": (175, 0.9, 20), "paper/cvpr_16s": (59, 0.9, 20), "paper/cvpr_8s": (59, 0.9, 20)}
# The size of a photograph of each source.
PIXELS = {"voc": 500 * 375, "context": 500 * 375, "nyud": 425 * 560, "siftflow": 256 * 256}


@functools.cache
def settings(name):
    return parse(["compare" if name in COMPARISONS else "train", "--config", str(PATHS[name])])[1]


def comments(name):
    """The comments of a recipe and of its bases, the recipe's own last."""
    return [file.read_text(encoding="utf-8").partition("\nbase: ")[0].partition("\nrun_dir: ")[0]
            for file in (pathlib.Path(path) for path, _ in read_recipe(str(PATHS[name])))]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_can_be_run(name):
    config = settings(name)
    check_settings(config)
    split_name(config.model.name)
    runs = {settings(other).run_dir: other for other in RECIPES}
    assert len(runs) == len(RECIPES), "each recipe writes to a folder of its own"
    for source in filter(lambda path: path.startswith("runs/"), (config.model.pretrained, config.model.pretrained_hha)):
        before = settings(runs["/".join(source.split("/")[:2])])
        assert source == f"{before.run_dir}/checkpoints/last.ckpt"
        assert (config.model.padding, config.model.preprocess) == (before.model.padding, before.model.preprocess)


@pytest.mark.parametrize("name", PATHS)
def test_a_recipe_is_read_with_the_folder_that_it_names(name):
    folder = "out" if name in COMPARISONS else "run_dir"
    written = yaml.safe_load(PATHS[name].read_text(encoding="utf-8"))
    assert getattr(settings(name), folder) == written[folder]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_states_device_minutes_or_steps_and_score(name):
    lines = comments(name)[-1].splitlines()
    assert all(line.startswith("# ") and len(line) <= 121 for line in lines)
    everything = "\n".join(comments(name))
    assert "Score:" in comments(name)[-1] and "Device:" in everything
    assert "Minutes:" in everything or "Steps:" in everything


def test_the_rooms_of_the_recipes():
    top = {name for name in PATHS if "/" not in name}
    assert top == {"course", "own_data", "resnet50_voc", "sample", "satellite", "small_voc", "voc_cpu"}
    rooms = {path.parent.name for path in CONFIGS.glob("*/*.yaml")}
    assert rooms == {"compare", "context", "deconvnet", "nyud", "paper", "siftflow"}
    for room in rooms:
        base = str(CONFIGS / room / "base.yaml")
        for path in (CONFIGS / room).glob("*.yaml"):
            chain = read_recipe(str(path))
            assert base in [file for file, _ in chain]
            below = {}
            for file, above in chain:
                assert merge(below, above) != below and not repeated(below, above), f"{file} repeats its base"
                below = merge(below, above)


def repeated(below, above):
    return [name for name, value in above.items() if name in below
            and (repeated(below[name], value) if isinstance(value, dict) else below[name] == value)]


@pytest.mark.parametrize("prefix, side, recalibrate", [("voc_cpu", 96, 40), ("paper", 224, 501)])
def test_deconvnets_stages_are_of_one_network(prefix, side, recalibrate):
    first, second = (settings(f"deconvnet/{prefix}_stage{number}") for number in (1, 2))
    assert dataclasses.replace(first.model, pretrained="") == dataclasses.replace(second.model, pretrained="")
    assert (first.data.instances, second.data.instances) == ("boxes", "proposals")
    assert first.data.records != second.data.records and first.augment == second.augment
    for stage in (first, second):
        assert (stage.model.side or 224, stage.augment.crop_size, stage.augment.batch_size) == (side, side, 8)
        assert (stage.model.name, stage.optim.recalibrate, stage.eval_every) == ("deconvnet_vgg16", recalibrate, 0)


def test_summed_recipes_state_the_rate_of_the_mean():
    assert {name for name in RECIPES if settings(name).optim.loss == "sum"} == set(SUMMED)
    for name, rate in SUMMED.items():
        config, text = settings(name), "\n".join(comments(name))
        pixels = PIXELS[config.data.source]
        assert config.optim.lr == config.optim.min_lr == rate
        assert f"it is {rate * pixels:.1e}".replace("e-0", "e-") in text
        assert f"decay of {config.optim.weight_decay / pixels:.1e}".replace("e-0", "e-") in text


@pytest.mark.parametrize("name", [*SUMMED, "paper/cvpr_32s", "paper/cvpr_16s", "paper/cvpr_8s"])
def test_published_recipes_train_whole_images_at_a_constant_rate(name):
    config, cvpr = settings(name), "cvpr" in name
    assert (config.augment.crop_size, config.augment.batch_size) == (0, 1)
    assert (config.optim.schedule, config.optim.weight_decay, config.optim.precision) == ("constant", 5e-4, "float32")
    assert config.optim.paper_biases and config.model.padding == "pad100"
    assert config.model.upsampling == ("final_fixed" if cvpr else "fixed")
    assert bool(config.data.sbd) == (config.data.source == "voc" and not cvpr)
    epochs, momentum, images = SCHEMES.get(name, (None, 0.99, 1))
    assert (config.optim.momentum, config.optim.accumulate) == (momentum, images)
    assert config.optim.epochs == (epochs or {"nyud": 377, "siftflow": 121, "context": 60}[config.data.source])


def test_comparisons_share_a_budget_and_their_recipe():
    assert [[variant.label or variant.name for variant in settings(f"compare/{name}").variants]
            for name in ("sample", "rgbd_sample", "voc_cpu")] == [
        ["fcn32s_vgg16_bn", "fcn16s_vgg16_bn", "fcn8s_vgg16_bn"], ["rgb", "rgbd", "hha", "rgb_hha"],
        ["fcn32s_fixed_vgg16", "fcn32s_vgg16", "fcn16s_vgg16", "fcn8s_vgg16", "fcn32s_alexnet"]]
    for compared, trained in (("compare/sample", "sample"), ("compare/aids_voc_cpu", "voc_cpu")):
        one, other = settings(compared).train, settings(trained)
        assert (one.data, one.augment) == (other.data, other.augment)
        epochs = one.optim.epochs
        assert one.optim == dataclasses.replace(other.optim, epochs=epochs)
        assert epochs == (other.optim.epochs // 2 if compared == "compare/sample" else other.optim.epochs)
    assert all(settings(name).train.eval_every == 0 for name in COMPARISONS)


# ---------------------------------------------------------------------------------------------------- base: OTHER.yaml

@pytest.fixture
def write(tmp_path):
    def written(**files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path
    return written


def test_a_file_overrides_its_base_and_the_base_of_that(write):
    folder = write(root="seed: 3\noptim: {lr: 1e-3, epochs: 7, momentum: 0.5}\ndata: {sbd_splits: [train, val]}\n",
                   inner__middle="base: ../root.yaml\noptim:\n  lr: 1e-5\n  epochs: 8\n",
                   inner__top="base: middle.yaml\nrun_dir: runs/top\noptim: {epochs: 9}\ndata: {sbd_splits: [val]}\n")
    config = parse(["train", "--config", str(folder / "inner" / "top.yaml"), "--optim.min_lr", "1e-9"])[1]
    assert (config.run_dir, config.seed, config.data.sbd_splits) == ("runs/top", 3, ["val"])
    assert (config.optim.lr, config.optim.epochs, config.optim.momentum, config.optim.min_lr) == (1e-5, 9, 0.5, 1e-9)
    assert parse(["train", f"--config={folder / 'root.yaml'}"])[1].optim.epochs == 7


def test_a_base_is_found_from_any_folder(write, monkeypatch):
    folder = write(root="seed: 3\n", inner__top="base: ../root.yaml\n")
    for here, path in ((folder, "inner/top.yaml"), (folder / "inner", "top.yaml")):
        monkeypatch.chdir(here)
        assert parse(["train", "--config", path])[1].seed == 3


def test_merging_leaves_both_sides_as_they_are():
    below, above = {"optim": {"lr": 1, "epochs": 2}, "seed": 0}, {"optim": {"lr": 3}, "seed": {"a": 1}}
    assert merge(below, above) == {"optim": {"lr": 3, "epochs": 2}, "seed": {"a": 1}}
    assert (below, above) == ({"optim": {"lr": 1, "epochs": 2}, "seed": 0}, {"optim": {"lr": 3}, "seed": {"a": 1}})


@pytest.mark.parametrize("text, words", [
    ("base: away.yaml\n", ["top.yaml: its base 'away.yaml' does not exist"]),
    ("base: .\n", ["top.yaml: its base '.' does not exist"]),
    ("base: top.yaml\n", ["top.yaml: its base 'top.yaml' leads back"]),
    ("base: other.yaml\n", ["other.yaml: its base 'inner/../top.yaml' leads back"]),
    ("base: 3\n", ["top.yaml: base must be the path of a YAML file, not 3"]),
    ("base:\n", ["top.yaml: base must be the path", "None"]),
    ("base: \"a\\nb\"\n", ["top.yaml: its base 'a\\nb' does not exist"]),
    ("base: broken.yaml\n", ["broken.yaml, line 2 is not YAML"]),
    ("base: empty.yaml\n", ["empty.yaml holds no settings"]),
    ("base: unknown.yaml\n", ["unknown.yaml: there is no setting optim.lrr; did you mean optim.lr?"]),
    ("base: good.yaml\noptim: {lrr: 1}\n", ["top.yaml: there is no setting optim.lrr"]),
    ("base: good.yaml\noptim: {lr: fast}\n", ["top.yaml: optim.lr: expected a number, got 'fast'"])])
def test_a_wrong_base_is_one_line_that_names_the_file(write, monkeypatch, capsys, text, words):
    monkeypatch.chdir(write(top=text, other="base: inner/../top.yaml\n", inner__any="seed: 1\n", good="seed: 1\n",
                            broken="seed: 1\nbase: [", empty="", unknown="optim: {lrr: 1}\n"))
    assert main(["train", "--config", "top.yaml"]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1 and all(word in output for word in words), output


def test_a_cycle_that_the_file_only_leads_to(write):
    folder = write(top="base: one.yaml\n", one="base: two.yaml\n", two="base: one.yaml\n")
    with pytest.raises(UserError, match="two.yaml: its base 'one.yaml' leads back"):
        read_recipe(str(folder / "top.yaml"))
