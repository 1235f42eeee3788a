"""Checks of every request before it reaches the application, and the headers of every response."""

import asyncio
import ipaddress
import time
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from mindfcn.console import SILENT

# Seconds that an upload may pause, and that it may take.
PAUSE, COMPLETE = 20, 120
# Bytes of a multipart body in addition to the photograph: names, boundaries.
ENVELOPE = 4096
HEADERS = {
    # The page loads nothing from other sites, runs only its own script file, and cannot be framed.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store"}


class Guard:
    """ASGI middleware that checks the origin and the size of requests and adds security headers to responses.

    A page of any site can make a browser send requests here, and can let its own name resolve to this address (DNS
    rebinding). So the Host header must be an IP address or a known name, and the Origin header, if any, must be
    this server.

    Args:
        app: ASGI application.
        names: known host names in addition to localhost.
        max_bytes: bytes of the largest upload.
        console: Console that shows a line for each request: client, method, path, status and seconds.
    """

    def __init__(self, app, names, max_bytes, console=SILENT):
        self.app, self.names, self.max_bytes = app, {"localhost", *(name.lower() for name in names)}, max_bytes
        self.console = console

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), [None]

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
                status[0] = message["status"]
            await send(message)

        try:
            await self.answer(scope, receive, send_with_headers)
        finally:
            self.console.say(log_line(scope, status[0], time.monotonic() - started))

    async def answer(self, scope, receive, send):
        """Refuse the request, or let the application answer it."""
        headers = Headers(scope=scope)
        try:
            self.check(headers)
        except HTTPException as error:
            answer = JSONResponse({"detail": error.detail}, error.status_code)
            await answer(scope, receive, send)
            return
        await self.app(scope, self.bounded(receive), send)

    def check(self, headers):
        """Raise HTTPException 403 or 413 if the host, the origin or the announced length is not allowed."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.known(host):
            raise HTTPException(403, "unknown host name; start the server with --hostnames NAME to allow it")
        if origin is not None and site(origin) != host.lower():
            raise HTTPException(403, "requests from other sites' pages are refused")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.max_bytes + ENVELOPE:
            raise too_large(self.max_bytes)

    def known(self, host):
        """Whether a Host header holds an IP address or a known name."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def bounded(self, receive):
        """Wrap `receive`: HTTPException 413 for a body that is too long, 408 for one that pauses or takes too long."""
        state = {"bytes": 0, "complete": False}
        ends = time.monotonic() + COMPLETE

        async def bounded_receive():
            if state["complete"]:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0, min(PAUSE, ends - time.monotonic())))
            except asyncio.TimeoutError:
                raise HTTPException(408, f"the upload paused for {PAUSE} s, or took more than {COMPLETE}; send it again"
                                    ) from None
            state["bytes"] += len(message.get("body", b""))
            state["complete"] = not message.get("more_body", False)
            if state["bytes"] > self.max_bytes + ENVELOPE:
                raise too_large(self.max_bytes)
            return message

        return bounded_receive


def site(origin):
    """Host and port of an Origin header; None if it is malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def log_line(scope, status, seconds):
    """A line for a request, as it was sent: an encoded path holds no line ends."""
    client = scope["client"][0] if scope.get("client") else "-"
    path = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
    return (f"{time.strftime('%H:%M:%S')}  {client}  {scope['method']} {path[:200]}  "
            f"{status or 'no answer'}  {seconds:.2f} s")


def too_large(max_bytes):
    """The HTTPException 413 for an upload of more than `max_bytes`."""
    return HTTPException(413, f"the upload is larger than {max_bytes / 1e6:g} MB; reduce the photograph, or start the "
                              "server with a larger --max_megabytes")
