"""What a bundle offers under the Open Inference Protocol: the models `encode` and `decode`, by their manifest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrae.runtimes.manifest import Manifest, TensorSpec, signature
from vqrae.serving.limits import Refusal

DATATYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}
"""dtype -> the protocol's name for it."""
TEXT_BYTES = {"uint8": 4, "int32": 8, "float32": 24}
"""dtype -> bytes of a number in JSON, about the most."""
VERSION = "1"
"""A bundle has one version of each model."""


@dataclass(frozen=True)
class Tensor:
    """An input or output as the protocol describes it."""

    spec: TensorSpec

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name

    @property
    def datatype(self) -> str:
        """The protocol's name of its dtype."""
        return DATATYPES[self.spec.dtype]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian, as the protocol's binary data is."""
        return np.dtype(self.spec.dtype).newbyteorder("<")

    @property
    def row(self) -> tuple[int, ...]:
        """Shape without the batch axis."""
        return tuple(axis for axis in self.spec.shape[1:] if isinstance(axis, int))

    def size(self, batch: int, *, binary: bool) -> int:
        """Bytes of `batch` rows in an answer, about the most where they are text."""
        return batch * math.prod(self.row) * (self.dtype.itemsize if binary else TEXT_BYTES[self.spec.dtype])

    @property
    def metadata(self) -> dict[str, Any]:
        """As a model's metadata lists it; the batch axis is -1."""
        return {"name": self.name, "datatype": self.datatype, "shape": [-1, *self.row]}


@dataclass(frozen=True)
class Model:
    """A graph with one input."""

    name: str
    input: Tensor
    outputs: tuple[Tensor, ...]
    max_batch: int
    high: int
    """The largest value that the input takes."""
    runtime: str

    @property
    def metadata(self) -> dict[str, Any]:
        """What `GET /v2/models/NAME` answers."""
        return {
            "name": self.name,
            "versions": [VERSION],
            "platform": self.runtime,
            "inputs": [self.input.metadata],
            "outputs": [output.metadata for output in self.outputs],
        }

    @property
    def config(self) -> dict[str, Any]:
        """What `GET /v2/models/NAME/config` answers, in Triton's words."""

        def tensor(it: Tensor) -> dict[str, Any]:
            return {"name": it.name, "data_type": f"TYPE_{it.datatype}", "dims": list(it.row)}

        return {
            "name": self.name,
            "platform": self.runtime,
            "max_batch_size": self.max_batch,
            "input": [tensor(self.input)],
            "output": [tensor(output) for output in self.outputs],
        }

    def answer_size(self, outputs: dict[str, bool], batch: int) -> int:
        """Bytes of an answer; `outputs` says which tensors are in it, and whether as binary data."""
        wanted = [output for output in self.outputs if output.name in outputs]
        return sum(output.size(batch, binary=outputs[output.name]) for output in wanted)

    def check_shape(self, shape: list[int]) -> int:
        """Judge the shape that a request gives its input; returns the number of elements.

        Raises:
            Refusal: 400, it is not the graph's, or holds too many images or none.
        """
        expected = f"({', '.join(map(str, ('batch', *self.input.row)))}), batch from 1 to {self.max_batch}"
        if tuple(shape[1:]) != self.input.row or not 1 <= shape[0] <= self.max_batch:
            got = f"({', '.join(map(str, shape[:8]))})"
            raise Refusal(400, f"input {self.input.name}: got shape {got}; expected {expected}")
        return math.prod(shape)

    def check_values(self, array: NDArray[Any]) -> None:
        """Judge the values of the input, so that no request can spoil the batch that it is computed in.

        Raises:
            Refusal: 400, one is out of range.
        """
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > self.high:
            got = f"values from {low} to {high}"
            raise Refusal(400, f"{self.input.name}: got {got}; expected 0 to {self.high}")


def models_of(manifest: Manifest, *, max_batch: int) -> dict[str, Model]:
    """The models of a bundle, by name.

    Args:
        manifest: of a bundle with the graphs `encode` and `decode`, or one of them.
        max_batch: images that a request may hold.
    """
    high = {"encode": 255, "decode": manifest.tokens.codebook_size - 1}
    models = {}
    for name in [name for name in high if name in manifest.graphs]:
        inputs, outputs = signature(name, manifest.preprocessing, manifest.tokens)
        tensors = tuple(Tensor(output) for output in outputs)
        models[name] = Model(name, Tensor(inputs[0]), tensors, max_batch, high[name], manifest.runtime.name)
    return models
