"""The gate: how much may be in the server at once. What does not fit is refused at once, so no queue grows.

A request takes one of the places when its body is complete, so that slow clients take none. Bytes are counted as they
arrive, whatever a header said beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vqrae.serving.refusal import Refusal


class Held:
    """Bytes of one request that are in the server."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.bytes = 0

    def grow(self, size: int, what: str) -> None:
        """Count `size` bytes more.

        Raises:
            Refusal: 503, there is no room; 413, there never is.
        """
        gate = self._gate
        if self.bytes + size > gate.max_bytes:
            wanted = self.bytes + size
            raise Refusal(413, f"{what} would have {wanted} bytes; expected at most {gate.max_bytes} (--max-memory)")
        if gate.bytes + size > gate.max_bytes:
            got = f"{gate.bytes} bytes of bodies and answers, of at most {gate.max_bytes} (--max-memory)"
            raise Refusal(503, f"the server is full: {got}; try again")
        self.bytes += size
        gate.bytes += size


class Gate:
    """Counts requests, and the bytes of bodies and answers; belongs to one event loop."""

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self.max_requests, self.max_bytes = max_requests, max_bytes
        self.requests = 0
        """Requests inside, their bodies complete."""
        self.bytes = 0
        """Bytes of bodies, of those that are still arriving too, and of the answers that they will get."""
        self.closed = False
        """Whether the server stops: nothing is let in any more."""

    @contextmanager
    def arriving(self) -> Iterator[Held]:
        """What a request holds for the length of the block; refused at once where its body would be in vain.

        Raises:
            Refusal: 503, the server stops, or there is no place.
        """
        self._check()
        held = Held(self)
        try:
            yield held
        finally:
            self.bytes -= held.bytes

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Let a request whose body is complete in for the length of the block; errors as for `arriving`."""
        self._check()
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    def _check(self) -> None:
        if self.closed:
            raise Refusal(503, "the server stops")
        if self.requests >= self.max_requests:
            got = f"{self.requests} requests, of at most {self.max_requests} (--max-queue)"
            raise Refusal(503, f"the server is full: {got}; try again")
