"""The application with the network of colours, in the test process and as a running server."""

import contextlib
import threading
import time

import pytest

from mindfcn.config import ServeConfig
from mindfcn.console import SILENT
from mindfcn.inference.onnx import OnnxSegmenter
from mindfcn.serve.server import address, listen, uvicorn_server
from mindfcn.serve.worker import Worker


@pytest.fixture
def app_of(color_net):
    """Function (settings, segment=the network of colours, console) -> (application, its Worker)."""
    for package in ("fastapi", "uvicorn", "python_multipart"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install 'mindfcn[serve]'")
    from mindfcn.serve.app import create_app
    segmenter = OnnxSegmenter(color_net)
    with contextlib.ExitStack() as stack:
        def make(segment=segmenter, console=SILENT, **settings):
            config = ServeConfig(str(color_net), **settings)
            worker = stack.enter_context(contextlib.closing(Worker(config.queue)))
            return create_app(segment, segmenter.card, worker, config, console=console), worker
        yield make


@pytest.fixture
def live(app_of):
    """Function (settings as `app_of` takes) -> (URL of a running server, its Worker)."""
    with contextlib.ExitStack() as stack:
        def run(**options):
            app, worker = app_of(**options)
            listener = stack.enter_context(contextlib.closing(listen("127.0.0.1", 0)))
            server = uvicorn_server(app)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            stack.callback(thread.join)
            stack.callback(setattr, server, "should_exit", True)
            while not server.started:
                time.sleep(0.01)
            return address(listener), worker
        yield run
