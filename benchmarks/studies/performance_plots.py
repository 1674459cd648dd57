"""A benchmark's plots for a page: latencies, speed against damage, roofline."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqrae.benchmarks.report.page import save_plot
from vqrae.benchmarks.rows import BenchResult, BenchRow

REFERENCE_COLOR, OTHER_COLOR, PRECISION_COLORS = "#8a93a3", "#b9a44c", {"fp32": "#3b6fb6", "fp16": "#6a51a3"}
INT8_COLOR = "#c2571a"
LEAST_EXCESS = 1e-9
"""Where the logarithmic axis of damage begins: less is drawn here."""


def plot_latencies(result: BenchResult, path: Path) -> Path:
    """Median latency of every timed row, with whiskers from p10 to p90; one axis for each group."""
    groups = [(title, [row for row in rows if row.executed]) for title, rows in result.groups()]
    most = max(len(rows) for _, rows in groups)
    figure = Figure(figsize=(5.6 * len(groups), 1.2 + 0.32 * most), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        medians = [row.p50_ms or 0.0 for row in rows]
        below = [median - (row.p10_ms or median) for median, row in zip(medians, rows, strict=True)]
        above = [(row.p90_ms or median) - median for median, row in zip(medians, rows, strict=True)]
        places = range(len(rows))
        axes.barh(places, medians, xerr=(below, above), color=[_color(row) for row in rows], capsize=2)
        axes.set_yticks(places, [row.label for row in rows])
        axes.invert_yaxis()
        axes.set(title=title, xlabel="ms")
    save_plot(figure, path)
    return path


def plot_frontier(result: BenchResult, path: Path) -> Path | None:
    """Speed beside the first row against excess distortion, of the rows of `encode` that have both; None of none."""
    found = [
        (title, [row for row in rows if row.excess_distortion is not None and row.speedup is not None])
        for title, rows in result.groups()
        if rows[0].graph == "encode"
    ]
    found = [(title, rows) for title, rows in found if rows]
    if not found:
        return None
    figure = Figure(figsize=(5.6 * len(found), 3.8), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for number, row in enumerate(rows, start=1):
            place = max(row.excess_distortion or 0.0, LEAST_EXCESS), row.speedup or 0.0
            _numbered(axes, number, row, place)
        axes.set(title=title, xlabel="excess distortion, a fraction", ylabel="speed, times PyTorch", xscale="log")
        axes.margins(x=0.2, y=0.2)
        axes.legend(fontsize=7, loc="upper left")
    save_plot(figure, path)
    return path


def plot_roofline(result: BenchResult, path: Path) -> Path | None:
    """Operations per second against operations per byte, under the machine's peaks; None where these were left out."""
    if not result.limits:
        return None
    groups = result.groups()
    figure = Figure(figsize=(5.6 * len(groups), 4.0), layout="constrained")
    for axes, (title, rows), limit in zip(
        figure.subplots(1, len(groups), squeeze=False)[0], groups, result.limits, strict=True
    ):
        counted = [row for row in rows if row.gflops is not None and row.traffic_mb and row.gmacs]
        intensities = [2e3 * (row.gmacs or 0) / (row.traffic_mb or 1) for row in counted]
        edges = 1.0, max(intensities) * 4
        peaks = [("FP32", limit.fp32_gflops), *([("INT8", limit.int8_gops)] if limit.int8_gops else [])]
        for name, peak in peaks:
            knee = peak / limit.memory_gb_s
            places = sorted({edges[0], min(max(knee, edges[0]), edges[1]), edges[1]})
            axes.plot(places, [min(peak, limit.memory_gb_s * place) for place in places], color=REFERENCE_COLOR)
            axes.annotate(f"{name} peak", (edges[1], peak), fontsize=8, va="bottom", ha="right")
        for number, (row, intensity) in enumerate(zip(counted, intensities, strict=True), start=1):
            _numbered(axes, number, row, (intensity, row.gflops or 0))
        axes.set(title=title, xlabel="operations per byte", ylabel="10⁹ operations/s", xscale="log", yscale="log")
        axes.legend(fontsize=7, loc="lower right")
    save_plot(figure, path)
    return path


def _numbered(axes: Axes, number: int, row: BenchRow, place: tuple[float, float]) -> None:
    """A point with a number, since rows lie too close together for their names; the legend has these."""
    axes.scatter(*place, color=_color(row), label=f"{number} {row.label}")
    axes.annotate(str(number), place, textcoords="offset points", xytext=(4, 3), fontsize=8)


def _color(row: BenchRow) -> str:
    """By precision; what is no bundle is paler."""
    if row.gate == "reference":
        return REFERENCE_COLOR
    if row.kind != "bundle":
        return OTHER_COLOR
    return PRECISION_COLORS.get(row.precision or "", INT8_COLOR)
