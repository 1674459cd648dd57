"""SIGTERM, which schedulers send before they kill: finish the step, save, and exit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vqrae.runtimes.errors import VqraeError


class Terminated(VqraeError):  # noqa: N818 - a wish of the system's, not a mistake
    """The run was asked to stop, and has saved itself."""

    exit_code = 128 + signal.SIGTERM


class StopRequest:
    """Whether SIGTERM has come."""

    def __init__(self) -> None:
        self.made = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler: only take note, so that the step goes on undisturbed."""
        self.made = True


@contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Within it SIGTERM makes a request, which the loop honours between two steps.

    Only the main thread may handle signals; in any other the request is never made.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.signal(signal.SIGTERM, request)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, before)
