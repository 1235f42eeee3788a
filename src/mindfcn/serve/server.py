"""The verb serve: a page and an HTTP interface around one checkpoint."""

import contextlib
import errno
import ipaddress
import signal
import socket
import threading

from mindfcn.config import check_bounds
from mindfcn.console import SILENT
from mindfcn.errors import UserError
from mindfcn.inference.open import open_segmenter

# Connections beside the requests in the queue: the page's own files, uploads under way.
CONNECTIONS = 64
ENDING = (signal.SIGINT, signal.SIGTERM)
# Seconds for answers under way when the server ends.
GRACE = 10


def serve(config, console=SILENT):
    """Serve until Ctrl-C.

    Args:
        config: ServeConfig.
        console: Console that shows the address.

    Raises:
        UserError: the packages of the extra `serve` are not installed, the port cannot be had, a setting is out of
            range, or the checkpoint cannot be opened.
    """
    check_bounds(config)
    try:
        import python_multipart  # noqa: F401
        import uvicorn

        from mindfcn.serve.app import create_app
        from mindfcn.serve.worker import Worker
    except ModuleNotFoundError as error:
        raise UserError(f"serving needs the package {error.name}, which is not installed; install all with "
                        "pip install 'mindfcn[serve]'") from None
    with contextlib.closing(listen(config.host, config.port)) as listener, signals_held(), \
            contextlib.closing(Worker(config.queue)) as worker:
        # MindSpore is set up in the thread that will use it.
        segment, card = worker.submit(open_segmenter, config).result()
        if card.preprocess.modality != "rgb":
            raise UserError(f"{config.checkpoint} sees {card.preprocess.modality}, and the page takes photographs "
                            "alone; use mindfcn predict with --depth")
        options = uvicorn.Config(create_app(segment, card, worker, config), log_level="warning", server_header=False,
                                 limit_concurrency=config.queue + CONNECTIONS, timeout_graceful_shutdown=GRACE)
        if not is_loopback(config.host):
            console.say(f"{config.host} may be reached from other machines; there is no password")
        console.say(f"{card.model['name']}, {len(card.labels)} classes: {address(listener)} (Ctrl-C ends it)")
        server = uvicorn.Server(options)
        threading.Thread(target=end_at_signal, args=(server,), daemon=True).start()
        server.run(sockets=[listener])
    console.say("stopped")


@contextlib.contextmanager
def signals_held():
    """Keep SIGINT and SIGTERM waiting for `end_at_signal`: MindSpore, compiling a graph, puts in handlers that kill."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_at_signal(server):
    """Wait for a signal, then let the server answer what is under way and end."""
    signal.sigwait(ENDING)
    server.should_exit = True


def listen(host, port):
    """A socket that listens. Raises UserError."""
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
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
