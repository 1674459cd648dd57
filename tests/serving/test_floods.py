"""Family "Bytes, locks, gates" (fault 42): what arrives is counted, whatever was announced, and nobody is shut out."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import numpy as np
import pytest
from memory import resident_mb
from running_server import running
from starlette.testclient import TestClient

from vqrae.runtimes.tokenizer import Tokenizer
from vqrae.serving.app import Service
from vqrae.serving.worker import Worker

MEBIBYTE = 2**20


@pytest.fixture
def service(worker: Worker, make_service: Callable[..., Service]) -> Service:
    return make_service(worker, max_batch=8, max_queue=8, max_bytes=8 * MEBIBYTE, body_seconds=20)


@pytest.fixture
def port(service: Service) -> Iterator[int]:
    with running(service) as (_, port):
        yield port


def opened(port: int, stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))


def asked(port: int, path: str = "/v2/health/live", *, body: bytes = b"") -> tuple[bytes, float]:
    """The answer of a client that behaves, and how long it took."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        method = "POST" if body else "GET"
        head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer, time.monotonic() - started


def test_slow_bodies_shut_nobody_out(port: int, photograph: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(32):
            opened(port, stack).sendall(b"POST /encode HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n1")
        assert asked(port)[0].startswith(b"HTTP/1.1 200 ")
        assert asked(port, "/encode", body=photograph)[0].startswith(b"HTTP/1.1 200 ")


def test_idle_connections_make_room(port: int, photograph: bytes) -> None:
    with ExitStack() as stack:
        first = opened(port, stack)
        for _ in range(8 * 4 + 64 + 20):
            opened(port, stack)
        assert asked(port, "/encode", body=photograph)[0].startswith(b"HTTP/1.1 200 ")
        with suppress(ConnectionError):  # reset, or closed in order
            assert first.recv(1) == b""


def test_what_arrives_in_chunks_is_counted(port: int, service: Service) -> None:
    """Each body is announced as nothing: 24 of 3 MiB do not fit 8 MiB."""
    statuses = []

    def send() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"POST /encode HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
            with suppress(ConnectionError):  # refused before the end
                for _ in range(48):
                    connection.sendall(chunk)
                connection.sendall(b"0\r\n\r\n")
            with suppress(ConnectionError):  # and closed before the answer was taken
                statuses.append(connection.recv(12)[9:12])

    threads = [threading.Thread(target=send) for _ in range(24)]
    most = 0
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        most = max(most, service.gate.bytes)
        assert asked(port)[0].startswith(b"HTTP/1.1 200 ")
    for thread in threads:
        thread.join()
    assert most <= 8 * MEBIBYTE
    assert set(statuses) <= {b"", b"400", b"503"}, "no image, or no room"
    assert service.gate.bytes == 0


def test_a_length_beside_chunks_hides_nothing(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = b"POST /encode HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head)
        chunk = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        answer = b""
        with suppress(ConnectionError):  # refused before the end
            for _ in range(40):
                connection.sendall(chunk)
        with suppress(ConnectionError):  # and closed before the answer was taken
            answer = connection.recv(4096)
    assert answer == b"" or answer.split()[1] in (b"400", b"413", b"503")


@pytest.mark.parametrize("path", ["/v2/models/encode/infer", "/decode"])
def test_much_json_is_refused_and_the_other_way_named(client: TestClient, path: str, service: Service) -> None:
    with TestClient(service.app()) as own:
        answer = own.post(path, content=b" " * (4 * MEBIBYTE + 1), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert "of JSON; expected at most 4194304 (--max-json); send tensors as binary data" in answer.json()["error"]


def test_much_json_before_binary_data_is_refused_too(service: Service) -> None:
    header = {"inference-header-content-length": str(5 * MEBIBYTE)}
    with TestClient(service.app()) as own:
        answer = own.post("/v2/models/encode/infer", content=b" " * (5 * MEBIBYTE + 10), headers=header)
    assert answer.status_code == 413


def test_live_answers_while_the_most_json_is_parsed(worker: Worker, make_service: Callable[..., Service]) -> None:
    body = b'{"indices": [' + b"[]," * (MEBIBYTE + 300_000) + b"0]}"
    assert 3 * MEBIBYTE < len(body) <= 4 * MEBIBYTE
    with running(make_service(worker)) as (_, port):
        asked(port, "/decode", body=body)  # once, so that what is kept for the next ones is there
        before = resident_mb()
        senders = [threading.Thread(target=asked, args=(port, "/decode"), kwargs={"body": body}) for _ in range(3)]
        for sender in senders:
            sender.start()
        answers = [asked(port)]
        while any(sender.is_alive() for sender in senders):
            answers.append(asked(port))
        print(f"the longest wait: {max(seconds for _, seconds in answers):.2f} s of {len(answers)}")
        assert len(answers) > len(senders), "they came in between"
        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer, _ in answers)
        assert resident_mb() < before * 1.1 + 50


def test_null_is_taken_where_the_protocol_asks_for_nothing(client: TestClient, tokenizer: Tokenizer) -> None:
    """Fault 16: KServe's own client sends them."""
    indices = np.zeros((1, *tokenizer.grid), np.int32)
    tensor = {"name": "indices", "datatype": "INT32", "shape": list(indices.shape), "data": indices.tolist()}
    body = {"id": None, "parameters": None, "outputs": None, "inputs": [tensor | {"parameters": None}]}
    answer = client.post("/v2/models/decode/infer", json=body)
    assert answer.status_code == 200
    assert "id" not in answer.json()
    body["outputs"] = [{"name": "images", "parameters": None}]
    assert client.post("/v2/models/decode/infer", content=json.dumps(body)).status_code == 200
