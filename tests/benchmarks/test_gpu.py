"""benchmarks/gpu on the CPU: nothing that one part measured is lost by another, and every part runs."""

import ast
import importlib
import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from mindfcn import cuda_libraries

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
PROGRAM = BENCHMARKS / "gpu" / "run.py"


@pytest.fixture(scope="module")
def bench():
    """Function that imports a module of benchmarks/gpu; they are forgotten afterwards, because their names are short.
    """
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("speed", "gpu"):
            patch.syspath_prepend(str(BENCHMARKS / folder))
        yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


def run(*words, **variables):
    environment = {**os.environ, "BENCH_ENVS": "/nowhere", **variables}
    return subprocess.run([sys.executable, PROGRAM, *map(str, words)], capture_output=True, text=True, check=False,
                          env={name: value for name, value in environment.items() if value is not None})


def test_without_a_card_one_line_says_so(tmp_path):
    if not cuda_libraries.problem():
        pytest.skip("there is a card")
    done = run("race", "--out", tmp_path / "gpu.json", DEVICE_TARGET=None)
    assert done.returncode == 1 and not list(tmp_path.iterdir())
    line, = (done.stdout + done.stderr).strip().splitlines()
    assert line.startswith("nothing was measured: device GPU cannot be used") and "driver" in line


def test_a_failure_loses_nothing_that_was_measured_before_it(bench, tmp_path):
    program, records = bench("run"), bench("records")

    def division(by):
        return {"ms": [6.0 / by, 1.0, 2.0]}

    def measure(options):
        for by in (2, 0, 3):
            yield records.attempt({"network": "a|b", "by": by}, division, by)
        sys.exit("the worker ended")

    part, found = types.SimpleNamespace(__name__="part", __doc__="What it shows.", measure=measure), {}
    for number, _ in enumerate(program.measured(part, None, found)):
        records.write(tmp_path / "gpu.json", {"parts": {"part": found}})
        assert len(json.loads((tmp_path / "gpu.json").read_text())["parts"]["part"]["records"]) == min(number + 1, 3)
    assert found["failed"] == "SystemExit: the worker ended" and number == 3
    assert [record.get("ms") for record in found["records"]] == [[3.0, 1.0, 2.0], None, [2.0, 1.0, 2.0]]
    header, _, *rows = records.table(["network", "ms"], found["records"])
    assert header == "| network | ms | failed |"
    assert rows == ["| a/b | 2 (1-3) | – |", "| a/b | – | ZeroDivisionError: float division by zero |",
                    "| a/b | 2 (1-2) | – |"]
    assert os.listdir(tmp_path) == ["gpu.json"]


def test_the_race_counts_wrong_missing_and_non_finite_losses(bench):
    expected = np.linspace(3, 2, 20)
    wrong, nan, close = expected.copy(), expected.copy(), expected * (1 + 9e-4)
    wrong[4:] *= 1.002
    nan[19] = np.nan
    found = bench("race").verdict([expected, wrong, nan, close, np.empty(0)], expected)
    assert found["right"] == 2 and found["first wrong step"] == "–, 5, 20, –, failed"
    assert found["largest difference"] == np.inf
    assert bench("race").verdict([close], expected)["largest difference"] == pytest.approx(9e-4)


def test_only_blocking_modes_block_and_rivals_never_do(bench, monkeypatch):
    modes, rivals, contestants = bench("modes"), bench("rivals"), bench("contestants")
    assert [mode for mode in modes.MODES if modes.variables(mode)["CUDA_LAUNCH_BLOCKING"] == "1"] == [modes.BLOCKING]
    assert {mode for _, _, mode in bench("race").CASES.values()} == set(modes.MODES)
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    started = {}
    monkeypatch.setattr(contestants, "python_of", lambda name: name)
    monkeypatch.setattr(contestants, "Worker", lambda *words, variables: started.update(variables))
    contestants.pytorch("eager", pathlib.Path("folder"))
    assert "CUDA_LAUNCH_BLOCKING" not in rivals.environment(**started)
    assert rivals.environment()["CUDA_LAUNCH_BLOCKING"] == "1"


