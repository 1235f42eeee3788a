"""Can this Python run MindFCN as it is? Called by environment.sh; needs nothing but the standard library and pip.

    python check_python.py mindspore            exit 0 if its MindSpore computes
    python check_python.py packages [EXTRA ...] print what is missing and exit 1, or print a note and exit 0

The packages and their versions are those of setup.cfg.
"""

import configparser
import importlib.metadata
import importlib.util
import pathlib
import re
import sys

SETUP = pathlib.Path(__file__).resolve().parents[1] / "setup.cfg"
# Packages that may be installed under another name, by the module they bring.
MODULES = {"mindspore": "mindspore", "opencv-python": "cv2", "opencv-contrib-python": "cv2"}


def computes():
    """Whether MindSpore multiplies matrices on its device."""
    import mindspore as ms
    import numpy as np
    product = ms.ops.matmul(ms.Tensor(np.eye(2, dtype=np.float32)), ms.ops.ones((2, 2)))
    return product.asnumpy().sum() == 4


def requirements(extras):
    """Lines of install_requires and of the extras, without comments."""
    setup = configparser.ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    lines = setup["options"]["install_requires"].splitlines()
    for extra in extras:
        lines += setup["options.extras_require"][extra].splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def version_of(name):
    """The installed version, or None; of MindSpore, what the module says, since its packages have several names."""
    module = MODULES.get(name.lower())
    if module == "mindspore":
        import mindspore
        return mindspore.__version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        if module and importlib.util.find_spec(module):
            return getattr(__import__(module), "__version__", "0")
        return None


def main(what, *extras):
    """Print the answer. Returns the exit status."""
    if what == "mindspore":
        return 0 if computes() else 1
    from pip._vendor.packaging.requirements import Requirement
    missing, note = [], ""
    for line in requirements(extras):
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate():
            continue
        found = version_of(wanted.name)
        if found and wanted.specifier.contains(found, prereleases=True):
            continue
        if wanted.name == "mindspore" and tuple(map(int, re.findall(r"\d+", found)[:2])) > (2, 10):
            note = f"MindSpore {found} is not tested with this release; continuing"
        elif wanted.name == "mindspore":
            print(f"its MindSpore is {found}, but MindFCN needs {wanted.specifier}; install one of these versions, or "
                  "deactivate this environment")
            return 1
        else:
            missing.append(f"'{line}'")
    if missing:
        print(f"MindSpore works here, but these packages are missing: pip install {' '.join(missing)}")
        return 1
    if note:
        print(note)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
