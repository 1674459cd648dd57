"""Runs of a runtime that another thread can end: Python sees a signal only when the main thread leaves native code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_running: set[Callable[[], object]] = set()
_lock = threading.Lock()


@contextmanager
def interruptible(cancel: Callable[[], object]) -> Iterator[None]:
    """Around a run; `cancel`, from another thread, makes it return soon, with an error."""

    def entry() -> object:
        return cancel()

    with _lock:
        _running.add(entry)
    try:
        yield
    finally:
        with _lock:
            _running.discard(entry)


def interrupt_runs() -> bool:
    """End all runs of this process; whether there are any."""
    with _lock:
        found = list(_running)
    for cancel in found:
        cancel()
    return bool(found)
