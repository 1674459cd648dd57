"""Core ML: by the system on a Mac, by an evaluator of the saved package elsewhere."""

from __future__ import annotations

import gc
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vqrae.runtimes.backends.coreml_evaluator import Evaluator
from vqrae.runtimes.backends.coreml_spec import check_spec, product_precisions, read_spec
from vqrae.runtimes.backends.coreml_tools import ct, quiet_coremltools
from vqrae.runtimes.errors import DeviceMissing, RuntimeUnavailable, unknown_name
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.manifest import GraphSpec, RuntimeInfo
from vqrae.runtimes.sealed import Sealed
from vqrae.runtimes.session import Execution, Session, check_doubled, closed_session, failed_run, refused_graph

EVALUATOR = "evaluator"
UNITS = {"all": "ALL", "cpu": "CPU_ONLY", "gpu": "CPU_AND_GPU", "ne": "CPU_AND_NE"}
"""Device on a Mac -> compute units that Core ML may use; with `gpu` and `ne` it may leave operations to the CPU."""


class _Program(Protocol):
    """A package that someone has loaded. Core ML images are (1, 3, H, W) float32 here, as the program has them."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One array per output; raises RuntimeUnavailable."""


class CoreMLSession(Session):
    """A loaded package. Threads, streams and a cache are Core ML's own affair: it takes no wishes."""

    sealings = ("disk",)  # Core ML and coremltools read a package from its folder only

    def __init__(self, program: _Program, graph: GraphSpec, device: str, precision: str) -> None:
        self._program: _Program | None = program
        self._graph = graph
        self._device = device
        self._precision = precision

    @classmethod
    def open(cls, sealed: Sealed, graph: GraphSpec, options: LoadOptions, runtime: RuntimeInfo) -> Self:  # noqa: D102 - documented by Session
        device, path = _checked_device(options.device), sealed.path(graph.file)
        spec = read_spec(path)
        check_spec(path, spec, graph)
        return cls(_loaded(path, spec, device), graph, device, product_precisions(spec))

    @classmethod
    def probe(cls) -> str:  # noqa: D102 - documented by Session
        device = _checked_device(None)
        with tempfile.TemporaryDirectory(prefix="vqrae-coreml-") as folder:
            path = Path(folder) / "probe.mlpackage"
            _write_probe(path)
            program = _loaded(path, read_spec(path), device)
            (doubled,) = program.run({"x": np.array([1, 2], np.float32)}).values()
        check_doubled("coreml", doubled)
        return f"ran on {device}; devices: {', '.join(_devices())}"

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:  # noqa: D102 - documented by Session
        program, carriers = self._program, self._graph.carriers
        if program is None:
            raise closed_session("coreml")
        outputs = program.run({name: _carried(array, carriers.get(name)) for name, array in feeds.items()})
        return {
            tensor.name: _delivered(outputs[tensor.name], carriers.get(tensor.name)) for tensor in self._graph.outputs
        }

    def close(self) -> None:  # noqa: D102 - documented by Session
        if self._program is not None:
            self._program = None
            gc.collect()  # the evaluator's programs refer to themselves

    @property
    def execution(self) -> Execution:  # noqa: D102 - documented by Session
        return Execution(
            runtime="coreml",
            runtime_version=ct.__version__,
            device=self._device,
            precision=self._precision,
            means="evaluator" if self._device == EVALUATOR else "runtime",
        )


class _NativeProgram:
    """A package that Core ML itself loaded and compiled; it takes one call at a time."""

    def __init__(self, path: Path, spec: Any, device: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # it warns of what it cannot load; here it is an error
            self._model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit[UNITS[device]])
        if self._model.__proxy__ is None:
            error = self._model._framework_error or RuntimeError("it is for a later system")
            raise refused_graph(path, "Core ML", error)
        features = (*spec.description.input, *spec.description.output)
        self._images = {feature.name for feature in features if feature.type.HasField("imageType")}
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `_Program`."""
        native = {name: _picture(array) if name in self._images else array for name, array in feeds.items()}
        try:
            with self._lock:
                outputs = self._model.predict(native)
        except RuntimeError as error:
            raise failed_run("coreml", error) from error
        return {name: _channels(value) if name in self._images else value for name, value in outputs.items()}


def _devices() -> list[str]:
    """Those of this machine, the default first."""
    return [*UNITS, EVALUATOR] if sys.platform == "darwin" else [EVALUATOR]


def _checked_device(device: str | None) -> str:
    if device is None:
        return _devices()[0]
    if device not in (*UNITS, EVALUATOR):
        raise unknown_name("device", device, (*UNITS, EVALUATOR))
    if device not in _devices():
        remedy = f"run on a Mac, or choose --device {EVALUATOR}, which repeats the package's operations one by one"
        raise DeviceMissing(f"coreml on {device}", got=f"the system {sys.platform}", expected="macOS", remedy=remedy)
    return device


def _loaded(path: Path, spec: Any, device: str) -> _Program:
    return Evaluator(path, spec) if device == EVALUATOR else _NativeProgram(path, spec, device)


def _write_probe(path: Path) -> None:
    """A package that doubles two numbers."""
    mb = ct.converters.mil.Builder

    @mb.program(input_specs=[mb.TensorSpec((2,))], opset_version=ct.target.iOS17)  # type: ignore[untyped-decorator] # coremltools has no types
    def doubling(x: Any) -> Any:
        return mb.add(x=x, y=x, name="y")

    with quiet_coremltools():
        ct.convert(
            doubling,
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
            package_dir=str(path),
        )


def _carried(array: NDArray[Any], carrier: str | None) -> NDArray[Any]:
    """From the contract's dtype and layout to the program's."""
    if carrier == "image":
        return np.ascontiguousarray(array.transpose(0, 3, 1, 2), np.float32)
    return array if carrier is None else array.astype(carrier)


def _delivered(array: NDArray[Any], carrier: str | None) -> NDArray[Any]:
    """From the program's dtype and layout to the contract's; whatever is carried is bytes.

    Raises:
        RuntimeUnavailable: the program gives numbers that are no bytes.
    """
    if carrier is None:
        return array
    whole = array.astype(np.uint8) if array.size and 0 <= array.min() <= array.max() <= 255 else None
    if whole is None or not np.array_equal(whole, array):
        got = f"pixels from {array.min()} to {array.max()}"
        raise RuntimeUnavailable("coreml", got=got, expected="whole numbers from 0 to 255", remedy="export it again")
    return np.ascontiguousarray(whole.transpose(0, 2, 3, 1)) if carrier == "image" else whole


def _picture(array_13HW: NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(array_13HW[0].transpose(1, 2, 0).astype(np.uint8))


def _channels(picture: Image.Image) -> NDArray[np.float32]:
    return np.asarray(picture.convert("RGB"), np.float32).transpose(2, 0, 1)[None]
