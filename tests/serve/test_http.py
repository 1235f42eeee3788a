"""The HTTP interface: its responses, its limits and the requests that it refuses."""

import base64
import concurrent.futures
import contextlib
import io
import json
import pathlib
import re
import shlex
import shutil
import socket
import struct
import subprocess
import threading
import time
import zlib

import numpy as np
import pytest
from drawn import photograph
from PIL import Image

from mindfcn.console import Console
from mindfcn.data.synthetic.shapes import SAMPLE
from mindfcn.errors import UserError
from mindfcn.inference.onnx import OnnxSegmenter
from mindfcn.serve.examples import examples

httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install httpx")


def asking(url):
    """A client with a timeout that is long enough for a busy machine."""
    return httpx.Client(base_url=url, timeout=60)


@pytest.fixture
def client(live):
    return asking(live(max_megabytes=0.1, max_megapixels=0.01)[0])


def post(client, data, **headers):
    return client.post("/api/predict", files={"image": ("photo.png", data)}, headers=headers)


def pixels(encoded):
    return np.array(Image.open(io.BytesIO(encoded)))


# ------------------------------------------------------------------------------------------------- answers

@pytest.mark.parametrize("suffix", ["PNG", "BMP", "TIFF"])
def test_classes_areas_and_masks_are_the_photographs(client, suffix):
    data, mask = photograph(suffix=suffix)
    found = post(client, data).json()
    assert (found["width"], found["height"]) == (40, 30) and found["seconds"] > 0
    counts = {number: int((mask == number).sum()) for number in range(4)}
    assert [one["number"] for one in found["classes"]] == sorted(counts, key=lambda number: -counts[number])
    for one in found["classes"]:
        assert one["name"] == ("dark", "<b>red</b>", "green", "blue")[one["number"]]
        assert one["pixels"] == counts[one["number"]]
        assert one["percent"] == pytest.approx(100 * counts[one["number"]] / mask.size)
    palette = Image.open(io.BytesIO(base64.b64decode(found["mask"])))
    assert palette.mode == "P" and palette.getpalette()[3:6] == [230, 60, 40] == found["classes"][2]["color"]
    np.testing.assert_array_equal(np.array(palette), mask)
    np.testing.assert_array_equal(pixels(base64.b64decode(found["numbers"])), mask)


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_the_commands_of_the_page_ask_and_are_answered(live, tmp_path):
    url, data = live()[0].rstrip("/"), photograph()
    (tmp_path / "photo.jpg").write_bytes(data[0])
    page = (pathlib.Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    lines = re.findall(r"^curl .*", page, re.MULTILINE)
    answers = [subprocess.run([*shlex.split(line.replace("http://127.0.0.1:8000", url)), "--no-progress-meter"],
                              cwd=tmp_path, capture_output=True, check=True).stdout for line in lines]
    assert len(lines) == 2 and json.loads(answers[0])["classes"][0]["name"] == "dark"
    np.testing.assert_array_equal(pixels((tmp_path / "mask.png").read_bytes()), data[1])


def test_a_png_is_the_mask_itself(client):
    data, mask = photograph()
    answer = post(client, data, accept="image/png")
    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(pixels(answer.content), mask)


def test_a_photograph_is_rotated_upright(client):
    exif = Image.Exif()
    exif[0x0112] = 6
    data, mask = photograph(suffix="JPEG", quality=100, subsampling=0, exif=exif)
    found = pixels(post(client, data, accept="image/png").content)
    assert found.shape == (40, 30) and (found != np.rot90(mask, -1)).mean() < 0.02


def test_the_card_has_classes_and_limits_but_no_paths(client):
    answer = client.get("/api/model")
    assert answer.json()["name"] == "fcn32s_colours" and answer.json()["metrics"] == {"mean IoU": 0.5}
    assert [one["name"] for one in answer.json()["classes"]] == ["dark", "<b>red</b>", "green", "blue"]
    assert answer.json()["limits"] == {"bytes": 100000, "pixels": 10000}
    assert answer.json()["preprocess"] == {"order": "RGB", "mean": [0, 0, 0], "std": [255, 255, 255]}
    assert "someone" not in answer.text
    assert client.get("/healthz").json() == {"status": "ok"}


def test_pictures_to_try_are_those_named_in_their_order(live, tmp_path):
    for name in "cab":
        (tmp_path / f"{name}.png").write_bytes(photograph(ord(name), 100)[0])
    client = asking(live(images=[str(tmp_path / "c.png"), str(tmp_path)])[0])
    assert client.get("/api/model").json()["examples"] == ["c.png", "a.png", "b.png"]
    assert [pixels(client.get(f"/api/examples/{number}").content).shape[0] for number in range(3)] == [99, 97, 98]
    assert [client.get(f"/api/examples/{number}").status_code for number in (3, 8, -1)] == [404, 422, 422]
    assert "whole number" in client.get("/api/examples/a").json()["detail"]


def test_drawn_pictures_are_offered_for_the_sample_set_only(color_net):
    assert len({one.jpeg for one in examples([], SAMPLE)}) == 4
    assert examples([], OnnxSegmenter(color_net).card.labels) == []
    with pytest.raises(UserError, match="nowhere"):
        examples(["nowhere"], SAMPLE)


# ------------------------------------------------------------------------------------------------- refusals

def huge_png():
    """A PNG of a few bytes that announces 60,000 x 60,000 pixels."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)) + chunk(
        b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("data, status, words", [
    (b"", 422, "not an image"), (b"not an image", 422, "not an image"),
    (photograph(suffix="PPM")[0], 422, "JPEG, PNG, BMP, TIFF or WebP"),
    # Pillow starts Ghostscript for EPS.
    (photograph(suffix="EPS")[0], 422, "JPEG, PNG, BMP, TIFF or WebP"),
    (photograph(suffix="JPEG")[0][:-60], 422, "incomplete"), (photograph()[0][:-40], 422, "incomplete"),
    (photograph(100, 101)[0], 422, "0.01 million pixels"), (huge_png(), 422, "million pixels"),
    (photograph()[0] + bytes(100000), 413, "0.1 MB")],
    ids=["empty", "text", "ppm", "eps", "cut jpeg", "cut png", "pixels", "bomb", "bytes"])
def test_an_unsuitable_photograph_is_reported_in_one_line(client, data, status, words):
    answer = post(client, data)
    assert answer.status_code == status
    assert words in answer.json()["detail"] and "\n" not in answer.json()["detail"]
    assert post(client, photograph()[0]).status_code == 200


@pytest.mark.parametrize("options, status", [
    ({}, 422), ({"data": {"image": "text"}}, 422), ({"files": {"other": b"x"}}, 422), ({"json": {"image": 1}}, 422),
    ({"content": b"junk", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400),
    ({"content": b"junk", "headers": {"content-type": "multipart/form-data"}}, 400)])
def test_an_invalid_upload_is_reported_in_one_line(client, options, status):
    answer = client.post("/api/predict", **options)
    assert answer.status_code in (status, 422) and isinstance(answer.json()["detail"], str)


def test_a_body_without_a_length_is_bounded_too(client):
    sent = []

    def parts():
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(1000):
            sent.append(1)
            yield bytes(10000)

    answer = client.post("/api/predict", content=parts(),
                         headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413 and "0.1 MB" in answer.json()["detail"]


@pytest.mark.parametrize("headers, status", [
    ({"host": "127.0.0.1:8000"}, 200), ({"host": "localhost"}, 200), ({"host": "[::1]:8000"}, 200),
    ({"host": "192.168.7.7:80"}, 200), ({"host": "Net.Example:8000"}, 200),
    ({"host": "evil.example"}, 403), ({"host": "localhost.evil.example"}, 403), ({"host": "127.0.0.1.evil"}, 403),
    ({"host": "["}, 403), ({"host": ""}, 403),
    ({"origin": "http://127.0.0.1:8000", "host": "127.0.0.1:8000"}, 200),
    ({"origin": "http://evil.example"}, 403), ({"origin": "null"}, 403),
    ({"origin": "http://127.0.0.1:9000", "host": "127.0.0.1:8000"}, 403)])
def test_other_names_and_other_sites_are_refused(live, headers, status):
    client = asking(live(hostnames=["net.example"])[0])
    for answer in (post(client, photograph()[0], **headers), client.get("/api/model", headers=headers),
                   client.get("/", headers=headers)):
        assert answer.status_code == status


@pytest.mark.parametrize("path", ["/", "/page.js", "/api/model", "/nowhere", "/..%2fapp.py"])
def test_every_response_forbids_content_of_other_sites(client, path):
    headers = client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == "'self'" == policy["style-src"]
    assert headers["x-content-type-options"] == "nosniff"


def test_the_page_needs_no_network_and_has_no_inline_code(client):
    page = client.get("/").text
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert "//" not in name and client.get(f"/{name}").status_code == 200
    assert "<script>" not in page and "style=" not in page and not re.search(r"\son\w+=", page)
    assert "innerHTML" not in client.get("/page.js").text
    assert client.get("/app.py").status_code == client.get("/..%2fapp.py").status_code == 404


def test_a_failing_network_is_reported_and_the_next_photograph_is_answered(live):
    fails = [False, True]

    def segment(image):
        if fails.pop():
            raise RuntimeError("no memory at /home/someone")
        return np.zeros(image.shape[:2], np.uint8), None

    address = live(segment=segment)[0]
    answer = post(asking(address), photograph()[0])
    assert answer.status_code == 500 and "failed" in answer.json()["detail"] and "someone" not in answer.text
    # After a failure the server closes the connection.
    assert post(asking(address), photograph()[0]).status_code == 200


# ------------------------------------------------------------------------------------------------- many at once

def test_many_requests_at_once_are_all_answered_with_their_own_mask(live):
    client = asking(live(queue=64)[0])
    photographs = [photograph(20 + number, 30 + number) for number in range(32)]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda one: post(client, one[0], accept="image/png"), photographs))
    for answer, (_, mask) in zip(answers, photographs):
        np.testing.assert_array_equal(pixels(answer.content), mask)


def test_more_than_the_queue_holds_are_refused_and_the_others_answered(live):
    url, worker = live(queue=3)
    client, go, data = asking(url), threading.Event(), photograph()[0]
    worker.submit(go.wait)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(post, client, data) for _ in range(8)]
        refused = [answer.result() for _, answer in zip(range(5), concurrent.futures.as_completed(answers))]
        assert client.get("/healthz").status_code == 200, "the server answers while the network computes"
        go.set()
        statuses = sorted(answer.result().status_code for answer in answers)
    assert statuses == [200] * 3 + [503] * 5
    for answer in refused:
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        assert "3 requests wait" in answer.json()["detail"]


def test_a_request_that_waits_too_long_is_refused_and_frees_its_place(live):
    url, worker = live(queue=1, patience=0.5)
    client, go = asking(url), threading.Event()
    worker.submit(go.wait)
    for _ in range(3):
        answer = post(client, photograph()[0])
        assert answer.status_code == 503 and "no answer within 0.5 s" in answer.json()["detail"]
    assert worker.submit(len, "").cancel(), "its place is free"
    go.set()


def test_a_client_that_disconnects_frees_its_place(live):
    url, worker = live(queue=1)
    go = threading.Event()
    worker.submit(go.wait)
    with pytest.raises(httpx.ReadTimeout):
        post(httpx.Client(base_url=url, timeout=httpx.Timeout(60, read=0.3)), photograph()[0])
    ends = time.monotonic() + 60
    while not worker.places.acquire(blocking=False):
        assert time.monotonic() < ends
        time.sleep(0.05)
    go.set()


# ------------------------------------------------------------------------------------------------- methods, log, time

@pytest.mark.parametrize("path, allowed", [("/healthz", "GET"), ("/api/model", "GET"), ("/api/predict", "POST")])
def test_another_method_is_not_allowed(client, path, allowed):
    for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - {allowed}:
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed), method
        assert method == "HEAD" or allowed in answer.json()["detail"]
    assert client.get("/nowhere").status_code == 404


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "//[x]:y", "http://a]b", "\u00e9".encode("latin-1")])
def test_a_malformed_origin_is_refused(client, origin):
    assert client.get("/healthz", headers={"origin": origin}).status_code == 403


def test_each_request_is_a_line_in_the_terminal(live):
    said = []
    client = asking(live(console=Console(said.append))[0])
    client.get("/healthz")
    client.get("/a%0Ab%1b[31m")
    client.get("/healthz", headers={"origin": "null"})
    post(client, photograph()[0])
    # The line follows the answer.
    ends = time.monotonic() + 60
    while len(said) < 4 and time.monotonic() < ends:
        time.sleep(0.01)
    assert [line.split("  ", 2)[2].rpartition("  ")[0] for line in said] == [
        "GET /healthz  200", "GET /a%0Ab%1b[31m  404", "GET /healthz  403", "POST /api/predict  200"]
    assert all(re.match(r"\d\d:\d\d:\d\d  127.0.0.1  .*  \d+\.\d\d s$", line) for line in said)


def test_a_request_under_way_ends_some_time_after_the_server_is_stopped(app_of, monkeypatch):
    """Without an error in the server's log: uvicorn would cancel it later, with a traceback."""
    import asyncio

    from mindfcn.serve import app as module
    monkeypatch.setattr(module, "FINISH", 0.1)
    future, started = concurrent.futures.Future(), time.monotonic()

    class Request:
        async def is_disconnected(self):
            return False

    with pytest.raises(module.HTTPException) as caught:
        asyncio.run(module.wait_for_result(future, Request(), 60, lambda: time.monotonic() - started))
    assert caught.value.status_code == 503 and future.cancelled() and time.monotonic() - started < 5


def test_memory_that_does_not_suffice_is_an_answer(live):
    def segment(image):
        raise MemoryError

    answer = post(asking(live(segment=segment)[0]), photograph()[0])
    assert answer.status_code == 422 and "40x30 pixels are too many" in answer.json()["detail"]


def test_a_photograph_of_12_megapixels_is_answered_at_its_size(live):
    data = Image.new("RGB", (4000, 3000), (250, 0, 0))
    encoded = io.BytesIO()
    data.save(encoded, "JPEG")
    found = post(asking(live()[0]), encoded.getvalue()).json()
    assert (found["width"], found["height"]) == (4000, 3000)
    assert [one["pixels"] for one in found["classes"]] == [12_000_000]


# ------------------------------------------------------------------------------------------------- slow clients

@contextlib.contextmanager
def deadlines(app, monkeypatch, seconds):
    """Port of a server that closes idle connections after so many seconds."""
    from mindfcn.serve import connections
    from mindfcn.serve.server import listen, uvicorn_server
    monkeypatch.setattr(connections, "HEAD_SECONDS", seconds)
    server = uvicorn_server(app)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"])
def test_connections_that_send_no_request_are_closed(app_of, monkeypatch, sent):
    """Never a byte, half a head, or nothing after an answer; a request under way may take longer."""
    go = threading.Event()

    def slow(image):
        go.wait(60)
        return np.zeros(image.shape[:2], np.uint8), None

    with deadlines(app_of(segment=slow)[0], monkeypatch, 0.3) as port:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(post, asking(f"http://127.0.0.1:{port}"), photograph()[0])
            with socket.create_connection(("127.0.0.1", port), timeout=30) as idle:
                idle.sendall(sent)
                received = b""
                while part := idle.recv(4096):
                    received += part
            assert received.startswith(b"HTTP/1.1 200") if sent.endswith(b"\r\n\r\n") else received == b""
            go.set()
            assert answer.result().status_code == 200


def test_an_upload_that_never_ends_is_refused(live, monkeypatch):
    """It sends a byte now and then, and so never pauses for long."""
    from mindfcn.serve import connections, guard
    monkeypatch.setattr(guard, "COMPLETE", 0.5)
    # The client sends on until the connection is closed.
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)

    def drops():
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(600):
            time.sleep(0.1)
            yield b"."

    answer = asking(live()[0]).post("/api/predict", content=drops(),
                                    headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 408
