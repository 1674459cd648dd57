from __future__ import annotations

import pytest

from vqrae.serving.gate import Gate
from vqrae.serving.limits import Refusal


def test_a_full_server_refuses_and_says_when_to_come_back() -> None:
    gate = Gate(max_requests=2, max_bytes=100)
    message = r"the server is full: 2 requests, of at most 2 \(--max-queue\); try again"
    with gate.admit(), gate.admit():
        for entrance in (gate.admit, gate.arriving):
            with pytest.raises(Refusal, match=message) as caught:
                entrance().__enter__()
    assert caught.value.status == 503
    assert caught.value.headers == {"retry-after": "1"}
    assert gate.requests == 0


def test_bodies_that_are_arriving_take_no_place() -> None:
    gate = Gate(max_requests=1, max_bytes=100)
    with gate.arriving(), gate.arriving(), gate.arriving(), gate.admit():
        assert gate.requests == 1


def test_bytes_fill_it_as_they_arrive_and_as_answers() -> None:
    gate = Gate(max_requests=9, max_bytes=100)
    with gate.arriving() as one, gate.arriving() as other:
        one.grow(60, "the body")
        with pytest.raises(Refusal, match=r"60 bytes of bodies and answers, of at most 100 \(--max-memory\)") as caught:
            other.grow(50, "the body")
        assert caught.value.status == 503
        other.grow(30, "the body")
        other.grow(10, "the answer")
        assert gate.bytes == 100
    assert gate.bytes == 0


def test_what_never_fits_is_too_large() -> None:
    gate = Gate(max_requests=1, max_bytes=100)
    with gate.arriving() as held:
        held.grow(60, "the body")
        message = r"the answer would have 101 bytes; expected at most 100 \(--max-memory\)"
        with pytest.raises(Refusal, match=message) as caught:
            held.grow(41, "the answer")
    assert caught.value.status == 413


def test_a_failed_request_leaves_its_place() -> None:
    gate = Gate(max_requests=1, max_bytes=100)
    with pytest.raises(Refusal), gate.arriving() as held, gate.admit():  # noqa: PT012 - it holds something by then
        held.grow(60, "the body")
        held.grow(60, "the answer")
    assert (gate.requests, gate.bytes) == (0, 0)


def test_a_closed_gate_lets_nothing_in() -> None:
    gate = Gate(max_requests=1, max_bytes=100)
    gate.closed = True
    for entrance in (gate.admit, gate.arriving):
        with pytest.raises(Refusal, match="the server stops"):
            entrance().__enter__()
