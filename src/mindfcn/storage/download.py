"""Download datasets and checkpoints: interrupted downloads continue, and files are verified before they are unpacked.

    download("voc2012", "data")     ->  data/VOCdevkit/VOC2012
    download("FCN8s.ckpt", "ckpt")  ->  ckpt/FCN8s.ckpt

Until a file is verified and unpacked it is kept in FOLDER/.downloads, where the next call continues it.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import time
import urllib.parse
from typing import Optional

from mindfcn.errors import UserError
from mindfcn.storage.archives import SUFFIXES, DamagedArchive, unpack, writing_to
from mindfcn.storage.files import held

LOG = logging.getLogger(__name__)
CHUNK = 1 << 18
TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte


@dataclasses.dataclass(frozen=True)
class Source:
    """One file to download.

    Args:
        name: the name that `download` takes
        urls: the same file on several hosts, in the order in which they are tried
        size: bytes; None where it is not published, and the server's Content-Length is used
        checksum: "md5:..." or "sha256:...", of which the first digits are enough; None where it is not published
        unpacks_to: path, relative to the folder, that exists afterwards
    """
    name: str
    urls: tuple[str, ...]
    size: Optional[int]
    checksum: Optional[str]
    unpacks_to: str

    @property
    def file_name(self):
        """The last part of the first URL's path."""
        return os.path.basename(urllib.parse.urlsplit(self.urls[0]).path)

    @property
    def is_archive(self):
        """Whether it is unpacked; a single file is moved into the folder as it is."""
        return self.file_name.endswith(SUFFIXES)


_COURSE = "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/"

