"""The application behind the real HTTP server: an unchanged client, and clients that misbehave."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from running_server import running
from tritonclient.utils import InferenceServerException

from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.tokenizer import Tokenizer
from vqrae.serving.app import Service
from vqrae.serving.engine import Computed
from vqrae.serving.http import bound_socket
from vqrae.serving.worker import Worker


@pytest.fixture(scope="module")
def port(worker: Worker, make_service: Callable[..., Service]) -> Iterator[int]:
    service = make_service(worker, max_batch=8, max_body=100_000, body_seconds=0.3)
    with running(service) as (_, port):
        yield port


@pytest.fixture
def client(port: int) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
        yield client
    del client
    gc.collect()  # gevent wants it collected in the thread that made it


def images_input(images: np.ndarray, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return tensor


def test_an_unchanged_client_sees_a_server(client: triton.InferenceServerClient, tokenizer: Tokenizer) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("encode")
    assert not client.is_model_ready("unknown")
    assert client.get_server_metadata()["name"] == "vqrae"
    assert client.get_model_metadata("decode", "1")["inputs"][0]["shape"] == [-1, *tokenizer.grid]
    assert client.get_model_config("encode")["max_batch_size"] == 8


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_an_unchanged_client_gets_the_tokens_of_the_local_call(
    client: triton.InferenceServerClient, tokenizer: Tokenizer, *, binary: bool
) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, *tokenizer.image_size, 3), np.uint8)
    encoding = tokenizer.encode(images)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("features", "indices")]
    answer = client.infer("encode", [images_input(images, binary=binary)], outputs=wanted, request_id="7")
    assert answer.get_response()["id"] == "7"
    np.testing.assert_array_equal(answer.as_numpy("indices"), encoding.indices)
    np.testing.assert_allclose(answer.as_numpy("features"), encoding.features, rtol=1e-5, atol=1e-5)
    tensor = triton.InferInput("indices", list(encoding.indices.shape), "INT32")
    tensor.set_data_from_numpy(encoding.indices, binary_data=binary)
    decoded = client.infer("decode", [tensor]).as_numpy("images")
    np.testing.assert_array_equal(decoded, tokenizer.decode(encoding.indices))


def test_an_unchanged_client_is_told_what_is_wrong(client: triton.InferenceServerClient, tokenizer: Tokenizer) -> None:
    images = np.zeros((9, *tokenizer.image_size, 3), np.uint8)
    with pytest.raises(InferenceServerException, match="batch from 1 to 8") as caught:
        client.infer("encode", [images_input(images)])
    assert caught.value.status() == "400"
    with pytest.raises(InferenceServerException, match="got the model 'unknown'") as caught:
        client.infer("unknown", [images_input(images)])
    del caught


def exchange(port: int, request: bytes, *, then: bytes = b"", pause: float = 0.0) -> bytes:
    """What the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(request)
        if then:
            time.sleep(pause)
            connection.sendall(then)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def until_json(connection: socket.socket) -> bytes:
    """What the server sends up to the end of an object."""
    answer = b""
    while not answer.endswith(b"}") and (part := connection.recv(65536)):
        answer += part
    return answer


def head(length: str, *, more: str = "") -> bytes:
    return f"POST /encode HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def test_a_body_that_does_not_come_in_time(port: int) -> None:
    answer = exchange(port, head("10") + b"123")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert json.loads(answer.split(b"\r\n\r\n")[1]) == {
        "error": "got 3 bytes in 0.3 s, and not all of the body (--body-timeout)"
    }


@pytest.mark.parametrize("start", [b"", b"POST /enc", b"GET / HTTP/1.1\r\nHost: a\r\n"], ids=["none", "line", "head"])
def test_a_head_that_does_not_come_in_time(port: int, start: bytes) -> None:
    started = time.monotonic()
    assert exchange(port, start) == b""
    assert time.monotonic() - started < 3


