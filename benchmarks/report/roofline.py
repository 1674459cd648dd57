"""The roofline: how many operations per second each row reached, against what the machine could at its intensity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vqrae.benchmarks.measure.limit import Limit
from vqrae.benchmarks.report.charts import LogAxis
from vqrae.benchmarks.report.figures import percent, significant
from vqrae.benchmarks.rows import BenchResult, BenchRow

ROOM = 1.6
"""Free factor on each side of an axis."""
APART = 6.0
"""Percent of the height that the numbers beside two points are kept apart."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row."""

    number: int
    label: str
    text: str
    x: float
    y: float
    """Percent from the left and from the top."""
    number_y: float
    """Where its number stands, clear of the others'."""
    is_reference: bool


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """One line that no row can be above, in percent from the left and from the top."""

    label: str
    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def is_flat(self) -> bool:
        """Whether it is a peak of arithmetic, not memory's."""
        return self.y1 == self.y2


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """One chart: both axes are logarithmic."""

    title: str
    points: tuple[Point, ...]
    ceilings: tuple[Ceiling, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


def rooflines(result: BenchResult) -> list[Roofline]:
    """A chart for each group of rows whose limit was measured and whose arithmetic was counted."""
    charts = []
    for limit in result.limits:
        for title, rows in result.groups():
            of_group = (rows[0].graph, rows[0].batch, rows[0].threads) == (limit.graph, limit.batch, limit.threads)
            counted = [row for row in rows if row.gflops and row.traffic_mb]
            if of_group and counted:
                charts.append(_roofline(title, counted, limit))
    return charts


def _roofline(title: str, rows: Sequence[BenchRow], limit: Limit) -> Roofline:
    peaks = [("FP32", limit.fp32_gflops)]
    if limit.int8_gops is not None and any(row.int8_gmacs for row in rows):
        peaks.append(("INT8", limit.int8_gops))
    top = max(peak for _, peak in peaks)
    ridge = top / limit.memory_gb_s
    intensities = [_intensity(row) for row in rows]
    x = LogAxis(min(*intensities, limit.fp32_gflops / limit.memory_gb_s) / ROOM, max(*intensities, ridge) * ROOM)
    y = LogAxis(min(row.gflops or 1 for row in rows) / ROOM, top * ROOM)
    return Roofline(
        title=title,
        points=_points(rows, x, y),
        ceilings=_ceilings(peaks, limit, x, y),
        x_ticks=x.ticks(),
        y_ticks=_height_ticks(y),
    )


def _height_ticks(y: LogAxis) -> tuple[tuple[float, str], ...]:
    """1, 2 and 5 times the powers of ten on the axis, which spans too few powers for them alone."""
    exponents = range(math.floor(math.log10(y.low)), math.ceil(math.log10(y.high)))
    values = [digit * 10.0**exponent for exponent in exponents for digit in (1, 2, 5)]
    return tuple((100 - y.position(value), f"{value:,.6g}") for value in values if y.low <= value <= y.high)


def _ceilings(peaks: Sequence[tuple[str, float]], limit: Limit, x: LogAxis, y: LogAxis) -> tuple[Ceiling, ...]:
    flat = [
        Ceiling(
            label=f"{name} {significant(peak)}",
            x1=max(x.position(peak / limit.memory_gb_s), 0),
            x2=100,
            y1=100 - y.position(peak),
            y2=100 - y.position(peak),
        )
        for name, peak in peaks
    ]
    top = max(peak for _, peak in peaks)
    start = max(x.low, y.low / limit.memory_gb_s)  # where it leaves the chart's left or lower edge
    memory = Ceiling(
        label=f"memory {significant(limit.memory_gb_s)} GB/s",
        x1=x.position(start),
        y1=100 - y.position(start * limit.memory_gb_s),
        x2=x.position(top / limit.memory_gb_s),
        y2=100 - y.position(top),
    )
    return (*flat, memory)


def _points(rows: Sequence[BenchRow], x: LogAxis, y: LogAxis) -> tuple[Point, ...]:
    """Fastest first, so that numbers run from the top down."""
    ordered = sorted(rows, key=lambda row: row.gflops or 0, reverse=True)
    heights = [100 - y.position(row.gflops or 1) for row in ordered]
    points = []
    for number, (row, height, number_y) in enumerate(zip(ordered, heights, _spread(heights), strict=True), start=1):
        share = f", {percent(row.peak_share, 0)} of peak" if row.peak_share is not None else ""
        points.append(
            Point(
                number=number,
                label=row.label,
                text=f"{significant(row.gflops)} GFLOP/s{share}",
                x=x.position(_intensity(row)),
                y=height,
                number_y=number_y,
                is_reference=row.gate == "reference",
            )
        )
    return tuple(points)


def _spread(heights: Sequence[float]) -> list[float]:
    """Ascending places, each at least `APART` below the one before, and around the middle of those that they crowd."""
    places: list[float] = []
    for height in heights:
        places.append(max(height, places[-1] + APART) if places else height)
    overrun = max(places[-1] - 100, 0.0) if places else 0.0
    return [place - overrun for place in places]


def _intensity(row: BenchRow) -> float:
    """Operations per byte of the least traffic."""
    assert row.gmacs and row.traffic_mb, "only counted rows are drawn"  # noqa: S101, PT018
    return 2 * row.gmacs * 1000 / row.traffic_mb
