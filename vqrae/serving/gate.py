"""The gate: how much may be in the server at once, and reading no more of a request than that.

What does not fit is refused at once, so no queue grows. A request takes one of the places when its body is complete, so
that slow clients take none. Bytes are counted as they arrive, whatever a header said beforehand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.requests import ClientDisconnect, Request

from vqrae.serving.limits import Limits, Refusal

LENGTH_HEADER = "inference-header-content-length"
"""Says that tensors follow the JSON as binary data, and how long the JSON is."""
_TOO_MUCH_JSON = (
    "got {got} of JSON; expected at most {most} (--max-json); send tensors as binary data, as the extension "
    "binary_tensor_data says (Inference-Header-Content-Length)"
)


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


async def read_body(request: Request, limits: Limits, held: Held, *, is_json: bool) -> bytes:
    """The whole body, counted as it arrives.

    Args:
        request: whose.
        limits: what it may be.
        held: counts its bytes.
        is_json: whether all of it is JSON, unless a header says how much is.

    Raises:
        Refusal: 400, the client has gone; 408, it took too long; 413, more than allowed; 415, compressed, which could
            hide more; 503, there is no room.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise Refusal(415, f"got content-encoding {encoding!r:.40}; expected an uncompressed body")
    all_json = is_json and LENGTH_HEADER not in request.headers
    most = min(limits.max_json, limits.max_body) if all_json else limits.max_body
    length = request.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise Refusal(400, f"got content-length {length!r:.40}; expected a number")
    _check(int(length), most, f"{length} bytes", all_json=all_json)
    body = bytearray()  # one large block, which goes back to the system when it is freed; chunks would not
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                _check(held.bytes + len(chunk), most, f"more than {most} bytes", all_json=all_json)
                held.grow(len(chunk), "the body")
                body += chunk
    except TimeoutError as error:
        got = f"got {held.bytes} bytes in {limits.body_seconds:g} s, and not all of the body"
        raise Refusal(408, f"{got} (--body-timeout)") from error
    except ClientDisconnect as error:
        raise Refusal(400, "the client closed the connection before the end of the body") from error
    return bytes(body)


def _check(size: int, most: int, got: str, *, all_json: bool) -> None:
    if size > most:
        text = _TOO_MUCH_JSON if all_json else "got a body of {got}; expected at most {most} (--max-body)"
        raise Refusal(413, text.format(got=got, most=most))
