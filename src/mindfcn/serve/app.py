"""The HTTP interface: a photograph in, classes and areas out; its description is at /openapi.json."""

import asyncio
import base64
import io
import math
import os
import time
from typing import Any

import cv2
import numpy as np
from fastapi import FastAPI, File, HTTPException, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from PIL import Image
from pydantic import BaseModel, Field

import mindfcn
from mindfcn.errors import UserError
from mindfcn.report.overlays import encode_palette_png
from mindfcn.serve.guard import Guard, too_large
from mindfcn.serve.worker import Busy
from mindfcn.storage.images import decode_photograph

PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page")
# Pillow knows many more, some of which start other programs.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
PNG = "image/png"
# Seconds after which a refused request may be sent again.
RETRY = 5


class ClassColour(BaseModel):
    """A class of the network."""
    number: int
    name: str
    colour: tuple[int, int, int] = Field(description="RGB, 0..255")


class ClassArea(ClassColour):
    """A class that was found."""
    pixels: int
    percent: float = Field(description="share of all pixels, 0..100")


class Prediction(BaseModel):
    """What was found on a photograph."""
    width: int
    height: int
    seconds: float = Field(description="time the network took")
    classes: list[ClassArea] = Field(description="classes found, the largest first")
    mask: str = Field(description="PNG, base64: class numbers as a palette of the classes' colours")
    numbers: str = Field(description="PNG, base64: class numbers as grey values, for programs that turn palettes into "
                                     "colours, such as browsers")


class Limits(BaseModel):
    """The largest upload."""
    bytes: int
    pixels: int


class Model(BaseModel):
    """The network's card, without the paths in its training settings."""
    name: str
    classes: list[ClassColour]
    preprocess: dict[str, object] = Field(description="order of the channels, mean and standard deviation of 0..255")
    metrics: dict[str, float] = Field(description="on its validation images; empty where not evaluated")
    limits: Limits


class Health(BaseModel):
    """The server is up."""
    status: str


class Problem(BaseModel):
    """One line: what is wrong, and what to do."""
    detail: str


def problems(*statuses):
    """OpenAPI's responses for errors."""
    words = {400: "The body is not a multipart form", 403: "Another name or another site's page",
             408: "The upload paused for too long", 413: "The upload is too large",
             422: "No photograph that can be read, or one of too many pixels",
             503: "Too many requests wait; the header Retry-After says when to come again"}
    return {status: {"model": Problem, "description": words[status]} for status in statuses}


def create_app(segment, card, worker, config):
    """The ASGI application.

    Args:
        segment: function as `open_segmenter` gives it; runs in the worker's thread.
        card: Card of its network.
        worker: Worker.
        config: ServeConfig.

    Returns:
        FastAPI.
    """
    limits = Limits(bytes=int(1e6 * config.max_megabytes), pixels=int(1e6 * config.max_megapixels))
    # FastAPI's own pages of documentation load scripts from elsewhere.
    app = FastAPI(title="MindFCN", version=mindfcn.__version__, docs_url=None, redoc_url=None,
                  description="Semantic segmentation: a class for every pixel of a photograph.")

    @app.exception_handler(RequestValidationError)
    async def no_photograph(request, error):
        return JSONResponse({"detail": "no photograph: send one file as the field `image` of a multipart form"}, 422)

    @app.exception_handler(Exception)
    async def failed(request, error):
        return JSONResponse({"detail": "the network failed on this photograph; the server's terminal says why"}, 500)

    @app.get("/healthz", responses=problems(403))
    async def health() -> Health:
        """Whether the server is up."""
        return Health(status="ok")

    @app.get("/api/model", responses=problems(403))
    async def model() -> Model:
        """The network, its classes, and what it takes."""
        return Model(name=card.model["name"],
                     classes=[named(number, card.labels) for number in range(len(card.labels))],
                     preprocess=card.preprocess.to_dict(), limits=limits,
                     metrics={name: value for name, value in card.metrics.items() if math.isfinite(value)})

    @app.post("/api/predict", response_model=Prediction,
              responses={200: {"content": {PNG: {}}, "description": "Classes, areas and mask; of Accept: image/png the "
                                                                    "mask alone"},
                         **problems(400, 403, 408, 413, 422, 503)})
    async def predict(request: Request,
                      image: UploadFile = File(description="JPEG, PNG, BMP, TIFF or WebP")) -> Any:  # noqa: B008
        """Segment a photograph. It is turned upright as its EXIF tag says."""
        data = await image.read()
        if len(data) > limits.bytes:
            raise too_large(limits.bytes)
        try:
            future = worker.submit(segment_upload, segment, data, limits.pixels)
        except Busy:
            raise busy(f"{config.queue} requests wait already") from None
        try:
            mask, seconds = await answer(future, request, config.patience)
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        png = encode_palette_png(mask, card.labels)
        if PNG in request.headers.get("accept", ""):
            return Response(png, media_type=PNG)
        return describe(mask, png, seconds, card.labels)

    app.mount("/", StaticFiles(directory=PAGE, html=True))
    app.add_middleware(Guard, names=(config.host, *config.hostnames), most=limits.bytes)
    return app


def segment_upload(segment, data, most):
    """(mask (H, W) uint8, seconds) of encoded image bytes. Raises UserError where they are not fit."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
    except Image.DecompressionBombError:
        width = height = most
    # Damaged bytes make Pillow fail in many ways.
    except Exception:  # noqa: BLE001
        raise UserError("the upload is not an image; send a JPEG, PNG, BMP, TIFF or WebP file") from None
    if width * height > most:
        raise UserError(f"the photograph has more than {most / 1e6:g} million pixels; reduce it, or start the server "
                        "with a larger --max_megapixels")
    image = decode_photograph(data, "the upload")
    started = time.perf_counter()
    return segment(image)[0], time.perf_counter() - started


async def answer(future, request, patience):
    """The result of a Future; gives up after `patience` seconds, and where the client has gone."""
    waiting = asyncio.wrap_future(future)
    ends = time.monotonic() + patience
    while not waiting.done():
        await asyncio.wait([waiting], timeout=max(0, min(1, ends - time.monotonic())))
        if not waiting.done() and (time.monotonic() >= ends or await request.is_disconnected()):
            waiting.cancel()
            raise busy(f"no answer within {patience:g} s")
    return waiting.result()


def busy(reason):
    """The HTTPException of a server that has too much to do."""
    return HTTPException(503, f"the server is busy: {reason}; send the photograph again later",
                         {"Retry-After": str(RETRY)})


def describe(mask, png, seconds, labels):
    """Prediction of a mask (H, W) uint8 and its palette PNG."""
    counts = np.bincount(mask.ravel(), minlength=len(labels))
    found = [number for number in np.argsort(-counts, kind="stable") if counts[number]]
    classes = [ClassArea(**named(int(number), labels).model_dump(), pixels=int(counts[number]),
                         percent=100 * float(counts[number]) / mask.size) for number in found]
    grey = cv2.imencode(".png", mask)[1].tobytes()
    return Prediction(width=mask.shape[1], height=mask.shape[0], seconds=seconds, classes=classes,
                      mask=base64.b64encode(png).decode(), numbers=base64.b64encode(grey).decode())


def named(number, labels):
    """ClassColour of a class number."""
    return ClassColour(number=number, name=labels.names[number], colour=labels.colours[number])