def test_a_second_head_that_does_not_come_in_time(port: int) -> None:
    first = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    answer = exchange(port, first, then=b"GET /v2", pause=0.1)
    assert answer.endswith(b'{"live":true}')


def test_the_rest_of_a_body_that_was_refused_leaves_the_connection_usable(
    worker: Worker, make_service: Callable[..., Service]
) -> None:
    service = make_service(worker, body_seconds=0.2)
    service.gate.closed = True
    with running(service) as (_, port), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(head("10") + b"123")
        assert until_json(connection).startswith(b"HTTP/1.1 503 ")
        connection.sendall(b"4567890")
        time.sleep(0.5)  # longer than a request may take to arrive: it has arrived
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert until_json(connection).startswith(b"HTTP/1.1 200 ")


def test_the_rest_of_a_body_that_was_refused_and_never_comes(
    worker: Worker, make_service: Callable[..., Service]
) -> None:
    service = make_service(worker, body_seconds=0.2)
    service.gate.closed = True
    with running(service) as (_, port):
        answer = exchange(port, head("10") + b"123", then=b"4", pause=0.1)
    assert answer.startswith(b"HTTP/1.1 503 ")


def test_a_body_larger_than_its_header_says(port: int) -> None:
    """What is too much is the start of another request, and no valid one."""
    answer = exchange(port, head("3") + b"123" + b"too much\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"image: got not an image" in answer
    assert answer.endswith(b'{"error": "Invalid HTTP request received."}')


def test_a_body_over_the_limit_is_refused_by_its_header(port: int) -> None:
    answer = exchange(port, head("100001"))
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "request_",
    [
        head("-1"),
        head("x"),
        head("3", more="Content-Length: 4\r\n"),
        b"POST /encode HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET / HTTP/1.1\r\nX: " + bytes(20_000) + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
    ],
    ids=["negative", "no number", "two lengths", "no chunk", "long head", "TLS"],
)
def test_what_is_no_http(port: int, request_: bytes) -> None:
    assert exchange(port, request_).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_goes_leaves_nothing_behind(worker: Worker, make_service: Callable[..., Service]) -> None:
    service = make_service(worker)
    with running(service) as (server, port):
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(head("10") + b"123")
        deadline = time.monotonic() + 5
        while (service.gate.requests or server.server_state.connections) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (service.gate.requests, len(server.server_state.connections)) == (0, 0)


class StartedByHand:
    """A worker that begins when it is told to."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.told = threading.Event()

    async def encode_file(self, content: bytes) -> Computed:
        while not self.told.is_set():
            await asyncio.sleep(0.001)
        return await self._worker.encode_file(content)

    async def infer(self, graph: str, batch: NDArray[Any], outputs: tuple[str, ...]) -> Computed:
        return await self._worker.infer(graph, batch, outputs)

    async def ready(self) -> bool:
        return await self._worker.ready()


def test_what_is_inside_is_finished_when_the_server_stops(
    worker: Worker, make_service: Callable[..., Service], photograph: bytes
) -> None:
    engine = StartedByHand(worker)
    service = make_service(engine)
    with running(service) as (server, port), socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head(str(len(photograph)), more="Connection: close\r\n") + photograph)
        while not service.gate.requests:
            time.sleep(0.001)
        server.stop()
        engine.told.set()
        assert until_json(connection).startswith(b"HTTP/1.1 200 ")
    with pytest.raises(ConnectionRefusedError):
        exchange(port, b"x")


def test_an_address_that_is_taken() -> None:
    with bound_socket("127.0.0.1", 0) as bound:
        bound.listen()
        with pytest.raises(UsageError, match=r"address: got 127\.0\.0\.1:[0-9]+, Address already in use"):
            bound_socket("127.0.0.1", bound.getsockname()[1])
    with pytest.raises(UsageError, match=r"address: got no\.such\.host\.invalid:1"):
        bound_socket("no.such.host.invalid", 1)
