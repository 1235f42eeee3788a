"""The photographs that an annotation tool has exported, as each importer lists them, and shapes painted into masks."""

import dataclasses
import json
from typing import Callable, Optional

import numpy as np

from mindfcn.errors import UserError
from mindfcn.labels import LabelSet
from mindfcn.storage.files import read_bytes

# Names that tools use for pixels outside all objects, and LabelMe's name for pixels that do not count.
BACKGROUND = ("background", "_background_", "__background__")
IGNORED = "__ignore__"


@dataclasses.dataclass(frozen=True)
class Shape:
    """An area of one class.

    Attributes:
        label: class name, one of BACKGROUND, or IGNORED.
        fill: function (height, width) -> (H, W) bool, True inside. Raises UserError.
        crowd: whether it covers a group of objects and what lies between them (COCO's `iscrowd`).
    """
    label: str
    fill: Callable[[int, int], np.ndarray]
    crowd: bool = False


@dataclasses.dataclass(frozen=True)
class Annotated:
    """A photograph and its annotation, still on disk.

    Attributes:
        image: path of the photograph, or of the file that contains it.
        where: file of the annotation, for messages.
        shapes: list of Shape, in the order of the file.
        read_mask: function without arguments -> (H, W) uint8 class numbers, for exports of masks; None has shapes.
        split: train, val, test or another list's name; "" if the export has no splits.
        size: (height, width) that the shapes are meant for; None if the export does not record it.
        read_image: function that reads `image`: path -> encoded bytes.
    """
    image: str
    where: str
    shapes: list = dataclasses.field(default_factory=list)
    read_mask: Optional[Callable[[], np.ndarray]] = None
    split: str = ""
    size: Optional[tuple] = None
    read_image: Callable[[str], bytes] = read_bytes


@dataclasses.dataclass
class Export:
    """What an importer found.

    Attributes:
        names: class names in their order, for exports of shapes.
        photographs: list of Annotated.
        overlap: rule of the tool where shapes overlap: order or area, see `paint`.
        labels: LabelSet of the masks; None for exports of shapes.
        left_out: (file or entry, reason) of what is not converted.
    """
    names: list
    photographs: list
    overlap: str = "order"
    labels: Optional[LabelSet] = None
    left_out: list = dataclasses.field(default_factory=list)

    def check(self, message):
        """Raise UserError with `message` and the first entry that is left out, if no photograph is found."""
        if not self.photographs:
            raise UserError(message + ("; the first, {}: {}".format(*self.left_out[0]) if self.left_out else ""))


def paint(shapes, height, width, numbers, rest, ignore, overlap, ignore_crowds=False):
    """Paint shapes into a mask.

    Args:
        shapes: list of Shape.
        height, width: size of the mask, pixels.
        numbers: {name: class number}.
        rest: number of the pixels in no shape.
        ignore: the ignore label.
        overlap: order, later shapes cover earlier ones; area, smaller shapes cover larger ones; ignore, pixels of
            several classes get the ignore label.
        ignore_crowds: whether crowds get the ignore label and lie below all other shapes.

    Returns:
        (mask (H, W) uint8, number of pixels that lie in shapes of several classes).

    Raises:
        UserError: a shape cannot be drawn, or its class has no number.
    """
    mask = np.full((height, width), rest, np.uint8)
    several, covered = np.zeros((2, height, width), bool)
    if ignore_crowds:
        for shape in (shape for shape in shapes if shape.crowd):
            mask[shape.fill(height, width)] = ignore
        shapes = [shape for shape in shapes if not shape.crowd]
    if overlap == "area":
        areas = [int(shape.fill(height, width).sum()) for shape in shapes]
        shapes = [shapes[place] for place in sorted(range(len(shapes)), key=lambda place: -areas[place])]
    for shape in shapes:
        if shape.label not in numbers:
            raise UserError(f"a shape is of the class {shape.label!r}, which the export does not name")
        inside, number = shape.fill(height, width), numbers[shape.label]
        several |= inside & covered & (mask != number)
        covered |= inside
        mask[inside] = number
    if overlap == "ignore":
        mask[several] = ignore
    return mask, int(several.sum())


def checked_points(points, height, width, least=3):
    """Points of a shape as (K, 2) float64 x, y. Raises UserError unless they are at least `least` pairs near the image.

    Libraries allocate memory in proportion to the length of an outline, so that points far outside are refused.
    """
    try:
        points = np.array(points, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise UserError("its points are not pairs of numbers") from None
    side = max(height, width)
    if len(points) < least:
        raise UserError(f"it has {len(points)} points; an area needs {least}")
    if not (np.isfinite(points).all() and (points >= -side).all() and (points <= 2 * side).all()):
        raise UserError(f"its points lie outside the photograph of {width}x{height} pixels")
    return points


def read_json(path):
    """The contents of a JSON file. Raises UserError with the path and the reason."""
    try:
        return json.loads(read_bytes(path).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; export it again") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {str(error)[:120]}; export it again") from None
