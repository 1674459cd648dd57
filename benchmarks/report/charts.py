"""Where things stand in the report's charts, in percent of the chart, so that one SVG fits a phone and a desktop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vqrae.benchmarks.report.figures import significant, times, times_interval
from vqrae.benchmarks.rows import BenchRow
from vqrae.runtimes.manifest import MarginHistogram, ParityFigures

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
    counts = figures.margin_histogram
    if counts is None or not any(counts.tokens):
        return None
    axis = LogAxis(counts.edges[0], counts.edges[-1])
    return Histogram(
        bins=tuple(_bins(counts, axis)),
        ticks=axis.ticks(),
        noise=axis.position(figures.noise) if axis.low <= figures.noise <= axis.high else None,
        mismatches=figures.mismatches,
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
