"""`import mindfcn` is light, and every public name is loaded on first use."""

import importlib
import pathlib
import re
import subprocess
import sys

import pytest

import mindfcn


def test_import_does_not_load_mindspore():
    code = "import sys, mindfcn; dir(mindfcn); mindfcn.TrainConfig; mindfcn.VOC; print('mindspore' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("code, absent", [
    ("import mindfcn", ("mindspore", "numpy", "cv2", "matplotlib", "yaml", "jsonargparse")),
    ("from mindfcn import CrossEntropy, FCN8s, SegDataset, create_model", ("matplotlib", "jsonargparse"))])
def test_an_import_takes_only_what_it_needs(code, absent):
    code += f"; import sys; print([name for name in {absent} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("name", mindfcn.__all__)
def test_every_public_name_is_there(name):
    assert getattr(mindfcn, name) is not None
    assert name in dir(mindfcn)


def test_names_are_those_of_their_modules():
    stub = pathlib.Path(mindfcn.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    lines = re.findall(r"^from \.([\w.]+) import (\w+) as \2$", stub, re.M)
    assert len(lines) == len(mindfcn.__all__) - 1
    for module, name in lines:
        assert getattr(mindfcn, name) is getattr(importlib.import_module(f"mindfcn.{module}"), name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="FCN64s"):
        getattr(mindfcn, "FCN64s")
