"""Multispectral images: TIFF files of several bands, read and written by tifffile."""

import contextlib
import functools

import cv2
import numpy as np

from mindfcn.data.samples import Extra
from mindfcn.errors import UserError
from mindfcn.storage.files import atomic_path
from mindfcn.storage.images import MAX_PIXELS

# Shares of a band's pixels that are black and white in its picture.
STRETCH = (2, 98)
# Room for the headers of a record's encoded arrays, bytes.
HEADERS = 4096


def read_bands(path):
    """Read a multispectral TIFF: (H, W, N) uint8, uint16 or float32, the bands last, whichever way they are stored.

    Raises:
        UserError: tifffile is not installed, or the file is damaged, too large, of another type, has one band, or
            holds NaN or infinite numbers.
    """
    with _opened(path) as (tifffile, file):
        try:
            series = file.series[0]
            if np.prod(series.shape, dtype=np.int64) > 4 * MAX_PIXELS:
                raise UserError(f"{path} has more than {4 * MAX_PIXELS} values; cut it into tiles")
            bands, axes = series.asarray(), series.axes
        except (tifffile.TiffFileError, ValueError, IndexError, KeyError, OSError, MemoryError) as error:
            raise UserError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from None
    if bands.ndim != 3 or not {"X", "Y"} <= set(axes) or bands.dtype not in (np.uint8, np.uint16, np.float32):
        raise UserError(f"{path} is {bands.dtype} of shape {bands.shape}, axes {axes}; give one image of several "
                        "bands, of 8 or 16 bits or float32")
    # Y and X are rows and columns; whatever the third axis is called, it counts the bands.
    bands = np.ascontiguousarray(np.moveaxis(bands, (axes.index("Y"), axes.index("X")), (0, 1)))
    if not np.isfinite(bands).all():
        raise UserError(f"{path} holds NaN or infinite numbers; fill them, and mark these pixels as ignored in the "
                        "mask")
    return bands


def write_bands(path, bands):
    """Write (H, W, N) uint8 as a compressed TIFF of N bands. Raises UserError if it cannot be written."""
    tifffile = package()
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, np.moveaxis(bands, -1, 0), photometric="minisblack", planarconfig="separate",
                         compression="zlib")


def picture(path, shown):
    """The bands of a TIFF that are shown as red, green and blue, as PNG bytes of 8 bits, each band stretched.

    Args:
        path: file.
        shown: numbers of the three bands, from 1.

    Raises:
        UserError: as `read_bands`, or there is no such band.
    """
    return cv2.imencode(".png", colors(read_bands(path), shown, path))[1].tobytes()


def colors(bands, shown, path):
    """The bands that are shown as red, green and blue, each stretched: (H, W, N) -> (H, W, 3) uint8 BGR.

    `path` names the file in messages. Raises UserError if there is no such band.
    """
    if max(shown) > bands.shape[2]:
        raise UserError(f"{path} has {bands.shape[2]} bands, and --data.bands names {max(shown)}")
    return np.stack([_stretched(bands[..., number - 1]) for number in reversed(shown)], -1)


def sample_options(path, shown):
    """How a Sample is read from a multispectral TIFF: its `read_image`, `extras` and `size`."""
    with _opened(path) as (_, file):
        size = file.series[0].nbytes if file.series else 0
    return {"read_image": functools.partial(picture, shown=tuple(shown)), "extras": {"bands": Extra(path, read_bands)},
            "size": 3 * size + HEADERS}


def statistics(arrays):
    """Mean and standard deviation of each band: [(H, W, N) array] -> two lists of N numbers.

    A constant band has the deviation 1.
    """
    count, total, squares = 0, 0.0, 0.0
    for bands in arrays:
        values = bands.reshape(-1, bands.shape[-1]).astype(np.float64)
        count += len(values)
        total, squares = total + values.sum(0), squares + (values ** 2).sum(0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean ** 2, 0))
    return mean.tolist(), np.where(deviation > 0, deviation, 1).tolist()


def _stretched(band):
    low, high = np.percentile(band, STRETCH)
    return np.rint(255 * np.clip((band - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8)


@contextlib.contextmanager
def _opened(path):
    """A context with (the package tifffile, its TiffFile of a path). Raises UserError."""
    tifffile = package()
    try:
        file = tifffile.TiffFile(path)
    except (tifffile.TiffFileError, ValueError, KeyError, IndexError, OSError) as error:
        raise UserError(f"{path} is no TIFF file: {' '.join(str(error).split())[:200]}") from None
    with file:
        yield tifffile, file


def package():
    """The package tifffile. Raises UserError if it is not installed."""
    try:
        import tifffile
    except ModuleNotFoundError:
        raise UserError("files of several bands need the package tifffile, which is not installed; pip install "
                        "'mindfcn[bands]'") from None
    return tifffile
