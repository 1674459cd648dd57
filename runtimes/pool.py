"""What serves one call at a time: requests, lanes. A call waits while all of them are busy."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, TypeVar

from vqrae.runtimes.session import closed_session

Item = TypeVar("Item")


class Pool(Generic[Item]):
    """Lends its items to calls from any thread, until it is emptied."""

    def __init__(self, runtime: str, items: Iterable[Item]) -> None:
        """`runtime` is named in the error that a call gets after `empty`."""
        self._runtime = runtime
        self._emptying = threading.Lock()
        self._idle: SimpleQueue[Item | None] = SimpleQueue()
        self._count = 0
        for item in items:
            self._idle.put(item)
            self._count += 1

    @contextmanager
    def lend(self) -> Iterator[Item]:
        """One item for the length of the block; waits while all are lent.

        Raises:
            UsageError: the pool was emptied.
        """
        item = self._idle.get()
        try:
            if item is None:
                raise closed_session(self._runtime)
            yield item
        finally:
            self._idle.put(item)

    def empty(self) -> list[Item]:
        """Take all items back, each when the call that has it is over; the second time there is none."""
        with self._emptying:
            count, self._count = self._count, 0
            items = [item for _ in range(count) if (item := self._idle.get()) is not None]
            if count:
                self._idle.put(None)  # what later calls get, and hand on to each other
        return items
