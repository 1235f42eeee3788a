"""What MindFCN does for the releases of MindSpore: the cap of oneDNN, protobuf, and the warning of slow kernels."""

import os
import subprocess
import sys

import pytest

from mindfcn import mindspore_versions as versions


@pytest.mark.parametrize("version, avx512, own, expected", [
    ((2, 8), True, None, None), ((2, 7), True, None, None), ((2, 9), True, None, "AVX2"), ((2, 10), True, None, "AVX2"),
    ((2, 10), False, None, None), ((2, 10), True, "SSE41", "SSE41"), (None, True, None, None)])
def test_the_cap_is_set_where_it_is_needed_and_never_over_a_users_value(monkeypatch, version, avx512, own, expected):
    monkeypatch.setattr(versions, "installed_version", lambda: version)
    monkeypatch.setattr(versions, "has_avx512", lambda: avx512)
    monkeypatch.setitem(os.environ, versions.CAP, own) if own else monkeypatch.delitem(os.environ, versions.CAP, False)
    versions.cap_cpu_kernels()
    assert os.environ.get(versions.CAP) == expected
    monkeypatch.delitem(os.environ, versions.CAP, False)


@pytest.mark.parametrize("imports, own", [("mindfcn, onnx", {}),
                                          ("onnx, mindfcn", {"CUDA_LAUNCH_BLOCKING": "0"}),
                                          ("google.protobuf.descriptor, mindfcn", {})])
def test_protobuf_and_mindspore_live_in_one_process(imports, own, tmp_path):
    """MindSpore 2.8 would end the interpreter; after it is imported, both still read and write their files.

    Its import also makes launches block on GPU, unless the environment has another value.
    """
    pytest.importorskip("onnx")
    code = f"""
import os
import {imports}
import onnx
net = mindfcn.create_model("fcn32s_alexnet", 3, width=0.05, fc_width=4)
import mindspore as ms
ms.save_checkpoint(net, {str(tmp_path / 'a.ckpt')!r})
assert set(ms.load_checkpoint({str(tmp_path / 'a.ckpt')!r})) == set(net.parameters_dict())
graph = onnx.helper.make_graph([], "graph", [], [])
onnx.save(onnx.helper.make_model(graph), {str(tmp_path / 'a.onnx')!r})
print(onnx.load({str(tmp_path / 'a.onnx')!r}).graph.name, os.environ["CUDA_LAUNCH_BLOCKING"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_LAUNCH_BLOCKING"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                           env={**environment, **own, "GLOG_v": "4"})
    assert (found.returncode, found.stdout) == (0, f"graph {'0' if own else '1'}\n"), found.stderr


@pytest.mark.parametrize("own, expected", [(None, "1"), ("0", "0")])
def test_launches_block_on_gpu_unless_the_environment_has_another_value(monkeypatch, own, expected):
    """What the import of MindSpore calls; the processes above show that it does."""
    for name, value in ((versions.LAUNCH_BLOCKING, own), (versions.CAP, "AVX2")):
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, False)
    monkeypatch.setattr(versions.cuda_libraries, "prepare", lambda: None)
    versions.set_environment()
    assert os.environ[versions.LAUNCH_BLOCKING] == expected


@pytest.mark.parametrize("slow", [True, False])
def test_slow_kernels_are_warned_of_once(monkeypatch, recwarn, slow):
    import mindspore  # noqa: F401  before the version is replaced
    monkeypatch.setattr(versions, "installed_version", lambda: (2, 10))
    monkeypatch.setattr(versions, "_checked", False)
    # A threshold that every convolution exceeds, or none.
    monkeypatch.setattr(versions, "SLOW", 0.0 if slow else 1e6)
    versions.check_cpu_kernels()
    versions.check_cpu_kernels()
    assert [versions.REMEDY in str(warning.message) for warning in recwarn
            if issubclass(warning.category, RuntimeWarning)] == [True] * slow


@pytest.mark.parametrize("own, words", [("1", "launches block"), ("0", "do not block")])
def test_a_run_on_gpu_reports_whether_launches_block(monkeypatch, own, words):
    from mindfcn import runtime
    from mindfcn.console import Console
    lines = []
    monkeypatch.setitem(os.environ, versions.LAUNCH_BLOCKING, own)
    # For set_up, this machine has a GPU.
    monkeypatch.setattr(runtime, "_usable", lambda target: True)
    monkeypatch.setattr(runtime.cuda_libraries, "compile_note", lambda: "")
    monkeypatch.setattr(runtime.ms, "set_device", lambda target: None)
    assert runtime.set_up("GPU", console=Console(lines.append)) == "GPU"
    assert len(lines) == 1 and words in lines[0] and f"{versions.LAUNCH_BLOCKING}={own}" in lines[0]
    assert runtime.set_up("CPU", console=Console(lines.append)) == "CPU" and len(lines) == 1


def test_tests_compute_on_the_device_of_the_run(pytestconfig):
    """Also where MindSpore would find a GPU."""
    import mindspore as ms

    from mindfcn import runtime
    assert runtime.set_up() == ms.get_context("device_target") == pytestconfig.getoption("--device")


def test_a_device_that_cannot_be_used_is_refused_with_the_reason():
    import mindspore as ms

    from mindfcn.errors import UserError
    from mindfcn.runtime import set_up
    if ms.hal.is_available("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="GPU cannot be used by MindSpore .*; use CPU; .*(driver|plugin|libraries)"):
        set_up("GPU")


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are listed on Linux only")
@pytest.mark.parametrize("own, waiting", [({}, False), ({"MS_DEV_HOST_BLOCKING_RUN": "0"}, True)])
def test_no_thread_waits_in_a_loop_for_operators_on_cpu(own, waiting):
    """Unless the environment has another value."""
    code = """
