"""Which images files, folders and glob patterns name, and names for the results of each."""

import collections
import glob
import os

from mindfcn.data.sources.folder import IMAGE_SUFFIXES
from mindfcn.errors import UserError


def find_images(patterns):
    """List the images that files, folders and glob patterns name, each once, in the order of the patterns.

    A folder stands for the images directly in it; `**` in a pattern for any depth of folders. What folders and
    patterns find is taken by its suffix and sorted; a file named itself is taken whatever its suffix.

    Returns:
        List of paths.

    Raises:
        UserError: a pattern finds nothing, or there is no pattern.
    """
    patterns = [patterns] if isinstance(patterns, (str, os.PathLike)) else patterns
    found = {}
    for pattern in map(os.fspath, patterns):
        for path in _matches(pattern):
            found.setdefault(os.path.abspath(path), path)
    if not found:
        raise UserError("no images named; give image files, folders or patterns such as 'photos/*.jpg'")
    return list(found.values())


def output_names(paths):
    """A name for the results of each image: its stem, longer where two images would share one.

    Images that share a stem, in whatever case, are told apart by suffix (`x_jpg`), then by folder (`a_x`), by both,
    and at last by a number. The same paths always give the same names.
    """
    names, taken = {}, set()
    for scheme in (_stem, _stem_suffix, _folder_stem, _folder_stem_suffix):
        wanted = {path: scheme(path) for path in paths if path not in names}
        count = collections.Counter(name.casefold() for name in wanted.values())
        clear = {path: name for path, name in wanted.items()
                 if count[name.casefold()] == 1 and name.casefold() not in taken}
        names.update(clear)
        taken.update(name.casefold() for name in clear.values())
    for path in sorted(set(paths) - set(names)):
        names[path] = _numbered(_folder_stem_suffix(path), taken)
        taken.add(names[path].casefold())
    return [names[path] for path in paths]


def _matches(pattern):
    """The images of one pattern. A name that exists is never a pattern, whatever brackets it has."""
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        found, kind = glob.glob(os.path.join(glob.escape(pattern), "*")), "folder"
    elif glob.has_magic(pattern):
        found, kind = glob.glob(pattern, recursive=True), "pattern"
    else:
        raise UserError(f"images: there is no file or folder {pattern}; check the path")
    images = sorted(path for path in found if path.lower().endswith(IMAGE_SUFFIXES) and os.path.isfile(path))
    if not images:
        raise UserError(f"images: the {kind} {pattern} holds no image ({' '.join(IMAGE_SUFFIXES)}); check the path")
    return images


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]


def _stem_suffix(path):
    return os.path.basename(path).replace(".", "_")


def _folder_stem(path):
    return f"{os.path.basename(os.path.dirname(os.path.abspath(path)))}_{_stem(path)}"


def _folder_stem_suffix(path):
    return f"{os.path.basename(os.path.dirname(os.path.abspath(path)))}_{_stem_suffix(path)}"


def _numbered(name, taken):
    number = 1
    while f"{name}_{number}".casefold() in taken:
        number += 1
    return f"{name}_{number}"
