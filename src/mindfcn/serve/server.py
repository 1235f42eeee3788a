"""The command `serve`: a web page and an HTTP interface for one checkpoint."""

import concurrent.futures
import contextlib
import errno
import ipaddress
import os
import socket
import sys

from mindfcn.combinations import check
from mindfcn.config import PredictConfig, check_bounds
from mindfcn.console import SILENT
from mindfcn.errors import UserError
from mindfcn.inference.open import open_segmenter
from mindfcn.inference.pipeline import Inference
from mindfcn.serve.stop import Stop, blocked_signals
from mindfcn.serve.worker import Worker
from mindfcn.weights.catalogue import with_checkpoint_paths

# Open connections: many more than the queue, so that idle ones and slow uploads do not keep others out before they are
# closed.
CONNECTIONS = 1024
# Seconds after which uvicorn ends the remaining requests; the application answers them after `app.FINISH` seconds.
SHUTDOWN_SECONDS = 15


def serve(config, console=SILENT):
    """Serve until Ctrl-C.

    Args:
        config: ServeConfig.
        console: Console that shows the address when the server is ready.

    Raises:
        UserError: the packages of the extra `serve` are not installed, the port is not available, a setting is out of
            range, or the checkpoint cannot be opened.
    """
    check_bounds(config)
    config = with_checkpoint_paths(config, console)
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"serving needs the package {error.name}, which is not installed; install all with "
                        "pip install 'mindfcn[serve]'") from None
    with contextlib.closing(listen(config.host, config.port)) as listener, blocked_signals(), Stop() as stop:
        worker = Worker(config.queue)
        # MindSpore is set up in the thread that uses it.
        opened = worker.submit(open_segmenter, config, console)
        while not stop.seconds() and not opened.done():
            concurrent.futures.wait([opened], 0.2)
        if opened.done():
            run(opened.result(), listener, worker, stop, config, console)
        idle = worker.close(1)
    console.say("stopped")
    if not idle:
        # A computation cannot be interrupted, and MindSpore aborts a process that ends during one.
        sys.stdout.flush()
        os._exit(0)


def run(opened, listener, worker, stop, config, console):
    """Answer requests until `stop` notes a signal. Raises UserError for a network without colour input.

    Args:
        opened: (segmenter, Card) as `open_segmenter` returns them.
        listener: listening socket.
        worker: Worker that opened them.
        stop: Stop.
        config: ServeConfig.
        console: Console that shows the address and a line for each request.
    """
    from mindfcn.serve.app import create_app
    segment, card = opened
    check("serve", *card.inputs)
    segment = Inference(segment, PredictConfig(config.checkpoint, shorter_side=config.shorter_side),
                        card.shorter_side, console)
    app = create_app(segment, card, worker, config, stop.seconds, console)
    server = stop.server = uvicorn_server(app)
    # uvicorn would raise the signals again at its end.
    server.capture_signals = contextlib.nullcontext
    server.should_exit = bool(stop.seconds())
    if not is_loopback(config.host):
        console.say(f"{config.host} may be reached from other machines; there is no password")
    console.say(f"{card.model['name']}, {len(card.labels)} classes: {address(listener)} (Ctrl-C ends it)")
    server.run(sockets=[listener])


def uvicorn_server(app):
    """The uvicorn.Server of an application; it closes connections that send nothing."""
    import uvicorn

    from mindfcn.serve.connections import with_deadline
    options = uvicorn.Config(app, log_level="critical", server_header=False, limit_concurrency=CONNECTIONS,
                             timeout_graceful_shutdown=SHUTDOWN_SECONDS)
    options.load()
    options.http_protocol_class = with_deadline(options.http_protocol_class)
    return uvicorn.Server(options)


def listen(host, port):
    """Open a listening socket. Raises UserError: the port or the host is not available."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = "it is in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise UserError(f"cannot listen on port {port} of {host}: {reason}; choose another --port, or another --host "
                        "of this machine") from None


def address(listener):
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def is_loopback(host):
    """Whether an address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
