"""The device, the processes and the random seed of a run."""

import contextlib
import importlib.metadata
import mmap
import os
import platform
import re
import subprocess

import mindspore as ms
import numpy as np
from mindspore import communication, ops

from mindfcn import cuda_libraries
from mindfcn.console import SILENT
from mindfcn.errors import UserError
from mindfcn.launcher import num_processes
from mindfcn.mindspore_versions import avoid_argument_leak, check_cpu_kernels, clear_kernels, launch_note

TARGETS = ("Ascend", "GPU", "CPU")
# Seconds that a process on CPU waits for the others. MindSpore's 30 are too few while one prepares records or compiles.
NODE_TIMEOUT = 3600


def set_up(device="auto", seed=1, console=SILENT):
    """Choose the device, seed every generator, and join the other processes if msrun or mpirun started several.

    Args:
        device: auto, CPU, GPU or Ascend; auto takes the environment's DEVICE_TARGET, else the first usable of TARGETS.
        seed: 0..2147483647.
        console: Console that shows, on GPU, whether kernel launches block; and why a GPU is not used.

    Returns:
        the device's name.

    Raises:
        UserError: this MindSpore cannot use that device, or the seed is out of range.
    """
    if not 0 <= seed < 2 ** 31:
        raise UserError(f"--seed {seed}: must be in 0..2147483647")
    if device == "auto" and os.environ.get("DEVICE_TARGET"):
        device = os.environ["DEVICE_TARGET"]
    elif device == "auto":
        device = next(name for name in TARGETS if _usable(name))
        if device == "CPU" and cuda_libraries.has_driver():
            console.say(f"computing on CPU, although there is an NVIDIA driver: {_gpu_problem()}")
    if device not in TARGETS:
        raise UserError(f"no device {device!r}; choose one of {', '.join(TARGETS)}")
    if not _usable(device):
        usable = ", ".join(name for name in TARGETS if _usable(name))
        reason = _gpu_problem() if device == "GPU" else "install the MindSpore build for it"
        raise UserError(f"device {device} cannot be used by MindSpore {ms.__version__} here; use {usable}; {reason}")
    if device == "CPU":
        _reserve_memory()
        # In PyNative mode, the calling thread runs the operators. Otherwise threads that wait in busy loops take the
        # cores that compute: 40 % of the time of an inference on two cores.
        os.environ.setdefault("MS_DEV_HOST_BLOCKING_RUN", "1")
        avoid_argument_leak()
    # MindSpore refuses set_device once it has computed, even for the same device.
    if ms.get_context("device_target") != device:
        ms.set_device(device)
    if device == "CPU":
        check_cpu_kernels()
    ms.set_seed(seed)
    if num_processes() > 1:
        # Only for workers: the scheduler needs the short timeout to notice that a process has died.
        if os.environ.get("MS_ROLE") == "MS_WORKER":
            os.environ.setdefault("MS_NODE_TIMEOUT", str(NODE_TIMEOUT))
        communication.init()
        ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True)
    if device == "GPU" and rank() == 0:
        for line in filter(None, (launch_note(), cuda_libraries.compile_note())):
            console.say(line)
    return device


def _reserve_memory():
    """Let MindSpore reserve address space for half of the machine's memory at once; unused pages stay free.

    Otherwise it grows in blocks whose gaps are lost to fragmentation: 0.9 GB at four images of 512x512.
    """
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 ** 31
        # Fails on machines that do not overcommit memory.
        mmap.mmap(-1, size << 30).close()
        ms.runtime.set_memory(init_size=f"{size}GB")
    except (AttributeError, OSError, RuntimeError, ValueError):
        # Windows has no sysconf; or it is set already, or there is too little.
        return


def _usable(target):
    try:
        # A GPU is available to MindSpore as soon as its plugin is loaded, even without a card.
        return ms.hal.is_available(target) and (target != "GPU" or not cuda_libraries.problem())
    except (RuntimeError, ValueError):
        return False


