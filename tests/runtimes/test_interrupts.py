"""What a runtime computes can be ended from another thread; real runs are ended in tests/cli/test_signals.py."""

from __future__ import annotations

import threading

from vqrae.runtimes.interrupts import interrupt_runs, interruptible


def test_nothing_runs() -> None:
    assert not interrupt_runs()


def test_every_run_is_ended_by_what_it_registered() -> None:
    ended = [threading.Event(), threading.Event()]
    with interruptible(ended[0].set), interruptible(ended[1].set):
        assert interrupt_runs()
    assert all(event.is_set() for event in ended)
    assert not interrupt_runs()
