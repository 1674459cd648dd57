"""Dynamic batching: what arrives while a batch is computed makes up the next one.

Ray Serve's own `serve.batch` closes a batch a fixed time after its first request, also while the one before is still
being computed: under load many small batches then wait in line. Here a batch is closed when there is a lane for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Waiting(NamedTuple, Generic[Item, Result]):
    item: Item
    size: int
    future: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """Computes items together; belongs to the event loop that it is first called in."""

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        size: Callable[[Item], int],
        most: int,
        wait_seconds: float = 0.0,
        lanes: int = 1,
    ) -> None:
        """Nothing runs before the first call.

        Args:
            compute: gives a result for each item; called in a thread of its own.
            size: how much an item counts; at most `most`.
            most: how much a batch holds.
            wait_seconds: how long a batch that is not full waits for more, once there is a lane for it.
            lanes: batches that are computed at once.
        """
        self._compute, self._size, self._most, self._wait = compute, size, most, wait_seconds
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._free = lanes
        self._threads = ThreadPoolExecutor(lanes, thread_name_prefix="batch")
        self._lanes: set[asyncio.Task[None]] = set()

    async def __call__(self, item: Item) -> Result:
        """The result of one item; an exception of `compute` is raised to every item of the batch."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(item, self._size(item), future))
        if self._free:
            self._free -= 1
            lane = asyncio.create_task(self._run_lane())
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)
        return await future

    def close(self) -> None:
        """End the threads when their batches are done."""
        self._threads.shutdown(wait=False)

    async def _run_lane(self) -> None:
        """Compute until nothing waits."""
        try:
            while self._waiting:
                if self._wait and sum(waiting.size for waiting in self._waiting) < self._most:
                    await asyncio.sleep(self._wait)
                await self._run_batch(self._next_batch())
        finally:
            self._free += 1

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        """In order of arrival, without those whose caller has gone."""
        batch: list[_Waiting[Item, Result]] = []
        room = self._most
        while self._waiting and (not batch or self._waiting[0].size <= room):
            first = self._waiting.popleft()
            if not first.future.done():
                batch.append(first)
                room -= first.size
        return batch

    async def _run_batch(self, batch: Sequence[_Waiting[Item, Result]]) -> None:
        if not batch:
            return
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._threads, self._compute, [waiting.item for waiting in batch])
        except Exception as error:
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(result)
