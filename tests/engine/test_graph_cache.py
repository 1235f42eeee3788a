"""Compiled steps kept between runs: a second run takes the first one's graph, and never that of other settings."""

import dataclasses
import os
import subprocess
import sys
import textwrap

import mindspore as ms
import pytest
import small_network
from mindspore import nn

from mindfcn.config import ModelConfig, OptimConfig, TrainConfig
from mindfcn.data.synthetic.shapes import SAMPLE
from mindfcn.engine import graph_cache
from mindfcn.labels import VOC
from mindfcn.models.factory import create_model
from mindfcn.weights.card import Card

# Prints the losses of two steps with the weight decay that is its third argument.
SCRIPT = textwrap.dedent(f"""
    import os, sys
    sys.path.insert(0, {os.path.dirname(small_network.__file__)!r})
    import small_network
    from pathlib import Path
    from helpers import sample_settings
    from mindfcn.commands.train import train
    from mindfcn.config import ModelConfig, OptimConfig
    from mindfcn.console import Console

    class Print(Console):
        def step(self, step, epoch, loss, *_):
            print(loss, flush=True)
            if step == 2:
                os._exit(0)

    model = ModelConfig("fcn32s_small_bn", width=0.125)
    train(sample_settings(Path(sys.argv[1]), model, OptimConfig(weight_decay=float(sys.argv[3])), run_dir=sys.argv[2]),
          Print())
    """)


def test_a_graph_is_used_by_the_same_recipe_and_by_no_other(sample_records, tmp_path):
    graphs = tmp_path / "graphs"

    def losses(run, decay):
        done = subprocess.run([sys.executable, "-c", SCRIPT, sample_records, tmp_path / run, decay], check=True,
                              env={**os.environ, "MINDFCN_GRAPHS": str(graphs)}, stdout=subprocess.PIPE, text=True)
        found = done.stdout.split()
        assert len(found) == 2
        return found

    first = losses("first", "0")
    kept, = graphs.iterdir()
    os.utime(kept, (1, 1))
    other = losses("other", "0.5")
    assert other[0] == first[0] and other[1] != first[1]
    assert len(list(graphs.iterdir())) == 2 and kept.stat().st_mtime == 1
    # In another run folder too.
    assert losses("again", "0") == first
    assert len(list(graphs.iterdir())) == 2 and kept.stat().st_mtime > 1


class Step(nn.Cell):
    """A cell with the parameters of a small network, as a TrainStep has them."""

    def __init__(self, net):
        super().__init__(auto_prefix=False)
        self.net = net


def key(config=None, card=None, steps=3, net=None):
    card = card or Card({"name": "fcn32s_small_bn"}, SAMPLE)
    step = Step(net or create_model("fcn32s_small_bn", len(SAMPLE), width=0.125))
    return graph_cache.graph_key(config or TrainConfig(), card, steps, step)


OTHER = {"name": {ModelConfig: "fcn8s_vgg16", OptimConfig: "adam"}, "padding": "pad100", "upsampling": "fixed",
         "schedule": "constant", "loss": "sum", "class_weights": "median_frequency", "precision": "float32",
         "preprocess": "caffe", "modality": "hha", "skip_scales": (0.5, 0.5), "output_stride": 16}


@pytest.mark.parametrize("part, kind", [("model", ModelConfig), ("optim", OptimConfig)])
def test_every_setting_of_network_and_optimiser_is_in_the_key(part, kind):
    net = create_model("fcn32s_small_bn", len(SAMPLE), width=0.125)
    keys = [key(net=net)]
    for field in dataclasses.fields(kind):
        value = getattr(kind(), field.name)
        other = OTHER.get(field.name)
        if isinstance(other, dict):
            other = other[kind]
        if other is None:
            other = {bool: lambda value: not value, str: lambda value: f"{value}x"}.get(
                type(value), lambda value: (value or 0) + 1)(value)
        keys.append(key(TrainConfig(**{part: kind(**{field.name: other})}), net=net))
    assert len(set(keys)) == len(keys) == len(dataclasses.fields(kind)) + 1


def test_the_key_has_what_is_not_a_setting(monkeypatch):
    narrow = create_model("fcn32s_small_bn", len(SAMPLE), width=0.125)
    frozen = create_model("fcn32s_small_bn", len(SAMPLE), width=0.125)
    next(iter(frozen.get_parameters())).requires_grad = False
    before = key()
    assert before == key(TrainConfig(run_dir="elsewhere", eval_every=7))
    keys = [before, key(TrainConfig(seed=2)), key(card=Card({"name": "fcn32s_small_bn"}, VOC)), key(steps=4),
            key(card=Card({"name": "fcn32s_small_bn"}, SAMPLE, training={"class_weights": [1.0, 2.0]})),
            key(net=create_model("fcn32s_small_bn", len(SAMPLE), width=0.25)), key(net=frozen)]
    monkeypatch.setenv("MINDFCN_CPU_KERNELS", "0")
    keys.append(key(net=narrow))
    # Other contents of the source files.
    monkeypatch.setattr(graph_cache, "_hash", lambda paths: "another hash")
    keys.append(key(net=narrow))
    assert len(set(keys)) == len(keys) and "" not in keys
    # A network whose source is in no file.
    monkeypatch.setattr(small_network, "__file__", None)
    assert key(net=narrow) == ""


def test_sources_are_those_of_the_package_and_of_other_cells():
    sources = graph_cache._sources(Step(create_model("fcn32s_small_bn", 3)))
    names = {path.name for path in sources}
    assert {"step.py", "losses.py", "cpu_kernels.py", "small_network.py", os.path.basename(__file__)} <= names
    assert not any("mindspore" in path.parts for path in sources)


def test_a_folder_is_whole_with_its_checksum_alone(tmp_path):
    made, kept = tmp_path / "made", tmp_path / "graphs" / "kept"
    made.mkdir()
    kept.parent.mkdir()
    (made / "graph.mindir").write_bytes(b"a graph")
    assert not graph_cache._is_whole(made)
    graph_cache._keep(made, kept)
    assert graph_cache._is_whole(kept) and not made.exists()
    (kept / "graph.mindir").write_bytes(b"a grapf")
    assert not graph_cache._is_whole(kept)


def test_the_newest_folders_stay(tmp_path):
    for number in range(graph_cache.KEPT + 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        os.utime(folder, (number, number))
    made = tmp_path / "made"
    made.mkdir()
    (made / "graph.mindir").write_bytes(b"a graph")
    graph_cache._keep(made, tmp_path / "new")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"new", *map(str, range(4, graph_cache.KEPT + 3))}


@pytest.mark.parametrize("name, value", [("MINDFCN_GRAPHS", "0"), ("MS_COMPILER_CACHE_ENABLE", "0"), ("GLOG_v", "1")])
def test_nothing_is_kept_where_it_is_switched_off(tmp_path, monkeypatch, name, value):
    for variable, usual in (("MINDFCN_GRAPHS", str(tmp_path / "graphs")), ("GLOG_v", "4")):
        monkeypatch.setenv(variable, usual)
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(graph_cache, "_used", False)
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        with graph_cache.reused("a key"):
            assert "MS_COMPILER_CACHE_PATH" not in os.environ
    finally:
        ms.set_context(mode=ms.PYNATIVE_MODE)
    assert not (tmp_path / "graphs").exists() and not graph_cache._used
