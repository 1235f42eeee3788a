"""Variables of MATLAB's files: the older format through SciPy, that of version 7.3 (HDF5) through h5py."""

import numpy as np
import scipy.io

from mindfcn.data.samples import MAX_PIXELS
from mindfcn.errors import UserError


def read_mat(path, name):
    """Variable `name` of a .mat file up to version 7 -> array. Raises UserError."""
    try:
        return scipy.io.loadmat(path, variable_names=[name])[name]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the path") from None
    # SciPy's exceptions for damaged files have no common base but this.
    except Exception:  # noqa: BLE001
        raise UserError(f"{path} holds no {name} or is damaged; fetch it again") from None


def read_classes(path, name):
    """A mask (H, W) of whole numbers in a .mat file -> int64, as they are. Raises UserError."""
    mask = read_mat(path, name)
    if mask.ndim != 2 or mask.size > MAX_PIXELS or mask.dtype.kind not in "iuf" or (mask != np.rint(mask)).any():
        raise UserError(f"{path}: {name} is not a mask of class numbers; fetch it again")
    return mask.astype(np.int64)


def to_classes(mask, count, where, void=(0,)):
    """MATLAB's classes 1..count -> uint8 0..count - 1, and `void` numbers -> 255. Raises UserError at any other."""
    wrong = ~np.isin(mask, [*void, *range(1, count + 1)])
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UserError(f"{where} holds {mask[row, column]} at row {row}, column {column}: not a class of 1..{count} "
                        f"nor {', '.join(map(str, void))}; fetch it again")
    return np.where(np.isin(mask, void), 255, mask - 1).astype(np.uint8)


class Hdf5:
    """A .mat file of version 7.3, opened for reading: a context.

    MATLAB's (H, W, 3, N) lies there as (N, 3, W, H).
    """

    def __init__(self, path):
        try:
            import h5py
        except ImportError:
            raise UserError(f"{path} needs the package h5py, which is not installed; install it with "
                            "pip install h5py") from None
        try:
            self.file = h5py.File(path, "r")
        except OSError:
            raise UserError(f"cannot read {path}: it is missing, damaged or no .mat file of version 7.3; "
                            "fetch it again") from None
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def shape(self, name):
        """The shape of a variable, in the file's order of axes."""
        return self._variable(name).shape

    def item(self, name, index):
        """Item `index` (from 0) of a variable's last MATLAB axis, in MATLAB's order of the others: (H, W, ...)."""
        try:
            return self._variable(name)[index].T
        except (OSError, IndexError, ValueError) as error:
            raise UserError(f"{self.path}: cannot read {name} of image {index + 1} ({error}); fetch it again") from None

    def _variable(self, name):
        if name not in self.file:
            raise UserError(f"{self.path} holds no {name}; give the labelled data set")
        return self.file[name]
