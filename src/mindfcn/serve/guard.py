"""What every request must pass before it reaches the application, and what every answer carries."""

import asyncio
import ipaddress
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

# Seconds that an upload may pause.
PAUSE = 20
# Of a multipart body beside the photograph: names, boundaries.
ENVELOPE = 4096
HEADERS = {
    # The page takes nothing from elsewhere, runs no script but its own file, and sits in no frame.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
                               "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store"}


class Guard:
    """ASGI middleware: who may ask, and how much they may send.

    A page of any site can make a browser send requests here, and can let its own name point to this address (DNS
    rebinding). So a request must call the server by an address or by a known name, and must not come from another
    site's page.

    Args:
        app: ASGI application.
        names: known names, besides localhost.
        most: bytes of the largest upload.
    """

    def __init__(self, app, names, most):
        self.app, self.names, self.most = app, {"localhost", *(name.lower() for name in names)}, most

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message):
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        try:
            self.check(headers)
        except HTTPException as error:
            answer = JSONResponse({"detail": error.detail}, error.status_code)
            await answer(scope, receive, send_with_headers)
            return
        await self.app(scope, self.bounded(receive), send_with_headers)

    def check(self, headers):
        """Raise HTTPException where the headers alone say no."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.known(host):
            raise HTTPException(403, "the server is not known by this name; start it with --hostnames NAME")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise HTTPException(403, "requests from other sites' pages are refused")
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self.most + ENVELOPE:
            raise too_large(self.most)

    def known(self, host):
        """Whether a Host header holds an address or a known name."""
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
        """`receive` that raises HTTPException where a body is too long, whatever its headers said, or stalls."""
        state = {"bytes": 0, "complete": False}

        async def bounded_receive():
            if state["complete"]:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), PAUSE)
            except asyncio.TimeoutError:
                raise HTTPException(408, f"the upload paused for {PAUSE} s; send it again") from None
            state["bytes"] += len(message.get("body", b""))
            state["complete"] = not message.get("more_body", False)
            if state["bytes"] > self.most + ENVELOPE:
                raise too_large(self.most)
            return message

        return bounded_receive


def too_large(most):
    """The HTTPException of an upload of more than `most` bytes."""
    return HTTPException(413, f"the upload is larger than {most / 1e6:g} MB; reduce the photograph, or start the "
                              "server with a larger --max_megabytes")
