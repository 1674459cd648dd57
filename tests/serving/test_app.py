from __future__ import annotations

import asyncio
import io
import json
import logging
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.runtimes.tokenizer import Tokenizer
from vqrae.serving.app import Service
from vqrae.serving.engine import Computed
from vqrae.serving.worker import Worker

KNOWN_STATUSES = {200, 400, 404, 405, 408, 413, 415, 503, 504}


def error_of(response: httpx2.Response) -> str:
    """The one line of JSON that every refusal is."""
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    message = response.json()["error"]
    assert "\n" not in message
    return str(message)


def test_health_and_metadata(client: TestClient, tokenizer: Tokenizer) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/encode/ready", "/v2/models/decode/ready"):
        assert client.get(path).status_code == 200, path
    about = client.get("/v2").json()
    assert (about["name"], about["extensions"]) == ("vqrae", ["binary_tensor_data"])
    assert about["vqrae"]["bundle"] == tokenizer.manifest.name
    h, w = tokenizer.grid
    encode = client.get("/v2/models/encode/versions/1").json()
    assert encode["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, *tokenizer.image_size, 3]}]
    assert [output["name"] for output in encode["outputs"]] == ["indices", "features"]
    assert client.get("/v2/models/decode").json()["inputs"][0]["shape"] == [-1, h, w]
    assert client.get("/v2/models/encode/config").json()["max_batch_size"] == 8


def test_a_photograph_there_and_back(client: TestClient, tokenizer: Tokenizer, photograph: bytes) -> None:
    answer = client.post("/encode", content=photograph)
    encoding = tokenizer.encode(Image.open(io.BytesIO(photograph)))
    assert answer.status_code == 200
    assert answer.json()["indices"] == encoding.indices[0].tolist()
    assert len(answer.json()["bundle_sha256"]) == 64
    picture = client.post("/decode", content=answer.content)
    assert picture.headers["content-type"] == "image/png"
    decoded = np.asarray(Image.open(io.BytesIO(picture.content)))
    np.testing.assert_array_equal(decoded, tokenizer.decode(encoding.indices)[0])


def test_tensors_as_the_local_call_has_them(client: TestClient, tokenizer: Tokenizer) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, *tokenizer.image_size, 3), np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": images.ravel().tolist()}
    answer = client.post("/v2/models/encode/infer", json={"inputs": [tensor]}).json()
    found = {it["name"]: np.reshape(np.array(it["data"]), it["shape"]) for it in answer["outputs"]}
    encoding = tokenizer.encode(images)
    np.testing.assert_array_equal(found["indices"], encoding.indices)
    np.testing.assert_allclose(found["features"], encoding.features, rtol=1e-5, atol=1e-5)


def test_binary_output_says_where_the_json_ends(client: TestClient, tokenizer: Tokenizer) -> None:
    indices = np.zeros((1, *tokenizer.grid), np.int32)
    tensor = {"name": "indices", "datatype": "INT32", "shape": list(indices.shape), "data": indices.tolist()}
    body = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    answer = client.post("/v2/models/decode/infer", json=body)
    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][0]["name"] == "images"
    assert answer.content[length:] == tokenizer.decode(indices).tobytes()


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/", 404, "GET /: Not Found"),
        ("GET", "/v2/models/unknown", 404, "got the model 'unknown'; expected one of encode, decode"),
        ("POST", "/v2/models/unknown/infer", 404, "got the model 'unknown'"),
        ("GET", "/v2/models/encode/versions/2", 404, "got version '2' of encode; expected 1"),
        ("GET", "/encode", 405, "GET /encode: Method Not Allowed"),
        ("POST", "/v2/health/live", 405, "Method Not Allowed"),
        ("POST", "/encode", 400, "image: got an empty body"),
        ("POST", "/v2/models/encode/infer", 400, "request: Invalid JSON"),
        ("POST", "/decode", 400, "request: Invalid JSON"),
    ],
)
def test_what_is_not_there(client: TestClient, method: str, path: str, status: int, message: str) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert message in error_of(response)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


def bad_images() -> Iterator[Any]:
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(picture, "png")
    whole = picture.getvalue()
    yield pytest.param(b"hello", "not an image", id="text")
    yield pytest.param(whole[:-40], "damaged data", id="truncated")
    yield pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image", id="program")
    yield pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image", id="svg")
    yield pytest.param(b"P6 100000 100000 255\n", "too many pixels", id="pixels promised")


