"""`vqrae serve`, put together: a bundle, replicas under Ray Serve, and the HTTP server before them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

from vqrae.cluster import cluster
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import BundleError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.registry import session_class
from vqrae.runtimes.sealed import private_copy
from vqrae.serving.app import Service
from vqrae.serving.http import HttpServer, bound_socket, serve_until_told, url_of
from vqrae.serving.limits import Limits
from vqrae.serving.replicas import Replicas, stop_replicas
from vqrae.serving.worker import ReplicaOptions

_MMAP_THRESHOLD, _LARGE_BYTES = -3, 2**20


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Where a server listens, and what computes behind it."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 is any free one."""
    replicas: int = 1
    gpus: float = 0.0
    """GPUs of each replica."""
    wait_seconds: float = 0.0
    address: str | None = None
    """Of a Ray cluster; None is this machine."""


def serve_bundle(
    path: Path, options: ServerOptions, load: LoadOptions, limits: Limits, started: Callable[[str, Bundle], None]
) -> None:
    """Serve a bundle until SIGTERM or Ctrl-C.

    Args:
        path: the bundle's folder; on a cluster, the same on every node.
        options: see there.
        load: how each replica loads it; its signature is compared here, and replicas serve what was signed.
        limits: what clients may ask for.
        started: called with the server's URL and the bundle once it answers.

    Raises:
        BundleError: the bundle is invalid, not signed as it must be, or lacks `encode` or `decode`.
        RuntimeUnavailable: its runtime, or Ray, is not there, or a replica does not start.
        UsageError: the address is taken.
    """
    bundle = _servable(path, load)
    cpus = load.threads or 1
    _return_large_blocks()
    with ExitStack() as stack:
        bound = stack.enter_context(bound_socket(options.host, options.port))
        loaded = stack.enter_context(_kept(bundle, shared=options.address is None and load.sealing != "memory"))
        replica = ReplicaOptions(
            bundle=loaded.path,
            manifest_sha256=bundle.sha256,
            private=loaded.private,
            load=load,
            limits=limits,
            wait_seconds=options.wait_seconds,
        )
        stack.enter_context(cluster(options.address, cpus=max(os.cpu_count() or 1, cpus * options.replicas)))
        replicas = Replicas.start(replica, count=options.replicas, cpus=cpus, gpus=options.gpus)
        if options.address is not None:
            stack.callback(stop_replicas)
        server = HttpServer(Service(replicas, bundle.manifest, bundle.sha256, limits))
        asyncio.run(serve_until_told(server, bound, lambda: started(url_of(bound), bundle)))


def _servable(path: Path, load: LoadOptions) -> Bundle:
    """A bundle that can be served here: signed as it must be, with a graph to serve, its runtime installed."""
    bundle = Bundle.listed(path.resolve(), public_key=load.public_key)
    if not {"encode", "decode"} & bundle.manifest.graphs.keys():
        got = f"the graphs {', '.join(bundle.manifest.graphs)}"
        raise BundleError(str(path), got=got, expected="encode and decode, or one of them")
    session_class(bundle.manifest.runtime.name)  # a runtime that is missing is said here, not by a replica
    return bundle


def _kept(bundle: Bundle, *, shared: bool) -> AbstractContextManager[Bundle]:
    """One copy for all replicas, which start again from it; those on other machines make their own."""
    if shared:
        return private_copy(bundle)
    bundle.check_all()
    return nullcontext(bundle)


def _return_large_blocks() -> None:
    """Have glibc give back what a large body took when it is freed; it would keep blocks of up to 32 MiB for the next.

    It does so once one was freed, unless the threshold is set (mallopt(3), M_MMAP_THRESHOLD).
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl returns memory anyway
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
