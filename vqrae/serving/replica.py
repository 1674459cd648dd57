"""A replica: the worker as Ray Serve runs it, in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vqrae.pinned import open_pinned
from vqrae.runtimes.session import SessionOptions
from vqrae.runtimes.tokenizer import Tokenizer
from vqrae.serving.engine import Computed
from vqrae.serving.limits import Limits
from vqrae.serving.worker import Worker


@dataclass(frozen=True, kw_only=True)
class ReplicaOptions:
    """What every replica of a server has in common."""

    bundle: Path
    manifest_sha256: str
    """Of the bundle that the server was started with; no replica serves another one."""
    session: SessionOptions
    limits: Limits
    wait_seconds: float = 0.0
    """How long a batch that is not full waits for more."""


class Replica:
    """Loads the bundle when it starts, verifying every file; later changes on disk do not reach it."""

    def __init__(self, options: ReplicaOptions) -> None:
        tokenizer = Tokenizer.from_bundle(open_pinned(options.bundle, options.manifest_sha256), options.session)
        streams = options.session.streams
        self._worker = Worker(tokenizer, options.limits, wait_seconds=options.wait_seconds, streams=streams)

    async def infer(self, graph: str, batch: NDArray[Any], outputs: tuple[str, ...]) -> Computed:
        """See `Engine`."""
        return await self._worker.infer(graph, batch, outputs)

    async def encode_file(self, content: bytes) -> Computed:
        """See `Engine`."""
        return await self._worker.encode_file(content)