def test_kernels_are_read_from_what_nsys_prints(bench):
    text = """Processing [step.sqlite] with [cuda_gpu_kern_sum.py]...

Time (%),Total Time (ns),Instances,Avg (ns),Name
25.0,1000000,20,50000,"void scale(float *, int)"
75.0,3000000,40,75000,"void convolve<float, 3>(float *)"
"""
    first, second = bench("kernels").kernels(text, 20)
    assert first == {"kernel": "void convolve<float, 3>(float *)", "ms a step": 0.15, "launches a step": 2.0,
                     "% of all": 75.0}
    assert second["% of all"] == 25 and second["launches a step"] == 1


def test_networks_are_compared_by_their_largest_difference(bench, tmp_path):
    one = {"logits": np.float32([[[[1]], [[4]]]]), "loss": np.float32(2), "gradient a": np.float32([1, -2]),
           "gradient b": np.float32([0, 0])}
    two = {**one, "logits": np.float32([[[[6]], [[4]]]]), "gradient a": np.float32([1, -1])}
    for name, arrays in (("one", one), ("two", two)):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    compare = bench("networks").compare
    found = compare(tmp_path / "one.npz", tmp_path / "two.npz")
    assert (found["logits"], found["gradient"], found["of"]) == (1.25, 0.5, "a")
    assert found["pixels of the same class, %"] == 0
    assert compare(tmp_path / "one.npz", tmp_path / "one.npz")["gradients"] == {"a": 0, "b": 0}
    (tmp_path / "three.npz").touch()
    with pytest.raises(RuntimeError, match="not computed"):
        compare(tmp_path / "one.npz", tmp_path / "three.npz")


@pytest.mark.parametrize("path", [*BENCHMARKS.glob("gpu/worker_*.py"), *(BENCHMARKS / "speed" / path for path in (
    "mindspore_device.py", "train_step/worker_mindfcn.py", "inference/worker_mindfcn.py", "watch/run.py"))],
    ids=lambda path: f"{path.parent.name}/{path.name}")
def test_workers_import_mindfcn_before_mindspore_which_would_not_find_a_gpu_otherwise(path):
    names = [alias.name if isinstance(node, ast.Import) else node.module
             for node in ast.parse(path.read_text(encoding="utf-8")).body
             if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names]
    assert next(name for name in names if name.startswith(("mindfcn", "mindspore"))).startswith("mindfcn"), names


@pytest.mark.long
def test_every_part_runs_on_the_cpu(tmp_path):
    done = run("--device", "CPU", "--sizes", "32x1", "--models", "fcn8s_vgg16_bn", "--width", "0.0625", "--rivals",
               "--runs", "2", "--warm_up", "1", "--modes", "CUDA_LAUNCH_BLOCKING=1", "memory_optimize_level O1",
               "--cases", "data, held", "data, do_copy", "data and weights placed", "data, PyNative",
               "one batch, frozen", "inference", "--steps", "12", "--processes", "2", "--side", "32",
               "--networks", "fcn32s_alexnet", "fcn8s_nothing", "fcn_r18b_d8", "--out", tmp_path / "gpu.json",
               DEVICE_TARGET=None)
    parts = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["parts"]
    # A network that does not exist is the only failure, and those after it are computed.
    assert [name for name, part in parts.items() if part["failed"]] == ["networks"], done.stderr
    assert done.returncode == 1
    assert len(parts["step"]["records"][0]["MindFCN ms"]) == 2
    assert [record["copied"] for record in parts["inference"]["records"]] == ["masks", "logits"]
    assert len(parts["blocking"]["records"]) == 2 and "nsys" in parts["kernels"]["records"][0]["kernel"]
    assert [record["right"] for record in parts["race"]["records"]] == [2] * 6
    networks = {record["network"]: record for record in parts["networks"]["records"]}
    assert networks["fcn_r18b_d8"]["logits"] == networks["fcn32s_alexnet"]["gradient"] == 0
    assert "not computed on CPU" in networks["fcn8s_nothing"]["failed"]
    assert float(parts["watch"]["records"][0]["check / step"]) > 0
    assert all(f"## {name}\n" in done.stdout for name in parts)
