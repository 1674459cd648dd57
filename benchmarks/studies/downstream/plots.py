"""The scaling plot: a painter's loss on scenes that it has not seen, against its size and what its training took."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from vqrae.benchmarks.figures import significant
from vqrae.benchmarks.plot import save_plot
from vqrae.benchmarks.studies.downstream.findings import SizeFindings
from vqrae.downstream.world import Split

COLORS: dict[Split, str] = {"test": "#2a78d6", "held-out": "#eb6834"}


def write_scaling_plot(sizes: list[SizeFindings], path: Path) -> None:
    """Loss with the standard deviation over seeds, against parameters and against training's FLOPs."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    parameters = "million parameters", [size.parameters / 1e6 for size in sizes]
    compute = "training TFLOPs, 6 × parameters × tokens", [size.flops / 1e12 for size in sizes]
    for axes, (label, places) in zip(figure.subplots(1, 2), (parameters, compute), strict=True):
        for split, color in COLORS.items():
            spreads = [size.losses[split] for size in sizes]
            axes.errorbar(
                places,
                [spread.mean for spread in spreads],
                yerr=[spread.deviation or 0 for spread in spreads],
                marker="o",
                markersize=4,
                capsize=3,
                color=color,
                label=split,
            )
        axes.set_xscale("log")
        axes.set_xticks(places, [significant(place) for place in places])
        axes.minorticks_off()
        axes.set_xlabel(label, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.axes[0].set_ylabel("loss, nats a code", fontsize=8)
    save_plot(figure, path)
