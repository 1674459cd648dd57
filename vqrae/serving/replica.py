"""A replica: the worker as Ray Serve runs it, in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.load_options import LoadOptions
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
    private: bool
    """Whether `bundle` is the server's own copy, which was verified and which nobody else can change."""
    load: LoadOptions
    limits: Limits
    wait_seconds: float = 0.0
    """How long a batch that is not full waits for more."""


class Replica:
    """Loads the bundle when it starts; later changes on disk do not reach it."""

    def __init__(self, options: ReplicaOptions) -> None:
        bundle = Bundle.listed(options.bundle, sha256=options.manifest_sha256, private=options.private)
        tokenizer = Tokenizer.from_bundle(bundle, options.load)
        streams = options.load.streams
        self._worker = Worker(tokenizer, options.limits, wait_seconds=options.wait_seconds, streams=streams)

    async def infer(self, graph: str, batch: NDArray[Any], outputs: tuple[str, ...]) -> Computed:
        """See `Engine`."""
        return await self._worker.infer(graph, batch, outputs)

    async def encode_file(self, content: bytes) -> Computed:
        """See `Engine`."""
        return await self._worker.encode_file(content)
