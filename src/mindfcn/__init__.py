"""Fully convolutional semantic segmentation on MindSpore.

The public names are listed in __init__.pyi. Each is imported when it is first used: `import mindfcn` itself is instant
and needs no MindSpore.
"""

import lazy_loader

from mindfcn.mindspore_versions import prepare_import

prepare_import()
_load_name, _, _names = lazy_loader.attach_stub(__name__, __file__)

__all__ = [*_names, "__version__"]


def __getattr__(name):
    if name == "__version__":
        return _version()
    return _load_name(name)


def __dir__():
    return sorted(__all__)


def _version():
    """The installed package's version; 0+source where the source is used without installing it."""
    from importlib.metadata import PackageNotFoundError, version
    try:
        return version("mindfcn")
    except PackageNotFoundError:
        return "0+source"
