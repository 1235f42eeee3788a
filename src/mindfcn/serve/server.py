"""The command `serve`: a web page and an HTTP interface for one checkpoint."""

import contextlib
import errno
import ipaddress
import signal
import socket
import threading

from mindfcn.config import PredictConfig, check_bounds
from mindfcn.console import SILENT
from mindfcn.errors import UserError
from mindfcn.inference.open import open_segmenter
from mindfcn.inference.pipeline import Inference
from mindfcn.weights.catalogue import located

# Connections in addition to the queued requests: files of the page, uploads in progress.
CONNECTIONS = 64
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Seconds to finish running requests when the server stops.
SHUTDOWN_TIMEOUT = 10


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
    config = located(config, console)
    try:
        import python_multipart  # noqa: F401
        import uvicorn

        from mindfcn.serve.app import create_app
        from mindfcn.serve.worker import Worker
    except ModuleNotFoundError as error:
        raise UserError(f"serving needs the package {error.name}, which is not installed; install all with "
                        "pip install 'mindfcn[serve]'") from None
    with contextlib.closing(listen(config.host, config.port)) as listener, blocked_signals(), \
            contextlib.closing(Worker(config.queue)) as worker:
        # MindSpore is set up in the thread that uses it.
        segment, card = worker.submit(open_segmenter, config, console).result()
        if card.preprocess.modality != "rgb":
            raise UserError(f"{config.checkpoint} takes {card.preprocess.modality} input, but the page only sends "
                            "photographs; use mindfcn predict with --depth")
        segment = Inference(segment, PredictConfig(config.checkpoint, shorter_side=config.shorter_side),
                            card.shorter_side, console)
        options = uvicorn.Config(create_app(segment, card, worker, config), log_level="warning", server_header=False,
                                 limit_concurrency=config.queue + CONNECTIONS,
                                 timeout_graceful_shutdown=SHUTDOWN_TIMEOUT)
        if not is_loopback(config.host):
            console.say(f"{config.host} may be reached from other machines; there is no password")
        console.say(f"{card.model['name']}, {len(card.labels)} classes: {address(listener)} (Ctrl-C ends it)")
        server = uvicorn.Server(options)
        threading.Thread(target=stop_at_signal, args=(server,), daemon=True).start()
        server.run(sockets=[listener])
    console.say("stopped")


@contextlib.contextmanager
def blocked_signals():
    """Block SIGINT and SIGTERM until `stop_at_signal` waits for them.

    While MindSpore compiles a graph it installs signal handlers that kill the process. Windows cannot block signals;
    there, uvicorn's own handler stops the server.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_at_signal(server):
    """Wait for a signal, then let the server finish running requests and stop."""
    if not hasattr(signal, "sigwait"):
        return
    signal.sigwait(STOP_SIGNALS)
    server.should_exit = True


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
