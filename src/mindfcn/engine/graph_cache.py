"""Compiled training steps kept between runs, so that the same recipe starts sooner the next time.

MindSpore's compile cache keeps what its front end makes of a network. It compares source files alone: with another
weight decay, it would train with the earlier one. It reads the name of its folder once in a process, and then numbers
graphs as they come. So here each graph has a folder named after a hash of everything that it is made from, and only the
first step of a process uses the cache. It has been tried on CPU with one process, and is used nowhere else.

Folders lie in ~/.cache/mindfcn/graphs, or in the folder of the environment variable MINDFCN_GRAPHS; 0 keeps none. The
newest KEPT stay.
"""

import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
import sys
import tempfile

import mindspore as ms
from mindspore import nn

import mindfcn
from mindfcn import runtime
from mindfcn.mindspore_versions import compile_cache

KEPT = 20
# The name of a folder's file with the checksum of its graph; written last.
CHECKSUM = "sha256"
# MindSpore's log levels that hide the two warnings of its cache.
QUIET = ("3", "4", "5")
_used = False


def graph_key(config, card, steps_per_epoch, step):
    """A text that differs wherever the graph of a training step does, except by its inputs; "" to keep no graph.

    Args:
        config: TrainConfig.
        card: Card.
        steps_per_epoch: batches in an epoch, which the learning rates depend on.
        step: TrainStep.
    """
    if ms.get_context("device_target") != "CPU" or runtime.rank_size() > 1:
        return ""
    sources = _sources(step)
    if sources is None:
        return ""
    parameters = [(parameter.name, parameter.shape, str(parameter.dtype), parameter.requires_grad)
                  for parameter in step.get_parameters()]
    environment = sorted(item for item in os.environ.items() if item[0].startswith(("MS_", "ONEDNN_", "MINDFCN_CPU")))
    return repr([dataclasses.asdict(config.model), dataclasses.asdict(config.optim), config.seed, config.device,
                 card.model, card.labels, card.geometric, card.training.get("class_weights"), steps_per_epoch,
                 parameters, environment, sys.version, ms.__version__, _hash(sources)])


@contextlib.contextmanager
def reused(key, *inputs):
    """Let the block's step take its graph from the cache, or put it there; `inputs`: what else the graph depends on."""
    global _used
    folder = os.environ.get("MINDFCN_GRAPHS") or os.path.expanduser("~/.cache/mindfcn/graphs")
    if (not key or _used or folder == "0" or ms.get_context("mode") != ms.GRAPH_MODE
            or "MS_COMPILER_CACHE_ENABLE" in os.environ or os.environ.get("GLOG_v") not in QUIET):
        yield
        return
    _used = True
    kept = os.path.join(folder, hashlib.sha256(repr((key, inputs)).encode()).hexdigest())
    if _is_whole(kept):
        os.utime(kept)
        with compile_cache(kept):
            yield
        return
    shutil.rmtree(kept, ignore_errors=True)
    try:
        os.makedirs(folder, exist_ok=True)
        made = tempfile.mkdtemp(dir=folder)
    except OSError:
        # Nothing can be kept there.
        yield
        return
    try:
        with compile_cache(made):
            yield
        _keep(made, kept)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _keep(made, kept):
    """Give a folder with a new graph its name, and remove the oldest ones."""
    graphs = list(pathlib.Path(made).rglob("*.mindir"))
    with contextlib.suppress(OSError):
        if len(graphs) == 1:
            pathlib.Path(made, CHECKSUM).write_text(_hash(graphs), encoding="ascii")
            os.rename(made, kept)
        others = sorted(pathlib.Path(kept).parent.iterdir(), key=lambda path: -path.stat().st_mtime)
        for old in others[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


def _is_whole(folder):
    """Whether a folder holds one graph with its checksum."""
    graphs = list(pathlib.Path(folder).rglob("*.mindir"))
    try:
        return len(graphs) == 1 and pathlib.Path(folder, CHECKSUM).read_text(encoding="ascii") == _hash(graphs)
    except OSError:
        return False


def _sources(step):
    """The source files of this package and of other packages' cells, but MindSpore's; None where a cell has no file."""
    cells = {base for _, cell in step.cells_and_names() for base in type(cell).__mro__ if issubclass(base, nn.Cell)}
    modules = {base.__module__ for base in cells if not base.__module__.startswith(("mindspore.", "mindfcn."))}
    others = [getattr(sys.modules[module], "__file__", None) for module in modules]
    return None if None in others else sorted([*pathlib.Path(mindfcn.__file__).parent.rglob("*.py"),
                                               *map(pathlib.Path, others)])


def _hash(paths):
    """SHA-256 of the files' contents, one after the other, in hexadecimal."""
    found = hashlib.sha256()
    for path in paths:
        found.update(path.read_bytes())
    return found.hexdigest()
