"""Downloads from a local server that can cut connections, announce wrong sizes and fail, and unpacking."""

import hashlib
import io
import os
import re
import stat
import tarfile
import threading
import time
import zipfile

import pytest

from mindfcn.errors import UserError
from mindfcn.storage.archives import unpack
from mindfcn.storage.download import SOURCES, Source, download

PHOTO = bytes(range(256)) * 4000


@pytest.fixture
def server(file_server):
    return file_server


def tar_bytes(members, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for member in members:
            info, body = member if isinstance(member[0], tarfile.TarInfo) else (tarfile.TarInfo(member[0]), member[1])
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return buffer.getvalue()


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


VOC = tar_bytes([("VOCdevkit/VOC2012/a.jpg", PHOTO), ("VOCdevkit/VOC2012/b.png", b"mask")])


def md5(body):
    return "md5:" + hashlib.md5(body).hexdigest()


VOC_SIZE, VOC_MD5 = len(VOC), md5(VOC)


def table(*urls, size=VOC_SIZE, checksum=VOC_MD5, unpacks_to="VOCdevkit/VOC2012"):
    return {"voc": Source("voc", urls, size, checksum, unpacks_to)}


def fetch(folder, sources, **options):
    return download("voc", folder, sources=sources, **{"pause": 0.001, **options})


def error_of(function, *arguments, **options):
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def files_under(folder):
    return sorted(os.path.join(path, name) for path, _, names in os.walk(folder) for name in names)


def check_voc(folder, path):
    assert path == os.path.join(folder, "VOCdevkit", "VOC2012")
    with open(os.path.join(path, "a.jpg"), "rb") as file:
        assert file.read() == PHOTO
    assert os.listdir(folder) == ["VOCdevkit"]


# -- downloading --------------------------------------------------------------------------------------------------

def test_the_published_table_is_complete():
    for name, source in SOURCES.items():
        assert source.name == name and source.urls and not os.path.isabs(source.unpacks_to)
        assert source.checksum is None or re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", source.checksum)
        assert source.is_archive or source.unpacks_to == source.file_name


def test_fetches_verifies_and_unpacks(server, tmp_path):
    server.files["voc.tar"] = VOC
    check_voc(str(tmp_path), fetch(str(tmp_path), table(server.url("voc.tar"))))


def test_a_second_call_makes_no_request(server, tmp_path):
    server.files["voc.tar"] = VOC
    first = fetch(tmp_path, table(server.url("voc.tar")))
    assert fetch(tmp_path, table(server.url("voc.tar"))) == first
    assert len(server.requests) == 1


@pytest.mark.parametrize("checksum", [md5(VOC), None])
def test_continues_where_the_connection_was_cut(server, tmp_path, checksum):
    server.files["voc.tar"], server.cuts = VOC, [300_000, 300_000]
    size = len(VOC) if checksum else None
    check_voc(str(tmp_path), fetch(str(tmp_path), table(server.url("voc.tar"), size=size, checksum=checksum)))
    assert [request.get("Range") for request in server.requests] == [None, "bytes=300000-", "bytes=600000-"]
    assert server.sent == len(VOC)


def test_the_next_run_continues_too(server, tmp_path):
    server.files["voc.tar"], server.cuts = VOC, [300_000]
    text = error_of(fetch, tmp_path, table(server.url("voc.tar")), attempts=1)
    assert "cut after 300000 of" in text and not (tmp_path / "VOCdevkit").exists()
    check_voc(str(tmp_path), fetch(str(tmp_path), table(server.url("voc.tar"))))
    assert server.sent == len(VOC)


def test_a_connection_that_is_often_cut_but_delivers_new_bytes_is_not_given_up(server, tmp_path):
    server.files["voc.tar"], server.cuts = VOC, [100_000] * 10
    check_voc(str(tmp_path), fetch(str(tmp_path), table(server.url("voc.tar")), attempts=2))


def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.files["voc.tar"], server.cuts, server.ranges = VOC, [300_000], False
    check_voc(str(tmp_path), fetch(str(tmp_path), table(server.url("voc.tar"))))
    assert server.sent == len(VOC) + 300_000


def test_a_server_without_ranges_that_always_cuts_is_given_up(server, tmp_path):
    server.files["voc.tar"], server.cuts, server.ranges = VOC, [300_000] * 20, False
    assert "cut after 300000" in error_of(fetch, tmp_path, table(server.url("voc.tar")), attempts=3)
    assert len(server.requests) == 3


@pytest.mark.parametrize("length", [len(VOC), len(VOC) - 600_000])
def test_a_file_that_changed_is_fetched_from_its_beginning(server, tmp_path, length):
    sources = table(server.url("voc.tar"), size=None, checksum=None)
    server.files["voc.tar"], server.cuts = b"x" * length, [500_000]
    error_of(fetch, tmp_path, sources, attempts=1)
    server.files["voc.tar"], server.etag = VOC, '"two"'
    check_voc(str(tmp_path), fetch(str(tmp_path), sources))


def test_without_etag_and_checksum_a_file_is_not_continued(server, tmp_path):
    server.files["voc.tar"], server.cuts, server.etag = VOC, [300_000], None
    check_voc(str(tmp_path), fetch(str(tmp_path), table(server.url("voc.tar"), size=None, checksum=None)))
    assert [request.get("Range") for request in server.requests] == [None, None]


def test_a_file_that_became_shorter_than_the_partial_file(server, tmp_path):
    longer = table(server.url("voc.tar"), size=None)
    server.files["voc.tar"], server.cuts, server.etag = VOC * 2, [len(VOC) + 5], None
    error_of(fetch, tmp_path, longer, attempts=1)
    server.files["voc.tar"] = VOC
    check_voc(str(tmp_path), fetch(str(tmp_path), longer))
    assert len(server.requests) == 3


def test_wrong_bytes_of_an_earlier_run_are_replaced(server, tmp_path):
    part = tmp_path / ".downloads" / "voc.tar.part"
    part.parent.mkdir()
    part.write_bytes(bytes(len(VOC)))
    server.files["voc.tar"] = VOC
    check_voc(str(tmp_path), fetch(str(tmp_path), table(server.url("voc.tar"))))


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.files["voc.tar"], server.statuses = VOC, [503, 429]
    check_voc(str(tmp_path), fetch(str(tmp_path), table(server.url("voc.tar"))))


def test_wrong_checksum(server, tmp_path):
    server.files["voc.tar"] = VOC[:-1] + b"!"
    text = error_of(fetch, tmp_path, table(server.url("voc.tar")))
    for part in (md5(VOC), md5(server.files["voc.tar"]), server.url("voc.tar")):
        assert part in text
    assert files_under(tmp_path) == [] and len(server.requests) == 1


def test_wrong_size_is_noticed_before_the_body(server, tmp_path):
    server.files["voc.tar"] = VOC + b"more"
    text = error_of(fetch, tmp_path, table(server.url("voc.tar")))
    assert f"{len(VOC) + 4} bytes, expected {len(VOC)}" in text
    assert files_under(tmp_path) == []


def test_a_server_that_never_stops_is_stopped(server, tmp_path):
    server.files["voc.tar"], server.length = VOC + bytes(5_000_000), False
    assert "more than the" in error_of(fetch, tmp_path, table(server.url("voc.tar")))
    assert files_under(tmp_path) == []


def test_a_file_of_unknown_length_is_refused(server, tmp_path):
    server.files["voc.tar"], server.length = VOC, False
    text = error_of(fetch, tmp_path, table(server.url("voc.tar"), size=None, checksum=None))
    assert "does not announce the size" in text


def test_a_login_page_is_not_taken_for_the_file(server, tmp_path):
    server.files["net.ckpt"], server.type = b"<html>", "text/html; charset=utf-8"
    sources = table(server.url("net.ckpt"), size=None, checksum=None, unpacks_to="net.ckpt")
    assert "web page" in error_of(fetch, tmp_path, sources)
    assert files_under(tmp_path) == []


def test_a_disk_too_small_is_reported_before_anything_is_written(server, tmp_path):
    server.files["voc.tar"], server.length = VOC, 10 ** 17
    text = error_of(fetch, tmp_path, table(server.url("voc.tar"), size=None, checksum=None))
    assert "voc needs 200000000.0 GB" in text and "GB free" in text
    assert files_under(tmp_path) == []


def test_the_second_mirror_serves_when_the_first_is_dead(server, tmp_path):
    server.files["voc.tar"] = VOC
    sources = table("http://127.0.0.1:9/voc.tar", server.url("missing.tar"), server.url("voc.tar"))
    check_voc(str(tmp_path), fetch(str(tmp_path), sources))


def test_the_second_mirror_continues_the_first(server, tmp_path):
    server.files = {"a.tar": VOC, "b.tar": VOC}
    server.cuts = [300_000]
    check_voc(str(tmp_path), fetch(str(tmp_path), table(server.url("a.tar"), server.url("b.tar")), attempts=1))
    assert server.requests[1]["Range"] == "bytes=300000-" and "If-Range" not in server.requests[1]


def test_all_dead_names_every_mirror(server, tmp_path):
    dead, missing = "http://127.0.0.1:9/voc.tar", server.url("missing.tar")
    text = error_of(fetch, tmp_path, table(dead, missing), attempts=2)
    assert dead in text and f"{missing}: the server answers 404" in text and "Connection refused" in text
    assert "0x" not in text and files_under(tmp_path) == []


def test_unknown_name(tmp_path):
    assert "choose one of: voc2012, sbd" in error_of(download, "coco", tmp_path)


def test_a_folder_that_is_a_file(server, tmp_path):
    (tmp_path / "data").write_text("")
    assert "cannot write" in error_of(fetch, tmp_path / "data", table(server.url("voc.tar")))


def test_a_single_file(server, tmp_path):
    server.files["net.ckpt"] = PHOTO
    sources = table(server.url("net.ckpt"), size=None, checksum=None, unpacks_to="net.ckpt")
    path = fetch(tmp_path / "ckpt", sources)
    assert files_under(tmp_path) == [path] and os.path.getsize(path) == len(PHOTO)


def test_two_at_once(server, tmp_path):
    server.files["voc.tar"], server.gate = VOC, threading.Event()
    sources = table(server.url("voc.tar"))
    first = threading.Thread(target=fetch, args=(tmp_path, sources))
    first.start()
    while not server.requests:
        time.sleep(0.005)
    text = error_of(fetch, tmp_path, sources)
    server.gate.set()
    first.join()
    assert "is in use by process" in text
    check_voc(str(tmp_path), fetch(str(tmp_path), sources))


class Bar:
    def __init__(self, **options):
        self.options, self.done, self.closed = options, 0, False

    def update(self, count):
        self.done += count

    def close(self):
        self.closed = True


def test_progress(server, tmp_path):
    server.files["voc.tar"], server.cuts, bars = VOC, [300_000], []

    def progress(**options):
        bars.append(Bar(**options))
        return bars[-1]
    fetch(tmp_path, table(server.url("voc.tar")), progress=progress)
    assert [bar.options["initial"] for bar in bars] == [0, 300_000]
    assert bars[0].options == {"total": len(VOC), "desc": "voc", "unit": "B", "unit_scale": True, "initial": 0}
    assert sum(bar.done for bar in bars) == len(VOC) and all(bar.closed for bar in bars)


def test_tqdm_fits(server, tmp_path, capsys):
    from tqdm import tqdm
    server.files["voc.tar"] = VOC
    fetch(tmp_path, table(server.url("voc.tar")), progress=tqdm)
    assert "100%" in capsys.readouterr().err


def test_a_damaged_archive_without_checksum_is_fetched_again_next_time(server, tmp_path):
    sources = table(server.url("voc.tar"), size=None, checksum=None)
    server.files["voc.tar"] = VOC[:700_000]
    assert "not a complete" in error_of(fetch, tmp_path, sources)
    assert files_under(tmp_path) == []
    server.files["voc.tar"] = VOC
    check_voc(str(tmp_path), fetch(str(tmp_path), sources))


def test_an_archive_of_something_else(server, tmp_path):
    server.files["voc.tar"] = tar_bytes([("other/a.jpg", PHOTO)])
    text = error_of(fetch, tmp_path, table(server.url("voc.tar"), size=None, checksum=None))
    assert "does not hold VOCdevkit/VOC2012" in text and files_under(tmp_path) == []


# -- unpacking -----------------------------------------------------------------------------------------------------

def archive_of(tmp_path, body):
    path = tmp_path / "archive"
    path.write_bytes(body)
    return path


def refused(tmp_path, body):
    """The error line, after a check that no file is left inside or outside the folder."""
    archive = archive_of(tmp_path, body)
    text = error_of(unpack, archive, tmp_path / "out")
    assert files_under(tmp_path) == [str(archive)] and not (tmp_path / "out").exists()
    return text


ESCAPES = {
    "parent": [("fine", b"1"), ("../escaped", b"2")],
    "deep parent": [("a/../../escaped", b"2")],
    "backslash": [("a\\..\\..\\escaped", b"2")],
    "absolute": [("/tmp/escaped", b"2")],
    "symbolic link up": [special("link", tarfile.SYMTYPE, "../.."), ("link/escaped", b"2")],
    "symbolic link absolute": [special("link", tarfile.SYMTYPE, "/tmp"), ("link/escaped", b"2")],
    "hard link": [special("link", tarfile.LNKTYPE, "../archive")],
    "device": [special("null", tarfile.CHRTYPE)],
    "pipe": [special("pipe", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("members", ESCAPES.values(), ids=ESCAPES.keys())
def test_refuses_what_leads_out_of_the_folder(tmp_path, members):
    assert "do not use this archive" in refused(tmp_path, tar_bytes(members))


def test_links_inside_are_kept(tmp_path):
    body = tar_bytes([("a/file", b"1"), special("same", tarfile.SYMTYPE, "a/file"),
                      special("hard", tarfile.LNKTYPE, "a/file")])
    unpack(archive_of(tmp_path, body), tmp_path / "out")
    assert [(tmp_path / "out" / name).read_text() for name in ("same", "hard")] == ["1", "1"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.8])
def test_truncated(tmp_path, mode, share):
    body = tar_bytes([(f"f{i}", os.urandom(3000)) for i in range(20)], mode)
    assert "fetch it again" in refused(tmp_path, body[:int(len(body) * share)])


def test_a_tgz_without_its_last_bytes(tmp_path):
    body = tar_bytes([("file", os.urandom(3000))], "w:gz")
    assert "fetch it again" in refused(tmp_path, body[:-4])
    assert "fetch it again" in refused(tmp_path, body[:-8] + b"\0" * 8)


def test_a_broken_header_is_an_error(tmp_path):
    body = bytearray(tar_bytes([("a", b"1"), ("b", b"2")]))
    body[1024:1030] = b"broken"
    assert "fetch it again" in refused(tmp_path, bytes(body))


def zip_bytes(names):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name in names:
            bundle.writestr(name, PHOTO)
    return buffer.getvalue()


def test_zip(server, tmp_path):
    server.files["voc.zip"] = body = zip_bytes(["VOCdevkit/VOC2012/a.jpg"])
    sources = table(server.url("voc.zip"), size=len(body), checksum="sha256:" + hashlib.sha256(body).hexdigest())
    check_voc(str(tmp_path), fetch(str(tmp_path), sources))


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "a/../../escaped"])
def test_zip_that_leads_out_of_the_folder(tmp_path, name):
    assert "do not use this archive" in refused(tmp_path, zip_bytes(["fine", name]))


def test_truncated_and_damaged_zip(tmp_path):
    body = zip_bytes(["a", "b"])
    assert "fetch it again" in refused(tmp_path, body[:-30])
    assert "fetch it again" in refused(tmp_path, body[:100] + b"?" * 20 + body[120:])


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_a_bomb(tmp_path, kind):
    bomb = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr("zeros", bytes(80 << 20))
    else:
        with tarfile.open(fileobj=bomb, mode="w:gz", compresslevel=1) as tar:
            info = tarfile.TarInfo("zeros")
            info.size = 80 << 20
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    assert "out of proportion" in refused(tmp_path, bomb.getvalue())


def test_merges_with_existing_folders(tmp_path):
    (tmp_path / "VOCdevkit" / "VOC2007").mkdir(parents=True)
    unpack(archive_of(tmp_path, VOC), tmp_path)
    assert sorted(os.listdir(tmp_path / "VOCdevkit")) == ["VOC2007", "VOC2012"]


def test_files_get_ordinary_permissions(tmp_path):
    info = tarfile.TarInfo("file")
    info.mode = 0o4777
    unpack(archive_of(tmp_path, tar_bytes([(info, b"1")])), tmp_path / "out")
    assert not stat.S_IMODE((tmp_path / "out" / "file").stat().st_mode) & 0o4111
    assert not (tmp_path / "out").stat().st_mode & 0o4000


def test_no_archive(tmp_path):
    assert "cannot read" in error_of(unpack, tmp_path / "missing.tar", tmp_path / "out")
    assert "not a complete" in refused(tmp_path, b"some text")
