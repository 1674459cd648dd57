from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vqrae.runtimes.manifest import TensorSpec
from vqrae.serving.inference import Inference, read_inference, write_inference
from vqrae.serving.limits import Refusal
from vqrae.serving.models import Model, Tensor

DECODE = Model(
    "decode",
    Tensor(TensorSpec(name="indices", dtype="int32", shape=("batch", 2, 3))),
    (Tensor(TensorSpec(name="images", dtype="uint8", shape=("batch", 4, 6, 3))),),
    4,
    15,
    "onnxruntime",
)
INDICES = np.arange(12, dtype=np.int32).reshape(2, 2, 3)


def request(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "indices", "datatype": "INT32", "shape": [2, 2, 3], "data": INDICES.tolist()}
    return {"inputs": [tensor]} | changes


def tensor(**changes: Any) -> dict[str, Any]:
    changed = request()["inputs"][0] | changes
    return request(inputs=[{key: value for key, value in changed.items() if value is not None}])


def binary(values: Any, content: bytes, size: Any = None) -> tuple[bytes, str]:
    values["inputs"][0].pop("data", None)
    values["inputs"][0]["parameters"] = {"binary_data_size": len(content) if size is None else size}
    text = json.dumps(values).encode()
    return text + content, str(len(text))


@pytest.mark.parametrize("data", [INDICES.tolist(), INDICES.ravel().tolist()], ids=["nested", "flat"])
def test_json_data(data: list[Any]) -> None:
    inference = read_inference(json.dumps(tensor(data=data)).encode(), None, DECODE)
    np.testing.assert_array_equal(inference.batch, INDICES)
    assert inference.batch.dtype == np.int32
    assert inference.outputs == {"images": False}


def test_binary_data() -> None:
    values = request(id="42", outputs=[{"name": "images", "parameters": {"binary_data": True}}])
    inference = read_inference(*binary(values, INDICES.tobytes()), DECODE)
    np.testing.assert_array_equal(inference.batch, INDICES)
    images = np.arange(144, dtype=np.uint8).reshape(2, 4, 6, 3)
    content, length = write_inference(inference, {"images": images}, DECODE)
    assert length is not None
    answer = json.loads(content[:length])
    assert (answer["id"], answer["model_name"]) == ("42", "decode")
    assert answer["outputs"] == [
        {"name": "images", "datatype": "UINT8", "shape": [2, 4, 6, 3], "parameters": {"binary_data_size": 144}}
    ]
    assert content[length:] == images.tobytes()


def test_outputs_in_json_unless_asked_otherwise() -> None:
    inference = read_inference(json.dumps(request()).encode(), None, DECODE)
    content, length = write_inference(inference, {"images": np.zeros((2, 4, 6, 3), np.uint8)}, DECODE)
    assert length is None
    assert json.loads(content)["outputs"][0]["data"] == [0] * 144


def test_all_outputs_binary_at_once() -> None:
    inference = read_inference(json.dumps(request(parameters={"binary_data_output": True})).encode(), None, DECODE)
    assert inference.outputs == {"images": True}


WRONG: dict[str, tuple[Any, str]] = {
    "no inputs": ({}, "inputs: Field required"),
    "not an object": ([1], "request: Input should be an object"),
    "two inputs": (request(inputs=[request()["inputs"][0]] * 2), "got 2 inputs; expected one, indices"),
    "name": (tensor(name="indexes"), "input: got 'indexes'; expected one of indices; did you mean indices?"),
    "datatype": (tensor(datatype="INT64"), "input indices: got datatype 'INT64'; expected INT32"),
    "axes": (tensor(shape=[2, 6]), r"got shape \(2, 6\); expected \(batch, 2, 3\), batch from 1 to 4"),
    "no batch": (tensor(shape=[0, 2, 3], data=[]), "batch from 1 to 4"),
    "batch": (tensor(shape=[5, 2, 3]), "batch from 1 to 4"),
    "huge batch": (tensor(shape=[2**31, 2, 3]), "inputs.0.shape.0: Input should be less than"),
    "negative axis": (tensor(shape=[-1, 2, 3]), "inputs.0.shape.0: Input should be greater than or equal to 0"),
    "axis as text": (tensor(shape=["2", 2, 3]), "inputs.0.shape.0: Input should be a valid integer"),
    "fewer numbers": (tensor(data=[1, 2]), r"got data of shape \(2,\); expected 12 numbers"),
    "ragged": (tensor(data=[[1], [2, 3]]), "got rows of different lengths"),
    "text": (tensor(data=["1"] * 12), "got data of dtype .*; expected whole numbers"),
    "fractions": (tensor(data=[0.5] * 12), "expected whole numbers"),
    "truths": (tensor(data=[True] * 12), "expected whole numbers"),
    "beyond 64 bits": (tensor(data=[10**40] * 12), "expected whole numbers"),
    "out of range": (tensor(data=[16] * 12), "indices: got values from 16 to 16; expected 0 to 15"),
    "negative": (tensor(data=[-1] * 12), "indices: got values from -1 to -1"),
    "no data": (tensor(data=None), "input indices: got no data"),
    "size, no header": (tensor(parameters={"binary_data_size": 48}), "without the header"),
    "shared memory": (tensor(parameters={"shared_memory_region": "a"}), "shared_memory_region is not supported"),
    "output": (request(outputs=[{"name": "image"}]), "output: got 'image'; expected one of images"),
    "output twice": (request(outputs=[{"name": "images"}] * 2), "output images: asked for twice"),
    "flag": (request(parameters={"binary_data_output": "yes"}), "got binary_data_output 'yes'; expected true or false"),
    "classification": (
        request(outputs=[{"name": "images", "parameters": {"classification": 3}}]),
        "classification is not supported",
    ),
}


