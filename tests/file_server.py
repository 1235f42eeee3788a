"""An HTTP server on this machine that can cut connections, announce wrong sizes and fail."""

import contextlib
import http.server
import re


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`; the attributes below make it misbehave. Records every request and the number of bytes sent."""
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests, self.sent = {}, [], 0
        self.cuts = []              # body bytes after which to close, one for each coming request
        self.statuses = []          # answers instead of the file, one for each coming request
        self.ranges = True
        self.length = True          # announce the length; a number announces that instead
        self.type = "application/octet-stream"
        self.etag = '"one"'
        self.gate = None            # an Event to wait for in the middle of a body

    def url(self, name):
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        if server.statuses:
            return self.send_error(server.statuses.pop(0))
        name = self.path.lstrip("/")
        if name not in server.files:
            return self.send_error(404)
        self.serve(server.files[name])

    def serve(self, body):
        server, total = self.server, len(body)
        start = self.start_of_range(total)
        if start is not None and start >= total:
            return self.send_error(416)
        self.send_response(200 if start is None else 206)
        body = body[start or 0:]
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.length:
            self.send_header("Content-Length", str(len(body) if server.length is True else server.length))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.send_header("Content-Type", server.type)
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may hang up
            self.send(body[:server.cuts.pop(0)] if server.cuts else body)

    def start_of_range(self, total):
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not asked or not self.server.ranges:
            return None
        if self.headers.get("If-Range", self.server.etag) != self.server.etag:
            return None
        return int(asked[1])

    def send(self, body):
        half = len(body) // 2
        self.wfile.write(body[:half])
        if self.server.gate:
            self.server.gate.wait(10)
        self.wfile.write(body[half:])
        self.server.sent += len(body)
