"""What the MindSpore releases do differently, in one place. Importing this file does not import MindSpore.

`mindfcn` calls `prepare_import`, which sets the environment when MindSpore is imported, by this package or another:

- MindSpore 2.9 and 2.10 choose a reference kernel for convolutions, about 100 times slower, on CPUs with AVX-512.
  With ONEDNN_MAX_CPU_ISA=AVX2 they choose the same kernel as 2.8. oneDNN reads the variable at its first operator.
- On GPU, training steps of MindSpore 2.10 can compute with stale data unless kernel launches block. CUDA 11's
  libraries are loaded by `mindfcn.cuda_libraries`.
- MindSpore 2.8 and earlier end the interpreter if another package has loaded protobuf's C implementation first. They
  get a copy of protobuf of their own, in pure Python.
"""

import contextlib
import importlib.metadata
import os
import re
import sys
import time
import warnings

from mindfcn import cuda_libraries

CAP = "ONEDNN_MAX_CPU_ISA"
# A convolution takes less than 10 ms with the usual kernels, more than 300 ms with the reference kernel.
SLOW = 0.1
LAUNCH_BLOCKING = "CUDA_LAUNCH_BLOCKING"
# Functions of MindSpore's generated code that call the operators of networks and losses that take numbers. ops.concat
# and ops.log_softmax use others; ops.Concat and ops.LogSoftmax use these.
_LEAKING = ("pyboost_matmul", "pyboost_batch_mat_mul", "pyboost_concat", "pyboost_eye", "pyboost_gather_d",
            "pyboost_log_softmax")
REMEDY = f"set {CAP}=AVX2 in the environment before Python starts, or import mindfcn before the first operator"


