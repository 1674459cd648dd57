from __future__ import annotations

import pytest

from vqrae.serving.gate import Gate
from vqrae.serving.refusal import Refusal


def test_a_full_server_refuses_and_says_when_to_come_back() -> None:
    gate = Gate(max_requests=2, max_bytes=100)
    with gate.admit(10), gate.admit(10), pytest.raises(Refusal, match="the server is full: 2 requests") as caught:
        gate.admit(10).__enter__()
    assert caught.value.status == 503
    assert caught.value.headers == {"retry-after": "1"}
    assert (gate.requests, gate.bytes) == (0, 0)


def test_large_bodies_fill_it_too() -> None:
    gate = Gate(max_requests=9, max_bytes=100)
    with gate.admit(60), pytest.raises(Refusal, match="requests of 60 bytes"):
        gate.admit(60).__enter__()


def test_answers_fill_it_too() -> None:
    gate = Gate(max_requests=9, max_bytes=100)
    with gate.admit(10):
        with pytest.raises(Refusal, match="requests of 10 bytes"):
            gate.hold(95, "the answer").__enter__()
        with gate.hold(90, "the answer"):
            assert gate.bytes == 100
    assert gate.bytes == 0


def test_what_never_fits_is_too_large() -> None:
    gate = Gate(max_requests=1, max_bytes=100)
    with pytest.raises(Refusal, match="the answer would have 101 bytes; expected at most 100") as caught:
        gate.hold(101, "the answer").__enter__()
    assert caught.value.status == 413


def test_a_failed_request_leaves_its_place() -> None:
    gate = Gate(max_requests=1, max_bytes=100)
    with pytest.raises(ZeroDivisionError), gate.admit(60):
        raise ZeroDivisionError
    with gate.admit(60):
        assert gate.requests == 1


def test_a_closed_gate_lets_nothing_in() -> None:
    gate = Gate(max_requests=1, max_bytes=100)
    gate.closed = True
    with pytest.raises(Refusal, match="the server stops"):
        gate.admit(0).__enter__()
