"""The calling thread's stack for signals, kept as it was while a library runs that replaces it.

On processors with AMX OpenVINO's CPU plugin gives the thread that makes it a stack for signals of its own, and puts the
one before it back when it goes. Two that do not go in reverse order leave the thread with a stack that was freed: the
next signal, be it Ctrl-C, is a segmentation fault. One that finds another stack than its own when it goes does nothing.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2), as Linux has it."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """After it, this thread's stack for signals is the one before; where there was none, there is none."""
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
