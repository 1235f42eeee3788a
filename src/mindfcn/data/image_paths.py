"""Images found by files, folders and glob patterns, and the names of their results."""

import collections
import glob
import os
import re

from mindfcn.data.sources.folder import IMAGE_SUFFIXES
from mindfcn.errors import UserError


def find_images(patterns):
    """List the images that files, folders and glob patterns match, each once, in the order of the patterns.

    A folder gives the images directly in it; `**` in a pattern matches any depth of folders. Matches of folders and
    patterns are filtered by suffix and sorted; a file given by its own path is taken with any suffix.

    Returns:
        list of paths.

    Raises:
        UserError: a pattern matches no image, or there is no pattern.
    """
    patterns = [patterns] if isinstance(patterns, (str, os.PathLike)) else patterns
    found = {}
    for pattern in map(os.fspath, patterns):
        for path in _matches(pattern):
            found.setdefault(os.path.abspath(path), path)
    if not found:
        raise UserError("no images named; give image files, folders or patterns such as 'photos/*.jpg'")
    return list(found.values())


class ImageIndex:
    """The photographs below some folders, found by the paths that annotations name.

    Args:
        folders: folders, searched at any depth; hidden files and folders are left out.
        skip: names of folders that are left out, too, such as those of masks.
        relative: whether a path relative to the annotation's own file is tried first.
    """

    def __init__(self, folders, skip=(), relative=True):
        self._files, self._relative = {}, relative
        for folder in dict.fromkeys(os.path.normpath(folder or ".") for folder in folders):
            for parent, inner, files in os.walk(folder):
                inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in skip)
                for name in sorted(files):
                    stem, suffix = os.path.splitext(name)
                    if suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                        for key in (name, (stem,)):
                            self._files.setdefault(key, {})[os.path.join(parent, name)] = None

    def paths(self):
        """All paths, sorted."""
        return sorted({path for found in self._files.values() for path in found})

    def find(self, name, near="", suffix=True):
        """Path of the photograph that an annotation calls `name`, with folders or without, of Windows or not.

        Of several files of its name, the one is taken whose folders agree best with those of `name`, and then have
        most words in common with `near`.

        Args:
            name: path in the annotation.
            near: path of the annotation, or name of its split.
            suffix: whether `name` has its suffix.

        Raises:
            UserError: there is none, or several fit equally well.
        """
        name = name.replace("\\", "/")
        beside = os.path.normpath(os.path.join(os.path.dirname(near), name))
        if self._relative and suffix and beside.lower().endswith(IMAGE_SUFFIXES) and os.path.isfile(beside):
            return beside
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        last = parts[-1] if parts else ""
        found = list(self._files.get(last if suffix else (last,), ()))
        if not found:
            raise UserError(f"there is no photograph {name}; give the photographs' folder with --images")
        fits = {path: (_same_end(os.path.abspath(path).split(os.sep)[:-1], parts[:-1]),
                       len(_words(os.path.dirname(path)) & _words(near))) for path in found}
        found = [path for path in found if fits[path] == max(fits.values())]
        if len(found) > 1:
            raise UserError(f"{name} is several files, such as {found[0]} and {found[1]}; give the folder with "
                            "--images")
        return found[0]


def _same_end(one, two):
    """Number of equal entries at the ends of two lists."""
    return next((place for place, (a, b) in enumerate(zip(reversed(one), reversed(two))) if a != b),
                min(len(one), len(two)))


def _words(path):
    """The words of a path: train and images of images/train2017."""
    return set(re.findall(r"[^\W\d_]+", path.lower()))


def output_names(paths):
    """A name for the results of each image: its stem, or a longer name where two images share a stem.

    Images whose stems differ at most in case are distinguished by suffix (`x_jpg`), then by folder (`a_x`), then by
    both, and finally by a number. The same paths always give the same names.
    """
    names, taken = {}, set()
    for scheme in (_stem, _stem_suffix, _folder_stem, _folder_stem_suffix):
        candidates = {path: scheme(path) for path in paths if path not in names}
        count = collections.Counter(name.casefold() for name in candidates.values())
        unique = {path: name for path, name in candidates.items()
                  if count[name.casefold()] == 1 and name.casefold() not in taken}
        names.update(unique)
        taken.update(name.casefold() for name in unique.values())
    for path in sorted(set(paths) - set(names)):
        names[path] = _numbered(_folder_stem_suffix(path), taken)
        taken.add(names[path].casefold())
    return [names[path] for path in paths]


def _matches(pattern):
    """The images of one pattern. An existing path is never read as a pattern, even if it has brackets."""
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