@pytest.mark.parametrize(("values", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_in_one_line(values: Any, message: str) -> None:
    with pytest.raises(Refusal, match=message) as caught:
        read_inference(json.dumps(values).encode(), None, DECODE)
    assert caught.value.status == 400
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        (INDICES.tobytes()[:-1], None, "got binary_data_size 47; its shape has 48 bytes"),
        (INDICES.tobytes() + b"x", 48, "got 49 bytes after the JSON; its shape has 48"),
        (INDICES.tobytes(), "48", "got binary_data_size '48'"),
        (INDICES.tobytes(), -1, "got binary_data_size -1"),
        (b"\xff" * 48, None, "got values from -1 to -1; expected 0 to 15"),
        (np.full(12, 16, np.int32).tobytes(), None, "got values from 16 to 16"),
    ],
    ids=["short", "long", "size as text", "negative size", "negative", "out of range"],
)
def test_wrong_binary_data(content: bytes, size: Any, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        read_inference(*binary(request(), content, size), DECODE)


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "٣", "", "9" * 40])
def test_a_wrong_header_length(length: str) -> None:
    with pytest.raises(Refusal, match="Inference-Header-Content-Length"):
        read_inference(json.dumps(request()).encode(), length, DECODE)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"inputs":[{"shape":[1' + b"0" * 5000 + b"]}]}", b"nan"]
)
def test_text_that_is_no_json(text: bytes) -> None:
    with pytest.raises(Refusal):
        read_inference(text, None, DECODE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def near_requests() -> st.SearchStrategy[Any]:
    """A right request with something else in one or two of its places."""

    @st.composite
    def build(draw: Callable[..., Any]) -> Any:
        values = request(id="a", parameters={}, outputs=[{"name": "images", "parameters": {}}])
        tensor_ = values["inputs"][0] | {"parameters": {}}
        output = values["outputs"][0]
        values["inputs"] = [tensor_]
        for _ in range(draw(st.integers(1, 2))):
            place = draw(st.sampled_from([values, tensor_, output]))
            known = ["name", "datatype", "shape", "data", "parameters", "binary_data_size", "id", "inputs", "outputs"]
            place[draw(st.sampled_from(known))] = draw(JSON | st.lists(st.integers(-1, 20), max_size=12))
        return values

    return build()


def read_or_refusal(body: bytes, header: str | None) -> Inference | Refusal:
    try:
        return read_inference(body, header, DECODE)
    except Refusal as refusal:
        return refusal


@settings(max_examples=150, deadline=None)
@given(values=near_requests(), header=st.none() | st.integers(0, 400).map(str), tail=st.binary(max_size=60))
def test_any_request_is_read_or_refused(values: Any, header: str | None, tail: bytes) -> None:
    body = json.dumps(values).encode() + (tail if header else b"")
    outcome = read_or_refusal(body, header)
    if isinstance(outcome, Refusal):
        assert outcome.status == 400
        assert outcome.message.isprintable()
    else:
        assert outcome.batch.shape[1:] == (2, 3)
        assert 0 <= outcome.batch.min() <= outcome.batch.max() <= 15


@settings(max_examples=200, deadline=None)
@given(body=st.binary(max_size=200), header=st.none() | st.text(max_size=6))
def test_any_bytes_are_refused(body: bytes, header: str | None) -> None:
    with pytest.raises(Refusal):
        read_inference(body, header, DECODE)


def test_a_model_says_what_it_takes() -> None:
    assert DECODE.metadata["inputs"] == [{"name": "indices", "datatype": "INT32", "shape": [-1, 2, 3]}]
    assert DECODE.config["output"] == [{"name": "images", "data_type": "TYPE_UINT8", "dims": [4, 6, 3]}]
