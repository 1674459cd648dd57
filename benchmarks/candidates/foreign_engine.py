"""Anyone's engine of TensorRT or TensorRT-RTX, on the first GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vqrae.benchmarks.candidates.candidate import Graph
from vqrae.benchmarks.candidates.foreign import Axes, ForeignCandidate
from vqrae.benchmarks.candidates.work import Work
from vqrae.runtimes.backends.tensorrt.api import EngineApi
from vqrae.runtimes.backends.tensorrt.cuda import DEFAULT_DEVICE, gpu_named
from vqrae.runtimes.backends.tensorrt.engine import load_engine
from vqrae.runtimes.backends.tensorrt.lane import EngineLane
from vqrae.runtimes.errors import UsageError

DTYPES = {"UINT8": "uint8", "INT32": "int32", "INT64": "int64", "HALF": "float16", "FLOAT": "float32", "BOOL": "bool"}


@dataclass(frozen=True)
class EngineOutput:
    """What a lane has to know of an output."""

    name: str
    dtype: str


class ForeignEngine(ForeignCandidate):
    """An engine's file. What it was built for is found out by loading it: it does not say so itself."""

    def __init__(
        self, path: Path, api: EngineApi, *, threads: int, size: tuple[int, int] | None, trusted: bool
    ) -> None:
        """Load the engine.

        Args:
            path: the file.
            api: the framework that built it.
            threads: as for `ForeignCandidate`; a GPU has none.
            size: as for `ForeignCandidate`.
            trusted: whether code for the CPU that the engine brings may run.

        Raises:
            BundleError: there is no such file, or the framework refuses it.
            DeviceMissing: there is no GPU, or no driver.
            UsageError: its input is no image.
        """
        self.runtime = api.name
        self._api, self._trusted = api, trusted
        super().__init__(path, threads=threads, size=size)

    def load(self) -> tuple[str, str, Axes]:  # noqa: D102 - documented by ForeignCandidate
        gpu = gpu_named(self.runtime, DEFAULT_DEVICE)
        gpu.select()
        self._gpu = str(gpu)
        engine = load_engine(self._api, self.path, self.path.read_bytes(), gpu, None, host_code=self._trusted)
        inputs, outputs = engine.edges()
        if len(inputs) != 1:
            raise UsageError(f"{self.path} inputs", got=", ".join(edge.name for edge in inputs), expected="one image")
        known = tuple(EngineOutput(edge.name, DTYPES.get(edge.dtype, edge.dtype)) for edge in outputs)
        unknown = next((edge for edge in known if edge.dtype not in DTYPES.values()), None)
        if unknown is not None:
            expected = f"one of {', '.join(DTYPES.values())}"
            raise UsageError(f"{self.path} output {unknown.name}", got=unknown.dtype, expected=expected)
        self._engine = engine  # the lane's context refers to it
        self._lane = EngineLane(self._api, gpu, engine.context(), known)
        (only,) = inputs
        return only.name, DTYPES.get(only.dtype, only.dtype), tuple(None if side < 0 else side for side in only.shape)

    def run(self, values: NDArray[Any]) -> object:  # noqa: D102 - documented by ForeignCandidate
        return self._lane.run({self.input: values})

    @property
    def weights(self) -> Path | None:  # noqa: D102 - documented by ForeignCandidate
        return None

    @property
    def version(self) -> str:  # noqa: D102 - documented by ForeignCandidate
        return self._api.version

    @property
    def device(self) -> str:  # noqa: D102 - documented by ForeignCandidate
        return self._gpu

    def work(self, graph: Graph, batch: int) -> Work | None:  # noqa: D102 - documented by Candidate
        return None  # the machine's peak is the CPU's

    def close(self) -> None:  # noqa: D102 - documented by Candidate
        if hasattr(self, "_lane"):
            self._lane.close()
            del self._lane, self._engine
