"""Reading a request's body: no more bytes than allowed, and not longer than allowed."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from vqrae.serving.limits import Limits
from vqrae.serving.refusal import Refusal


def declared_size(request: Request, limits: Limits) -> int:
    """Bytes that the body may have: as its header says, or the most where it does not say.

    Raises:
        Refusal: 413, more than allowed; 415, compressed, which could hide more.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise Refusal(415, f"got content-encoding {encoding!r:.40}; expected an uncompressed body")
    length = request.headers.get("content-length")
    if length is None:
        return limits.max_body
    if not (length.isascii() and length.isdigit()):
        raise Refusal(400, f"got content-length {length!r:.40}; expected a number")
    if int(length) > limits.max_body:
        raise Refusal(413, f"got a body of {length} bytes; expected at most {limits.max_body}")
    return int(length)


async def read_body(request: Request, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        Refusal: 400, the client has gone; 408, it took too long; 413, more than allowed.
    """
    chunks, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.max_body:
                    raise Refusal(413, f"got a body of more than {limits.max_body} bytes, which is the most")
                chunks.append(chunk)
    except TimeoutError as error:
        raise Refusal(408, f"got {size} bytes in {limits.body_seconds:g} s, and not all of the body") from error
    except ClientDisconnect as error:
        raise Refusal(400, "the client closed the connection before the end of the body") from error
    return b"".join(chunks)
