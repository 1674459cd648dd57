"""What was measured along one axis, and the laws through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from vqrae.benchmarks.report.figures import significant
from vqrae.runtimes.latency import Latency

Axis = Literal["batch", "side"]
AXES: tuple[Axis, ...] = ("batch", "side")
POWERS: dict[Axis, int] = {"batch": 1, "side": 2}
"""Tokens grow as this power."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One bundle at one batch size."""

    axis: Axis
    """What grows."""
    label: str
    """Runtime and precision."""
    batch: int
    side: int
    """Of the image, in pixels."""
    latency: Latency
    peak_mb: float
    """Of a fresh process after its first call, in 10⁶ bytes."""

    @property
    def x(self) -> int:
        """Where it stands on its axis."""
        return self.batch if self.axis == "batch" else self.side


class Law(Protocol):
    """A curve through points."""

    def at(self, x: float) -> float:
        """The curve's value."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """y = factor · x^exponent."""

    axis: Axis
    factor: float
    exponent: float

    def at(self, x: float) -> float:
        """See `Law`."""
        return float(self.factor * x**self.exponent)

    def __str__(self) -> str:
        return f"{self.axis}^{round(self.exponent, 2) + 0.0:.2f}"  # no minus before a zero


@dataclass(frozen=True, kw_only=True)
class FixedAndGrowing:
    """y = fixed + growing · x, or of the side its square, as tokens grow."""

    axis: Axis
    fixed: float
    growing: float

    def at(self, x: float) -> float:
        """See `Law`."""
        return float(self.fixed + self.growing * x ** POWERS[self.axis])

    def __str__(self) -> str:
        unit = self.axis if POWERS[self.axis] == 1 else f"({self.axis}/100)²"
        growing = self.growing * (1 if POWERS[self.axis] == 1 else 100**2)
        return f"{significant(self.fixed)} {'−' if growing < 0 else '+'} {significant(abs(growing))}·{unit}"


def power_law(axis: Axis, x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """The one through positive values with the least squares of the logarithms; at least two different x."""
    exponent, offset = np.polyfit(np.log(x), np.log(y), 1)
    return PowerLaw(axis=axis, factor=float(np.exp(offset)), exponent=float(exponent))


def fixed_and_growing(axis: Axis, x: Sequence[float], y: Sequence[float]) -> FixedAndGrowing:
    """The one with the least squares; at least two different x."""
    growing, fixed = np.polyfit(np.power(np.asarray(x, float), POWERS[axis]), y, 1)
    return FixedAndGrowing(axis=axis, fixed=float(fixed), growing=float(growing))


def largest_miss(law: Law, x: Sequence[float], y: Sequence[float]) -> float:
    """The largest distance of a point from the curve, as a fraction of the curve's value."""
    return max(abs(value / law.at(at) - 1) for at, value in zip(x, y, strict=True))
