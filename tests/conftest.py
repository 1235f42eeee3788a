"""Options and fixtures of all tests."""

import gc
import importlib
import math
import os
import shutil
import sys
import tempfile
import threading

# Read when MindSpore is imported. Silence its C++ log; errors still arrive as exceptions.
os.environ.setdefault("GLOG_v", "4")
# Tests expect the English messages.
os.environ["LC_ALL"] = "C.UTF-8"
# Set by the run scripts; commands then print one line more.
os.environ.pop("MINDFCN_ACTIVATE", None)

import pytest  # noqa: E402

pytest.register_assert_rewrite("helpers")  # before a test file imports it

from caffe_files import Caffe  # noqa: E402
from file_server import Server  # noqa: E402


def pytest_addoption(parser):
    """Add --long and --device."""
    parser.addoption("--long", action="store_true", help="run the tests that take minutes, too")
    parser.addoption("--device", choices=("CPU", "GPU"), default="CPU", help="device of the tests that name none")


def use_share_of_cores(worker):
    """Keep a process of pytest-xdist, and those that its tests start, on their share of the cores.

    MindSpore's threads wait in busy loops; on the cores of the other processes they took a fifth of all processor time.
    """
    number, count = int(worker["workerid"].removeprefix("gw")), worker["workercount"]
    if share := sorted(os.sched_getaffinity(0))[number % count::count]:
        os.sched_setaffinity(0, share)


def pytest_configure(config):
    """Set the device, in this process and in those that tests start, before a test file imports MindSpore."""
    os.environ["DEVICE_TARGET"] = config.getoption("--device")
    # With --long, MindSpore has the threads that it has for users. macOS has no such call.
    if hasattr(config, "workerinput") and hasattr(os, "sched_setaffinity") and not config.getoption("--long"):
        use_share_of_cores(config.workerinput)
    # It prepares the import of MindSpore, which finds no GPU plugin otherwise.
    importlib.import_module("mindfcn")
    # Compiled steps are shared by the processes of a run of the tests, and not by two runs.
    if not hasattr(config, "workerinput"):
        config.graphs = tempfile.TemporaryDirectory()
        os.environ["MINDFCN_GRAPHS"] = config.graphs.name


def pytest_unconfigure(config):
    """Remove the compiled steps."""
    if hasattr(config, "graphs"):
        config.graphs.cleanup()


# Files that take longest, in the order in which they start, so that no process is left alone with one at the end.
LONGEST = ("test_notebook.py", "test_train.py", "test_own_data.py", "test_compare.py", "test_dilated_verbs.py",
           "test_deconvnet_verbs.py", "test_evaluate.py", "test_start.py", "test_two_runs.py", "test_network.py")


def pytest_collection_modifyitems(config, items):
    """Start with the longest files, and skip the tests marked long without --long."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    if config.getoption("--long"):
        return
    for item in items:
        if "long" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --long"))


def pytest_collection_finish():
    """Let garbage collection skip the collected tests: MindSpore starts one before each compilation.

    In a process with all tests, that took a tenth of the processor time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def computing_device(pytestconfig):
    """MindSpore computes on the device of the run; by itself it would take a GPU where it finds one."""
    device = pytestconfig.getoption("--device")
    ms = sys.modules.get("mindspore")
    if ms and ms.get_context("device_target") != device:
        ms.set_device(device)
    if ms:
        # Each operator is waited for: the same kernels, but no threads that wait for queues in busy loops, which took a
        # third of the processor time. With --long, operators are queued, as users' are.
        ms.set_context(pynative_synchronize=not pytestconfig.getoption("--long"))
    if ms and device == "GPU":
        # The tolerances are those of the CPU; TF32 is beyond them.
        ms.set_context(gpu_config={"conv_allow_tf32": False})


@pytest.fixture(scope="session")
def caffe():
    """Encoder of .caffemodel files."""
    return Caffe()


