"""One thread that computes, with a bounded queue of requests."""

import contextlib
import queue
import threading
from concurrent.futures import Future


class Busy(Exception):
    """The queue is full."""


class Worker:
    """Runs functions one after another in one thread, because MindSpore must not be used from several at once.

    The thread does not keep the process from ending.

    Args:
        waiting: number of functions that may wait while one runs.
    """

    def __init__(self, waiting):
        self.places = threading.Semaphore(waiting + 1)
        self.tasks = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._run, name="predict", daemon=True)
        self.thread.start()

    def submit(self, function, *arguments):
        """Queue a function and return the concurrent.futures.Future of its result.

        Cancelling the future frees its place in the queue at once, unless the function runs already.

        Raises:
            Busy: the queue is full.
        """
        if not self.places.acquire(blocking=False):
            raise Busy
        future = Future()
        future.add_done_callback(lambda _: self.places.release())
        self.tasks.put((future, function, arguments))
        return future

    def close(self, seconds=None):
        """Cancel the queued functions and wait for the running one, at most so long. Returns whether it has ended."""
        with contextlib.suppress(queue.Empty):
            while True:
                self.tasks.get_nowait()[0].cancel()
        self.tasks.put(None)
        self.thread.join(seconds)
        return not self.thread.is_alive()

    def _run(self):
        while task := self.tasks.get():
            future, function, arguments = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function(*arguments))
                # Whoever waits for the result gets the exception.
                except BaseException as error:  # noqa: BLE001
                    future.set_exception(error)
            # Otherwise the photograph stays in memory until the next one comes.
            del future, function, arguments, task
