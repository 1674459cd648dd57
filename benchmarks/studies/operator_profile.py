"""Where ONNX Runtime's time goes in a graph, by its own profiler: milliseconds of a call for each type of operator."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vqrae.runtimes.backends.onnxruntime import ERRORS, session_options
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.session import refused_graph


@dataclass(frozen=True, kw_only=True)
class OperatorTime:
    """All operators of one type within one call; the runtime's own fusions have names of their own."""

    operator: str
    calls: int
    ms: float
    """The median over calls of the graph."""


class OperatorProfile(Closing):
    """A graph that is loaded as bundles are, with the profiler on. A context manager."""

    def __init__(self, path: Path, *, threads: int) -> None:
        """Load a graph with one input on ONNX Runtime's CPU provider.

        Raises:
            BundleError: the runtime refuses the file.
        """
        self._folder = TemporaryDirectory(prefix="vqrae-profile-")
        options = session_options(LoadOptions(threads=threads))
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except ERRORS as error:
            self.close()
            raise refused_graph(path, f"ONNX Runtime {onnxruntime.__version__}", error) from error
        self._input = self._session.get_inputs()[0].name

    def run(self, values: NDArray[Any]) -> None:
        """One call, which is profiled."""
        self._session.run(None, {self._input: np.ascontiguousarray(values)})

    def found(self, *, calls: int) -> list[OperatorTime]:
        """Of the last so many calls, the operators that take longest first; nothing can be run after it."""
        events = json.loads(Path(self._session.end_profiling()).read_text())
        spans = [(event["ts"], event["ts"] + event["dur"]) for event in events if event["name"] == "model_run"]
        return operator_times(events, spans[-calls:])

    def close(self) -> None:
        """Delete what the profiler wrote."""
        self._folder.cleanup()


def operator_times(events: list[dict[str, Any]], spans: list[tuple[int, int]]) -> list[OperatorTime]:
    """Sum a profile's kernels by type within each span of microseconds, and take the medians."""
    kernels = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    totals: list[Counter[str]] = []
    for start, end in spans:
        inside = [event for event in kernels if start <= event["ts"] < end]
        counts = Counter(event["args"]["op_name"] for event in inside)
        totals.append(Counter())
        for event in inside:
            totals[-1][event["args"]["op_name"]] += event["dur"]
    times = [
        OperatorTime(operator=name, calls=count, ms=median(total[name] for total in totals) / 1000)
        for name, count in counts.items()
    ]
    return sorted(times, key=lambda time: time.ms, reverse=True)
