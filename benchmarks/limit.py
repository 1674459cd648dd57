"""The machine's limit in one group of rows: what its probes reached, in turns with the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vqrae.benchmarks.candidates import Graph
from vqrae.benchmarks.probes import Probe, Resource
from vqrae.benchmarks.work import Work
from vqrae.runtimes.manifest import Record


class Limit(Record):
    """The best of the libraries that are here, by the medians of their times; operations are two to a multiply-add."""

    graph: Graph
    batch: int
    threads: int
    fp32_gflops: float
    """10⁹ operations per second."""
    fp32_by: str
    """The library that reached it."""
    int8_gops: float | None
    """10⁹ operations per second; None where no library multiplies integers here."""
    int8_by: str | None
    memory_gb_s: float
    """10⁹ bytes per second of a large copy, read and written."""

    def least_ms(self, work: Work) -> float | None:
        """The time in which the arithmetic of a call would be done at the peak; None if there is none for its INT8."""
        if not work.int8_macs:
            return 2 * work.float_macs / self.fp32_gflops / 1e6
        if self.int8_gops is None:
            return None
        return 2 * (work.float_macs / self.fp32_gflops + work.int8_macs / self.int8_gops) / 1e6


def measured_limit(
    probes: Sequence[Probe], seconds: Mapping[Probe, Sequence[float]], *, graph: Graph, batch: int, threads: int
) -> Limit:
    """The limit, from the durations of each probe's calls."""
    rates = {probe: probe.amount / float(np.median(seconds[probe])) / 1e9 for probe in probes}

    def best(resource: Resource) -> Probe | None:
        return max((probe for probe in probes if probe.resource == resource), key=rates.__getitem__, default=None)

    fp32, int8, memory = best("fp32"), best("int8"), best("memory")
    assert fp32 is not None, "every library has one"  # noqa: S101
    assert memory is not None, "NumPy has one"  # noqa: S101
    return Limit(
        graph=graph,
        batch=batch,
        threads=threads,
        fp32_gflops=rates[fp32],
        fp32_by=fp32.by,
        int8_gops=rates[int8] if int8 else None,
        int8_by=int8.by if int8 else None,
        memory_gb_s=rates[memory],
    )
