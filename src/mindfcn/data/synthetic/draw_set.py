"""Sets of files that the program draws: complete or not at all, and only once for the same settings."""

import json
import os

from mindfcn.errors import UserError
from mindfcn.storage.files import empty_folder, partial_folder, read_bytes


def draw_set(root, what, marker, draw_files, settings, limits):
    """Draw a set of files into a folder, unless it is complete already.

    Args:
        root: folder to draw into; absent or empty.
        what: name of the set in messages.
        marker: name of the JSON file that holds its settings and marks it as complete.
        draw_files: function (folder, settings) that draws everything but the marker.
        settings: {"format", "count", "size", "seed"}: the same settings draw the same pixels.
        limits: (maximum count, minimum size, maximum size).

    Raises:
        UserError: a setting out of range, `root` holds something else, or it cannot be written.
    """
    max_count, min_size, max_size = limits
    for name, value, low, high in (("samples", settings["count"], 5, max_count),
                                   ("size", settings["size"], min_size, max_size),
                                   ("seed", settings["seed"], 0, 2 ** 63)):
        if type(value) is not int or not low <= value <= high:
            raise UserError(f"{name} {value!r} of the {what} must be a whole number from {low} to {high}")
    if drawn(root, what, marker, settings):
        return
    with partial_folder(root) as folder:
        # Another process may have drawn it while this one waited.
        if drawn(root, what, marker, settings):
            return
        empty_folder(folder)
        drawing = os.path.join(folder, "set")
        draw_files(drawing, settings)
        with open(os.path.join(drawing, marker), "w", encoding="utf-8") as file:
            json.dump(settings, file)
        os.replace(drawing, os.path.abspath(root))


def drawn(root, what, marker, settings):
    """Whether the set is complete already. Raises UserError if `root` holds anything else."""
    if not os.path.lexists(root):
        return False
    if not os.path.isdir(root):
        raise UserError(f"{root} is not a folder; choose another root for the {what}")
    path = os.path.join(root, marker)
    if not os.path.isfile(path):
        if os.listdir(root):
            raise UserError(f"{root} holds other files than the {what}; choose another root")
        return False
    try:
        found = json.loads(read_bytes(path))
    except ValueError:
        raise UserError(f"{path} is damaged; delete {root} to draw the {what} again") from None
    if found != settings:
        raise UserError(f"{root} holds the {what} of other settings ({found}); choose another root or delete it")
    return True
