"""Files appear under their final name only when they are complete."""

import contextlib
import os
import tempfile

from mindfcn.errors import UserError


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path`; rename it to `path` on success, remove it on failure.

    The temporary name keeps the suffix, because many writers choose the format by it.

    Raises:
        UserError: the folder cannot be written.
    """
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    try:
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(
            prefix=".partial-", suffix="-" + os.path.basename(path), dir=folder)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose a folder that can be written") from None
    os.close(handle)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free some space or choose another folder") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_bytes(path):
    """The contents of a file. Raises UserError with the path and the reason where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from None


def read_lines(path):
    """The non-empty lines of a UTF-8 text file, stripped. Raises UserError with the path and the reason."""
    try:
        return [line.strip() for line in read_bytes(path).decode("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a UTF-8 text file; check the path") from None
