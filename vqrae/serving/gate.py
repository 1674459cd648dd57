"""The gate: how much may be in the server at once. What does not fit is refused at once, so no queue grows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vqrae.serving.refusal import Refusal


class Gate:
    """Counts requests, and the bytes of bodies and answers; belongs to one event loop."""

    def __init__(self, *, max_requests: int, max_bytes: int) -> None:
        self.max_requests, self.max_bytes = max_requests, max_bytes
        self.requests = 0
        """Requests inside."""
        self.bytes = 0
        """Bytes of their bodies, and of the answers that they will get."""
        self.closed = False
        """Whether the server stops: nothing is let in any more."""

    @contextmanager
    def admit(self, size: int) -> Iterator[None]:
        """Let a request with a body of `size` bytes in for the length of the block.

        Raises:
            Refusal: 503, there is no room; 413, there never is.
        """
        if self.closed:
            raise Refusal(503, "the server stops")
        if self.requests >= self.max_requests:
            raise Refusal(503, f"the server is full: {self.requests} requests; try again")
        with self.hold(size, "the body"):
            self.requests += 1
            try:
                yield
            finally:
                self.requests -= 1

    @contextmanager
    def hold(self, size: int, what: str) -> Iterator[None]:
        """Count `size` bytes more for the length of the block.

        Raises:
            Refusal: 503, there is no room; 413, there never is.
        """
        if size > self.max_bytes:
            raise Refusal(413, f"{what} would have {size} bytes; expected at most {self.max_bytes}")
        if self.requests and self.bytes + size > self.max_bytes:
            raise Refusal(503, f"the server is full: requests of {self.bytes} bytes; try again")
        self.bytes += size
        try:
            yield
        finally:
            self.bytes -= size
