"""The ablations as plots: each table's figures with a bar of one standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqrae.benchmarks.plot import save_plot
from vqrae.benchmarks.studies.ablations.findings import Findings, Spread
from vqrae.benchmarks.studies.ablations.grid import INITS, STRATEGIES, Experiment

COLORS = {"normal": "#c2571a", "features": "#3b6fb6", "paper": "#8a93a3"}
PAPER_WIDTH = 1152
"""Width of the features of the encoder in the paper's ablations, SigLIP2-so400m [P]."""
PAPER_USAGE = {384: 0.64, 768: 0.69, 1152: 0.83, 1536: 1.0, 1920: 0.98}
"""Usage of 16384 codes by their width; at 256 and less, training did not converge [P] §4."""


def write_plots(findings: Findings, folder: Path) -> tuple[Path, ...]:
    """Write `dimension.svg`, `size.svg` and `strategy.svg`; what is not finished is left out."""
    dimension, size, strategy = (folder / f"{name}.svg" for name in ("dimension", "size", "strategy"))
    label = f"width of the codes; the features' is {findings.scale.model.feature_width}"
    _plot_codebooks(findings, "dimension", label, dimension)
    _plot_codebooks(findings, "size", "codes", size)
    _plot_strategies(findings, strategy)
    return dimension, size, strategy


def _plot_codebooks(findings: Findings, experiment: Experiment, label: str, path: Path) -> None:
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    shown = (("codebook_usage", "usage"), ("perplexity", "perplexity"), ("psnr_db", "held-out PSNR, dB"))
    width = findings.scale.model.feature_width if experiment == "dimension" else 1
    for axes, (name, title) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for init in INITS:
            rows = [row for row in findings.rows(experiment) if row[1] == init]
            values = [findings.spread(experiment, row, name) for row in rows]
            _line(axes, [int(row[0]) / width for row in rows], values, init)
        if experiment == "dimension" and name == "codebook_usage":
            xs = [wide / PAPER_WIDTH for wide in PAPER_USAGE]
            label_of_paper = "paper, same ratio to the features' width"
            axes.plot(xs, list(PAPER_USAGE.values()), "--", color=COLORS["paper"], label=label_of_paper)
            axes.set_ylim(0, 1.05)
        axes.set_xscale("log", base=2)
        ticks = list(dict.fromkeys(row[0] for row in findings.rows(experiment)))
        axes.set_xticks([int(tick) / width for tick in ticks], ticks)
        axes.set_xlabel(label, fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        if axes.lines:
            axes.legend(fontsize=7)
    save_plot(figure, path)


def _line(axes: Axes, xs: Sequence[float], values: Sequence[Spread | None], init: str) -> None:
    there = [(x, value) for x, value in zip(xs, values, strict=True) if value is not None]
    if not there:
        return
    axes.errorbar(
        [x for x, _ in there],
        [value.mean for _, value in there],
        yerr=[value.deviation or 0 for _, value in there],
        marker="o",
        markersize=4,
        capsize=3,
        color=COLORS[init],
        label=init,
    )


def _plot_strategies(findings: Findings, path: Path) -> None:
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, name, title, factor in (
        (left, "psnr_db", "held-out PSNR, dB", 1.0),
        (right, "probe_mean", "linear probe, %", 100.0),
    ):
        values = {strategy: findings.spread("strategy", (strategy,), name) for strategy in STRATEGIES}
        if name == "probe_mean":
            values["pretrained encoder"] = findings.encoder(name)
        _points(axes, values, factor)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
    save_plot(figure, path)


def _points(axes: Axes, values: dict[str, Spread | None], factor: float) -> None:
    """Points and not bars: the axis need not begin at 0, and differences are small beside the figures."""
    there = {name: value for name, value in reversed(values.items()) if value is not None}
    axes.errorbar(
        [value.mean * factor for value in there.values()],
        range(len(there)),
        xerr=[(value.deviation or 0) * factor for value in there.values()],
        fmt="o",
        markersize=5,
        capsize=3,
        color=COLORS["features"],
    )
    axes.set_yticks(range(len(there)), list(there))
    axes.set_ylim(-0.5, max(len(there), 1) - 0.5)
    axes.grid(axis="x", alpha=0.3)
