"""Why a request gets no result, as the HTTP answer that says so."""

from __future__ import annotations

from vqrae.runtimes.errors import InvalidInput, UsageError, VqraeError

RETRY_AFTER_SECONDS = 1
"""What a client is asked to wait when the server is full."""


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
