"""`vqrae serve`: a bundle behind HTTP, on Ray Serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import BundlePath, WorkerLoading


def serve(
    bundle: BundlePath,
    *,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any free one.", min=0, max=65535)] = 8000,
    replicas: Annotated[int, typer.Option(help="Processes that each hold the bundle.", min=1)] = 1,
    gpus: Annotated[float, typer.Option(help="GPUs of each replica.", min=0)] = 0.0,
    options: WorkerLoading,
    max_batch: Annotated[
        int, typer.Option(help="Images that are computed together, and that a request may hold.", min=1)
    ] = 32,
    batch_wait: Annotated[
        float, typer.Option(help="Milliseconds that a free replica waits for more images before it starts.", min=0)
    ] = 0.0,
    max_queue: Annotated[int, typer.Option(help="Requests inside at once; one more is answered 503.", min=1)] = 128,
    max_body: Annotated[int, typer.Option(help="MiB of a request's body.", min=1)] = 32,
    max_json: Annotated[int, typer.Option(help="MiB of JSON in a body; tensors may follow as binary data.", min=1)] = 4,
    max_memory: Annotated[int, typer.Option(help="MiB of bodies and answers inside at once.", min=1)] = 512,
    max_megapixels: Annotated[float, typer.Option(help="Megapixels of an image file.", min=0.001)] = 33.0,
    body_timeout: Annotated[float, typer.Option(help="Seconds for a request to arrive.", min=0.1)] = 30.0,
    timeout: Annotated[float, typer.Option(help="Seconds for a result.", min=0.1)] = 60.0,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, run on one of its nodes; this machine if not given.")
    ] = None,
) -> None:
    """Serve a BUNDLE: Open Inference Protocol v2, POST /encode and /decode, Prometheus at /metrics."""
    from vqrae.cli.workers import shared_cores
    from vqrae.runtimes.bundle import Bundle
    from vqrae.runtimes.errors import needing

    with needing("serve"):
        from vqrae.serving.limits import MEBIBYTE, Limits
        from vqrae.serving.server import ServerOptions, serve_bundle

    limits = Limits(
        max_batch=max_batch,
        max_queue=max_queue,
        max_body=max_body * MEBIBYTE,
        max_json=max_json * MEBIBYTE,
        max_bytes=max_memory * MEBIBYTE,
        max_pixels=int(max_megapixels * 1e6),
        body_seconds=body_timeout,
        answer_seconds=timeout,
    )
    server = ServerOptions(
        host=host, port=port, replicas=replicas, gpus=gpus, wait_seconds=batch_wait / 1000, address=address
    )

    def started(url: str, opened: Bundle) -> None:
        print(f"{url} serves {opened.manifest.name}; Ctrl-C or SIGTERM stops it", flush=True)

    serve_bundle(Path(bundle), server, shared_cores(options, replicas, address), limits, started)
