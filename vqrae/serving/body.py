"""Reading a request's body: no more bytes than allowed, and not longer than allowed."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from vqrae.serving.gate import Held
from vqrae.serving.limits import Limits
from vqrae.serving.refusal import Refusal

LENGTH_HEADER = "inference-header-content-length"
"""Says that tensors follow the JSON as binary data, and how long the JSON is."""
_TOO_MUCH_JSON = (
    "got {got} of JSON; expected at most {most} (--max-json); send tensors as binary data, as the extension "
    "binary_tensor_data says (Inference-Header-Content-Length)"
)


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
