"""Bodies: requests and answers of the Open Inference Protocol, version 2, and the tokens of one image as JSON.

Written after the protocol's REST specification (KServe, "Open Inference Protocol") and Triton's page "Binary Tensor
Data Extension". A body is JSON; with the header `Inference-Header-Content-Length`, so many bytes of JSON and then the
bytes of those tensors that say `binary_data_size`, in order, little-endian, row by row.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from vqrae.runtimes.errors import unknown_name
from vqrae.serving.limits import Refusal
from vqrae.serving.models import VERSION, Model

_UNSUPPORTED = ("shared_memory_region", "classification", "sequence_id")
"""Parameters of Triton's other extensions: to pass them over would answer another question than was asked."""

Axis = Annotated[int, Field(ge=0, lt=2**31)]
Parameters = Annotated[dict[str, Any], Field(max_length=32), BeforeValidator(lambda value: value or {})]
"""Like everything that the protocol does not require, it may be null: KServe's own client writes so."""
Shape = TypeVar("Shape", bound=BaseModel)


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Input(_Part):
    name: str
    datatype: str
    shape: Annotated[list[Axis], Field(min_length=1, max_length=8)]
    parameters: Parameters = {}
    data: list[Any] | None = None


class _Output(_Part):
    name: str
    parameters: Parameters = {}


class _Request(_Part):
    id: Annotated[str, Field(max_length=1024)] | None = None
    parameters: Parameters = {}
    inputs: Annotated[list[_Input], Field(min_length=1, max_length=8)]
    outputs: Annotated[list[_Output], Field(max_length=8)] | None = None


class _Tokens(_Part):
    """The rest of what `/encode` answers is passed over, so that its answer can be sent back as it is."""

    indices: list[Any]


@dataclass(frozen=True)
class Inference:
    """A request that was checked."""

    id: str
    batch: NDArray[Any]
    """The one input, C-contiguous."""
    outputs: dict[str, bool]
    """Name -> whether it is wanted as binary data; in the order asked for."""


def read_inference(body: bytes, header_length: str | None, model: Model, *, max_json: int = 2**62) -> Inference:
    """Parse and check a request.

    Args:
        body: the whole body.
        header_length: the header `Inference-Header-Content-Length`, if there is one.
        model: whose it is to be.
        max_json: bytes of JSON that it may hold.

    Raises:
        Refusal: 400, with what is wrong; 413, more JSON than allowed.
    """
    text, binary = _parted(body, header_length)
    if len(text) > max_json:
        raise Refusal(
            413, f"got {len(text)} bytes of JSON before the binary data; expected at most {max_json} (--max-json)"
        )
    request = _parsed(_Request, text)
    outputs = _wanted(request, model)
    if len(request.inputs) != 1:
        raise Refusal(400, f"got {len(request.inputs)} inputs; expected one, {model.input.name}")
    tensor = request.inputs[0]
    _check_known("input", tensor.name, [model.input.name])
    _check_parameters(f"input {tensor.name}", tensor.parameters)
    if tensor.datatype != model.input.datatype:
        got = f"got datatype {tensor.datatype!r:.40}; expected {model.input.datatype}"
        raise Refusal(400, f"input {tensor.name}: {got}")
    count = model.check_shape(tensor.shape)
    flat = _from_json(tensor, count, model) if binary is None else _from_binary(tensor, binary, count, model)
    model.check_values(flat)
    return Inference(request.id or "", flat.reshape(tensor.shape), outputs)


def write_inference(request: Inference, arrays: dict[str, NDArray[Any]], model: Model) -> tuple[bytes, int | None]:
    """The answer's body, and how many bytes of it are JSON where binary data follows."""
    tensors, binary = [], []
    described = {output.name: output for output in model.outputs}
    for name, as_binary in request.outputs.items():
        output = described[name]
        array = np.ascontiguousarray(arrays[name], output.dtype)
        tensor: dict[str, Any] = {"name": name, "datatype": output.datatype, "shape": list(array.shape)}
        if as_binary:
            binary.append(array.tobytes())
            tensor["parameters"] = {"binary_data_size": array.nbytes}
        else:
            tensor["data"] = array.ravel().tolist()
        tensors.append(tensor)
    answer: dict[str, Any] = {"model_name": model.name, "model_version": VERSION, "outputs": tensors}
    if request.id:
        answer["id"] = request.id
    text = json.dumps(answer, separators=(",", ":")).encode()
    return b"".join((text, *binary)), len(text) if binary else None


