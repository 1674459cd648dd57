"""`vqrae serve`: a bundle behind HTTP, on Ray Serve."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vqrae.cli.options import BundlePath, Group, WorkerLoading, shared_cores
from vqrae.serving.limits import MEBIBYTE, Limits

if TYPE_CHECKING:
    from vqrae.runtimes.bundle import Bundle

Host = Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")]
Port = Annotated[int, typer.Option(help="Port; 0 for any free one.", min=0, max=65535)]
Replicas = Annotated[int, typer.Option(help="Processes that each hold the bundle.", min=1)]
Gpus = Annotated[float, typer.Option(help="GPUs of each replica.", min=0)]
BatchWait = Annotated[
    float, typer.Option(help="Milliseconds that a free replica waits for more images before it starts.", min=0)
]
Address = Annotated[
    str | None, typer.Option(help="Of a Ray cluster, run on one of its nodes; this machine if not given.")
]
MaxBatch = Annotated[int, typer.Option(help="Images that are computed together, and that a request may hold.", min=1)]
MaxQueue = Annotated[int, typer.Option(help="Requests inside at once; one more is answered 503.", min=1)]
MaxBody = Annotated[int, typer.Option(help="MiB of a request's body.", min=1)]
MaxJson = Annotated[int, typer.Option(help="MiB of JSON in a body; tensors may follow as binary data.", min=1)]
MaxMemory = Annotated[int, typer.Option(help="MiB of bodies and answers inside at once.", min=1)]
MaxMegapixels = Annotated[float, typer.Option(help="Megapixels of an image file.", min=0.001)]
BodyTimeout = Annotated[float, typer.Option(help="Seconds for a request to arrive.", min=0.1)]
Timeout = Annotated[float, typer.Option(help="Seconds for a result.", min=0.1)]


def limits_of(
    max_batch: MaxBatch = 32,
    max_queue: MaxQueue = 128,
    max_body: MaxBody = 32,
    max_json: MaxJson = 4,
    max_memory: MaxMemory = 512,
    max_megapixels: MaxMegapixels = 33.0,
    body_timeout: BodyTimeout = 30.0,
    timeout: Timeout = 60.0,
) -> Limits:
    """What clients may ask for."""
    return Limits(
        max_batch=max_batch,
        max_queue=max_queue,
        max_body=max_body * MEBIBYTE,
        max_json=max_json * MEBIBYTE,
        max_bytes=max_memory * MEBIBYTE,
        max_pixels=int(max_megapixels * 1e6),
        body_seconds=body_timeout,
        answer_seconds=timeout,
    )


def serve(
    bundle: BundlePath,
    *,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    replicas: Replicas = 1,
    gpus: Gpus = 0.0,
    options: WorkerLoading,
    batch_wait: BatchWait = 0.0,
    limits: Annotated[Limits, Group(limits_of)],
    address: Address = None,
) -> None:
    """Serve a BUNDLE: Open Inference Protocol v2, POST /encode and /decode, Prometheus at /metrics."""
    from vqrae.runtimes.errors import needing

    with needing("serve"):
        from vqrae.serving.server import ServerOptions, serve_bundle

    def started(url: str, opened: Bundle) -> None:
        print(f"{url} serves {opened.manifest.name}; Ctrl-C or SIGTERM stops it", flush=True)

    server = ServerOptions(
        host=host, port=port, replicas=replicas, gpus=gpus, wait_seconds=batch_wait / 1000, address=address
    )
    serve_bundle(bundle, server, shared_cores(options, replicas, address), limits, started)
