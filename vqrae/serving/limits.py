"""What a server takes from its clients."""

from __future__ import annotations

from dataclasses import dataclass

MEBIBYTE = 2**20


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
