"""Your own photographs: ROOT/images/, ROOT/masks/, ROOT/labels.yaml, and optional lists train.txt and val.txt."""

import dataclasses
import hashlib
import os
import re
import unicodedata
from functools import partial
from typing import NamedTuple

from mindfcn.data.bands import sample_options
from mindfcn.data.masks import mask_reader
from mindfcn.data.multilabel import read_multilabel
from mindfcn.data.samples import Sample, check_names, check_present, is_utf8
from mindfcn.errors import UserError
from mindfcn.storage.files import read_bytes, read_lines
from mindfcn.storage.images import with_8_bits

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where photographs and masks of your own folder are, and which photographs belong together.

    Attributes:
        image_dir, mask_dir: folders of photographs and of masks, searched at any depth; they may be the same one.
        mask_suffix: what a mask's name has after its photograph's, such as _mask.
        group_by: pattern of a part of the names, such as patient\\d+; photographs of one group stay in one split. The
            first group in parentheses counts, if there is one.
        folds, fold: take fold number `fold`, 1..folds, of `folds` equal parts for validation; 0 takes val_fraction.
    """
    image_dir: str = "images"
    mask_dir: str = "masks"
    mask_suffix: str = ""
    group_by: str = ""
    folds: int = 0
    fold: int = 1

    @classmethod
    def of(cls, config):
        """The layout of a config with settings of these names."""
        return cls(*(getattr(config, entry.name) for entry in dataclasses.fields(cls)))

    def files(self, root):
        """({name: path of its photograph}, {name: path of its mask}); names below folders are folder_name."""
        images = files_by_name(os.path.join(root, self.image_dir), IMAGE_SUFFIXES)
        masks = files_by_name(os.path.join(root, self.mask_dir), MASK_SUFFIXES)
        if self.mask_suffix:
            masks = {name[:-len(self.mask_suffix)]: path for name, path in masks.items()
                     if name.endswith(self.mask_suffix)}
            if os.path.normpath(self.image_dir) == os.path.normpath(self.mask_dir):
                images = {name: path for name, path in images.items() if not name.endswith(self.mask_suffix)}
        elif os.path.normpath(self.image_dir) == os.path.normpath(self.mask_dir):
            raise UserError(f"photographs and masks are both in {self.image_dir}; give what the masks' names end in "
                            "with --mask_suffix")
        return images, masks

    def mask_path(self, root, image):
        """Path that the mask of a photograph is expected at."""
        inner = os.path.splitext(os.path.relpath(image, os.path.join(root, self.image_dir)))[0]
        return os.path.join(root, self.mask_dir, f"{inner}{self.mask_suffix}.png")


class Root(NamedTuple):
    """One of the folders of a data set.

    Attributes:
        path: folder.
        prefix: what is put before its names; empty for the first folder.
        images, masks: {name in this folder: path}.
    """
    path: str
    prefix: str
    images: dict
    masks: dict


def open_roots(paths, layout):
    """[Root] of the folders of a data set; the names of all but the first begin with their folder's, folder_name.

    Raises:
        UserError: a folder twice, or two photographs or masks of one name.
    """
    roots, taken = [], {}
    for path in paths:
        prefix = f"{os.path.basename(os.path.abspath(path))}_" if roots else ""
        if any(os.path.realpath(path) == os.path.realpath(root.path) for root in roots):
            raise UserError(f"{path} is given twice; leave out one of --root and --more_roots")
        roots.append(Root(path, prefix, *layout.files(path)))
        for kind in ("images", "masks"):
            for name, file in getattr(roots[-1], kind).items():
                other = taken.setdefault((kind, prefix + name), file)
                if other != file:
                    raise UserError(f"{other} and {file} would both be named {prefix}{name}; rename one, or a folder")
    return roots


def list_folder(root, split, labels, encoding="auto", val_fraction=0.2, check=True, bits=0,
                bands=None, layout=Layout(), more_roots=()):  # noqa: B008 (it is frozen)
    """List the samples of a split of your own folder, sorted by name or in the order of its list.

    With lists `train.txt` and `val.txt` (names with or without suffix) they decide. Without, an image is held out
    for validation by a hash of its name: adding files moves none of the others.

    Args:
        root: folder of images/ and masks/; the mask of images/NAME.jpg is masks/NAME.png.
        split: train or val, or another list's name.
        labels: LabelSet.
        encoding: auto, palette, grey or rgb, see `masks.MaskReader`.
        val_fraction: share of the images held out, 0..1; above 0, with two images or more, both splits get at least
            one; 0 holds out none, and train.txt may be alone.
        check: whether every mask must exist.
        bits: see `with_8_bits`; 0 leaves the photographs as they are.
        bands: for multispectral TIFFs, numbers from 1 of the bands that are shown as red, green and blue.
        layout: Layout.
        more_roots: further folders like `root`, see `open_roots`. A folder without lists is split together with the
            others without.

    Returns:
        list of Sample.

    Raises:
        UserError: no such folder or list, two images of one name, missing files.
    """
    roots = open_roots([root, *more_roots], layout)
    if labels.multilabel and encoding != "auto":
        raise UserError(f"mask_encoding {encoding} is for masks with one class a pixel; leave it out with multilabel "
                        "in labels.yaml")
    read = (partial(read_multilabel, labels=labels) if labels.multilabel else
            mask_reader([mask for one in roots for mask in one.masks.values()], labels, encoding))
    samples = []
    for one, name in _split_names(roots, split, val_fraction, layout):
        image = one.images.get(name, os.path.join(one.path, layout.image_dir, f"{name}.jpg"))
        mask = one.masks.get(name, layout.mask_path(one.path, image))
        options = {"read_image": partial(_with_8_bits, bits=bits)} if bits else {}
        if bands and os.path.exists(image):
            options = sample_options(image, bands)
        samples.append(Sample(one.prefix + name, image, mask, read, **options))
    if check:
        check_present(samples, f"split {split!r}")
    return samples


def _with_8_bits(path, bits):
    return with_8_bits(read_bytes(path), path, bits)


def hold_out(names, val_fraction, layout=Layout()):  # noqa: B008 (it is frozen)
    """Split names into (train, val) lists by a hash of each name, sorted; with two names or more neither is empty,
    unless `val_fraction` is 0.

    Groups are split instead of names, by a hash of the group; folds are equal parts of the order of the hashes.
    """
    if not 0 <= val_fraction <= 1:
        raise UserError(f"val_fraction {val_fraction} must be a share from 0 to 1")
    groups = _groups(names, layout.group_by)
    places = {group: int.from_bytes(hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest()[:8], "big")
              / 2**64 for group in groups}
    ordered = sorted(groups, key=places.get)
    if layout.folds:
        if not 2 <= layout.folds <= max(2, len(ordered)) or not 1 <= layout.fold <= layout.folds:
            raise UserError(f"fold {layout.fold} of {layout.folds} does not exist: give --folds from 2 to "
                            f"{max(2, len(ordered))}, and --fold from 1 to --folds")
        val = ordered[layout.fold - 1::layout.folds]
    else:
        count = sum(place < val_fraction for place in places.values())
        if len(ordered) > 1 and val_fraction:
            count = min(max(count, 1), len(ordered) - 1)
        val = ordered[:count]
    held_out = {name for group in val for name in groups[group]}
    return sorted(set(names) - held_out), sorted(held_out)


def _groups(names, pattern):
    """{group: its names}; without a pattern, and where it does not match, a name is its own group. Raises UserError."""
    if not pattern:
        return {name: [name] for name in names}
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"group_by {pattern!r} is no regular expression: {error}") from None
    groups, matched = {}, 0
    for name in names:
        found = compiled.search(name)
        matched += found is not None
        groups.setdefault(found[min(1, compiled.groups)] or name if found else name, []).append(name)
    if not matched:
        raise UserError(f"group_by {pattern!r} matches no name, such as {names[0]}; correct the pattern")
    return groups


def files_by_name(folder, suffixes):
    """{name without suffix: path} of a folder and the folders in it; a file a/b.png has the name a_b.

    Other suffixes, hidden files and hidden folders are ignored. Raises UserError.
    """
    if not os.path.isdir(folder):
        raise UserError(f"no folder {folder}; your own data lie in images/ and masks/, or name the folders with "
                        "--image_dir and --mask_dir, see docs/own_data.md")
    files = {}
    for parent, inner, found in os.walk(folder):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for file in sorted(found):
            stem, suffix = os.path.splitext(file)
            if suffix.lower() not in suffixes or file.startswith("."):
                continue
            # The same name may be stored in two of Unicode's normal forms.
            name = flat_name(unicodedata.normalize("NFC", os.path.join(os.path.relpath(parent, folder), stem)))
            path = os.path.join(parent, file)
            if name in files:
                raise UserError(f"{folder} holds both {os.path.relpath(files[name], folder)} and "
                                f"{os.path.relpath(path, folder)}; keep one per name")
            if not is_utf8(name):
                raise UserError(f"{folder} holds {file!r}, whose name is not UTF-8; rename it")
            files[name] = path
    return files


def flat_name(path):
    """The name of a file in folders, its folders joined with _: a_b for a/b."""
    return path.replace(os.sep, "/").removeprefix("./").replace("/", "_")


def read_list(path, names, layout):
    """The names of a list: one a line, with or without folders and suffix; a second column names the mask.

    Raises UserError: a name twice or one that leads out of the folder, or a mask that is not the photograph's.
    """
    known, found = set(names), []
    for line in (unicodedata.normalize("NFC", line) for line in read_lines(path)):
        if line in known:
            found.append(line)
            continue
        columns = re.split(r"[\s,;]+", line)
        columns = columns if len(columns) > 1 and columns[0].lower().endswith(IMAGE_SUFFIXES) else [line]
        name = _bare(columns[0], layout.image_dir, IMAGE_SUFFIXES)
        if len(columns) > 1 and _bare(columns[1], layout.mask_dir, MASK_SUFFIXES) != name + layout.mask_suffix:
            raise UserError(f"{path}: {columns[1]} is not the mask of {columns[0]} by its name; rename it, or give "
                            "--mask_dir and --mask_suffix")
        found.append(name)
    check_names(found, path)
    return found


def _bare(entry, folder, suffixes):
    """The name of a path in a list, without its folder of photographs or masks and without suffix."""
    stem, suffix = os.path.splitext(entry.replace("\\", "/").removeprefix("./"))
    return flat_name((stem if suffix.lower() in suffixes else stem + suffix).removeprefix(f"{folder.rstrip('/')}/"))


def _split_names(roots, split, val_fraction, layout):
    """[(Root, name)] of a split: of folders with lists in their order, then of the others by their names."""
    listed = [(root, _listed_names(root, split, val_fraction, layout)) for root in roots]
    free = {root.prefix + name: (root, name) for root, names in listed if names is None for name in root.images}
    found = [(root, name) for root, names in listed if names is not None for name in names]
    if any(names is None for _, names in listed):
        if not free:
            raise UserError(f"no images in {os.path.join(roots[0].path, layout.image_dir)}; known suffixes are "
                            f"{' '.join(IMAGE_SUFFIXES)}")
        found += [free[name] for name in hold_out(sorted(free), val_fraction, layout)[split == "val"]]
    return found


def _listed_names(root, split, val_fraction, layout):
    """The names of a folder's list of a split, [] if only training is listed; None if the folder has no lists."""
    path = os.path.join(root.path, f"{split}.txt")
    if os.path.isfile(path):
        return read_list(path, sorted(root.images), layout)
    if split not in ("train", "val"):
        raise UserError(f"no split {split!r}: {path} is missing; write it, one image name a line")
    other = os.path.join(root.path, "val.txt" if split == "train" else "train.txt")
    if os.path.isfile(other) and split == "val" and val_fraction == 0:
        return []
    if os.path.isfile(other):
        raise UserError(f"{other} exists but {path} does not; write both lists or none, or, to train without "
                        "validation, train.txt and --val_fraction 0")
    return None
