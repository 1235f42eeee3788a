"""Images found by files, folders and glob patterns, and the names of their results."""

import collections
import glob
import os
import re
import unicodedata

from mindfcn.console import SILENT
from mindfcn.data.sources.folder import IMAGE_SUFFIXES
from mindfcn.errors import UserError
from mindfcn.storage.images import HEIF_REMEDY, HEIF_SUFFIXES, extra_suffixes
from mindfcn.storage.video import VIDEO_SUFFIXES


def find_images(patterns, out="", console=SILENT, videos=False):
    """List the images that files, folders and glob patterns match, each once, in the order of the patterns.

    A folder gives the images directly in it; `**` in a pattern matches any depth of folders, links to folders excepted.
    Matches of folders and patterns are filtered by suffix and sorted; a file given by its own path is taken with any
    suffix.

    Args:
        patterns: files, folders and patterns.
        out: folder of the results; matches of patterns in it are results of earlier calls and are left out.
        console: Console that shows which files are left out.
        videos: whether folders and patterns give videos, too.

    Returns:
        list of paths.

    Raises:
        UserError: a pattern matches no image, there is no pattern, or `out` is one of the folders.
    """
    patterns = [patterns] if isinstance(patterns, (str, os.PathLike)) else patterns
    found = {}
    for pattern in map(os.fspath, patterns):
        for path in _matches(pattern, out, console, IMAGE_SUFFIXES + extra_suffixes() + VIDEO_SUFFIXES * videos):
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

    Images whose stems differ at most in case or in Unicode's normal form are distinguished by suffix (`x_jpg`), then by
    folder (`a_x`), then by both, and finally by a number. The same paths always give the same names.
    """
    names, taken = {}, set()
    for scheme in (_stem, _stem_suffix, _folder_stem, _folder_stem_suffix):
        candidates = {path: scheme(path) for path in paths if path not in names}
        count = collections.Counter(_folded(name) for name in candidates.values())
        unique = {path: name for path, name in candidates.items()
                  if count[_folded(name)] == 1 and _folded(name) not in taken}
        names.update(unique)
        taken.update(_folded(name) for name in unique.values())
    for path in sorted(set(paths) - set(names)):
        names[path] = _numbered(_folder_stem_suffix(path), taken)
        taken.add(_folded(names[path]))
    return [names[path] for path in paths]


def _matches(pattern, out, console, suffixes):
    """The images of one pattern. An existing path is never read as a pattern, even if it has brackets."""
    if os.path.isfile(pattern):
        return [pattern]
    if "://" in pattern:
        raise UserError(f"images: {pattern} is an address, and only files are read; download it first")
    if os.path.isdir(pattern):
        found, kind = glob.glob(os.path.join(glob.escape(pattern), "*")), "folder"
    elif glob.has_magic(pattern):
        found, kind = _expand(pattern), "pattern"
    else:
        raise UserError(f"images: there is no file or folder {pattern}; check the path")
    found = sorted(filter(os.path.isfile, found))
    inside = os.path.realpath(out) + os.sep if out else "\0"
    results = [path for path in found if os.path.realpath(path).startswith(inside)]
    images = [path for path in found if path.lower().endswith(suffixes) and path not in results]
    others = [path for path in found if not path.lower().endswith(suffixes) and path not in results]
    if results and not images or out and os.path.realpath(out) == os.path.realpath(pattern):
        raise UserError(f"--out {out} is the folder of the photographs: the results would be taken for photographs the "
                        f"next time; choose another, such as {os.path.join(out, 'masks')}")
    if results:
        console.say(f"{pattern}: {len(results)} files of {out} left out, the folder of the results")
    if others:
        console.say(f"{pattern}: {_other_files(others)}")
    if not images:
        raise UserError(f"images: the {kind} {pattern} holds no image ({' '.join(suffixes)}); check the path")
    return images


def _other_files(paths):
    """A line that counts files that are not read by suffix, with what to install to read them."""
    count = collections.Counter(os.path.splitext(path)[1].lower() or "without suffix" for path in paths)
    kinds = ", ".join(f"{number} {suffix}" for suffix, number in count.items())
    remedy = f"; {HEIF_REMEDY}" if count.keys() & set(HEIF_SUFFIXES) else ""
    return f"{len(paths)} other files passed over ({kinds}){remedy}"


def _expand(pattern):
    """The paths that a glob pattern matches; `**` does not follow links to folders, which may lead in circles."""
    head, stars, tail = pattern.partition("**" + os.sep)
    if not stars or head and not head.endswith(os.sep):
        return glob.glob(pattern) if not pattern.endswith("**") else _expand(pattern + os.sep + "*")
    found = {}
    for start in glob.glob(head) if glob.has_magic(head) else [head]:
        for folder, inner, _ in os.walk(start or "."):
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            folder = folder if start else os.path.relpath(folder)
            for path in _expand(os.path.join(glob.escape("" if folder == "." else folder), tail)):
                found[path] = None
    return list(found)


def _folded(name):
    """A name as file systems compare it that ignore case and Unicode's normal forms."""
    return unicodedata.normalize("NFC", name).casefold()


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
    while _folded(f"{name}_{number}") in taken:
        number += 1
    return f"{name}_{number}"
