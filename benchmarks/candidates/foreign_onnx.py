"""Anyone's ONNX file, on ONNX Runtime's CPU provider with the options that bundles are loaded with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from vqrae.benchmarks.candidates.foreign import Axes, ForeignCandidate
from vqrae.runtimes.backends.onnxruntime import DTYPES, ERRORS, session_options
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.session import failed_run, refused_graph

FOREIGN_DTYPES = DTYPES | {"tensor(float16)": "float16"}


class ForeignOnnx(ForeignCandidate):
    """A `.onnx` file."""

    runtime = "onnxruntime"

    def load(self) -> tuple[str, str, Axes]:  # noqa: D102 - documented by ForeignCandidate
        options = session_options(LoadOptions(threads=self.threads))
        try:
            self._session = onnxruntime.InferenceSession(
                self.path, options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
        except ERRORS as error:
            raise refused_graph(self.path, f"ONNX Runtime {onnxruntime.__version__}", error) from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise UsageError(f"{self.path} inputs", got=", ".join(i.name for i in inputs), expected="one image")
        axes = tuple(side if isinstance(side, int) else None for side in inputs[0].shape)
        return inputs[0].name, FOREIGN_DTYPES.get(inputs[0].type, inputs[0].type), axes

    def run(self, values: NDArray[Any]) -> object:  # noqa: D102 - documented by ForeignCandidate
        try:
            return self._session.run(None, {self.input: values})
        except ERRORS as error:
            raise failed_run(str(self.path), error) from error

    @property
    def weights(self) -> Path:  # noqa: D102 - documented by ForeignCandidate
        return self.path.with_name(f"{self.path.name}.data")

    @property
    def version(self) -> str:  # noqa: D102 - documented by ForeignCandidate
        return onnxruntime.__version__

    def close(self) -> None:  # noqa: D102 - documented by Candidate
        if hasattr(self, "_session"):
            del self._session
