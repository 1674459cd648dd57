from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from vqrae.runtimes.pool import done_ahead


def counted(limit: int, taken: list[int]) -> Iterator[int]:
    for number in range(limit):
        taken.append(number)
        yield number


@pytest.mark.parametrize(("threads", "most"), [(1, 1), (2, 3), (4, 100)])
def test_results_come_in_order(threads: int, most: int) -> None:
    def slow_when_even(number: int) -> int:
        time.sleep(0.002 * (number % 2 == 0))
        return number * number

    assert list(done_ahead(slow_when_even, range(20), threads=threads, most=most)) == [n * n for n in range(20)]


def test_no_more_than_asked_for_is_ahead() -> None:
    taken: list[int] = []
    with closing(done_ahead(lambda number: number, counted(50, taken), threads=2, most=5)) as results:
        for seen, _ in enumerate(results, start=1):
            assert len(taken) <= seen + 4


def test_an_error_stops_the_rest_and_leaves_no_thread() -> None:
    before, begun = threading.active_count(), []

    def fail_at_three(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    seen = []
    with pytest.raises(ValueError, match="three"):
        seen.extend(done_ahead(fail_at_three, range(1000), threads=2, most=8))
    assert max(begun) < 3 + 8
    assert threading.active_count() == before


def test_who_stops_reading_leaves_no_thread() -> None:
    before = threading.active_count()
    with closing(done_ahead(lambda number: number, range(1000), threads=3, most=8)) as results:
        assert next(results) == 0
        assert threading.active_count() > before
    assert threading.active_count() == before
