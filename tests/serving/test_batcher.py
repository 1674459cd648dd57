from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from vqrae.serving.batcher import Batcher


class Doubling:
    """Doubles; holds the first batch until it is let go, and notes what came together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        assert self.go.wait(10)
        if 13 in items:
            raise ValueError("13")
        return [2 * item for item in items]


async def first_and_others(batcher: Batcher[int, int], compute: Doubling, others: Sequence[int]) -> list[object]:
    tasks = [asyncio.create_task(batcher(1))]
    while not compute.batches:
        await asyncio.sleep(0.001)
    tasks += [asyncio.create_task(batcher(item)) for item in others]
    await asyncio.sleep(0)
    compute.go.set()
    return list(await asyncio.gather(*tasks, return_exceptions=True))


def test_what_arrives_meanwhile_is_the_next_batch() -> None:
    compute = Doubling()
    batcher = Batcher(compute, size=lambda _: 1, most=3)
    assert asyncio.run(first_and_others(batcher, compute, [2, 3, 4, 5])) == [2, 4, 6, 8, 10]
    assert compute.batches == [[1], [2, 3, 4], [5]]


def test_a_batch_holds_no_more_than_its_most_by_size() -> None:
    compute = Doubling()
    batcher = Batcher(compute, size=lambda item: item, most=6)
    assert asyncio.run(first_and_others(batcher, compute, [2, 3, 2, 6])) == [2, 4, 6, 4, 12]
    assert compute.batches == [[1], [2, 3], [2], [6]]


def test_a_failure_reaches_those_of_its_batch_only() -> None:
    compute = Doubling()
    batcher = Batcher(compute, size=lambda _: 1, most=2)
    results = asyncio.run(first_and_others(batcher, compute, [12, 13, 14, 15]))
    assert [type(result) for result in results] == [int, ValueError, ValueError, int, int]


def test_a_caller_that_has_gone_is_left_out() -> None:
    async def run() -> None:
        first = asyncio.create_task(batcher(1))
        while not compute.batches:
            await asyncio.sleep(0.001)
        gone, stays = asyncio.create_task(batcher(2)), asyncio.create_task(batcher(3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        compute.go.set()
        assert await asyncio.gather(first, stays) == [2, 6]
        with pytest.raises(asyncio.CancelledError):
            await gone

    compute = Doubling()
    batcher = Batcher(compute, size=lambda _: 1, most=9)
    asyncio.run(run())
    assert compute.batches == [[1], [3]]


def test_a_batch_waits_for_more_when_told_to() -> None:
    async def run() -> None:
        first = asyncio.create_task(batcher(1))
        await asyncio.sleep(0.01)
        assert await asyncio.gather(first, batcher(2)) == [2, 4]

    compute = Doubling()
    compute.go.set()
    batcher = Batcher(compute, size=lambda _: 1, most=9, wait_seconds=1.0)
    asyncio.run(run())
    assert compute.batches == [[1, 2]]
