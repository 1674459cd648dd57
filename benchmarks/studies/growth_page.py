"""The growth of latency and memory, to look at: a plot, the fitted laws and every point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from vqrae.benchmarks.report.figures import percent, significant
from vqrae.benchmarks.report.page import save_plot, write_page
from vqrae.benchmarks.studies.growth_points import AXES, Axis, Law, Point, fixed_and_growing, largest_miss, power_law

TEXT = """# What batch and image size cost

![Latency and peak memory over batch size and image size](PLOT)

TITLE. The batch grows at the trained size, the image's side at batch 1. On each axis all
runtimes and points took turns in the same ROUNDS rounds; other programs used CONTENTION of the processors meanwhile.
Memory is the peak of a fresh process after its first call, in 10⁶ bytes, weights included. The law of latency is the
power with the least squares of the logarithms over the range given; that of memory is a fixed part and one that grows
with the tokens. `off` is how far a point lies from it at most. Tokens grow as the side's square: side^2 is latency in
proportion to them.

"""
LAWS = "| runtime | grows | range | latency ∝ | off | memory, MB | off |\n|---|---|--:|--:|--:|--:|--:|\n"
POINTS = "\n| runtime | batch | side, px | p50, ms | p10 to p90 | images/s | peak MB |\n|---|--:|--:|--:|--:|--:|--:|\n"
TITLES: dict[Axis, str] = {"batch": "images per call", "side": "image side, pixels"}
COLORS = ("#3b6fb6", "#c2571a", "#1b7f4b", "#8a4fb0")
CURVE_POINTS = 50


@dataclass(frozen=True)
class _Quantity:
    title: str
    of: Callable[[Point], float]
    law: Callable[[Axis, Sequence[float], Sequence[float]], Law]


_QUANTITIES = (
    _Quantity("latency, ms", lambda point: point.latency.p50_ms, power_law),
    _Quantity("peak memory, MB", lambda point: point.peak_mb, fixed_and_growing),
)


def write_growth(
    path: Path, points: Sequence[Point], *, title: str, rounds: int, contention: float | None, module: str
) -> None:
    """Write the page, and the plot beside it under the same name, as an SVG.

    Args:
        path: Markdown file.
        points: at least two on each axis for each label.
        title: what was measured.
        rounds: behind each latency.
        contention: share of the processors' time that other programs used; None if unknown.
        module: the program that runs, for the page's last line.

    Raises:
        StorageError: the operating system refused to write.
    """
    plot = path.with_suffix(".svg")
    text = TEXT.replace("PLOT", plot.name).replace("TITLE", title).replace("ROUNDS", str(rounds))
    text = text.replace("CONTENTION", percent(contention, 1))
    laws = [_law_line(series) for axis in AXES for series in _series(points, axis).values()]
    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    for row, quantity in zip(figure.subplots(len(_QUANTITIES), len(AXES)), _QUANTITIES, strict=True):
        for axes, axis in zip(row, AXES, strict=True):
            _draw(axes, _series(points, axis), TITLES[axis], quantity)
    save_plot(figure, plot)
    write_page(path, text + LAWS + "".join(laws) + POINTS + "".join(map(_point_line, points)), module)


def _series(points: Sequence[Point], axis: Axis) -> dict[str, list[Point]]:
    """The points of an axis by label, in the order of the axis."""
    series: dict[str, list[Point]] = {}
    for point in sorted((point for point in points if point.axis == axis), key=lambda point: point.x):
        series.setdefault(point.label, []).append(point)
    return dict(sorted(series.items()))


def _law_line(series: Sequence[Point]) -> str:
    x = [point.x for point in series]
    cells = [series[0].label, TITLES[series[0].axis], f"{x[0]} to {x[-1]}"]
    for quantity in _QUANTITIES:
        y = [quantity.of(point) for point in series]
        law = quantity.law(series[0].axis, x, y)
        cells += [str(law), percent(largest_miss(law, x, y), 1)]
    return f"| {' | '.join(cells)} |\n"


def _point_line(point: Point) -> str:
    quantiles = point.latency
    cells = (
        point.label,
        str(point.batch),
        str(point.side),
        significant(quantiles.p50_ms),
        f"{significant(quantiles.p10_ms)} to {significant(quantiles.p90_ms)}",
        significant(point.batch / quantiles.p50_ms * 1000),
        significant(point.peak_mb),
    )
    return f"| {' | '.join(cells)} |\n"


def _draw(axes: Axes, series: dict[str, list[Point]], title: str, quantity: _Quantity) -> None:
    """Points with the law through them, on logarithmic axes."""
    for number, (label, line) in enumerate(series.items()):
        color, x = COLORS[number % len(COLORS)], [point.x for point in line]
        y = [quantity.of(point) for point in line]
        law = quantity.law(line[0].axis, x, y)
        curve = np.geomspace(x[0], x[-1], CURVE_POINTS)
        axes.scatter(x, y, s=16, color=color, label=f"{label}: {law}")
        axes.plot(curve, [law.at(value) for value in curve], color=color, linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = sorted({point.x for line in series.values() for point in line})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=8)
    axes.set_xlabel(title, fontsize=8)
    axes.set_ylabel(quantity.title, fontsize=8)
    axes.legend(fontsize=7)
