"""One thread that computes, with a bounded queue of requests."""

import threading
from concurrent.futures import ThreadPoolExecutor


class Busy(Exception):
    """The queue is full."""


class Worker:
    """Runs functions one after another in one thread, because MindSpore must not be used from several at once.

    Args:
        queue: number of functions that may wait while one runs.
    """

    def __init__(self, queue):
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self.places = threading.Semaphore(queue + 1)

    def submit(self, function, *arguments):
        """Queue a function and return the concurrent.futures.Future of its result.

        Cancelling the future frees its place in the queue at once, unless the function runs already.

        Raises:
            Busy: the queue is full.
        """
        if not self.places.acquire(blocking=False):
            raise Busy
        future = self.thread.submit(function, *arguments)
        future.add_done_callback(lambda _: self.places.release())
        return future

    def close(self):
        """Cancel the queued functions and wait for the running one."""
        self.thread.shutdown(cancel_futures=True)
