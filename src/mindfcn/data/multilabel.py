"""Masks of overlapping classes, with a band for each class: their files, and what records hold of them."""

import cv2
import numpy as np

from mindfcn.data.bands import read_bands
from mindfcn.data.samples import decode_mask
from mindfcn.errors import UserError
from mindfcn.storage.images import MAX_PIXELS, read_mask_image

TIFF = (".tif", ".tiff")
_CURE = "give a band for each class, 0 outside it and 1 or 255 inside, or write no multilabel in labels.yaml"


def read_multilabel(path, labels):
    """Read a mask of overlapping classes: path -> (H, W, C) uint8 of 0, 1 and the labels' ignore label.

    A TIFF has any number of bands; in other files the bands are the two to four channels. A pixel of 1 or 255 is of
    the class, unless 255 is the ignore label.

    Raises:
        UserError: the file is unreadable or too large, has another number of bands than there are classes, or other
            numbers.
    """
    bands = _bands(path)
    if bands.shape[2] != len(labels):
        raise UserError(f"mask {path} has {bands.shape[2]} band{'s' * (bands.shape[2] > 1)}, and labels.yaml names "
                        f"{len(labels)} overlapping classes; {_CURE}")
    if bands.size > MAX_PIXELS:
        raise UserError(f"mask {path} has more than {MAX_PIXELS} values; cut it and its photograph into tiles")
    unknown = ~np.isin(bands, (0, 1, 255, labels.ignore_label))
    if unknown.any():
        row, column, band = np.argwhere(unknown)[0]
        raise UserError(f"mask {path} holds {bands[row, column, band]} at row {row}, column {column} of band "
                        f"{band + 1} ({labels.names[band]}); {_CURE}; pixels that do not count are "
                        f"{labels.ignore_label}")
    mask = bands.astype(np.uint8)
    if labels.ignore_label != 255:
        white = mask == 255
        if white.any() and (mask == 1).any():
            raise UserError(f"mask {path} holds both 1 and 255; if 255 does not count, write ignore_label: 255 in "
                            "labels.yaml")
        mask[white] = 1
    return mask


def _bands(path):
    """(H, W, N) of a file. Raises UserError."""
    if path.lower().endswith(TIFF):
        try:
            return read_bands(path)
        except UserError as error:
            raise UserError(f"{error} (labels.yaml says multilabel)") from None
    image = read_mask_image(path)
    return np.asarray(image) if image.mode in ("LA", "RGB", "RGBA") else np.asarray(image.convert("L"))[..., None]


def encode_multilabel(mask):
    """(H, W, C) uint8 -> PNG bytes of the bands, one below the other: a grey image (C H, W), without loss."""
    stacked = np.ascontiguousarray(mask.transpose(2, 0, 1)).reshape(-1, mask.shape[1])
    return cv2.imencode(".png", stacked, [cv2.IMWRITE_PNG_COMPRESSION, 3])[1].tobytes()


def decode_multilabel(data, num_classes, where):
    """Decode what `encode_multilabel` wrote -> (H, W, C) uint8; `where` names it in messages. Raises UserError."""
    stacked = decode_mask(data, where)
    if len(stacked) % num_classes:
        raise UserError(f"{where} is no mask of {num_classes} overlapping classes; prepare the records again")
    return np.ascontiguousarray(stacked.reshape(num_classes, -1, stacked.shape[1]).transpose(1, 2, 0))
