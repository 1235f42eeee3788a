"""The HTTP interface: takes a photograph, returns its classes and their areas; described at /openapi.json."""

import asyncio
import base64
import io
import math
import os
import time
from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI, File, HTTPException, Path, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from PIL import Image
from pydantic import BaseModel, Field

import mindfcn
from mindfcn.console import SILENT
from mindfcn.errors import UserError
from mindfcn.memory import is_out_of_memory
from mindfcn.report.overlays import encode_palette_png
from mindfcn.serve.examples import MAX_EXAMPLES, examples
from mindfcn.serve.guard import Guard, too_large
from mindfcn.serve.worker import Busy
from mindfcn.storage.images import decode_photograph

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
# Pillow reads many more formats, some of which start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
PNG, JPEG = "image/png", "image/jpeg"
# Seconds after which a refused request may be sent again.
RETRY = 5
# Seconds to finish requests under way once the server stops.
FINISH = 10
# Methods of HTTP; each function of the interface has one of them.
ALL_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class ClassColor(BaseModel):
    """A class of the network."""
    number: int
    name: str
    color: tuple[int, int, int] = Field(description="RGB, 0..255")


class ClassArea(ClassColor):
    """A class found in the photograph."""
    pixels: int
    percent: float = Field(description="share of all pixels, 0..100")


class Prediction(BaseModel):
    """The result for a photograph."""
    width: int
    height: int
    seconds: float = Field(description="time that the network took")
    classes: list[ClassArea] = Field(description="classes found, the largest first")
    mask: str = Field(description="PNG, base64: class numbers as a palette of the classes' colours")
    numbers: str = Field(description="PNG, base64: class numbers as grey values, for programs that convert palettes "
                                     "to colours, such as browsers")


class Limits(BaseModel):
    """The largest upload."""
    bytes: int
    pixels: int


class Model(BaseModel):
    """The network's card, without the paths in its training settings."""
    name: str
    classes: list[ClassColor]
    preprocess: dict[str, object] = Field(description="order of the channels; mean and standard deviation of "
                                                           "values in 0..255")
    metrics: dict[str, float] = Field(description="on its validation images; empty if not evaluated")
    examples: list[str] = Field(description="names of the pictures at /api/examples/0, /api/examples/1, ...")
    limits: Limits


class Health(BaseModel):
    """The state of the server."""
    status: str


class Problem(BaseModel):
    """One line: what is wrong and what to do."""
    detail: str


def error_responses(*statuses):
    """The OpenAPI responses for error statuses: {status: {model, description}}."""
    descriptions = {400: "The body is not a multipart form",
                    403: "An unknown host name, or a request from another site's page", 404: "There is no such picture",
                    408: "The upload paused for too long", 413: "The upload is too large",
                    422: "Not a readable photograph, one with too many pixels, or not the number of a picture",
                    503: "The server is busy or is being stopped; the header Retry-After holds the seconds until the "
                         "next try"}
    return {status: {"model": Problem, "description": descriptions[status]} for status in statuses}


def create_app(segment, card, worker, config, stopping=lambda: 0, console=SILENT):
    """The ASGI application.

    Args:
        segment: function as `open_segmenter` returns it; it runs in the worker's thread.
        card: Card of its network.
        worker: Worker that runs it.
        config: ServeConfig with names, limits and times.
        stopping: function -> seconds since the server was told to stop, or 0.
        console: Console that shows a line for each request.

    Returns:
        FastAPI.

    Raises:
        UserError: an image to try is missing or damaged.
    """
    offered = examples(config.images, card.labels)
    limits = Limits(bytes=int(1e6 * config.max_megabytes), pixels=int(1e6 * config.max_megapixels))
    # The documentation pages of FastAPI are off, because they load scripts from other sites.
    app = FastAPI(title="MindFCN", version=mindfcn.__version__, docs_url=None, redoc_url=None,
                  description="Semantic segmentation: a class for every pixel of a photograph.")

    @app.exception_handler(RequestValidationError)
    async def no_photograph(request, error):
        if request.method == "GET":
            detail = f"the number of a picture is a whole number from 0 to {MAX_EXAMPLES - 1}"
            return JSONResponse({"detail": detail}, 422)
        return JSONResponse({"detail": "no photograph: send one file as the field `image` of a multipart form"}, 422)

    @app.exception_handler(Exception)
    async def failed(request, error):
        detail = "the network failed on this photograph; the server's terminal shows the reason"
        return JSONResponse({"detail": detail}, 500)

    @app.get("/healthz", responses=error_responses(403))
    async def health() -> Health:
        """Report that the server is running."""
        return Health(status="ok")

    @app.get("/api/model", responses=error_responses(403))
    async def model() -> Model:
        """Describe the network, its classes and the limits of an upload."""
        return Model(name=card.model["name"],
                     classes=[class_color(number, card.labels) for number in range(len(card.labels))],
                     preprocess=card.preprocess.to_dict(), limits=limits,
                     metrics={name: value for name, value in card.metrics.items() if math.isfinite(value)},
                     examples=[one.name for one in offered])

    @app.get("/api/examples/{number}", response_class=Response,
             responses={200: {"content": {JPEG: {}}, "description": "The picture"}, **error_responses(403, 404, 422)})
    async def example(number: int = Path(ge=0, lt=MAX_EXAMPLES)) -> Response:  # noqa: B008
        """Send a picture to try the network on."""
        if number >= len(offered):
            raise HTTPException(404, f"there are {len(offered)} pictures, numbered from 0")
        return Response(offered[number].jpeg, media_type=JPEG)

    @app.post("/api/predict", response_model=Prediction,
              responses={200: {"content": {PNG: {}}, "description": "Classes, areas and mask; with Accept: image/png "
                                                                    "only the mask"},
                         **error_responses(400, 403, 408, 413, 422, 503)})
    async def predict(request: Request,
                      image: UploadFile = File(description="JPEG, PNG, BMP, TIFF or WebP")) -> Any:  # noqa: B008
        """Segment a photograph, rotated upright according to its EXIF tag."""
        data = await image.read()
        if len(data) > limits.bytes:
            raise too_large(limits.bytes)
        try:
            future = worker.submit(segment_upload, segment, data, limits.pixels)
        except Busy:
            raise busy(f"{config.queue} requests wait already") from None
        try:
            mask, seconds = await wait_for_result(future, request, config.patience, stopping)
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        png = encode_palette_png(mask, card.labels)
        if PNG in request.headers.get("accept", ""):
            return Response(png, media_type=PNG)
        return describe(mask, png, seconds, card.labels)

    for route in [one for one in app.routes if isinstance(one, APIRoute)]:
        method, = route.methods
        app.add_api_route(route.path, wrong_method(method), methods=sorted(ALL_METHODS - {method}),
                          include_in_schema=False)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    app.add_middleware(Guard, names=(config.host, *config.hostnames), max_bytes=limits.bytes, console=console)
    return app


