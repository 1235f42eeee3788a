"""Unpack untrusted tar, tgz and zip files: completely, inside one folder and to a bounded size, or not at all."""

import contextlib
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib

from mindfcn.errors import UserError

SUFFIXES = (".tar", ".tgz", ".tar.gz", ".zip")
MAX_EXPANSION = 20  # an archive that unpacks to more than this many times its size is refused ...
SMALL = 64 << 20  # ... unless it unpacks to at most this many bytes
CHUNK = 1 << 18
# Exceptions of tarfile and zipfile for contents that they cannot read.
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, KeyError, NotImplementedError, RuntimeError,
           ValueError)


def unpack(archive, folder, contains=None):
    """Unpack a tar, tgz or zip file into `folder`, merging with what is there; return `folder`.

    Nothing is moved into `folder` before the complete archive has been read. Archives are refused if a member has an
    absolute path or '..' in it, links to such a path or is a device, or if they unpack to more than MAX_EXPANSION times
    their size.

    Args:
        archive: the file; its first bytes give its format
        folder: created where it is missing
        contains: relative path that must be in the archive

    Raises:
        UserError: the archive cannot be read, is truncated, damaged, unsafe or lacks `contains`, or the disk is full.
    """
    new = not os.path.isdir(folder)
    try:
        with writing_to(folder), _temporary_folder(folder) as temporary:
            _extract(os.fspath(archive), temporary)
            if contains and not os.path.exists(os.path.join(temporary, *contains.split("/"))):
                raise DamagedArchive(f"{archive} does not hold {contains}; fetch it again from its publisher")
            _merge(temporary, os.fspath(folder))
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        raise
    return os.fspath(folder)


class DamagedArchive(UserError):
    """The archive is damaged or unsafe and has to be fetched again; trying again does not help."""


@contextlib.contextmanager
def writing_to(folder):
    """Turn an OSError into a UserError that names the file, or `folder` where it has none."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise UserError(f"cannot write {where}: {error.strerror or error}; free some space or choose another "
                        "folder") from None


@contextlib.contextmanager
def _temporary_folder(folder):
    """A folder inside `folder`, on the same file system, so that files can be moved by renaming."""
    os.makedirs(folder, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".partial-", dir=folder)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _merge(source, target):
    """Move the contents of a folder into another; existing files are replaced."""
    for entry in os.scandir(source):
        place = os.path.join(target, entry.name)
        if entry.is_dir(follow_symlinks=False) and os.path.isdir(place):
            _merge(entry.path, place)
        else:
            os.replace(entry.path, place)


def _extract(archive, folder):
    start = _first_bytes(archive)
    try:
        if start == b"PK":
            _extract_zip(archive, folder)
        else:
            _extract_tar(archive, folder, "r:gz" if start == b"\x1f\x8b" else "r:")
    except _BROKEN as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DamagedArchive(f"{archive} is not a complete tar, tgz or zip file ({reason}); fetch it again") from None
    except OSError as error:
        if error.errno is None:  # raised by gzip for damaged contents
            raise DamagedArchive(f"{archive} is damaged ({error}); fetch it again") from None
        raise


def _first_bytes(archive):
    try:
        with open(archive, "rb") as file:
            return file.read(2)
    except OSError as error:
        raise UserError(f"cannot read {archive}: {error.strerror}; check the path") from None


class _StrictHeader(tarfile.TarInfo):
    """A tar header that raises if it is broken; tarfile would read a broken header as the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_):
        try:
            return super().fromtarfile(tarfile_)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(str(error)) from None


def _extract_tar(archive, folder, mode):
    allowance = _Allowance(archive, folder)
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(archive, mode, tarinfo=_StrictHeader) as tar:
        for member in tar:
            _check_member(archive, member)
            allowance.add(member.size if member.isfile() else 0)
            tar.extract(member, folder, set_attrs=False, **safe)
        # A compressed archive ends with a checksum, which is compared when the last byte is read.
        while tar.fileobj.read(CHUNK):
            pass


def _check_member(archive, member):
    if not (member.isfile() or member.isdir() or member.islnk() or member.issym()):
        raise DamagedArchive(f"{archive} holds {member.name!r}, which is not a file or folder; do not use this archive")
    _check_path(archive, member.name)
    if member.islnk() or member.issym():
        _check_path(archive, member.linkname)


def _check_path(archive, path):
    # Without ".." and absolute paths in names and links, nothing is written outside the folder.
    parts = path.replace("\\", "/").split("/")
    if not parts[0] or ".." in parts or os.path.splitdrive(path)[0]:
        raise DamagedArchive(f"{archive} holds the path {path!r}, which may lead out of its folder; do not use this "
                             "archive")


def _extract_zip(archive, folder):
    allowance = _Allowance(archive, folder)
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            _check_path(archive, member.filename)
            allowance.add(member.file_size)
            # zipfile writes a link as a plain file that holds its target, so links need no check.
            bundle.extract(member, folder)


class _Allowance:
    """Counts the bytes that an archive unpacks to, and raises if they exceed its limit or the free disk space."""

    def __init__(self, archive, folder):
        self.archive = archive
        self.free = shutil.disk_usage(folder).free
        self.limit = max(MAX_EXPANSION * os.path.getsize(archive), SMALL)
        self.used = 0

    def add(self, size):
        self.used += size
        if self.used > self.limit:
            raise DamagedArchive(f"{self.archive} unpacks to more than {self.limit / 1e6:.0f} MB, out of proportion to "
                                 "its size; do not use this archive")
        if self.used > self.free:
            raise UserError(f"{self.archive} unpacks to more than the {self.free / 1e9:.1f} GB that are free; "
                            "free some space")