@pytest.mark.parametrize(("content", "message"), list(bad_images()))
def test_a_bad_image_is_refused(client: TestClient, content: bytes, message: str) -> None:
    response = client.post("/encode", content=content)
    assert response.status_code == 400
    assert message in error_of(response)


def test_a_bomb_in_an_image_s_text_is_not_unpacked(client: TestClient, photograph: bytes) -> None:
    """It is no pixels, so it neither takes memory nor damages the image."""
    bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000)))
    plain, spoiled = (
        client.post("/encode", content=it) for it in (photograph, photograph[:33] + bomb + photograph[33:])
    )
    assert spoiled.status_code == 200
    assert spoiled.json()["indices"] == plain.json()["indices"]


@pytest.mark.parametrize(("size", "message"), [((20_000, 10_000), "too many"), ((8_000, 5_000), "8000x5000")])
def test_an_image_that_is_too_large_is_refused_by_its_header(
    worker: Worker, make_service: Any, size: tuple[int, int], message: str
) -> None:
    file = io.BytesIO()
    Image.new("1", size).save(file, "png")  # 200 megapixels of nothing are 25 kB
    with TestClient(make_service(worker).app()) as client:
        response = client.post("/encode", content=file.getvalue())
    assert response.status_code == 400
    assert f"image: got {message} pixels" in error_of(response)


def test_a_file_that_is_two_things_is_the_image_that_it_starts_with(client: TestClient, photograph: bytes) -> None:
    """What follows the image's end is not looked at."""
    polyglot = photograph + b"PK\x03\x04<script>alert(1)</script>"
    answers = [client.post("/encode", content=content).json() for content in (photograph, polyglot)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"indices": [[0]]}, "indices: got shape (1, 1); expected (4, 4)"),
        ({"indices": [[0] * 4] * 3 + [[0]]}, "got rows of different lengths"),
        ({"indices": [[0] * 4] * 3 + [[0, 0, 0, 10**9]]}, "got values from 0 to 1000000000"),
        ({"indices": [["0"] * 4] * 4}, "expected whole numbers"),
        ({"indices": []}, "got no data"),
        ({"tokens": 1}, "indices: Field required"),
    ],
)
def test_wrong_tokens(client: TestClient, body: Any, message: str) -> None:
    response = client.post("/decode", json=body)
    assert response.status_code == 400
    assert message in error_of(response)


def test_a_body_over_the_limit(client: TestClient) -> None:
    declared = client.post("/encode", content=bytes(100_001))
    streamed = client.post("/encode", content=iter([bytes(60_000)] * 2))
    for response in (declared, streamed):
        assert response.status_code == 413
        assert "100000" in error_of(response)
        assert response.headers["connection"] == "close"


def test_a_compressed_body_is_refused(client: TestClient) -> None:
    response = client.post("/encode", content=b"x", headers={"content-encoding": "gzip"})
    assert response.status_code == 415
    assert "expected an uncompressed body" in error_of(response)


def test_an_answer_that_is_too_large(worker: Worker, make_service: Any, tokenizer: Tokenizer) -> None:
    images = np.zeros((2, *tokenizer.image_size, 3), np.uint8)
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": images.ravel().tolist()}
    with TestClient(make_service(worker, max_bytes=20_000, max_body=19_000).app()) as client:
        features = client.post("/v2/models/encode/infer", json={"inputs": [tensor]})
        tokens = client.post("/v2/models/encode/infer", json={"inputs": [tensor], "outputs": [{"name": "indices"}]})
    assert (features.status_code, tokens.status_code) == (413, 200)
    assert "the answer would have" in error_of(features)


