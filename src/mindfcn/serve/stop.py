"""Stop a server at SIGINT or SIGTERM, also while it starts. Importing this file starts no thread."""

import contextlib
import signal
import threading
import time

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def blocked_signals():
    """Block SIGINT and SIGTERM in this thread and in those that it starts, for `Stop` to wait for them.

    While MindSpore computes it installs signal handlers that kill the process, which no thread may run. Windows cannot
    block signals; there, Python's own handlers stop the server.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Stop:
    """Notes the first SIGINT or SIGTERM, and lets a server finish its requests; a second one ends it at once.

    Attributes:
        server: uvicorn.Server, once there is one.
    """

    def __init__(self):
        self.server, self.since = None, None

    def __enter__(self):
        # Python allows signal handlers in the main thread only.
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self.note) for number in STOP_SIGNALS}
        if hasattr(signal, "sigwait"):
            threading.Thread(target=self._wait, daemon=True).start()
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, *_):
        """Handle a signal, or another reason to stop the server."""
        again, self.since = self.since is not None, self.since or time.monotonic()
        if self.server:
            self.server.should_exit = True
            self.server.force_exit = again

    def seconds(self):
        """Seconds since the first signal; 0 before it."""
        return 0 if self.since is None else time.monotonic() - self.since

    def _wait(self):
        while True:
            signal.sigwait(STOP_SIGNALS)
            self.note()