def wrong_method(method):
    """A function that answers requests of all methods but this one."""
    async def refuse() -> None:
        raise HTTPException(405, f"this address takes {method} requests only", {"Allow": method})
    return refuse


def segment_upload(segment, data, max_pixels):
    """Encoded image bytes -> (mask (H, W) uint8, seconds).

    Args:
        segment: function (image (H, W, 3) uint8 BGR) -> (mask, ...).
        data: the bytes.
        max_pixels: limit of height times width.

    Raises:
        UserError: not an image, damaged, incomplete, larger than the limit, or too large for the memory.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
    except Image.DecompressionBombError:
        width = height = max_pixels
    # Pillow fails with many kinds of exceptions on damaged bytes.
    except Exception:  # noqa: BLE001
        raise UserError("the upload is not an image; send a JPEG, PNG, BMP, TIFF or WebP file") from None
    if width * height > max_pixels:
        raise UserError(f"the photograph has more than {max_pixels / 1e6:g} million pixels; reduce it, or start the "
                        "server with a larger --max_megapixels")
    image = decode_photograph(data, "the upload")
    started = time.perf_counter()
    try:
        return segment(image)[0], time.perf_counter() - started
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"the photograph's {width}x{height} pixels are too many for the memory; reduce it") from None


async def wait_for_result(future, request, patience, stopping):
    """The result of a Future.

    Raises HTTPException 503 after `patience` seconds, FINISH seconds after the server was told to stop, or when the
    client has disconnected.
    """
    pending = asyncio.wrap_future(future)
    deadline = time.monotonic() + patience
    while not pending.done():
        await asyncio.wait([pending], timeout=max(0, min(1, deadline - time.monotonic())))
        if not pending.done() and (time.monotonic() >= deadline or await request.is_disconnected()):
            pending.cancel()
            raise busy(f"no answer within {patience:g} s")
        if not pending.done() and stopping() > FINISH:
            pending.cancel()
            raise busy("it is being stopped")
    return pending.result()


def busy(reason):
    """The HTTPException 503 for a server that has too many requests."""
    return HTTPException(503, f"the server is busy: {reason}; send the photograph again later",
                         {"Retry-After": str(RETRY)})


def describe(mask, png, seconds, labels):
    """The Prediction for a mask (H, W) uint8, its palette PNG and the seconds that it took."""
    counts = np.bincount(mask.ravel(), minlength=len(labels))
    found = [number for number in np.argsort(-counts, kind="stable") if counts[number]]
    classes = [ClassArea(**class_color(int(number), labels).model_dump(), pixels=int(counts[number]),
                         percent=100 * float(counts[number]) / mask.size) for number in found]
    grey = cv2.imencode(".png", mask)[1].tobytes()
    return Prediction(width=mask.shape[1], height=mask.shape[0], seconds=seconds, classes=classes,
                      mask=base64.b64encode(png).decode(), numbers=base64.b64encode(grey).decode())


def class_color(number, labels):
    """The ClassColor of a class number."""
    return ClassColor(number=number, name=labels.names[number], color=labels.colors[number])
