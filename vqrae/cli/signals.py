"""SIGTERM and Ctrl-C end a command by unwinding, so that temporary files go, also where a runtime computes for minutes.

Python runs a signal's handler when the main thread leaves native code. Until then a second thread, told by the system
itself, ends what a runtime computes; if that does not help either, it ends the process.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vqrae.runtimes.interrupts import interrupt_runs

PATIENCE = 0.2
"""Seconds in which a handler usually runs."""
LAST = 1.0
"""Seconds after which the process ends with what it has left, which the next one sweeps."""


@contextmanager
def unwound() -> Iterator[None]:
    """Within it SIGTERM unwinds as Ctrl-C does. Training and serving have handlers of their own."""
    if threading.current_thread() is not threading.main_thread():
        yield  # which alone may handle signals
        return
    handled = threading.Event()

    def terminate(number: int, _: object) -> None:
        handled.set()
        raise SystemExit(128 + number)

    def interrupt(_: int, __: object) -> None:
        handled.set()
        raise KeyboardInterrupt

    handlers = {signal.SIGTERM: terminate, signal.SIGINT: interrupt}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    told, tells = socket.socketpair()
    tells.setblocking(False)
    descriptor = signal.set_wakeup_fd(tells.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(told, handlers, handled), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        tells.close()  # which ends the watcher
        watcher.join()
        told.close()


def _watch(told: socket.socket, handlers: dict[signal.Signals, object], handled: threading.Event) -> None:
    """Wait for signals that are `unwound`'s to handle, and see that they are."""
    while number := told.recv(1):
        ours = handlers.get(signal.Signals(number[0]))
        if ours is None or signal.getsignal(number[0]) is not ours or handled.wait(PATIENCE):
            continue
        if interrupt_runs() and not handled.wait(LAST):
            print("\nvqrae: ended within a run; what was half-written is swept by the next command", file=sys.stderr)
            sys.stderr.flush()
            os._exit(128 + number[0])
