"""Runs of a runtime that another thread can end: Python sees a signal only when the main thread leaves native code.

And the thread's stack for signals, kept as it was while a library runs that replaces it.
"""

from __future__ import annotations

import ctypes
import sys
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


class SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2), as Linux has it."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """After it, this thread's stack for signals is the one before; where there was none, there is none.

    On processors with AMX OpenVINO's CPU plugin gives the thread that makes it a stack for signals of its own, and puts
    the one before it back when it goes. Two that do not go in reverse order leave the thread with a stack that was
    freed: the next signal, be it Ctrl-C, is a segmentation fault. One that finds another stack than its own when it
    goes does nothing.
    """
    if sys.platform != "linux":
        yield
        return
    sigaltstack = ctypes.CDLL(None).sigaltstack
    before = SignalStack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(before), None)