def installed_version():
    """(major, minor) of the installed MindSpore, or None."""
    for name in ("mindspore", "mindspore-gpu", "mindspore-ascend"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return tuple(map(int, re.findall(r"\d+", importlib.metadata.version(name))[:2]))
    return None


def has_avx512():
    """Whether this CPU has AVX-512; True if the system does not list the CPU's features."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return "avx512f" in file.read()
    except OSError:
        # The cap is harmless without AVX-512.
        return True


def cap_cpu_kernels():
    """Set ONEDNN_MAX_CPU_ISA if this MindSpore needs it, but not over a user's own value."""
    version = installed_version()
    if version and version >= (2, 9) and CAP not in os.environ and has_avx512():
        os.environ[CAP] = "AVX2"


def set_environment():
    """Set the variables that MindSpore's libraries read, never over a user's own value, and load CUDA's libraries."""
    cap_cpu_kernels()
    # CUDA reads it when it starts; on other devices it has no effect.
    os.environ.setdefault(LAUNCH_BLOCKING, "1")
    cuda_libraries.prepare()


def launch_note():
    """A line for the log of a run on GPU: whether kernel launches block, and why they should."""
    value = os.environ.get(LAUNCH_BLOCKING)
    if value == "1":
        return f"GPU: kernel launches block ({LAUNCH_BLOCKING}=1), because steps can compute with stale data otherwise"
    return (f"GPU: kernel launches do not block ({LAUNCH_BLOCKING}={value}), so steps can compute with stale data; "
            f"set {LAUNCH_BLOCKING}=1, or unset it")


@contextlib.contextmanager
def own_protobuf():
    """Hide protobuf from MindSpore 2.8 and earlier while it is imported, if its C implementation is loaded."""
    version = installed_version()
    loaded = [name for name in sys.modules if name == "google" or name.startswith("google.protobuf")]
    if not version or version >= (2, 9) or "google.protobuf" not in loaded:
        yield
        return
    hidden = {name: sys.modules.pop(name) for name in loaded}
    before = os.environ.get("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION")
    os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"
    try:
        yield
    finally:
        sys.modules.update(hidden)
        if before is None:
            del os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"]


class _Finder:
    """Finds `mindspore` and prepares its import; every other module is left to the usual finders."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """The spec of MindSpore, with a prepared import."""
        if name != "mindspore":
            return None
        others = [finder for finder in sys.meta_path if finder is not _Finder and hasattr(finder, "find_spec")]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        run = spec.loader.exec_module

        def exec_module(module):
            set_environment()
            with own_protobuf():
                run(module)

        spec.loader.exec_module = exec_module
        return spec


def prepare_import():
    """Prepare the import of MindSpore; if it is imported already, only set the environment, which may be too late."""
    if "mindspore" in sys.modules:
        set_environment()
    elif _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)


def clear_kernels():
    """Free the kernels and workspaces that MindSpore keeps in PyNative mode for every shape that it has computed."""
    # It is defined in mindspore.common.api in 2.8 and in mindspore.graph.api in 2.10; cells import it in both.
    from mindspore.nn.cell import _pynative_executor
    # ms.runtime.synchronize logs an error on CPU, and does nothing the first time.
    _pynative_executor.sync()
    _pynative_executor.clear_res()


def avoid_argument_leak():
    """Avoid a memory leak of operators that are called one by one on CPU.

    MindSpore's generated functions copy each of them, an axis or a flag, into its memory pool, where it stays until the
    process ends: 0.7 KB in every call, 27 KB in a prediction of FCN-8s. The way in which its older operators are called
    copies none; kernels and results are the same.
    """
    from mindspore.ops.auto_generate import gen_ops_prim
    from mindspore.ops.primitive import _run_op

    def run(primitive, arguments):
        return _run_op(primitive, primitive.name, arguments)

    for name in _LEAKING:
        # Names differ between releases.
        if hasattr(gen_ops_prim, name):
            setattr(gen_ops_prim, name, run)


def drop_graphs(net, keys):
    """Free compiled graphs of a network, given by their keys in its `compile_cache`."""
    from mindspore.nn.cell import _cell_graph_executor
    _cell_graph_executor.del_net_res(net, set(keys))
    net.compile_cache.difference_update(keys)


@contextlib.contextmanager
def compile_cache(folder):
    """MindSpore keeps the graphs that it compiles while the block runs in this folder, and takes them from there."""
    from mindspore.nn.cell import _cell_graph_executor
    # mindspore.common.api in 2.8, mindspore.graph.api in 2.10. It would read and compare the script that Python was
    # started with, which may be no file: python -c, or a notebook.
    api = sys.modules[type(_cell_graph_executor).__module__]
    script, api.entry_script_path = api.entry_script_path, None
    os.environ.update(MS_COMPILER_CACHE_ENABLE="1", MS_COMPILER_CACHE_PATH=folder)
    try:
        yield
    finally:
        api.entry_script_path = script
        del os.environ["MS_COMPILER_CACHE_ENABLE"], os.environ["MS_COMPILER_CACHE_PATH"]


@contextlib.contextmanager
def forward_hooks(hooks):
    """Call hook(cell, inputs, output) after the forward pass of each cell of (cell, hook), while the block runs.

    MindSpore counts how often a hook was removed, and compiles every network of the process again after that. No
    hook is left at the end of the block, so the count is set back and the compiled graphs stay valid.
    """
    from mindspore.common import hook_handle
    count = getattr(hook_handle, "_HOOK_VERSION", None)
    handles = [cell.register_forward_hook(hook) for cell, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        if count is not None:
            hook_handle._HOOK_VERSION = count


def check_cpu_kernels():
    """Warn if a small convolution on CPU is slow: an operator ran before the cap was set, or the user's cap is wrong.

    It is checked once in a process and takes about 10 ms.
    """
    global _checked
    version = installed_version()
    if _checked or not version or version < (2, 9):
        return
    _checked = True
    import mindspore as ms
    import numpy as np
    image = ms.Tensor(np.ones((1, 64, 32, 32), np.float32))
    weight = ms.Tensor(np.ones((64, 64, 3, 3), np.float32))
    convolution = ms.ops.Conv2D(64, 3, pad_mode="same")
    # The first pass creates the kernel.
    convolution(image, weight).asnumpy()
    started = time.perf_counter()
    convolution(image, weight).asnumpy()
    if time.perf_counter() - started > SLOW:
        release = ".".join(map(str, version))
        warnings.warn(f"convolutions run on a slow reference kernel of MindSpore {release}: {REMEDY}", RuntimeWarning,
                      stacklevel=2)


_checked = False
