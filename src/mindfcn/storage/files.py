"""Write files so that only complete ones have their final name, by one process at a time; read text and YAML."""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable

import yaml

from mindfcn.errors import UserError

# Prefix of the folders and files that hold incomplete output.
PARTIAL = ".partial-"
# Errors of file systems without locks; there, two processes are not kept apart.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL)

# Errors of failing disks and mounts.
FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.ENODEV, errno.ENXIO, errno.ESTALE)
# {folder of a lock file that this process holds: (its description, function: whether the lock file still exists)}
_HELD: dict[str, tuple[str, Callable[[], bool]]] = {}


@contextlib.contextmanager
def atomic_path(path):
    """Yield a path of the same name in a folder of its own; rename it to `path` on success, remove it on failure.

    The folder is `.partial-NAME` next to `path`. Leftovers of a killed process in it are removed; if another process
    is writing there, the call waits for it. After the block the file and its name are synchronised to the disk.

    Raises:
        UserError: the file cannot be written, or a folder above it that this process holds no longer exists.
    """
    path = os.fspath(path)
    _still_there(path)
    folder, name = os.path.split(path)
    with _writing(path), _held_folder(os.path.join(folder, PARTIAL + name), wait=True) as partial:
        try:
            empty_folder(partial)
            temporary = os.path.join(partial, name)
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
            sync_folder(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def partial_folder(path, finished=None):
    """Yield the folder `.partial-NAME` next to `path`, held by one process at a time and removed at the end.

    Leftovers of a killed run stay in it for the caller to use or remove. It is kept only if it contains a file named
    `finished`.

    Raises:
        UserError: another process holds it, or it cannot be created or written.
    """
    parent, name = os.path.split(os.path.abspath(path))
    try:
        with _writing(path), _held_folder(os.path.join(parent, PARTIAL + name), wait=False) as folder:
            try:
                yield folder
            finally:
                if finished is None or not os.path.exists(os.path.join(folder, finished)):
                    shutil.rmtree(folder, ignore_errors=True)
    except _Held:
        raise UserError(f"another run is writing {path}; wait for it to end") from None


@contextlib.contextmanager
def held(path, what, wait=False):
    """Hold the lock file `path`, which names its owner, while the block runs. The lock ends with the process.

    Once its folder has been unmounted, moved or deleted, `atomic_path` and `append_text` write nothing below it.

    Args:
        path: the lock file; it is removed at the end.
        what: the resource that one process at a time may use, for the message.
        wait: wait for the other process instead of raising.

    Raises:
        UserError: another process, which the message names, holds it, or the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            with _writing(path):
                os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
                handle = stack.enter_context(_locked(path, os.O_RDWR | os.O_CREAT, wait))
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()} "
                                 f"since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        except _Held:
            owner = ""
            with contextlib.suppress(UserError):
                owner = read_bytes(path).decode("utf-8", "replace").strip()
            raise UserError(f"{what} is in use by {owner or 'another process'}; wait for it to end, or choose another "
                            "folder") from None
        folder = os.path.dirname(os.path.abspath(path))
        _HELD[folder] = what, lambda: _is(path, handle)
        try:
            yield
        finally:
            del _HELD[folder]
            if _is(path, handle):
                with contextlib.suppress(OSError):
                    os.remove(path)


def remove_leftovers(folder):
    """Remove leftovers of killed processes below a folder, but not output being written; return the removed paths."""
    found = []
    for parent, folders, files in os.walk(folder):
        for name in [name for name in folders if name.startswith(PARTIAL)]:
            folders.remove(name)
            with contextlib.suppress(_Held, OSError), _held_folder(os.path.join(parent, name), wait=False) as partial:
                shutil.rmtree(partial)
                found.append(partial)
        # Older releases wrote incomplete files without a folder.
        for path in (os.path.join(parent, name) for name in files if name.startswith(PARTIAL)):
            os.remove(path)
            found.append(path)
    return found


def _still_there(path):
    """Raise UserError if a held folder above `path` no longer exists: a new folder of that name would be written."""
    for folder, (what, there) in list(_HELD.items()):
        if os.path.abspath(path).startswith(folder + os.sep) and not there():
            raise UserError(f"{what} was unmounted, moved or deleted while it was in use; bring it back and give the "
                            "same command again, train with --resume")


class _Held(Exception):
    """Another process holds the lock."""


@contextlib.contextmanager
def _writing(path):
    """Turn an OSError into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(cannot_use(path, error, "write")) from None


def cannot_use(path, error, action="read or write"):
    """One line for an OSError: the file, the reason and the remedy."""
    cure = {errno.ENOSPC: "free some space or choose another folder",
            errno.EDQUOT: "free some of your quota or choose another folder",
            errno.ENAMETOOLONG: "choose a shorter name",
            errno.EIO: "check the disk"}.get(error.errno, "choose a folder that can be written")
    return f"cannot {action} {os.fspath(path)}: {error.strerror or error}; {cure}"


@contextlib.contextmanager
def _held_folder(folder, wait):
    """Yield a folder, created if missing, while this process holds its lock. Raises _Held as `_locked`."""
    os.makedirs(os.path.dirname(folder) or ".", exist_ok=True)

    def make():
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)

    with _locked(folder, os.O_RDONLY, wait, make):
        yield folder


