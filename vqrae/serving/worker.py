"""The worker: one loaded bundle, with batching; and the replica, which is one in a process of Ray Serve's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import VqraeError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.preprocess import prepare, read_image
from vqrae.runtimes.tokenizer import Tokenizer
from vqrae.serving.batcher import Batcher
from vqrae.serving.engine import Computed
from vqrae.serving.limits import Limits, refusal_of

DECODERS = 2
"""Image files that are decoded at once: each may need memory for `Limits.max_pixels`."""


class _Job(NamedTuple):
    batch: NDArray[Any]
    outputs: tuple[str, ...]


def _images(job: _Job) -> int:
    return len(job.batch)


class Worker(Closing):
    """An `Engine` in this process. It closes the tokenizer that it was given.

    It computes one full batch with each graph before anything else: then the memory that the runtime keeps has its size
    from the start, and no request is the slow first one.
    """

    def __init__(self, tokenizer: Tokenizer, limits: Limits, *, wait_seconds: float = 0.0, streams: int = 1) -> None:
        self._tokenizer, self._limits = tokenizer, limits
        tokens = tokenizer.manifest.tokens
        first: dict[str, tuple[Callable[[Sequence[_Job]], list[Computed]], NDArray[Any]]] = {
            "encode": (self._encode, np.zeros((limits.max_batch, *tokenizer.image_size, 3), np.uint8)),
            "decode": (self._decode, np.zeros((limits.max_batch, *tokens.shape), np.int32)),
        }
        self._batchers = {}
        for graph, (compute, batch) in first.items():
            if graph in tokenizer.manifest.graphs:
                compute([_Job(batch, ())])
                self._batchers[graph] = Batcher(
                    compute, size=_images, most=limits.max_batch, wait_seconds=wait_seconds, lanes=streams
                )
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")

    async def infer(self, graph: str, batch: NDArray[Any], outputs: tuple[str, ...]) -> Computed:
        """See `Engine`."""
        try:
            return await self._batchers[graph](_Job(batch, outputs))
        except VqraeError as error:
            raise refusal_of(error) from error

    async def encode_file(self, content: bytes) -> Computed:
        """See `Engine`."""
        loop = asyncio.get_running_loop()
        try:
            image = await loop.run_in_executor(self._decoders, self._prepared, content)
        except VqraeError as error:
            raise refusal_of(error) from error
        return await self.infer("encode", image[None], ("indices",))

    async def ready(self) -> bool:
        """True: the graphs are loaded, and have run."""
        return True

    def close(self) -> None:
        """Release the runtime's memory."""
        self._decoders.shutdown(wait=False)
        for batcher in self._batchers.values():
            batcher.close()
        self._tokenizer.close()

    def _prepared(self, content: bytes) -> NDArray[np.uint8]:
        image = read_image("image", BytesIO(content), max_pixels=self._limits.max_pixels)
        return prepare(image, *self._tokenizer.image_size)

    def _encode(self, jobs: Sequence[_Job]) -> list[Computed]:
        encoding = self._tokenizer.encode(np.concatenate([job.batch for job in jobs]))
        return _shared_out({"indices": encoding.indices, "features": encoding.features}, jobs)

    def _decode(self, jobs: Sequence[_Job]) -> list[Computed]:
        return _shared_out({"images": self._tokenizer.decode(np.concatenate([job.batch for job in jobs]))}, jobs)


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


class Replica(Worker):
    """A worker as Ray Serve makes it, of a bundle that it loads itself; later changes on disk do not reach it."""

    def __init__(self, options: ReplicaOptions) -> None:
        bundle = Bundle.listed(options.bundle, sha256=options.manifest_sha256, private=options.private)
        tokenizer = Tokenizer.from_bundle(bundle, options.load)
        super().__init__(tokenizer, options.limits, wait_seconds=options.wait_seconds, streams=options.load.streams)


def _shared_out(arrays: dict[str, NDArray[Any]], jobs: Sequence[_Job]) -> list[Computed]:
    """Each job's rows; copies, since a view would keep the whole batch in memory."""
    results = []
    start, count = 0, sum(map(_images, jobs))
    for job in jobs:
        rows = slice(start, start + len(job.batch))
        results.append(Computed({name: arrays[name][rows].copy() for name in job.outputs}, count))
        start = rows.stop
    return results
