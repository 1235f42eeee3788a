"""Write files so that only complete ones have their final name, by one process at a time; read text and YAML."""

import contextlib
import errno
import os
import re
import shutil
import socket
import time
from collections.abc import Callable

import portalocker
import yaml

from mindfcn.errors import UserError

# Numbers of base 8 or 60, which YAML 1.1 reads from digits that look like others: 010 is 8, and 1:30 is 90.
UNUSUAL_NUMBER = re.compile(r"[-+]?(0[0-7_]+|[0-9_]+(:[0-5]?[0-9])+(\.[0-9_]*)?)")
# YAML's tags of numbers.
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# Prefix of the folders and files that hold incomplete output.
PARTIAL = ".partial-"
# The lock file in such a folder.
LOCK = ".lock"
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
    _check_held_folders(path)
    folder, name = os.path.split(path)
    with _writing(path), _held_folder(os.path.join(folder, PARTIAL + name), wait=True) as partial:
        try:
            empty_folder(partial)
            temporary = os.path.join(partial, name)
            yield temporary
            with open(temporary, "rb+") as written:
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
                file = stack.enter_context(_locked(path, wait))
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()} "
                           f"since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
        except _Held:
            owner = ""
            with contextlib.suppress(UserError):
                owner = read_bytes(path).decode("utf-8", "replace").strip()
            raise UserError(f"{what} is in use by {owner or 'another process'}; wait for it to end, or choose another "
                            "folder") from None
        folder = os.path.dirname(os.path.abspath(path))
        _HELD[folder] = what, lambda: _is(path, file)
        try:
            yield
        finally:
            del _HELD[folder]
            if _is(path, file):
                with contextlib.suppress(OSError):
                    os.remove(path)


def remove_leftovers(folder, below=()):
    """Remove what killed processes left of `atomic_path` in a folder and in the folders `below` in it.

    Only a folder `.partial-NAME` that holds a lock file, and at most files of that name besides, was made here; all
    other files stay, and so does output being written.

    Returns:
        list of the removed paths.
    """
    found = []
    for parent in (os.fspath(folder), *(os.path.join(folder, name) for name in below)):
        names = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
        for path in (os.path.join(parent, name) for name in names if name.startswith(PARTIAL)):
            if not _is_leftover(path):
                continue
            with contextlib.suppress(_Held, OSError), _held_folder(path, wait=False):
                shutil.rmtree(path)
                found.append(path)
    return found


def _is_leftover(path):
    """Whether a path is a folder as `atomic_path` makes it."""
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    entries, name = os.listdir(path), os.path.basename(path)[len(PARTIAL):]
    return LOCK in entries and all(entry == LOCK or entry.startswith(name) for entry in entries)


def _check_held_folders(path):
    """Raise UserError if a held folder above `path` no longer exists: a new folder of that name would be written."""
    for folder, (what, exists) in list(_HELD.items()):
        if os.path.abspath(path).startswith(folder + os.sep) and not exists():
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
    remedy = {errno.ENOSPC: "free some space or choose another folder",
              errno.EDQUOT: "free some of your quota or choose another folder",
              errno.ENAMETOOLONG: "choose a shorter name",
              errno.EIO: "check the disk"}.get(error.errno, "choose a folder that can be written")
    return f"cannot {action} {os.fspath(path)}: {error.strerror or error}; {remedy}"


@contextlib.contextmanager
def _held_folder(folder, wait):
    """Yield a folder, created if missing, while this process holds its lock. Raises _Held as `_locked`."""
    os.makedirs(os.path.dirname(folder) or ".", exist_ok=True)
    with _locked(os.path.join(folder, LOCK), wait, folder):
        yield folder
    # Windows does not delete an open file.
    if os.name == "nt" and os.listdir(folder) == [LOCK]:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(path, wait, folder=None):
    """Yield the open, locked file `path`, in `folder` if that is to be created.

    Raises:
        _Held: another process holds the lock and `wait` is False.
    """
    flags = portalocker.LOCK_EX if wait else portalocker.LOCK_EX | portalocker.LOCK_NB
    while True:
        try:
            if folder:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(folder)
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "rb+", buffering=0)
        except FileNotFoundError:
            # The previous owner has just removed the folder.
            if folder and os.path.isdir(os.path.dirname(folder) or "."):
                continue
            raise
        with file:
            try:
                portalocker.lock(file, flags)
            except portalocker.AlreadyLocked:
                # Windows stops waiting after some seconds.
                if wait:
                    continue
                raise _Held from None
            except portalocker.LockException as error:
                cause = error.args[0]
                if not isinstance(cause, OSError) or cause.errno not in NO_LOCKS:
                    raise cause if isinstance(cause, OSError) else error from None
            # The previous owner may have removed it after it was opened here and before it was locked.
            if _is(path, file):
                yield file
                return


def _is(path, file):
    """Whether `path` is still the open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False


def empty_folder(folder):
    """Remove the contents of a folder, but neither the folder itself nor its lock file."""
    for entry in [entry for entry in os.scandir(folder) if entry.name != LOCK]:
        shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.remove(entry.path)


def sync_folder(folder):
    """Synchronise the names in a folder to the disk, where the system supports that."""
    if os.name == "nt":
        return
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
    _check_held_folders(path)
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


def size_and_times(path):
    """[bytes, modification time, change time] of a file, times in nanoseconds; None if there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


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


def refuse_overwriting(out, *inputs):
    """Raise UserError if a file to write is one of the input files, also through another path or link."""
    for path in inputs:
        if os.path.exists(out) and os.path.exists(path) and os.path.samefile(out, path):
            raise UserError(f"--out_file {out} would overwrite {path}, which is read; choose another name")


def write_text(path, text):
    """Write a UTF-8 text file, which gets its name only when it is complete."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(text)


class _PlainYaml(yaml.SafeLoader):
    """A YAML loader of plain values: no Python objects, and no aliases, a few of which can expand to gigabytes.

    A key that appears twice is refused, and numbers of base 8 or 60 stay texts.
    """

    def compose_scalar_node(self, anchor):
        """A node whose type is text where the value is a number of base 8 or 60."""
        node = super().compose_scalar_node(anchor)
        if node.tag in NUMBERS and UNUSUAL_NUMBER.fullmatch(node.value):
            node.tag = "tag:yaml.org,2002:str"
        return node

    def compose_mapping_node(self, anchor):
        """Raise ComposerError at a key that the mapping has already."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            name = (key.tag, str(key.value))
            if name in seen:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value} appears twice; keep one",
                                                  key.start_mark)
            seen.add(name)
        return node

    def compose_node(self, parent, index):
        """Raise ComposerError at an alias."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, f"the alias *{event.anchor} is not read: write the value out",
                                              event.start_mark)
        return super().compose_node(parent, index)


class _TextYaml(_PlainYaml):
    """The same with every value as the text that is written: yes, 010 and 1:30 stay as they are."""
    yaml_implicit_resolvers: dict = {}


def read_yaml(path, text=False):
    """The values in a YAML or JSON file, or their texts. Raises UserError with the path, the line and the reason."""
    try:
        return yaml.load(read_bytes(path).decode("utf-8"), _TextYaml if text else _PlainYaml)
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