def read_tokens(body: bytes, decode: Model) -> NDArray[np.int32]:
    """One grid, int32 (1, h, w), from `{"indices": [[…], …]}`.

    Raises:
        Refusal: 400, with what is wrong.
    """
    array = _whole_numbers("indices", _parsed(_Tokens, body).indices)
    if array.shape != decode.input.row:
        raise Refusal(400, f"indices: got shape {array.shape}; expected {decode.input.row}")
    decode.check_values(array)
    return array.astype(np.int32)[None]


def _parsed(shape: type[Shape], text: bytes) -> Shape:
    """Read JSON of a certain shape.

    Raises:
        Refusal: 400, with the first place that is wrong; what stands there is not repeated.
    """
    try:
        return shape.model_validate_json(text)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(step)[:80] for step in detail["loc"]) or "request"
        raise Refusal(400, f"{place}: {detail['msg']}") from error


def _whole_numbers(subject: str, data: list[Any]) -> NDArray[Any]:
    """Nested lists as an array of integers.

    Raises:
        Refusal: 400, rows of different lengths, or something else than numbers that fit 64 bits.
    """
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise Refusal(400, f"{subject}: got rows of different lengths; expected whole numbers") from error
    if array.dtype.kind not in "iu" or not array.size:
        got = f"data of dtype {array.dtype}" if array.size else "no data"
        raise Refusal(400, f"{subject}: got {got}; expected whole numbers")
    return array


def _parted(body: bytes, header_length: str | None) -> tuple[bytes, bytes | None]:
    if header_length is None:
        return body, None
    if not (header_length.isascii() and header_length.isdigit() and len(header_length) < 12):
        raise Refusal(400, f"Inference-Header-Content-Length: got {header_length!r:.40}; expected a number of bytes")
    length = int(header_length)
    if length > len(body):
        raise Refusal(400, f"Inference-Header-Content-Length: got {length}; the body has only {len(body)} bytes")
    return body[:length], body[length:]


def _wanted(request: _Request, model: Model) -> dict[str, bool]:
    """The outputs, in the order asked for; all of them where none is named."""
    _check_parameters("request", request.parameters)
    names = [output.name for output in model.outputs]
    all_binary = _flag("request", request.parameters, "binary_data_output")
    if not request.outputs:
        return dict.fromkeys(names, all_binary)
    wanted: dict[str, bool] = {}
    for output in request.outputs:
        _check_known("output", output.name, names)
        _check_parameters(f"output {output.name}", output.parameters)
        if output.name in wanted:
            raise Refusal(400, f"output {output.name}: asked for twice")
        own = "binary_data" in output.parameters
        wanted[output.name] = _flag(f"output {output.name}", output.parameters, "binary_data") if own else all_binary
    return wanted


def _check_known(kind: str, name: str, known: list[str]) -> None:
    if name not in known:
        raise Refusal(400, str(unknown_name(kind, name[:80], known)))


def _check_parameters(subject: str, parameters: dict[str, Any]) -> None:
    for name in _UNSUPPORTED:
        if parameters.get(name):
            raise Refusal(400, f"{subject}: the parameter {name} is not supported here")


def _flag(subject: str, parameters: dict[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise Refusal(400, f"{subject}: got {name} {value!r:.40}; expected true or false")
    return value


def _from_binary(tensor: _Input, binary: bytes, count: int, model: Model) -> NDArray[Any]:
    size, expected = tensor.parameters.get("binary_data_size"), count * model.input.dtype.itemsize
    if tensor.data is not None:
        raise Refusal(400, f"input {tensor.name}: got data, and binary data after the JSON; expected one of them")
    if size != expected or isinstance(size, bool):
        raise Refusal(400, f"input {tensor.name}: got binary_data_size {size!r:.40}; its shape has {expected} bytes")
    if len(binary) != expected:
        raise Refusal(400, f"input {tensor.name}: got {len(binary)} bytes after the JSON; its shape has {expected}")
    return np.frombuffer(binary, model.input.dtype)


def _from_json(tensor: _Input, count: int, model: Model) -> NDArray[Any]:
    subject = f"input {tensor.name}"
    if "binary_data_size" in tensor.parameters:
        raise Refusal(400, f"{subject}: got binary_data_size without the header Inference-Header-Content-Length")
    if tensor.data is None:
        raise Refusal(400, f"{subject}: got no data")
    array = _whole_numbers(subject, tensor.data)
    if array.shape not in ((count,), tuple(tensor.shape)):
        got = f"got data of shape {array.shape}"
        raise Refusal(400, f"{subject}: {got}; expected {count} numbers, flat or nested like the shape")
    flat = array.ravel()
    model.check_values(flat)
    return flat.astype(model.input.dtype)
