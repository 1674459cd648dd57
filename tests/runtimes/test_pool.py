from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.pool import Pool

CLOSED = "somewhere session: got a run after close; expected an open session"


def test_each_item_serves_one_call_at_a_time() -> None:
    pool, used, together = Pool("somewhere", ["a", "b"]), [], threading.Barrier(2, timeout=10)

    def use(_: int) -> None:
        with pool.lend() as item:
            together.wait()
            used.append(item)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(use, range(6)))
    assert len(used) == 6
    assert set(used) == {"a", "b"}


def test_a_call_that_fails_gives_its_item_back() -> None:
    pool = Pool("somewhere", ["a"])
    with pytest.raises(ZeroDivisionError), pool.lend():
        raise ZeroDivisionError
    with pool.lend() as item:
        assert item == "a"


def test_emptying_waits_for_calls_that_go_on_and_refuses_those_that_come_later() -> None:
    pool, begun, may_end = Pool("somewhere", ["a"]), threading.Event(), threading.Event()

    def use() -> str:
        with pool.lend() as item:
            begun.set()
            may_end.wait(10)
            return item

    with ThreadPoolExecutor(2) as threads:
        using = threads.submit(use)
        assert begun.wait(10)
        emptying = threads.submit(pool.empty)
        assert not emptying.done()
        may_end.set()
        assert (using.result(10), emptying.result(10)) == ("a", ["a"])
    for _ in range(3):
        with pytest.raises(UsageError, match=CLOSED), pool.lend():
            pass
    assert pool.empty() == []


def test_calls_that_wait_while_it_is_emptied_are_refused_and_do_not_hang() -> None:
    pool, begun, may_end = Pool("somewhere", ["a"]), threading.Event(), threading.Event()

    def use() -> None:
        with pool.lend():
            begun.set()
            may_end.wait(10)

    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(use) for _ in range(6)]
        assert begun.wait(10)
        emptying = threads.submit(pool.empty)
        may_end.set()
        assert emptying.result(10) == ["a"]
        errors = [call.exception(10) for call in calls]
    assert all(error is None or (isinstance(error, UsageError) and CLOSED in str(error)) for error in errors)
