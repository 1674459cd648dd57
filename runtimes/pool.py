"""Work of several threads: what serves one call at a time (requests, lanes), and what is done ahead of its taker."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, TypeVar

from vqrae.runtimes.session import closed_session

Item = TypeVar("Item")
Result = TypeVar("Result")


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


def done_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, threads: int, most: int
) -> Generator[Result, None, None]:
    """Results in the order of the items. Close it if it is not read to its end: no thread outlives it.

    An item's error is raised where its result would be; what was not begun by then is never begun.

    Args:
        work: what is to be done with each item; it runs in several threads.
        items: read by the taker's thread, each when there is room for it.
        threads: items that are worked on at once.
        most: items that are worked on, or whose results wait to be taken.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
