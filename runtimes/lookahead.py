"""Work done ahead of whoever takes its results, by a few threads and a bounded number of items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


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