@contextlib.contextmanager
def _locked(path, flags, wait, make=None):
    """Yield the handle of a locked file or folder. Raises _Held if another process holds it and `wait` is False."""
    while True:
        if make:
            make()
        try:
            handle = os.open(path, flags, 0o666)
        except FileNotFoundError:
            # The previous owner has just removed it.
            if make and os.path.isdir(os.path.dirname(path) or "."):
                continue
            raise
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                raise _Held from None
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
            # The previous owner may have removed it after it was opened here and before it was locked.
            if not _is(path, handle):
                continue
            yield handle
            return
        finally:
            os.close(handle)


def _is(path, handle):
    """Whether `path` is still the opened file or folder."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except OSError:
        return False


def empty_folder(folder):
    """Remove the contents of a folder, but not the folder itself."""
    for entry in list(os.scandir(folder)):
        shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.remove(entry.path)


def sync_folder(folder):
    """Synchronise the names in a folder to the disk, where its file system supports that."""
    handle = os.open(folder or ".", os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def append_text(path, text):
    """Append to a UTF-8 text file, or leave it unchanged if the text does not fit.

    Raises:
        UserError: the file cannot be written, or a folder above it that this process holds no longer exists.
    """
    _still_there(path)
    with _writing(path), open(path, "ab", buffering=0) as file:
        size, content = file.tell(), text.encode("utf-8")
        try:
            if file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                os.truncate(path, size)
            raise


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_bytes(path):
    """The contents of a file. Raises UserError with the path and the reason if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from None


def read_lines(path):
    """The non-empty lines of a UTF-8 text file, stripped, without Windows line ends and byte order mark.

    Raises:
        UserError: the file cannot be read or is not UTF-8; the message has the path and the reason.
    """
    try:
        return [line.strip() for line in read_bytes(path).decode("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a UTF-8 text file; check the path") from None


def write_text(path, text):
    """Write a UTF-8 text file, which gets its name only when it is complete."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


class _PlainYaml(yaml.SafeLoader):
    """A YAML loader of plain values: no Python objects, and no aliases, a few of which can expand to gigabytes."""

    def compose_node(self, parent, index):
        """Raise ComposerError at an alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"the alias *{event.anchor} is not read: write the value out",
                                              event.start_mark)
        return super().compose_node(parent, index)


def read_yaml(path):
    """The values in a YAML or JSON file. Raises UserError with the path, the line and the reason."""
    try:
        return yaml.load(read_bytes(path).decode("utf-8"), _PlainYaml)
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a UTF-8 text file; check the path") from None
    except RecursionError:
        raise UserError(f"{path} is not YAML: its values are nested too deeply") from None
    # Impossible dates, numbers with thousands of digits.
    except ValueError as error:
        raise UserError(f"{path} is not YAML: {str(error).splitlines()[0]}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = str(getattr(error, "problem", None) or "it cannot be read")
        raise UserError(f"{path}{line} is not YAML: {' '.join(reason.split())}") from None