import os, numpy as np
from mindfcn import runtime
runtime.set_up("CPU")
import mindspore as ms
assert (ms.ops.relu(ms.Tensor(np.float32([-1, 2]))) * 3).asnumpy().tolist() == [0, 6]
print([open(f"/proc/self/task/{thread}/comm").read().strip() for thread in os.listdir("/proc/self/task")])
"""
    environment = {name: value for name, value in os.environ.items() if name != "MS_DEV_HOST_BLOCKING_RUN"}
    done = subprocess.run([sys.executable, "-c", code], check=True, text=True, stdout=subprocess.PIPE,
                          env={**environment, **own, "GLOG_v": "4"})
    assert ("backend_queue" in done.stdout) == waiting


def test_operators_called_one_by_one_do_not_leak():
    """Results and gradients are equal to the bit; memory grows without it, which shows that it is needed."""
    code = """
import os
import mindfcn
import numpy as np, mindspore as ms
from mindspore import ops
from mindfcn import mindspore_versions, runtime
from mindfcn.models.layers import LRN
runtime._reserve_memory()
ms.set_context(mode=ms.PYNATIVE_MODE)
random = np.random.default_rng(1)
rows = ms.Tensor(random.standard_normal((4, 8, 8)).astype(np.float32))
places = ms.Tensor(random.integers(0, 8, (4, 8, 8)), ms.int32)
operators = [lambda rows: ops.BatchMatMul(transpose_a=True)(rows, rows),
             lambda rows: ops.MatMul(transpose_b=True)(rows.reshape(32, 8), rows.reshape(32, 8)),
             lambda rows: ops.Concat(1)((rows, rows)), lambda rows: ops.LogSoftmax(-1)(rows),
             lambda rows: ops.gather_d(rows, 1, places), lambda rows: ops.eye(8, 8, ms.float32),
             lambda rows, normalise=LRN(): normalise(rows.reshape(1, 4, 8, 8))]

def memory():
    mindspore_versions.clear_kernels()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def growth(warm_up, calls):
    found = []
    for count in (warm_up, calls, calls, calls):
        before = memory()
        for _ in range(count):
            for operator in operators:
                operator(rows).asnumpy()
        found.append((memory() - before) / count)
    # Kernels and the allocator take some memory at first.
    return min(found)

def results():
    made = [operator(rows) for operator in operators]
    gradients = [ms.grad(lambda rows: ops.square(operator(rows)).sum())(rows) for operator in operators[:5]]
    return b"".join(entry.asnumpy().tobytes() for entry in made + gradients)

before, expected = growth(100, 100), results()
mindspore_versions.avoid_argument_leak()
print(before, growth(1000, 300), results() == expected)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, text=True, stdout=subprocess.PIPE,
                          env={**os.environ, "GLOG_v": "4", "MS_DEV_HOST_BLOCKING_RUN": "1"})
    before, after, equal = done.stdout.split()
    # Bytes for one call of each: ten numbers, of which MindSpore keeps 0.7 KB each.
    assert equal == "True" and float(before) > 3000 and float(after) < 400, done.stdout
