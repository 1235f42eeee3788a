"""The command `serve`: a process with MindSpore that answers, stops at Ctrl-C and reports errors in one line."""

import contextlib
import io
import re
import signal
import subprocess
import sys
import threading
import time

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from mindfcn import runtime
from mindfcn.commands.evaluate import load_network
from mindfcn.config import ModelConfig, ServeConfig, TrainConfig
from mindfcn.data.synthetic.shapes import SAMPLE, draw_image
from mindfcn.engine.build import build
from mindfcn.errors import UserError
from mindfcn.serve.server import is_loopback, listen, serve
from mindfcn.weights.checkpoint import save_checkpoint

httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install httpx")
pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'mindfcn[serve]'")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny network of random weights that finds several classes."""
    path = tmp_path_factory.mktemp("serve") / "tiny.ckpt"
    runtime.set_up(seed=3)
    net, card, _ = build(TrainConfig(model=ModelConfig(width=0.125, fc_width=8)), SAMPLE, "")
    random = np.random.default_rng(1)
    for parameter in net.get_parameters():
        if parameter.name.endswith("weight"):
            value = random.standard_normal(parameter.shape) * (2 / (parameter.size // parameter.shape[0])) ** 0.5
            parameter.set_data(ms.Tensor(value.astype(np.float32)))
    save_checkpoint(path, net, card)
    return path


@contextlib.contextmanager
def process(*words):
    """Run the command as a process: (process, URL that it prints)."""
    running = subprocess.Popen([sys.executable, "-m", "mindfcn", "serve", "--port", "0", *words], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        line = next(line for line in running.stdout if "http://" in line)
        yield running, re.search(r"http://\S+", line)[0]
    finally:
        running.kill()
        running.communicate()


def test_the_served_mask_is_mindspores_and_ctrl_c_stops_the_server(checkpoint):
    image = draw_image(96, 1, 0)[0]
    encoded = io.BytesIO()
    Image.fromarray(image[..., ::-1]).save(encoded, "PNG")
    runtime.pynative_mode()
    expected, _ = load_network(str(checkpoint))[0](image)
    assert len(np.unique(expected)) > 1, "the network predicts only one class"
    with process("--checkpoint", str(checkpoint), "--device", "CPU") as (running, url):
        assert url.startswith("http://127.0.0.1:")
        for _ in range(2):
            answer = httpx.post(f"{url}/api/predict", files={"image": encoded.getvalue()}, timeout=60,
                                headers={"accept": "image/png"})
            np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(answer.content))), expected)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=30)
    assert running.returncode == 0 and err == "" and out.splitlines()[-1] == "stopped"


def ask(url, photograph):
    """Send a photograph, whatever becomes of the request."""
    with contextlib.suppress(httpx.HTTPError):
        httpx.post(f"{url}/api/predict", files={"image": photograph}, timeout=60)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="this system cannot block signals")
@pytest.mark.parametrize("state, number", [
    ("idle", signal.SIGINT), ("idle", signal.SIGTERM), ("after a request", signal.SIGTERM),
    ("during a request", signal.SIGINT), ("twice", signal.SIGTERM),
    *(pytest.param(*case, marks=pytest.mark.long) for case in (
        ("after a request", signal.SIGINT), ("during a request", signal.SIGTERM), ("twice", signal.SIGINT)))])
def test_a_signal_stops_the_server_in_every_state(color_net, state, number):
    """With an ONNX file, which needs no MindSpore."""
    with process("--checkpoint", str(color_net)) as (running, url):
        encoded = io.BytesIO()
        Image.new("RGB", (6000, 4000) if state == "during a request" else (40, 30)).save(encoded, "PNG")
        if state == "after a request":
            assert httpx.post(f"{url}/api/predict", files={"image": encoded.getvalue()}, timeout=60).status_code == 200
        elif state == "during a request":
            asking = threading.Thread(target=ask, args=(url, encoded.getvalue()))
            asking.start()
            time.sleep(0.5)
        running.send_signal(number)
        if state == "twice":
            running.send_signal(number)
        out, err = running.communicate(timeout=60)
        if state == "during a request":
            asking.join()
    assert (running.returncode, err) == (0, "") and out.splitlines()[-1] == "stopped"


def test_a_port_in_use_is_reported_before_the_checkpoint_is_read():
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1: it is in use; choose another --port"):
            serve(ServeConfig("away.ckpt", port=port))
    with pytest.raises(UserError, match="203.0.113.9"):
        serve(ServeConfig("away.ckpt", host="203.0.113.9", port=0))


def test_a_checkpoint_that_cannot_be_read_stops_the_server():
    with pytest.raises(UserError, match="away.onnx"):
        serve(ServeConfig("away.onnx", port=0))


@pytest.mark.parametrize("name, value", [("port", 70000), ("max_megabytes", 0), ("max_megapixels", float("nan")),
                                         ("queue", -1), ("patience", 0)])
def test_settings_out_of_range(name, value):
    with pytest.raises(UserError, match=f"--{name} {value}"):
        serve(ServeConfig("away.ckpt", **{name: value}))


@pytest.mark.parametrize("host, loopback", [("127.0.0.1", True), ("::1", True), ("localhost", True),
                                            ("0.0.0.0", False), ("192.168.1.2", False), ("example.org", False)])
def test_addresses_of_this_machine_alone(host, loopback):
    assert is_loopback(host) == loopback
