"""Requests for a soak: good ones with the answer that they must get, bad ones with the refusal."""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqrae.runtimes.tokenizer import Tokenizer

LENGTH_HEADER = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Answer:
    """What a server said; status 0 is no answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Sample:
    """A request, and what must come of it."""

    name: str
    send: Callable[[http.client.HTTPConnection], Answer]
    images: int
    """That a good answer holds; 0 for a request that must be refused."""
    is_right: Callable[[Answer], bool]


def samples(tokenizer: Tokenizer, seed: int = 0) -> tuple[list[Sample], list[Sample]]:
    """Good and bad requests for the bundle of a tokenizer, which gives the answers that are right."""
    photographs = [Image.open(path).convert("RGB") for path in tokenizer.bundle.golden().sources]
    images = np.random.default_rng(seed).integers(0, 256, (8, *tokenizer.image_size, 3), np.uint8)
    indices = tokenizer.encode(images).indices
    good = [_file(tokenizer, photograph, number) for number, photograph in enumerate(photographs)]
    good += [_tensors(tokenizer, images[:count], indices[:count]) for count in (1, 2, 8)]
    good += [_decode(tokenizer, indices[:1])]
    return good, _bad(tokenizer, photographs[0])


def encode_sample(tokenizer: Tokenizer, count: int) -> Sample:
    """`count` images as binary tensors."""
    images = np.random.default_rng(1).integers(0, 256, (count, *tokenizer.image_size, 3), np.uint8)
    return _tensors(tokenizer, images, tokenizer.encode(images).indices)


def post(path: str, body: bytes, headers: dict[str, str] | None = None) -> Callable[..., Answer]:
    """Sends a request on a connection that stays open."""

    def send(connection: http.client.HTTPConnection) -> Answer:
        connection.request("POST", path, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, {key.lower(): value for key, value in response.getheaders()}, response.read())

    return send


def raw(content: bytes) -> Callable[..., Answer]:
    """Sends bytes on a connection of its own, and reads until the server closes it."""

    def send(connection: http.client.HTTPConnection) -> Answer:
        connection.close()  # the server would close it meanwhile, as it does with any that idles
        with socket.create_connection((connection.host, connection.port), timeout=60) as stream:
            stream.sendall(content)
            answer = b""
            while part := stream.recv(65536):
                answer += part
        status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
        return Answer(status, {}, answer.partition(b"\r\n\r\n")[2])

    return send


def _encoded(image: Image.Image, kind: str = "png") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def _file(tokenizer: Tokenizer, photograph: Image.Image, number: int) -> Sample:
    expected = tokenizer.encode(photograph).indices[0].tolist()

    def is_right(answer: Answer) -> bool:
        return bool(json.loads(answer.body)["indices"] == expected)

    return Sample(f"file {number}", post("/encode", _encoded(photograph)), 1, is_right)


def _tensors(tokenizer: Tokenizer, images: NDArray[np.uint8], indices: NDArray[np.int32]) -> Sample:
    tensor = {
        "name": "images",
        "datatype": "UINT8",
        "shape": list(images.shape),
        "parameters": {"binary_data_size": images.nbytes},
    }
    wanted = {"name": "indices", "parameters": {"binary_data": True}}
    text = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()

    def is_right(answer: Answer) -> bool:
        return answer.body[int(answer.headers[LENGTH_HEADER.lower()]) :] == indices.tobytes()

    send = post("/v2/models/encode/infer", text + images.tobytes(), {LENGTH_HEADER: str(len(text))})
    return Sample(f"tensors {len(images)}", send, len(images), is_right)


def _decode(tokenizer: Tokenizer, indices: NDArray[np.int32]) -> Sample:
    expected = tokenizer.decode(indices)[0]

    def is_right(answer: Answer) -> bool:
        return np.array_equal(np.asarray(Image.open(io.BytesIO(answer.body))), expected)

    return Sample("decode", post("/decode", json.dumps({"indices": indices[0].tolist()}).encode()), 1, is_right)


def _bad(tokenizer: Tokenizer, photograph: Image.Image) -> list[Sample]:
    whole = _encoded(photograph)
    infer = "/v2/models/encode/infer"

    def tensor(**changes: Any) -> bytes:
        values = {"name": "images", "datatype": "UINT8", "shape": [1, *tokenizer.image_size, 3], "data": [0]}
        return json.dumps({"inputs": [values | changes]}).encode()

    grid = np.full(tokenizer.grid, tokenizer.codebook_size).tolist()
    requests: Sequence[tuple[str, Callable[..., Answer]]] = [
        ("no image", post("/encode", b"no image")),
        ("truncated image", post("/encode", whole[: len(whole) // 2])),
        ("200 megapixels", post("/encode", _encoded(Image.new("1", (20_000, 10_000))))),
        ("compressed", post("/encode", whole, {"Content-Encoding": "gzip"})),
        ("malformed JSON", post(infer, b'{"inputs": [')),
        ("wrong name", post(infer, tensor(name="image"))),
        ("wrong dtype", post(infer, tensor(datatype="FP32"))),
        ("wrong shape", post(infer, tensor(shape=[1, 1, 1, 3]))),
        ("wrong batch", post(infer, tensor(shape=[10_000, *tokenizer.image_size, 3]))),
        ("missing data", post(infer, tensor())),
        ("header beyond the body", post(infer, tensor(), {LENGTH_HEADER: "1000000"})),
        ("wrong binary size", post(infer, tensor(parameters={"binary_data_size": 7}), {LENGTH_HEADER: "100"})),
        ("no such model", post("/v2/models/none/infer", b"{}")),
        ("no such code", post("/decode", json.dumps({"indices": grid}).encode())),
        (
            "too large a body",
            raw(b"POST /encode HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 99999999999\r\n\r\n"),
        ),
        ("more than its header says", raw(b"POST /encode HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nabc\r\n\r\n")),
        ("no HTTP", raw(b"\x16\x03\x01 hello\r\n\r\n")),
        ("slow body", raw(b"POST /encode HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 10\r\n\r\nabc")),
    ]
    return [Sample(name, send, 0, _is_refusal) for name, send in requests]


def _is_refusal(answer: Answer) -> bool:
    return 400 <= answer.status < 500 and b'"error"' in answer.body
