"""CUDA's libraries are found in the system or in wheels, MindSpore's checks pass, and missing ones are named.

A driver and libraries of a few functions, compiled here, take the place of NVIDIA's.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from mindfcn import cuda_libraries
from mindfcn.cuda_libraries import DRIVER, LIBRARIES

DRIVER_SOURCE = """
#include <stdlib.h>
static int value(const char *name, int other) { const char *text = getenv(name); return text ? atoi(text) : other; }
int cuDriverGetVersion(int *version) { *version = value("FAKE_CUDA", 11060); return 0; }
int cuInit(unsigned flags) { return value("FAKE_INIT", 0); }
int cuDeviceGetAttribute(int *number, int attribute, int card) {
    *number = attribute == 75 ? value("FAKE_CARD", 86) / 10 : attribute == 76 ? value("FAKE_CARD", 86) % 10 : -1;
    return 0;
}
int cuDeviceGetCount(int *count) { *count = value("FAKE_CARDS", 1); return 0; }
"""
PROGRAM = """
import json, os, pathlib, shutil, subprocess
from mindfcn import cuda_libraries
cuda_libraries.prepare()
nvcc = shutil.which("nvcc")
print(json.dumps({
    "problem": cuda_libraries.problem(), "nvcc": nvcc,
    "home": os.environ.get("CUDA_HOME"), "maps": pathlib.Path("/proc/self/maps").read_text(),
    "ldd": os.environ.get("LD_LIBRARY_PATH", ""),
    "output": nvcc and subprocess.run([nvcc, "--version | grep release"], capture_output=True, text=True).stdout}))
"""


def compiled(folder, name, source=""):
    """A shared library under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, "-x", "c", "-"],
                   input=source, text=True, check=True)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A folder: driver/ has a driver, site/nvidia/ the wheels' libraries."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        pytest.skip("the stand-ins for NVIDIA's libraries are compiled with gcc on Linux")
    if cuda_libraries._load(DRIVER) or not cuda_libraries.missing_libraries():
        pytest.skip("this machine has a driver or CUDA 11 of its own")
    folder = tmp_path_factory.mktemp("machine")
    compiled(folder / "driver", DRIVER, DRIVER_SOURCE)
    for name in LIBRARIES:
        compiled(folder / "site" / "nvidia" / name.split(".")[0] / "lib", name)
    return folder


def found(machine, wheels=True, driver=True, program=PROGRAM, **environment):
    """What a process finds, as the JSON that a program prints."""
    path = [str(pathlib.Path(cuda_libraries.__file__).parents[1]), *([str(machine / "site")] if wheels else [])]
    kept = {name: value for name, value in os.environ.items() if name not in ("CUDA_HOME", "DEVICE_TARGET")}
    kept |= {"PYTHONPATH": os.pathsep.join(path), "LD_LIBRARY_PATH": str(machine / "driver") if driver else ""}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                          env={**kept, **environment})
    return json.loads(done.stdout)


def test_the_wheels_libraries_are_loaded_and_a_script_answers_for_nvcc(machine):
    answers = found(machine)
    for name in LIBRARIES:
        folder = machine / "site" / "nvidia" / name.split(".")[0] / "lib"
        assert str(folder / name) in answers["maps"] and str(folder) in answers["ldd"].split(os.pathsep)
    assert answers["nvcc"] == f"{answers['home']}/bin/nvcc"
    # MindSpore splits the first line at these words.
    assert answers["output"].splitlines()[0].split("release")[1].split(",")[0].strip() == "11.6"
    assert not os.path.exists(answers["home"])
    assert answers["problem"] == ""


@pytest.mark.parametrize("environment", [{"DEVICE_TARGET": "CPU"}, {"driver": False}])
def test_nothing_is_loaded_for_a_cpu_or_without_a_driver(machine, environment):
    answers = found(machine, **environment)
    assert answers["home"] is None and "nvcc" not in (answers["output"] or "")


@pytest.mark.parametrize("release, kept", [("11.6", True), ("11.1", True), ("13.0", False)])
def test_a_system_cuda_comes_first_and_answers_if_there_is_a_plugin_for_its_release(machine, tmp_path, release, kept):
    for name in LIBRARIES:
        compiled(tmp_path / "lib64", name)
    compiler = tmp_path / "bin" / "nvcc"
    compiler.parent.mkdir()
    compiler.write_text(f"#!/bin/sh\necho 'nvcc: a compiler'\necho 'Cuda compilation tools, release {release}, V1'\n")
    compiler.chmod(0o755)
    answers = found(machine, CUDA_HOME=str(tmp_path))
    assert all(str(tmp_path / "lib64" / name) in answers["maps"] for name in LIBRARIES)
    assert (answers["home"] == str(tmp_path)) == kept


@pytest.mark.parametrize("settings, words", [
    ({"driver": False}, "there is no NVIDIA driver (libcuda.so.1); install one, 450.80 or newer"),
    ({"FAKE_CUDA": "10020"}, "it supports CUDA 10.2, and MindSpore needs CUDA 11; install driver 450.80 or newer"),
    ({"wheels": False}, f"are missing: {', '.join(LIBRARIES)}; pip install 'mindfcn[gpu]'"),
    ({"FAKE_CARDS": "0"}, "shows no card (cuInit: 0); look at nvidia-smi"),
    ({"FAKE_INIT": "100"}, "shows no card (cuInit: 100); look at nvidia-smi")])
def test_what_is_missing_is_named_in_one_line(machine, settings, words):
    problem = found(machine, **settings)["problem"]
    assert words in problem and "\n" not in problem


@pytest.mark.parametrize("card, cached, explained", [("90", False, True), ("90", True, False), ("86", False, False)])
def test_the_first_start_on_a_newer_card_is_explained(machine, tmp_path, card, cached, explained):
    if cached:
        (tmp_path / "index").touch()
    program = "import json; from mindfcn import cuda_libraries; print(json.dumps(cuda_libraries.compile_note()))"
    note = found(machine, program=program, FAKE_CARD=card, CUDA_CACHE_PATH=str(tmp_path))
    assert ("(sm_90), once; this takes minutes" in note) == explained and bool(note) == explained


def test_a_cpu_that_computes_in_the_place_of_a_gpu_is_explained(machine):
    program = """
import json
from mindfcn.console import Console
from mindfcn.runtime import set_up
lines = []
print(json.dumps([set_up(console=Console(lines.append)), lines]))
"""
    device, lines = found(machine, program=program, FAKE_CARDS="0", GLOG_v="4")
    assert device == "CPU" and len(lines) == 1 and "shows no card" in lines[0]


def test_a_mindspore_without_the_plugin_is_named(monkeypatch):
    monkeypatch.setattr(cuda_libraries.importlib.util, "find_spec", lambda name: None)
    assert "no GPU plugin" in cuda_libraries.problem()


def test_a_single_missing_library_is_named(machine, tmp_path):
    shutil.copytree(machine / "site", tmp_path / "site")
    shutil.rmtree(tmp_path / "site" / "nvidia" / "libcudnn")
    (tmp_path / "driver").symlink_to(machine / "driver")
    assert "are missing: libcudnn.so.8; pip" in found(tmp_path)["problem"]