@pytest.fixture
def pynative():
    """Run networks operator by operator, without compiling; PyNative is set again after tests that change the mode."""
    import mindspore as ms
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture(scope="module")
def uncompiled():
    """No network of the module's tests is compiled, nor in the processes that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINDFCN_COMPILE", "0")
        yield


@pytest.fixture(scope="module")
def unrendered():
    """Plots of the module's tests are made, but their files hold one pixel: rendering is most of a small run's time.

    Yields the function that renders them, which tests of the files put back as `mindfcn.report.plots._save`.
    """
    from PIL import Image

    from mindfcn.report import plots
    rendering = plots._save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_save", lambda figure, path: Image.new("L", (1, 1)).save(path))
        yield rendering


@pytest.fixture
def short_googlenet(monkeypatch):
    """fcn32s_googlenet and so on are networks on a small_network.ShortGoogLeNet."""
    from small_network import ShortGoogLeNet

    from mindfcn.models import factory
    from mindfcn.models.backbones import googlenet
    # Another table, because entries that are taken out come back in another order, which is that of the layers.
    monkeypatch.setattr(googlenet, "MODULES", {name: googlenet.MODULES[name] for name in ("3b", "4e", "5b")})
    monkeypatch.setitem(factory.BACKBONES, "googlenet", ShortGoogLeNet)


@pytest.fixture(params=["GRAPH", "PYNATIVE"])
def mode(request):
    """Name of the mode in which the test runs: each of MindSpore's two in turn."""
    import mindspore as ms
    ms.set_context(mode=getattr(ms, request.param + "_MODE"))
    yield request.param
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture(scope="session")
def scramble():
    """Function that puts random numbers into every parameter of a network, so that each affects the output."""
    import mindspore as ms
    import numpy as np

    def fill(net, seed=1):
        random = np.random.default_rng(seed)
        for parameter in net.get_parameters():
            kind = parameter.name.split(".")[-1]
            if kind in ("gamma", "moving_variance"):
                value = random.uniform(0.5, 1.5, parameter.shape)
            else:
                value = random.standard_normal(parameter.shape)
                value *= (2 / math.prod(parameter.shape[1:])) ** 0.5 if kind == "weight" else 0.1
            if kind != "step":
                parameter.set_data(ms.Tensor(value.astype(np.float32)))
        return net.set_train(False)
    return fill


@pytest.fixture(scope="session")
def tiny(scramble):
    """Function that makes a narrow network of 3 classes by its name, with random numbers in every parameter."""
    from mindfcn.models.factory import create_model

    def make(name, **options):
        narrow = {"width": 0.25} if name.endswith("googlenet") else {"fc_width": 8, "width": 0.125}
        return scramble(create_model(name, 3, **{**narrow, **options}))
    return make


@pytest.fixture(scope="session")
def color_net(tmp_path_factory):
    """Path of an .onnx file of one convolution: pure red, green and blue pixels are classes 1, 2 and 3."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime")
    import numpy as np

    from mindfcn.labels import LabelSet
    from mindfcn.preprocess import Preprocess
    from mindfcn.weights.card import CARD, Card
    labels = LabelSet(("dark", "<b>red</b>", "green", "blue"), ((0, 0, 0), (230, 60, 40), (60, 180, 75), (0, 90, 230)))
    card = Card({"name": "fcn32s_colours"}, labels, Preprocess("RGB", (0, 0, 0), (255, 255, 255)),
                "/home/someone/val.mindrecord", {"settings": {"run_dir": "/home/someone/run"}},
                {"mean IoU": 0.5, "pixel accuracy": float("nan")})
    # Each colour's logit is its channel minus the other two; the dark class has the constant 0.5.
    weight = np.vstack([np.zeros(3), 2 * np.eye(3) - 1]).astype(np.float32).reshape(4, 3, 1, 1)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weight", "bias"], ["logits"])], "colours",
        [helper.make_tensor_value_info("image", kind, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("logits", kind, ["N", 4, "H", "W"])],
        [onnx.numpy_helper.from_array(weight, "weight"),
         onnx.numpy_helper.from_array(np.float32([0.5, 0, 0, 0]), "bias")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model.metadata_props.add(key=CARD, value=card.to_json())
    path = tmp_path_factory.mktemp("colours") / "colours.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def sample_records(tmp_path_factory):
    """Folder of a tiny sample set: `records/` with 12 training and 3 validation records, `source/` with the files."""
    from mindfcn.commands.prepare import prepare
    from mindfcn.config import PrepareConfig
    folder = tmp_path_factory.mktemp("sample")
    result = prepare(PrepareConfig(records=str(folder / "records"), source="sample", root=str(folder / "source"),
                                   samples=15, size=64))
    assert (result.train.written, result.val.written) == (12, 3)
    return folder


@pytest.fixture
def file_server(monkeypatch):
    """A running file_server.Server: `files` {name: bytes}, `url(name)`, and attributes that make it misbehave."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = Server()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """A headless Chromium that can only connect to this machine; its downloads go to `chromium.downloads`."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    downloads = tmp_path_factory.mktemp("downloads")
    for word in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
                 "disable-background-networking", "disable-component-update", "disable-sync", "disable-dev-shm-usage",
                 "hide-scrollbars",
                 "force-color-profile=srgb", "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
                 f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(f"--{word}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    found.downloads = downloads
    yield found
    found.quit()


@pytest.fixture
def window(chromium):
    """Function (width, height, dark=False) that gives Chromium a desktop window or, below 800 pixels, a phone's."""
    def set_to(width, height, dark=False):
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 800})
        chromium.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": width < 800})
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
        chromium.get_log("browser")
        return chromium
    return set_to
