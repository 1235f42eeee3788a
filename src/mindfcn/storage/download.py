"""Fetch datasets and checkpoints: resumed when cut, verified before they are unpacked, complete or not there.

    download("voc2012", "data")     ->  data/VOCdevkit/VOC2012
    download("FCN8s.ckpt", "ckpt")  ->  ckpt/FCN8s.ckpt

Until an archive is verified and unpacked it lives in FOLDER/.downloads, and the next call goes on from there.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import tarfile
import tempfile
import time
import urllib.parse
import zipfile
import zlib
from typing import Optional

import requests
import urllib3

from mindfcn.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: two downloads of one thing at once are not told apart
    fcntl = None  # type: ignore[assignment]

LOG = logging.getLogger(__name__)
CHUNK = 1 << 18
TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
EXPANSION = 20  # an archive that grows more than this is a bomb ...
SMALL = 64 << 20  # ... unless what it holds is this small, in bytes
ARCHIVES = (".tar", ".tgz", ".tar.gz", ".zip")
# what tarfile and zipfile raise on contents they cannot read
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, KeyError, NotImplementedError, RuntimeError,
           ValueError)


@dataclasses.dataclass(frozen=True)
class Source:
    """One thing to fetch.

    Args:
        name: what `download` is asked for
        urls: the same file at several hosts, in the order they are tried
        size: bytes, None where nobody publishes it (the server's Content-Length is then taken)
        checksum: "md5:..." or "sha256:...", None where nobody publishes one
        unpacks_to: path, relative to the folder, that exists afterwards
    """
    name: str
    urls: tuple[str, ...]
    size: Optional[int]
    checksum: Optional[str]
    unpacks_to: str

    @property
    def file_name(self):
        """Last part of the first URL."""
        return os.path.basename(urllib.parse.urlsplit(self.urls[0]).path)

    @property
    def is_archive(self):
        """Whether it is unpacked; a single file is moved into the folder as it is."""
        return self.file_name.endswith(ARCHIVES)


_COURSE = "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/"

SOURCES = {source.name: source for source in (
    Source(
        "voc2012",
        # thor is the long-term address, host redirects to it (github.com/pytorch/vision/pull/9216)
        ("https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
         "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
         "https://d2l-data.s3-accelerate.amazonaws.com/VOCtrainval_11-May-2012.tar",
         "https://dataset.bj.bcebos.com/voc/VOCtrainval_11-May-2012.tar"),
        1_999_639_040,
        "md5:6cd6e144f989b92b3379bac3b3de84fd",  # torchvision/datasets/voc.py
        "VOCdevkit/VOC2012"),
    Source(
        "sbd",
        ("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",),
        1_419_539_633,
        "md5:82b4d87ceb2ed10f6038a1cba92111cb",  # torchvision/datasets/sbd.py
        "benchmark_RELEASE/dataset"),
    # The course publishes no checksums: the size is the server's, and the archive is read to its end.
    Source("course", (_COURSE + "dataset_fcn8s.tar",), None, None, "dataset_fcn8s/mindname.mindrecord"),
    Source("fcn8s_vgg16_pretrain.ckpt", (_COURSE + "fcn8s_vgg16_pretrain.ckpt",), None, None,
           "fcn8s_vgg16_pretrain.ckpt"),
    Source("FCN8s.ckpt", (_COURSE + "FCN8s.ckpt",), None, None, "FCN8s.ckpt"),
)}


def download(name, folder, progress=None, sources=SOURCES, attempts=4, pause=1.0):
    """Fetch `name` into `folder` and return the path of the unpacked thing; at once if it is already there.

    Args:
        name: a key of `sources`
        folder: where to unpack; partial downloads wait in its subfolder .downloads
        progress: tqdm, or anything called progress(total=, desc=, unit=, unit_scale=, initial=) that returns an
            object with update(n) and close()
        sources: name -> Source
        attempts: failures in a row, without one new byte, after which a host is given up
        pause: seconds before the second attempt, doubled for each further one

    Raises:
        UserError: the name is unknown, every host failed, the disk is full, the folder cannot be written, another
            process fetches the same thing, or the archive is damaged.
    """
    if name not in sources:
        raise UserError(f"nothing to download is called {name!r}; choose one of: {', '.join(sources)}")
    source = sources[name]
    target = os.path.join(os.fspath(folder), *source.unpacks_to.split("/"))
    if os.path.exists(target):
        return target
    with _writing(folder), _workspace(folder, source) as part:
        if not os.path.exists(target):
            _fetch(source, part, target, progress, attempts, pause)
            _install(source, part, folder, target)
    return target


def unpack(archive, folder, contains=None):
    """Unpack a tar, tgz or zip file into `folder`, merging with what is there; return `folder`.

    Nothing reaches `folder` before the whole archive was read. Members with an absolute path or '..', links to such
    paths, devices and archives that grow out of proportion are refused.

    Args:
        archive: the file; its kind is found out from its contents
        folder: made if absent
        contains: relative path that must be in the archive

    Raises:
        UserError: the archive cannot be read, is truncated, damaged, unsafe or lacks `contains`, or the disk is full.
    """
    new = not os.path.isdir(folder)
    try:
        with _writing(folder), _temporary_folder(folder) as temporary:
            _extract(os.fspath(archive), temporary)
            if contains and not os.path.exists(os.path.join(temporary, *contains.split("/"))):
                raise _Damaged(f"{archive} does not hold {contains}; fetch it again from its publisher")
            _merge(temporary, os.fspath(folder))
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        raise
    return os.fspath(folder)


class _Damaged(UserError):
    """An archive that no second look will make better."""

class _HostFailed(Exception):
    """This host cannot give the file; another may."""


class _TryAgain(Exception):
    """This request failed; the next one may not."""


@contextlib.contextmanager
def _writing(folder):
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise UserError(f"cannot write {where}: {error.strerror or error}; free some space or choose another "
                        "folder") from None


# -- the partial file ----------------------------------------------------------------------------------------------

class _Part:
    """A file on its way, and a note of where it comes from, so that only the same file is continued."""

    def __init__(self, path):
        self.path = path
        self.note_path = path + ".json"
        self.note = self._read_note()

    def _read_note(self):
        try:
            with open(self.note_path, encoding="utf-8") as file:
                note = json.load(file)
        except (OSError, ValueError):
            return {}
        return note if isinstance(note, dict) else {}

    def size(self):
        return os.path.getsize(self.path) if os.path.exists(self.path) else 0

    def begin(self, note):
        """Remember the origin of the bytes to come."""
        with open(self.note_path, "w", encoding="utf-8") as file:
            json.dump(note, file)
        self.note = note

    def remove(self):
        for path in (self.path, self.note_path):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        self.note = {}


@contextlib.contextmanager
def _workspace(folder, source):
    """FOLDER/.downloads, locked for one source; removed when nothing is left to continue."""
    workspace = os.path.join(folder, ".downloads")
    os.makedirs(workspace, exist_ok=True)
    path = os.path.join(workspace, source.file_name)
    try:
        with _lock(path + ".lock", source, folder):
            yield _Part(path + ".part")
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(workspace)


@contextlib.contextmanager
def _lock(path, source, folder):
    with open(path, "w", encoding="utf-8") as file:
        if not _locked(file):
            raise UserError(f"another process is downloading {source.name} into {folder}; wait until it has finished")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.remove(path)


def _locked(file):
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # the previous owner removes the name before it lets go: a lock on a nameless file guards nothing
        return os.path.samestat(os.fstat(file.fileno()), os.stat(file.name))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError:  # some network file systems have no locks
        return True


# -- from a host into the partial file -----------------------------------------------------------------------------

def _fetch(source, part, target, progress, attempts, pause):
    """Bring the whole verified file into `part`, from the first host that can give it."""
    failures = []
    for url in source.urls:
        try:
            return _fetch_verified(url, source, part, progress, attempts, pause)
        except _HostFailed as failure:
            LOG.warning("%s", failure)
            failures.append(str(failure))
    raise UserError(f"cannot download {source.name}: {'; '.join(failures)}; check the network and run again, "
                    f"or put {target} there by hand")


def _fetch_verified(url, source, part, progress, attempts, pause):
    # bytes left by an earlier call or another host may be the wrong ones: once more without them
    for _ in range(2 if part.size() else 1):
        _fetch_from(url, source, part, progress, attempts, pause)
        found = _checksum(source, part)
        if found == source.checksum:
            return
        part.remove()
    raise _HostFailed(f"{url}: the file's checksum is {found}, expected {source.checksum}; it was removed")


def _fetch_from(url, source, part, progress, attempts, pause):
    furthest, failed = part.size(), 0
    while not _complete(url, source, part):
        try:
            _request(url, source, part, progress)
        except _TryAgain as failure:
            # a slow line that advances is not given up
            failed = 1 if part.size() > furthest else failed + 1
            furthest = max(furthest, part.size())
            if failed >= attempts:
                raise _HostFailed(f"{url}: {failure}") from None
            LOG.warning("%s: %s; trying again", url, failure)
            time.sleep(pause * 2 ** (failed - 1))


def _complete(url, source, part):
    total = source.size
    if total is None and part.note.get("url") == url:
        total = part.note.get("total")
    return total is not None and part.size() == total


def _request(url, source, part, progress):
    """One request, from where the partial file ends if that is still the same file."""
    if source.size is not None and part.size() > source.size:
        part.remove()
    headers = {"Accept-Encoding": "identity", "User-Agent": "mindfcn", **_range(url, source, part)}
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _TryAgain(_reason(error)) from None
    except (requests.RequestException, UnicodeError) as error:
        raise _HostFailed(f"{url}: {_reason(error)}") from None
    with response:
        total = _accept(response, url, source, part)
        _append(response, url, part, total, _bar(progress, source, total, part.size()))


def _range(url, source, part):
    """Headers that ask for the rest; empty where the beginning may belong to another file."""
    same = part.note.get("url") == url and part.note.get("validator")
    if not part.size() or not (same or source.checksum):
        return {}
    headers = {"Range": f"bytes={part.size()}-"}
    return {**headers, "If-Range": part.note["validator"]} if same else headers


def _accept(response, url, source, part):
    """Judge the answer, make `part` ready for its body and return the size of the whole file."""
    _check_status(response, url, part)
    if response.status_code == 206:
        return _continued(response, url, source, part)
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else source.size
    _check_total(total, url, source)
    part.remove()
    _check_space(source, part, total)
    part.begin({"url": url, "validator": _validator(response), "total": total})
    if source.checksum is None:
        LOG.info("%s: no checksum is published; the file is checked by the size the server announces", source.name)
    return total


def _check_status(response, url, part):
    status = response.status_code
    if status == 416:
        part.remove()
        raise _TryAgain("the file has become shorter")
    if status in (408, 425, 429) or status >= 500:
        raise _TryAgain(f"the server answers {status} {response.reason}")
    if status not in (200, 206):
        raise _HostFailed(f"{url}: the server answers {status} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _HostFailed(f"{url}: the server sends a web page instead of the file")


def _continued(response, url, source, part):
    """Size of the whole file that this answer continues; starts anew where it continues another one."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    known = (None, part.note.get("validator"))
    changed = part.note.get("url") == url and _validator(response) not in known
    if not match or int(match[1]) != part.size() or changed:
        part.remove()
        raise _TryAgain("the file has changed since the download began")
    total = int(match[2])
    _check_total(total, url, source)
    _check_space(source, part, total)
    return total


def _validator(response):
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _check_total(total, url, source):
    if total is None:
        raise _HostFailed(f"{url}: the server does not say how long the file is")
    if source.size is not None and total != source.size:
        raise _HostFailed(f"{url}: the file has {total} bytes, expected {source.size}")


def _check_space(source, part, total):
    # an archive stays until it is unpacked, and unpacks to at least its own size
    needed = total - part.size() + (total if source.is_archive else 0)
    free = shutil.disk_usage(os.path.dirname(part.path)).free
    if needed > free:
        raise UserError(f"{source.name} needs {needed / 1e9:.1f} GB, but {os.path.dirname(part.path)} has only "
                        f"{free / 1e9:.1f} GB free; free some space or choose another folder")


def _bar(progress, source, total, initial):
    if progress is None:
        return None
    return progress(total=total, desc=source.name, unit="B", unit_scale=True, initial=initial)


def _append(response, url, part, total, bar):
    size = part.size()
    try:
        with open(part.path, "ab") as file:
            for chunk in _chunks(response):
                size += len(chunk)
                if size > total:
                    raise _HostFailed(f"{url}: the server sends more than the {total} bytes of the file")
                file.write(chunk)
                if bar is not None:
                    bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    except _HostFailed:
        part.remove()
        raise
    finally:
        if bar is not None:
            bar.close()
    if size < total:
        raise _TryAgain(f"the connection was cut after {size} of {total} bytes")


def _chunks(response):
    """The body as it travels: a server that calls a .tgz 'gzip encoded' must not have it decoded here."""
    while True:
        try:
            chunk = response.raw.read(CHUNK, decode_content=False)
        except urllib3.exceptions.ProtocolError:
            return  # cut: the caller counts the bytes
        except urllib3.exceptions.HTTPError as error:
            raise _TryAgain(_reason(error)) from None
        if not chunk:
            return
        yield chunk


def _reason(error):
    """What happened, on one line, without the layers that passed the error on."""
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    error = getattr(error, "reason", None) or error
    text = error.args[0] if isinstance(error, urllib3.exceptions.ProtocolError) else error
    return " ".join(re.sub(r"^<[^>]*>: |^\w+\([^)]*\): ", "", str(text)).split()).rstrip(".") or type(error).__name__


def _checksum(source, part):
    """"algorithm:digest" as in the source; None where the source has none."""
    if source.checksum is None:
        return None
    algorithm = source.checksum.partition(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(part.path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return f"{algorithm}:{digest.hexdigest()}"


# -- from the partial file to its place ----------------------------------------------------------------------------

def _install(source, part, folder, target):
    if not source.is_archive:
        os.replace(part.path, target)
    else:
        try:
            unpack(part.path, folder, source.unpacks_to)
        except _Damaged:
            part.remove()
            raise
    part.remove()


@contextlib.contextmanager
def _temporary_folder(folder):
    """A folder inside `folder`, because only there a move is sure to stay on one file system."""
    os.makedirs(folder, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=".partial-", dir=folder)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _merge(source, target):
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
        raise _Damaged(f"{archive} is not a complete tar, tgz or zip file ({_reason(error)}); fetch it again") from None
    except OSError as error:
        if error.errno is None:  # gzip's complaints about the contents
            raise _Damaged(f"{archive} is damaged ({error}); fetch it again") from None
        raise


def _first_bytes(archive):
    try:
        with open(archive, "rb") as file:
            return file.read(2)
    except OSError as error:
        raise UserError(f"cannot read {archive}: {error.strerror}; check the path") from None


class _StrictHeader(tarfile.TarInfo):
    """tarfile takes a broken header for the end of the archive; here it is an error."""

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
            allowance.take(member.size if member.isfile() else 0)
            tar.extract(member, folder, set_attrs=False, **safe)
        # a compressed archive keeps its own checksum behind the last byte
        while tar.fileobj.read(CHUNK):
            pass


def _check_member(archive, member):
    if not (member.isfile() or member.isdir() or member.islnk() or member.issym()):
        raise _Damaged(f"{archive} holds {member.name!r}, which is no file or folder; do not use this archive")
    _check_path(archive, member.name)
    if member.islnk() or member.issym():
        _check_path(archive, member.linkname)


def _check_path(archive, path):
    # where no path and no link goes up, nothing can leave the folder
    parts = path.replace("\\", "/").split("/")
    if not parts[0] or ".." in parts or os.path.splitdrive(path)[0]:
        raise _Damaged(f"{archive} holds the path {path!r}, which may lead out of its folder; do not use this archive")


def _extract_zip(archive, folder):
    allowance = _Allowance(archive, folder)
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            _check_path(archive, member.filename)
            allowance.take(member.file_size)
            # zipfile writes a link as a file that holds its target, so links cannot lead anywhere
            bundle.extract(member, folder)


class _Allowance:
    """How much an archive may still write."""

    def __init__(self, archive, folder):
        self.archive = archive
        self.free = shutil.disk_usage(folder).free
        self.limit = max(EXPANSION * os.path.getsize(archive), SMALL)
        self.taken = 0

    def take(self, size):
        self.taken += size
        if self.taken > self.limit:
            raise _Damaged(f"{self.archive} unpacks to more than {self.limit / 1e6:.0f} MB, out of proportion to its "
                           "size; do not use this archive")
        if self.taken > self.free:
            raise UserError(f"{self.archive} unpacks to more than the {self.free / 1e9:.1f} GB that are free; "
                            "free some space")
