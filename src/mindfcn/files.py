"""Files appear under their final name only when they are complete."""

import contextlib
import fcntl
import os
import shutil
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


@contextlib.contextmanager
def partial_folder(path, finished=None):
    """Yield the folder `.partial-NAME` beside `path`, held by one process at a time and removed in the end.

    What a killed run left in it is still there: the caller judges it. After an error it is kept only where it holds
    a file named `finished`.

    Raises:
        UserError: another process holds it, or it cannot be made or filled.
    """
    parent, name = os.path.split(os.path.abspath(path))
    folder = os.path.join(parent, f".partial-{name}")
    handle = None
    try:
        os.makedirs(folder, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield folder
        finally:
            if finished is None or not os.path.exists(os.path.join(folder, finished)):
                shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        raise UserError(f"another run is writing {path}; wait for it to end") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; "
                        "free some space or choose another folder") from None
    finally:
        if handle is not None:
            os.close(handle)


def empty_folder(folder):
    """Remove everything in a folder, but not the folder."""
    for entry in list(os.scandir(folder)):
        shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.remove(entry.path)


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


def write_text(path, text):
    """Write a text file; it appears when it is complete."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
