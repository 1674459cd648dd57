"""Is INT8 worth it on this machine? The same graphs at every precision of the format, on its runtime, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrae.export.bundle_graphs import GraphRequest, GraphWriter, WrittenGraphs
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


def int8_speeds(
    request: GraphRequest, written: WrittenGraphs, writer: GraphWriter, inputs: Mapping[str, NDArray[Any]]
) -> dict[str, GraphSpeed]:
    """Time the INT8 graphs of a bundle against the same ones at FP32 and FP16, which are built for it and thrown away.

    Args:
        request: what the INT8 graphs were asked for with; they lie in its folder.
        written: what was written.
        writer: the format's.
        inputs: graph's name -> a batch of one.

    Returns:
        Graph's name -> its speed.

    Raises:
        RuntimeUnavailable: the runtime failed.
    """
    target = request.target
    floats = [name for name in target.format.precisions if not PRECISIONS[name].quantized]
    with TemporaryDirectory(prefix="vqrae-speed-") as temporary:
        folders, graphs = {target.precision: request.folder}, {target.precision: written}
        for precision in floats:
            folders[precision] = Path(temporary) / precision
            folders[precision].mkdir()
            asked = replace(target, precision=precision, plan=None, budget=None)
            graphs[precision] = writer(replace(request, target=asked, folder=folders[precision]))
        return {name: _graph_speed(name, target.precision, folders, graphs, values) for name, values in inputs.items()}


def _graph_speed(
    name: str,
    judged: str,
    folders: Mapping[PrecisionName, Path],
    graphs: Mapping[PrecisionName, WrittenGraphs],
    values: NDArray[Any],
) -> GraphSpeed:
    calls: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:  # one graph's sessions at a time: at the paper's scale they are gigabytes
        for precision, written in graphs.items():
            spec = written.graphs[name]
            backend = session_class(written.runtime.name)
            session = stack.enter_context(
                backend.open(Sealed.in_place(folders[precision]), spec, LoadOptions(), written.runtime)
            )
            feeds = {spec.inputs[0].name: np.ascontiguousarray(values)}
            calls[precision] = partial(session.run, feeds)
        seconds = interleave(calls, rounds=ROUNDS, warmup=WARMUP)
    medians = {precision: latency(durations).p50_ms for precision, durations in seconds.items()}
    fastest = min((name for name in medians if name != judged), key=lambda name: medians[name])
    return GraphSpeed(
        int8_ms=medians[judged],
        float_ms=medians[fastest],
        float_precision=fastest,
        speedup=medians[fastest] / medians[judged],
    )
