"""Type hints: every public name has them, they agree with the code, and users' type checkers see them."""

import ast
import dataclasses
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

import mindfcn

ROOT = pathlib.Path(__file__).parents[2]
STUB = ROOT / "src" / "mindfcn" / "__init__.pyi"
# A user's code, and what a type checker reports for it.
USER = '''
import numpy as np
import mindfcn

result = mindfcn.train(mindfcn.TrainConfig(tensorboard=True), mindfcn.Console(print))
reveal_type(result.checkpoint)
segmenter, card = mindfcn.load_segmenter(result.checkpoint)
reveal_type(segmenter(np.zeros((2, 3, 3), np.uint8))[0])
reveal_type(mindfcn.ConfusionMatrix(3).mean_iou())
mindfcn.train(mindfcn.EvalConfig("x.ckpt"))
mindfcn.TrainConfig(tensorbord=True)
mindfcn.FCN64s
'''
SEEN = [("note", r'Revealed type is "(builtins\.)?str"'), ("note", r'Revealed type is "(numpy\.)?ndarray'),
        ("note", r'Revealed type is "(builtins\.)?float"'), ("error", "incompatible type"),
        ("error", "tensorbord"), ("error", "FCN64s")]
# They are compiled by MindSpore.
COMPILED = {"construct", "count", "weigh", "divisor", "sampled", "valid", "penalty", "reduce"}


def members(one):
    """(name, function) of a public function or of a public class's own methods."""
    if inspect.isfunction(one):
        yield one.__name__, one
    elif inspect.isclass(one):
        for name, member in vars(one).items():
            member = getattr(member, "__func__", member)
            wanted = name in ("__init__", "__call__", "__len__") or not name.startswith("_")
            if inspect.isfunction(member) and wanted and not (dataclasses.is_dataclass(one) and name == "__init__"):
                yield f"{one.__name__}.{name}", member


@pytest.mark.parametrize("name", sorted(mindfcn.__all__))
def test_public_names_have_hints(name):
    for place, function in members(getattr(mindfcn, name)):
        if place.split(".")[-1] not in COMPILED:
            known = inspect.signature(function).parameters
            missing = [one for one in (*known, "return")
                       if one not in function.__annotations__ and one not in ("self", "cls")]
            assert not missing, f"{place}: {missing}"


def test_the_stub_has_the_public_names_of_the_package():
    found = {}
    for node in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            found.setdefault(node.module, []).extend(alias.name for alias in node.names)
            assert all(alias.asname == alias.name for alias in node.names), "only then it is a public name"
    assert sorted(sum(found.values(), ["__version__"])) == sorted(mindfcn.__all__)


def test_hints_agree_with_the_code_and_reach_the_user(tmp_path):
    """One run over the package and a user's file: no error in the package, the expected ones in the file."""
    pytest.importorskip("mypy", reason="mypy is not installed: pip install mypy")
    user = tmp_path / "user.py"
    user.write_text(USER, encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "src/mindfcn",
                           str(user)], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert [line for line in lines if "user.py:" not in line] == [] and done.stderr == ""
    notes = [re.match(r".*?:\d+: (note|error): (.*)", line).groups() for line in lines]
    notes = [(kind, text) for kind, text in notes if kind == "error" or text.startswith("Revealed")]
    assert len(notes) == len(SEEN), notes
    for (kind, text), (kind_meant, words) in zip(notes, SEEN):
        assert kind == kind_meant and re.search(words, text), text
    assert (ROOT / "src" / "mindfcn" / "py.typed").exists()
