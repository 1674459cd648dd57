"""The HTTP application: paths, and what each answers. It knows no engine but the protocol `Engine`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vqrae import __version__
from vqrae.runtimes.manifest import Manifest
from vqrae.serving.engine import Computed, Engine
from vqrae.serving.gate import LENGTH_HEADER, Gate, Held, read_body
from vqrae.serving.inference import read_inference, read_tokens, write_inference
from vqrae.serving.limits import Limits, Refusal
from vqrae.serving.models import VERSION, Model, models_of

logger = logging.getLogger(__name__)

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)

Read = TypeVar("Read")
Work = Callable[[Request, bytes, Held], Awaitable[Response]]


class Metrics:
    """What the server counts, for Prometheus. One registry for each server: tests run several."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter(
            "vqrae_requests", "Requests that were answered.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "vqrae_request_seconds",
            "From a request's head to its answer.",
            ["route"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.inside = Gauge("vqrae_requests_inside", "Requests that wait or are computed.", registry=registry)
        self.images = Counter("vqrae_images", "Images that were computed.", ["graph"], registry=registry)
        self.batch = Histogram(
            "vqrae_batch_images",
            "Images computed together, seen from each request.",
            ["graph"],
            buckets=BATCH_BUCKETS,
            registry=registry,
        )

    def text(self) -> bytes:
        """The figures as Prometheus reads them."""
        return generate_latest(self._registry)


@dataclass
class Service:
    """One bundle behind HTTP."""

    engine: Engine
    manifest: Manifest
    bundle_sha256: str
    """Of its `manifest.json`, which holds the hashes of everything else."""
    limits: Limits
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.models = models_of(self.manifest, max_batch=self.limits.max_batch)
        self.gate = Gate(max_requests=self.limits.max_queue, max_bytes=self.limits.max_bytes)
        self._parsing = asyncio.Lock()

    def app(self) -> Starlette:
        """The ASGI application."""
        get, post = ["GET"], ["POST"]
        routes = [
            Route("/metrics", self.figures, methods=get),
            Route("/v2", self.about, methods=get),
            Route("/v2/health/live", self.live, methods=get),
            Route("/v2/health/ready", self.ready, methods=get),
            Route("/encode", self._answering("encode_file", self.encode_file, is_json=False), methods=post),
            Route("/decode", self._answering("decode_file", self.decode_file, is_json=True), methods=post),
        ]
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                Route(model, self.model_metadata, methods=get),
                Route(f"{model}/config", self.model_config, methods=get),
                Route(f"{model}/ready", self.model_ready, methods=get),
                Route(f"{model}/infer", self._answering("infer", self.infer, is_json=True), methods=post),
            ]
        handlers: dict[Any, Any] = {HTTPException: _http_error, Refusal: _refusal_error}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def live(self, request: Request) -> Response:
        """Whether the process answers at all."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether requests can be computed: 200 or 503."""
        if self.gate.closed:
            raise Refusal(503, "the server stops")
        if not await self.engine.ready():
            raise Refusal(503, "no replica is ready")
        return JSONResponse({"ready": True})

    async def about(self, request: Request) -> Response:
        """The server's metadata; `vqrae` says which bundle it is."""
        tokens, precision = self.manifest.tokens, self.manifest.precision
        bundle = {
            "bundle": self.manifest.name,
            "bundle_sha256": self.bundle_sha256,
            "runtime": self.manifest.runtime.name,
            "precision": precision.name,
            "image_size": [self.manifest.preprocessing.height, self.manifest.preprocessing.width],
            "grid": list(tokens.grid),
            "codebook_size": tokens.codebook_size,
        }
        return JSONResponse(
            {"name": "vqrae", "version": __version__, "extensions": ["binary_tensor_data"], "vqrae": bundle}
        )

    async def figures(self, request: Request) -> Response:
        """Prometheus' figures."""
        self.metrics.inside.set(self.gate.requests)
        return Response(self.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def model_metadata(self, request: Request) -> Response:
        """What a model takes and gives."""
        return JSONResponse(self._model(request).metadata)

    async def model_config(self, request: Request) -> Response:
        """The same in Triton's words."""
        return JSONResponse(self._model(request).config)

    async def model_ready(self, request: Request) -> Response:
        """Both models are ready when the server is."""
        self._model(request)
        return await self.ready(request)

    async def infer(self, request: Request, body: bytes, held: Held) -> Response:
        """Run a model on tensors."""
        model = self._model(request)
        length = request.headers.get(LENGTH_HEADER)
        inference = await self._reading(read_inference, body, length, model, max_json=self.limits.max_json)
        count, outputs = len(inference.batch), tuple(inference.outputs)
        held.grow(model.answer_size(inference.outputs, count), "the answer")
        work = self.engine.infer(model.name, inference.batch, outputs)
        computed = await self._computed(model.name, work, count)
        content, json_length = await asyncio.to_thread(write_inference, inference, computed.arrays, model)
        if json_length is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={LENGTH_HEADER: str(json_length)})

    async def encode_file(self, request: Request, body: bytes, held: Held) -> Response:
        """The tokens of an image file."""
        self._served("encode")
        if not body:
            raise Refusal(400, "image: got an empty body; expected an image file")
        computed = await self._computed("encode", self.engine.encode_file(body), 1)
        indices = computed.arrays["indices"][0]
        tokens = {"indices": indices.tolist(), "codebook_size": self.manifest.tokens.codebook_size}
        return JSONResponse(tokens | {"bundle": self.manifest.name, "bundle_sha256": self.bundle_sha256})

    async def decode_file(self, request: Request, body: bytes, held: Held) -> Response:
        """The PNG of tokens."""
        indices = await self._reading(read_tokens, body, self._served("decode"))
        computed = await self._computed("decode", self.engine.infer("decode", indices, ("images",)), 1)
        return Response(await asyncio.to_thread(_png, computed.arrays["images"][0]), media_type="image/png")

    def _model(self, request: Request) -> Model:
        name, wanted = request.path_params["model"], request.path_params.get("version", VERSION)
        model = self._served(name)
        if wanted != VERSION:
            raise Refusal(404, f"got version {wanted!r:.40} of {name}; expected {VERSION}")
        return model

    def _served(self, name: str) -> Model:
        if name not in self.models:
            raise Refusal(404, f"got the model {name!r:.80}; expected one of {', '.join(self.models)}")
        return self.models[name]

    async def _computed(self, graph: str, work: Awaitable[Computed], images: int) -> Computed:
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                computed = await work
        except TimeoutError as error:
            raise Refusal(504, f"no result after {self.limits.answer_seconds:g} s") from error
        self.metrics.images.labels(graph).inc(images)
        self.metrics.batch.labels(graph).observe(computed.batch)
        return computed

    async def _reading(self, read: Callable[..., Read], *arguments: Any, **options: Any) -> Read:
        """Parse JSON, one body after another: while one is parsed no other thread runs, and no answer is sent."""
        async with self._parsing:
            return await asyncio.to_thread(read, *arguments, **options)

    def _answering(self, route: str, work: Work, *, is_json: bool) -> Callable[[Request], Awaitable[Response]]:
        """Let a request in, read its body, and answer whatever happens."""

        async def endpoint(request: Request) -> Response:
            started = time.perf_counter()
            try:
                with self.gate.arriving() as held:
                    body = await read_body(request, self.limits, held, is_json=is_json)
                    with self.gate.admit():
                        response = await work(request, body, held)
            except Refusal as refusal:
                response = _refused(refusal)
            except Exception:
                logger.exception("a request to %s failed", request.url.path)
                response = _refused(Refusal(500, "the server made a mistake; its log says more"))
            self.metrics.requests.labels(route, response.status_code).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - started)
            return response

        endpoint.__name__ = route
        return endpoint


def _png(image: NDArray[np.uint8]) -> bytes:
    """An image (H, W, 3) as a PNG file."""
    file = BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def _refused(refusal: Refusal) -> Response:
    return JSONResponse({"error": refusal.message}, status_code=refusal.status, headers=refusal.headers)


async def _refusal_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101
    return _refused(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own answers, 404 and 405, as JSON."""
    assert isinstance(error, HTTPException)  # noqa: S101
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return JSONResponse({"error": message}, status_code=error.status_code, headers=error.headers)
