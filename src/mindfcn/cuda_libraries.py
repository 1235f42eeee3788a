"""Load NVIDIA's libraries for MindSpore's GPU plugin, so that nothing has to be exported. Needs no MindSpore.

MindSpore's wheel for Linux has a GPU plugin, linked with CUDA 11 and cuDNN 8. It works under three conditions:

- The linker finds its libraries. Those that a process has loaded already are found by their names (DT_SONAME), so they
  are loaded here: the system's, else those of the wheels that `pip install 'mindfcn[gpu]'` brings. LD_LIBRARY_PATH is
  read only when a process starts; it is extended for ldd, with which MindSpore looks for the versions.
- `$CUDA_HOME/bin/nvcc --version` prints a release for which there is a plugin. The compiler itself is not used, so
  without one, or with another release, a script prints that line.
- `nvcc`, found by PATH, prints the release in its first line.
"""

import ctypes
import importlib.util
import os
import pathlib
import re
import subprocess
import tempfile

DRIVER = "libcuda.so.1"
# Each is listed after those that it needs.
LIBRARIES = ("libcudart.so.11.0", "libnvrtc.so.11.2", "libcublasLt.so.11", "libcublas.so.11", "libcurand.so.10",
             "libcufft.so.10", "libcusparse.so.11", "libcusolver.so.11", "libcudnn.so.8")
# The releases for which MindSpore has plugins; the libraries of all releases of CUDA 11 fit both.
RELEASES = ("11.6", "11.1")
# The first driver for CUDA 11, and the release of CUDA that cuDriverGetVersion returns for it.
OLDEST_DRIVER, OLDEST_CUDA = "450.80", 11000
# The newest card for which the plugin has kernels; for later ones the driver compiles them.
NEWEST_CARD = 86
_NVCC = f"""#!/bin/sh
echo "Cuda compilation tools, release {RELEASES[0]}, V{RELEASES[0]}.0"
"""
# The folder of the script, deleted when the interpreter ends.
_home = None


def prepare():
    """Make the GPU usable before MindSpore is imported, where there is a driver and DEVICE_TARGET is GPU or not set."""
    if (os.environ.get("DEVICE_TARGET") or "GPU") == "GPU" and has_driver() and not missing_libraries():
        _provide_nvcc()


def has_driver():
    """Whether there is an NVIDIA driver."""
    return _load(DRIVER) is not None


def missing_libraries():
    """Load the libraries. Returns the names of those that are neither in the system nor in wheels."""
    return [name for name in LIBRARIES if not _load(name) and not _load_from(name, _folders())]


def problem():
    """What a GPU lacks here and what to do, as the end of a message; "" if nothing."""
    spec = importlib.util.find_spec("mindspore")
    folder = pathlib.Path(spec.origin).parent / "lib" / "plugin" if spec and spec.origin else pathlib.Path()
    if not any(folder.glob("libmindspore_gpu.so*")):
        return "this MindSpore has no GPU plugin; install the wheel for Linux on x86-64"
    driver = _load(DRIVER)
    if not driver:
        return f"there is no NVIDIA driver ({DRIVER}); install one, {OLDEST_DRIVER} or newer"
    number = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(number))
    if number.value < OLDEST_CUDA:
        cuda = f"{number.value // 1000}.{number.value % 1000 // 10}"
        return (f"the NVIDIA driver is too old: it supports CUDA {cuda}, and MindSpore needs CUDA 11; install driver "
                f"{OLDEST_DRIVER} or newer")
    missing = missing_libraries()
    if missing:
        return f"libraries of CUDA 11 and cuDNN 8 are missing: {', '.join(missing)}; pip install 'mindfcn[gpu]'"
    status, cards = driver.cuInit(0), ctypes.c_int()
    if status or driver.cuDeviceGetCount(ctypes.byref(cards)) or not cards.value:
        return (f"the NVIDIA driver shows no card (cuInit: {status}); look at nvidia-smi, and at CUDA_VISIBLE_DEVICES "
                "in the environment")
    return ""


def compile_note():
    """A line for the first start on a card that the plugin has no kernels for, or ""; there must be a card."""
    driver, parts = ctypes.CDLL(DRIVER), [ctypes.c_int(), ctypes.c_int()]
    for part, attribute in zip(parts, (75, 76)):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
        driver.cuDeviceGetAttribute(ctypes.byref(part), attribute, 0)
    card = 10 * parts[0].value + parts[1].value
    cache = pathlib.Path(os.environ.get("CUDA_CACHE_PATH") or "~/.nv/ComputeCache").expanduser()
    if card <= NEWEST_CARD or cache.is_dir() and any(cache.iterdir()):
        return ""
    return (f"GPU: the driver compiles MindSpore's kernels for this card (sm_{card}), once; this takes minutes, and no "
            f"progress shows until they are in {cache}")


def _load(library):
    """The library as ctypes.CDLL, or None."""
    try:
        return ctypes.CDLL(str(library))
    except OSError:
        return None


def _load_from(name, folders):
    """Load a library from the first folder that has it. Returns whether one has."""
    for folder in folders:
        if _load(folder / name):
            _prepend("LD_LIBRARY_PATH", folder)
            return True
    return False


def _folders():
    """Folders in which libraries may be besides the linker's own: installations of CUDA 11, then wheels."""
    installed = sorted(pathlib.Path("/usr/local").glob("cuda-11*"), reverse=True)
    homes = [pathlib.Path(os.environ["CUDA_HOME"]), *installed] if os.environ.get("CUDA_HOME") else installed
    wheels = importlib.util.find_spec("nvidia")
    parts = wheels.submodule_search_locations if wheels else None
    return [*(home / "lib64" for home in homes),
            *(folder for part in parts or () for folder in pathlib.Path(part).glob("*/lib"))]


def _provide_nvcc():
    """Point CUDA_HOME and PATH to an nvcc of a known release: the one of CUDA_HOME, else a script."""
    global _home
    if _home or _release(pathlib.Path(os.environ.get("CUDA_HOME", "")) / "bin" / "nvcc") in RELEASES:
        return
    # Readable by this user alone, as it is run.
    _home = tempfile.TemporaryDirectory(prefix="mindfcn-cuda-")
    compiler = pathlib.Path(_home.name) / "bin" / "nvcc"
    compiler.parent.mkdir()
    compiler.write_text(_NVCC, encoding="utf-8")
    compiler.chmod(0o700)
    os.environ["CUDA_HOME"] = _home.name
    _prepend("PATH", compiler.parent)


def _release(compiler):
    """The release that an nvcc prints, such as "11.6", or None."""
    try:
        text = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"release (\d+\.\d+)", text)
    return found and found[1]


def _prepend(variable, folder):
    """Put a folder first in an environment variable that lists folders, unless it is listed already."""
    folders = [part for part in os.environ.get(variable, "").split(os.pathsep) if part]
    if str(folder) not in folders:
        os.environ[variable] = os.pathsep.join([str(folder), *folders])