SOURCES = {source.name: source for source in (
    Source(
        "voc2012",
        # thor is the permanent address; host redirects to it (github.com/pytorch/vision/pull/9216)
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
    # The course publishes no checksums: only the size from the server and the archive's integrity are checked.
    Source("course", (_COURSE + "dataset_fcn8s.tar",), None, None, "dataset_fcn8s/mindname.mindrecord"),
    Source("fcn8s_vgg16_pretrain.ckpt", (_COURSE + "fcn8s_vgg16_pretrain.ckpt",), None, None,
           "fcn8s_vgg16_pretrain.ckpt"),
    Source("FCN8s.ckpt", (_COURSE + "FCN8s.ckpt",), None, None, "FCN8s.ckpt"),
)}


def download(name, folder, progress=None, sources=SOURCES, attempts=4, pause=1.0):
    """Download `name` into `folder` and return the path of the unpacked result, without a request if it exists.

    Args:
        name: a key of `sources`
        folder: where to unpack; partial downloads are kept in its subfolder .downloads
        progress: tqdm, or any callable progress(total=, desc=, unit=, unit_scale=, initial=) that returns an
            object with update(n) and close()
        sources: name -> Source
        attempts: failures in a row, without a new byte, after which the next host is tried
        pause: seconds before the second attempt, doubled for each further one

    Raises:
        UserError: the name is unknown, every host failed, the disk is full, the folder cannot be written, another
            process downloads the same file, or the archive is damaged.
    """
    if name not in sources:
        raise UserError(f"there is no download named {name!r}; choose one of: {', '.join(sources)}")
    source = sources[name]
    target = os.path.join(os.fspath(folder), *source.unpacks_to.split("/"))
    if os.path.exists(target):
        return target
    with writing_to(folder), _workspace(folder, source) as part:
        if not os.path.exists(target):
            _fetch(source, part, target, progress, attempts, pause)
            _install(source, part, folder, target)
    return target


class _HostFailed(Exception):
    """This host cannot deliver the file; the next one is tried."""


class _Retry(Exception):
    """This request failed and is sent again."""


# -- the partial file ----------------------------------------------------------------------------------------------

class _Part:
    """A partial download, and a note of its origin, so that only the same file is continued."""

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
        """Write down where the following bytes come from: {"url", "validator", "total"}."""
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
    """Yield the partial file of a source in FOLDER/.downloads, locked; the folder is removed once it is empty."""
    workspace = os.path.join(folder, ".downloads")
    os.makedirs(workspace, exist_ok=True)
    path = os.path.join(workspace, source.file_name)
    try:
        with held(path + ".lock", f"{source.name} in {folder}"):
            yield _Part(path + ".part")
    finally:
        with contextlib.suppress(OSError):
            os.rmdir(workspace)


# -- download into the partial file --------------------------------------------------------------------------------

def _fetch(source, part, target, progress, attempts, pause):
    """Download the complete, verified file into `part` from the first host that delivers it."""
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
    # Bytes of an earlier call or another host may be wrong: if the checksum differs, start once more without them.
    for _ in range(2 if part.size() else 1):
        _fetch_from(url, source, part, progress, attempts, pause)
        found = checksum_of(part.path, source.checksum) if source.checksum else None
        if found is None or fits(found, source.checksum):
            return
        part.remove()
    raise _HostFailed(f"{url}: the file's checksum is {found}, expected {source.checksum}; it was removed")


def _fetch_from(url, source, part, progress, attempts, pause):
    furthest, failed = part.size(), 0
    while not _complete(url, source, part):
        try:
            _request(url, source, part, progress)
        except _Retry as failure:
            # A connection that delivers new bytes is never given up.
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
    """Send one request, for the rest of the partial file where the server still has the same file."""
    # Imported here, because the catalogue of weights is read where nothing is downloaded.
    import requests
    if source.size is not None and part.size() > source.size:
        part.remove()
    headers = {"Accept-Encoding": "identity", "User-Agent": "mindfcn", **_range(url, source, part)}
    try:
        response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _Retry(_reason(error)) from None
    except (requests.RequestException, UnicodeError) as error:
        raise _HostFailed(f"{url}: {_reason(error)}") from None
    with response:
        total = _accept(response, url, source, part)
        bar = progress and progress(total=total, desc=source.name, unit="B", unit_scale=True, initial=part.size())
        _append(response, url, part, total, bar)


def _range(url, source, part):
    """Headers that request the rest; empty where the partial file may belong to another version."""
    same = part.note.get("url") == url and part.note.get("validator")
    if not part.size() or not (same or source.checksum):
        return {}
    headers = {"Range": f"bytes={part.size()}-"}
    return {**headers, "If-Range": part.note["validator"]} if same else headers


def _accept(response, url, source, part):
    """Check the response, prepare `part` for its body and return the size of the complete file in bytes."""
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
        LOG.info("%s: no checksum is published; the file is checked by the size that the server announces", source.name)
    return total


def _check_status(response, url, part):
    status = response.status_code
    if status == 416:
        part.remove()
        raise _Retry("the file has become shorter")
    if status in (408, 425, 429) or status >= 500:
        raise _Retry(f"the server answers {status} {response.reason}")
    if status not in (200, 206):
        raise _HostFailed(f"{url}: the server answers {status} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _HostFailed(f"{url}: the server sends a web page instead of the file")


def _continued(response, url, source, part):
    """The size of the complete file, for a partial response. Removes `part` where the response is of another file."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    known = (None, part.note.get("validator"))
    changed = part.note.get("url") == url and _validator(response) not in known
    if not match or int(match[1]) != part.size() or changed:
        part.remove()
        raise _Retry("the file has changed since the download began")
    total = int(match[2])
    _check_total(total, url, source)
    _check_space(source, part, total)
    return total


def _validator(response):
    """The strong ETag or the modification date, which identify a version of the file; None without both."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _check_total(total, url, source):
    if total is None:
        raise _HostFailed(f"{url}: the server does not announce the size of the file")
    if source.size is not None and total != source.size:
        raise _HostFailed(f"{url}: the file has {total} bytes, expected {source.size}")


def _check_space(source, part, total):
    # An archive is kept until it is unpacked, to at least its own size.
    needed = total - part.size() + (total if source.is_archive else 0)
    free = shutil.disk_usage(os.path.dirname(part.path)).free
    if needed > free:
        raise UserError(f"{source.name} needs {needed / 1e9:.1f} GB, but {os.path.dirname(part.path)} has only "
                        f"{free / 1e9:.1f} GB free; free some space or choose another folder")


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
        raise _Retry(f"the connection was cut after {size} of {total} bytes")


def _chunks(response):
    """Yield the raw body in chunks: a .tgz that the server declares as gzip encoded is not decoded."""
    import urllib3
    while True:
        try:
            chunk = response.raw.read(CHUNK, decode_content=False)
        except urllib3.exceptions.ProtocolError:
            return  # cut off; the caller counts the bytes
        except urllib3.exceptions.HTTPError as error:
            raise _Retry(_reason(error)) from None
        if not chunk:
            return
        yield chunk


def _reason(error):
    """The cause of a network error on one line, without the exceptions that wrap it."""
    import urllib3
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    error = getattr(error, "reason", None) or error
    text = error.args[0] if isinstance(error, urllib3.exceptions.ProtocolError) else error
    return " ".join(re.sub(r"^<[^>]*>: |^\w+\([^)]*\): ", "", str(text)).split()).rstrip(".") or type(error).__name__


def checksum_of(path, like):
    """The file's "algorithm:digest", of the algorithm of the checksum `like`."""
    algorithm = like.partition(":")[0]
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return f"{algorithm}:{digest.hexdigest()}"


def fits(found, expected):
    """Whether a complete checksum is the expected one, of which only the first digits may be known."""
    return found.startswith(expected)


# -- unpack or move the complete file ------------------------------------------------------------------------------

def _install(source, part, folder, target):
    if not source.is_archive:
        os.replace(part.path, target)
    else:
        try:
            unpack(part.path, folder, source.unpacks_to)
        except DamagedArchive:
            part.remove()
            raise
    part.remove()