def _gpu_problem():
    """Why MindSpore cannot use a GPU here, and what to do."""
    return cuda_libraries.problem() or ("MindSpore has not loaded its GPU plugin; import mindfcn before mindspore, and "
                                        "set DEVICE_TARGET to GPU or not at all")


def rank():
    """This process's number, from 0, among those that run together."""
    return communication.get_rank() if communication.GlobalComm.INITED else 0


def rank_size():
    """Number of processes that run together."""
    return communication.get_group_size() if communication.GlobalComm.INITED else 1


def gather_over_ranks(array):
    """Gather an array from every process on every process.

    Args:
        array: float64 or int64, of the same shape on all processes.

    Returns:
        (ranks, *shape) array, in the order of the ranks.
    """
    array = np.asarray(array)
    if rank_size() == 1 or array.size == 0:
        return np.stack([array] * rank_size())
    # Copied bit by bit as int32, which every backend supports: on CPU, sums are float32 and int64 is not supported.
    bits = ms.Tensor(array.reshape(-1).view(np.int32))
    return ops.AllGather()(bits).asnumpy().view(array.dtype).reshape(rank_size(), *array.shape)


def sum_over_ranks(array):
    """Sum an array over all processes; every process gets the same result, and int64 is exact.

    Args:
        array: float64 or int64, of the same shape on all processes.

    Returns:
        array of that shape and type; the array itself if there is one process.
    """
    return array if rank_size() == 1 else gather_over_ranks(array).sum(0)


@contextlib.contextmanager
def fail_on_all_ranks():
    """Continue after this block only if it succeeded on all processes, so that none waits for one that failed.

    Raises:
        UserError: another process failed; its log has the reason.
    """
    failure = None
    try:
        yield
    except BaseException as error:
        failure = error
    failed = np.flatnonzero(gather_over_ranks(np.array([failure is not None], np.int64)))
    if failure:
        raise failure
    if failed.size:
        raise UserError(f"process {failed[0]} failed; its own log has the reason")


class OneSize:
    """Bounds what MindSpore keeps in PyNative mode on CPU: kernels for one size of images, instead of for each size.

    Where sizes differ, a network of VGG16's width would grow by hundreds of megabytes with each of them.
    """

    def __init__(self):
        self.shape = None

    def before(self, shape):
        """Forget the kernels of the last size, if the images that follow have another shape."""
        if ms.get_context("mode") != ms.PYNATIVE_MODE or ms.get_context("device_target") != "CPU":
            return
        if self.shape not in (None, shape):
            clear_kernels()
        self.shape = shape


def compiles():
    """Whether networks are compiled: unless MINDFCN_COMPILE=0, with which an error names the line that failed."""
    return os.environ.get("MINDFCN_COMPILE", "1") != "0"


def graph_mode():
    """Compile complete steps: fastest for training, where every batch has the same size."""
    if compiles():
        ms.set_context(mode=ms.GRAPH_MODE)
    else:
        pynative_mode()


def pynative_mode():
    """Run operator by operator: no compilation for each new image size."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    if not compiles():
        # Wait for each operator: a queued one fails at a later line, and on CPU the queues' threads take its cores.
        ms.set_context(pynative_synchronize=True)


@contextlib.contextmanager
def unwrap_user_errors():
    """Raise the UserError that a data pipeline has wrapped in a RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        # The line with the message follows one that reads "UserError: Traceback".
        found = re.findall(r"UserError: (.+)", str(error))
        if not found:
            raise
        raise UserError(found[-1].strip()) from None


def versions():
    """{name: version} of Python and of the packages that results depend on, and the git revision of the source."""
    found = {"python": platform.python_version()}
    for name in ("mindfcn", "mindspore", "numpy", "opencv-python"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    found["git revision"] = _git_revision()
    return found


def _git_revision():
    """Commit of the package's folder, else of the working directory, with + if files differ; "unknown" without git."""
    for folder in (os.path.dirname(os.path.abspath(__file__)), os.getcwd()):
        try:
            described = subprocess.run(["git", "-C", folder, "describe", "--always", "--dirty=+", "--abbrev=40"],
                                       capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if described.returncode == 0:
            return described.stdout.strip()
    return "unknown"
