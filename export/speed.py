"""Is INT8 worth it on this machine? The same graphs at every precision of the format, on its runtime, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vqrae.export.job import Written
from vqrae.runtimes.latency import interleave, latency
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.precision import PRECISIONS, PrecisionName
from vqrae.runtimes.registry import session_class
from vqrae.runtimes.sealed import Sealed

ROUNDS = 15
WARMUP = 3


@dataclass(frozen=True, kw_only=True)
class GraphSpeed:
    """One graph at batch 1 against the fastest of its float precisions."""

    int8_ms: float
    """Median latency, with products or only weights at INT8."""
    float_ms: float
    """Median latency of the fastest float precision."""
    float_precision: str
    speedup: float
    """`float_ms` / `int8_ms`."""

    def __str__(self) -> str:
        return f"{self.int8_ms:.1f} ms at INT8, {self.float_ms:.1f} ms at {self.float_precision.upper()}"


class BuiltGraphs(NamedTuple):
    """The graphs of one bundle, or of the like."""

    folder: Path
    written: Written


Candidates = Mapping[PrecisionName, Callable[[], BuiltGraphs]]
"""Precision -> what writes its graphs, or has written them."""
Timing = Callable[[Candidates, Mapping[str, NDArray[Any]]], dict[str, GraphSpeed]]
"""Times graphs: see `graph_speeds`."""


def graph_speeds(candidates: Candidates, inputs: Mapping[str, NDArray[Any]]) -> dict[str, GraphSpeed]:
    """Time the graphs of a precision whose weights are whole numbers against the same ones in float, in turns.

    Args:
        candidates: that precision, and one in float at least.
        inputs: graph's name -> a batch of one.

    Returns:
        Graph's name -> its speed.

    Raises:
        RuntimeUnavailable: the runtime failed.
    """
    built = {precision: make() for precision, make in candidates.items()}
    return {name: _graph_speed(name, built, values) for name, values in inputs.items()}


def _graph_speed(name: str, built: Mapping[PrecisionName, BuiltGraphs], values: NDArray[Any]) -> GraphSpeed:
    calls: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:  # one graph's sessions at a time: at the paper's scale they are gigabytes
        for precision, (folder, written) in built.items():
            spec = written.graphs[name]
            backend = session_class(written.runtime.name)
            session = stack.enter_context(backend.open(Sealed.in_place(folder), spec, LoadOptions(), written.runtime))
            feeds = {spec.inputs[0].name: np.ascontiguousarray(values)}
            calls[precision] = partial(session.run, feeds)
        seconds = interleave(calls, rounds=ROUNDS, warmup=WARMUP)
    medians = {precision: latency(durations).p50_ms for precision, durations in seconds.items()}
    (quantized,) = (precision for precision in medians if PRECISIONS[precision].quantized)
    fastest = min((name for name in medians if name != quantized), key=lambda name: medians[name])
    return GraphSpeed(
        int8_ms=medians[quantized],
        float_ms=medians[fastest],
        float_precision=fastest,
        speedup=medians[fastest] / medians[quantized],
    )
