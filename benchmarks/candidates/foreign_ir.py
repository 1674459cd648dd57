"""Anyone's OpenVINO IR, on OpenVINO's CPU device with the properties that bundles are compiled with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vqrae.benchmarks.candidates.foreign import Axes, ForeignCandidate
from vqrae.runtimes.backends.openvino import VERSION, native_properties
from vqrae.runtimes.backends.openvino_library import openvino
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.interrupts import kept_signal_stack
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.session import failed_run, refused_graph

DTYPES = {"f32": "float32", "f16": "float16", "u8": "uint8"}


class ForeignIr(ForeignCandidate):
    """A `.xml` file, with its `.bin` beside it."""

    runtime = "openvino"

    @kept_signal_stack()
    def load(self) -> tuple[str, str, Axes]:  # noqa: D102 - documented by ForeignCandidate
        properties = native_properties(LoadOptions(threads=self.threads))
        try:
            compiled = openvino.Core().compile_model(self.path, "CPU", properties)
        except RuntimeError as error:
            raise refused_graph(self.path, f"OpenVINO {VERSION}", error) from error
        if len(compiled.inputs) != 1:
            names = ", ".join(port.get_any_name() for port in compiled.inputs)
            raise UsageError(f"{self.path} inputs", got=names, expected="one image")
        (port,) = compiled.inputs
        dtype = port.get_element_type().get_type_name()
        axes = tuple(None if axis.is_dynamic else axis.get_length() for axis in port.get_partial_shape())
        self._request = compiled.create_infer_request()
        return port.get_any_name(), DTYPES.get(dtype, dtype), axes

    def run(self, values: NDArray[Any]) -> object:  # noqa: D102 - documented by ForeignCandidate
        try:
            self._request.start_async({0: values}, share_inputs=True)
            self._request.wait()
        except RuntimeError as error:
            raise failed_run(str(self.path), error) from error
        return [tensor.data.copy() for tensor in self._request.output_tensors]

    @property
    def weights(self) -> Path:  # noqa: D102 - documented by ForeignCandidate
        return self.path.with_suffix(".bin")

    @property
    def version(self) -> str:  # noqa: D102 - documented by ForeignCandidate
        return VERSION

    def close(self) -> None:  # noqa: D102 - documented by Candidate
        if hasattr(self, "_request"):
            del self._request
