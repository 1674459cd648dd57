"""What a server takes from its clients, and how it says why a request gets no result."""

from __future__ import annotations

from dataclasses import dataclass

from vqrae.runtimes.errors import InvalidInput, UsageError, VqraeError

MEBIBYTE = 2**20
RETRY_AFTER_SECONDS = 1
"""What a client is asked to wait when the server is full."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Everything that a client could make grow has a bound."""

    max_batch: int = 32
    """Images that a request may hold, and that are computed together."""
    max_queue: int = 128
    """Requests that are in the server at once, those that are computed included; one more is answered 503."""
    max_body: int = 32 * MEBIBYTE
    """Bytes of one request's body."""
    max_json: int = 4 * MEBIBYTE
    """Bytes of JSON in it: parsing takes many times as much memory, and nobody else gets a turn meanwhile."""
    max_bytes: int = 512 * MEBIBYTE
    """Bytes of bodies and answers that are in the server at once; what does not fit beside them is answered 503."""
    max_pixels: int = 2**25
    """Pixels of an image file; 7000 x 4700 fits."""
    body_seconds: float = 30.0
    """Time for a request's head, and for its body, to arrive."""
    answer_seconds: float = 60.0
    """Time for the result."""


class Refusal(Exception):  # noqa: N818 - an answer, not a mistake
    """Ends a request with a status and one line of JSON.

    400  the request, a tensor or an image is invalid
    404  no such path or model
    405  the path has other methods
    408  the body did not arrive in time
    413  the body is too large
    415  the body is compressed
    500  a mistake of the server's
    503  the server is full, stops, or has no replica; `Retry-After` says when to come back
    504  the result took too long
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = " ".join(message.split())

    @property
    def headers(self) -> dict[str, str]:
        """What the answer's header says besides."""
        if self.status in (408, 413, 415):
            return {"connection": "close"}  # the rest of the body is not read
        return {"retry-after": str(RETRY_AFTER_SECONDS)} if self.status == 503 else {}


def refusal_of(error: VqraeError) -> Refusal:
    """A known error as an answer: invalid input is the client's, a failed runtime the server's."""
    return Refusal(400 if isinstance(error, InvalidInput | UsageError) else 500, str(error))
