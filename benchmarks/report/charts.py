"""Charts of the HTML report, as percentages of their area: bars, histograms, and the roofline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vqrae.benchmarks.measure.limit import Limit
from vqrae.benchmarks.report.figures import percent, significant, times, times_interval
from vqrae.benchmarks.rows import BenchResult, BenchRow
from vqrae.runtimes.evidence import MarginHistogram, ParityFigures

WHISKER_ROOM = 1.02
"""Length of the axis, in times of the largest value on it."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One latency: a bar to the median, a whisker from p10 to p90."""

    label: str
    text: str
    """The median with its unit."""
    note: str
    """Speed against the first row with its interval, or why there is no latency; empty in the first row."""
    executed: bool
    is_reference: bool
    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Bin:
    """One bin of the margin histogram; `height` is of all tokens, `missed` of those that flipped."""

    left: float
    width: float
    height: float
    missed: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Tokens by the reference's top-2 margin, on a logarithmic axis."""

    bins: tuple[Bin, ...]
    ticks: tuple[tuple[float, str], ...]
    """Position and label."""
    noise: float | None
    """Position of the measured numeric noise; None where it lies off the axis."""
    mismatches: int


def latency_bars(names: Sequence[str], rows: Sequence[BenchRow]) -> tuple[Bar, ...]:
    """The bars of one group, all on one axis that starts at 0."""
    longest = max((row.p90_ms for row in rows if row.p90_ms is not None), default=1.0) * WHISKER_ROOM
    return tuple(_bar(name, row, 100 / longest) for name, row in zip(names, rows, strict=True))


def histogram(figures: ParityFigures) -> Histogram | None:
    """The histogram of a bundle's evidence; None if it has none."""
    counts, mismatches, noise = figures.margin_histogram, figures.mismatches, figures.noise
    if counts is None or mismatches is None or not any(counts.tokens):
        return None
    axis = LogAxis(counts.edges[0], counts.edges[-1])
    return Histogram(
        bins=tuple(_bins(counts, axis)),
        ticks=axis.ticks(),
        noise=axis.position(noise) if noise is not None and axis.low <= noise <= axis.high else None,
        mismatches=mismatches,
    )


@dataclass(frozen=True)
class LogAxis:
    """A logarithmic axis between two positive values."""

    low: float
    high: float

    def position(self, value: float) -> float:
        """Percent of the axis at which a value stands."""
        return 100 * math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """The powers of ten on the axis, or its two ends where there are fewer than two."""
        exponents = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
        if len(exponents) < 2:
            return (0.0, significant(self.low)), (100.0, significant(self.high))
        return tuple((self.position(10.0**exponent), power_of_ten(exponent)) for exponent in exponents)


def power_of_ten(exponent: int) -> str:
    """`0.1`, `1`, `10`, `100`, and beyond these `10⁻²` or `10³`."""
    if -1 <= exponent <= 2:
        return f"{10.0**exponent:g}"
    return "10" + str(exponent).translate(SUPERSCRIPTS)


def _bar(name: str, row: BenchRow, percent_per_ms: float) -> Bar:
    interval = times_interval(row)
    note = f"{times(row)} ({interval})" if interval else row.reason or ""
    return Bar(
        label=name,
        text=f"{significant(row.p50_ms)} ms" if row.executed else _untimed(row),
        note=note,
        executed=row.executed,
        is_reference=row.gate == "reference",
        median=(row.p50_ms or 0) * percent_per_ms,
        low=(row.p10_ms or 0) * percent_per_ms,
        high=(row.p90_ms or 0) * percent_per_ms,
    )


def _untimed(row: BenchRow) -> str:
    """A bundle that has a verdict was executed, if not by its runtime."""
    return "not executed" if row.gate == "not-executed" else "not timed"


def _bins(counts: MarginHistogram, axis: LogAxis) -> list[Bin]:
    most = max(counts.tokens)
    bins = []
    for left, right, tokens, missed in zip(
        counts.edges[:-1], counts.edges[1:], counts.tokens, counts.mismatches, strict=True
    ):
        start, end = axis.position(left), axis.position(right)
        title = f"margin {significant(left)} to {significant(right)}: {tokens:,} tokens, {missed:,} of them differ"
        bins.append(
            Bin(left=start, width=end - start, height=100 * tokens / most, missed=100 * missed / most, title=title)
        )
    return bins


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