class Holding:
    """The real worker, behind a door that opens when told to."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.door = asyncio.Event()
        self.is_ready = True

    async def infer(self, graph: str, batch: NDArray[Any], outputs: tuple[str, ...]) -> Computed:
        await self.door.wait()
        return await self._worker.infer(graph, batch, outputs)

    async def encode_file(self, content: bytes) -> Computed:
        await self.door.wait()
        return await self._worker.encode_file(content)

    async def ready(self) -> bool:
        return self.is_ready


def over(service: Service) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=service.app()), base_url="http://server")


def test_a_full_server_sheds_load_and_loses_nothing(
    worker: Worker, make_service: Callable[..., Service], photograph: bytes
) -> None:
    async def run() -> None:
        engine = Holding(worker)
        service = make_service(engine, max_queue=3)
        async with over(service) as client:
            requests = [asyncio.create_task(client.post("/encode", content=photograph)) for _ in range(3)]
            while service.gate.requests < 3:
                await asyncio.sleep(0.001)
            refused = await client.post("/encode", content=photograph)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "the server is full: 3 requests" in error_of(refused)
            assert (await client.get("/v2/health/ready")).status_code == 200
            assert "vqrae_requests_inside 3.0" in (await client.get("/metrics")).text
            engine.door.set()
            assert {response.status_code for response in await asyncio.gather(*requests)} == {200}
            assert service.gate.requests == service.gate.bytes == 0

    asyncio.run(run())


def test_a_result_that_takes_too_long(worker: Worker, make_service: Callable[..., Service], photograph: bytes) -> None:
    async def run() -> httpx2.Response:
        async with over(make_service(Holding(worker), answer_seconds=0.05)) as client:
            return await client.post("/encode", content=photograph)

    response = asyncio.run(run())
    assert response.status_code == 504
    assert error_of(response) == "no result after 0.05 s"


def test_not_ready_and_stopping(worker: Worker, make_service: Callable[..., Service], photograph: bytes) -> None:
    engine = Holding(worker)
    engine.is_ready = False
    service = make_service(engine)
    with TestClient(service.app()) as client:
        response = client.get("/v2/health/ready")
        assert (response.status_code, error_of(response)) == (503, "no replica is ready")
        service.gate.closed = True
        for response in (client.get("/v2/models/encode/ready"), client.post("/encode", content=photograph)):
            assert (response.status_code, error_of(response)) == (503, "the server stops")


class Failing(Holding):
    """An engine with a mistake, or a runtime that fails."""

    def __init__(self, worker: Worker, error: Exception) -> None:
        super().__init__(worker)
        self._error = error

    async def encode_file(self, content: bytes) -> Computed:
        raise self._error


def test_our_own_mistake_is_logged_and_not_shown(
    worker: Worker, make_service: Callable[..., Service], caplog: pytest.LogCaptureFixture
) -> None:
    with TestClient(make_service(Failing(worker, ZeroDivisionError("secret"))).app()) as client:
        response = client.post("/encode", content=b"x")
    assert response.status_code == 500
    assert error_of(response) == "the server made a mistake; its log says more"
    assert [record.levelno for record in caplog.records if record.name == "vqrae.serving.app"] == [logging.ERROR]


def test_a_runtime_that_fails_is_the_servers_fault(worker: Worker, photograph: bytes, make_service: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeUnavailable("onnxruntime", got="a failed run (no memory)")

    with pytest.MonkeyPatch.context() as patch, TestClient(make_service(worker).app()) as client:
        patch.setattr(Tokenizer, "encode", fail)
        response = client.post("/encode", content=photograph)
    assert (response.status_code, error_of(response)) == (500, "onnxruntime: got a failed run (no memory)")


def test_figures_count_what_was_answered(worker: Worker, make_service: Any, photograph: bytes) -> None:
    with TestClient(make_service(worker).app()) as client:
        client.post("/encode", content=photograph)
        client.post("/encode", content=b"no image")
        text = client.get("/metrics").text
    for line in (
        'vqrae_requests_total{route="encode_file",status="200"} 1.0',
        'vqrae_requests_total{route="encode_file",status="400"} 1.0',
        'vqrae_images_total{graph="encode"} 1.0',
        'vqrae_batch_images_count{graph="encode"} 1.0',
        'vqrae_request_seconds_count{route="encode_file"} 2.0',
    ):
        assert line in text.splitlines()


PATHS = ["/encode", "/decode", "/v2/models/encode/infer", "/v2/models/decode/infer", "/v2/models/x/infer", "/v2", "/x"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["POST", "POST", "GET", "PUT", "DELETE", "HEAD", "OPTIONS"]),
    path=st.sampled_from(PATHS) | st.text("abc/%.{}\\é", max_size=12).map(lambda text: "/a" + text),
    headers=st.dictionaries(
        st.sampled_from(["inference-header-content-length", "content-encoding", "content-type", "accept"]),
        st.text("0123456789-gzip", max_size=12),
    ),
    body=st.binary(max_size=400) | st.text('{}[]":,0123einputsdat', max_size=200).map(str.encode),
)
def test_any_request_gets_a_documented_answer(
    client: TestClient, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    response = client.request(method, path, headers=headers, content=body)
    assert response.status_code in KNOWN_STATUSES
    if response.status_code >= 400 and method != "HEAD":
        error_of(response)
