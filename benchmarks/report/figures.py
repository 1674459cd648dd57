"""How figures are written for people: the same in the terminal, in Markdown and in the HTML report."""

from __future__ import annotations

import math

from vqrae.benchmarks.rows import BenchRow

NOTHING = "–"
"""Stands where a figure was not measured."""


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, at least, and no exponent: 0.0123, 1.23, 12.3, 123, 1,234."""
    if value is None:
        return NOTHING
    if not value:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(decimals, 0)}f}"


def percent(fraction: float | None, digits: int = 2) -> str:
    """A fraction as a percentage. It is cut, not rounded, near 100 %, so that only what is whole reads `100%`."""
    if fraction is None:
        return NOTHING
    if fraction == 1:
        return "100%"
    largest = 100 - 10**-digits
    return f"{min(fraction * 100, largest):.{digits}f}%" if fraction < 1 else f"{fraction * 100:.{digits}f}%"


def tiny_percent(fraction: float | None) -> str:
    """A fraction that is hoped to be 0, as a percentage with two significant digits: `0%`, `0.00012%`, `3.7%`."""
    return NOTHING if fraction is None else f"{significant(fraction * 100, 2)}%"


def decibels(value: float | None) -> str:
    """A PSNR; 100 dB and more is `equal`, which is how identical images are recorded."""
    if value is None:
        return NOTHING
    return "equal" if value >= 100 else f"{value:.1f} dB"


def ratio(value: float | None) -> str:
    """How many times something is something else: `1.29×`."""
    return NOTHING if value is None else f"{significant(value)}×"


def times(row: BenchRow) -> str:
    """A row's speed relative to its group's first row: `2.31×`, or `≈ 1×` where the rounds cannot tell them apart."""
    if row.speedup is None:
        return "1×" if row.executed else NOTHING
    return f"{row.speedup:.2f}×" if row.resolved else "≈ 1×"


def times_interval(row: BenchRow) -> str:
    """The 95 % interval of a row's speed relative to its group's first row: `2.28 to 2.34`; empty if it has none."""
    if row.speedup_low is None or row.speedup_high is None:
        return ""
    return f"{row.speedup_low:.2f} to {row.speedup_high:.2f}"
