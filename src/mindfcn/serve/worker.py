"""One thread that computes, and the requests that may wait for it."""

import threading
from concurrent.futures import ThreadPoolExecutor


class Busy(Exception):
    """As many requests wait as may."""

class Worker:
    """Runs functions one after another in a thread of its own: MindSpore must not be used from several at once.

    Args:
        queue: functions that may wait while one runs.
    """

    def __init__(self, queue):
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self.places = threading.Semaphore(queue + 1)

    def submit(self, function, *arguments):
        """Queue a function: a concurrent.futures.Future of its result. Cancelled, it gives its place free at once,
        unless it runs already.

        Raises:
            Busy: the queue is full.
        """
        if not self.places.acquire(blocking=False):
            raise Busy
        future = self.thread.submit(function, *arguments)
        future.add_done_callback(lambda _: self.places.release())
        return future

    def close(self):
        """Drop what waits, and end after what runs."""
        self.thread.shutdown(cancel_futures=True)
