"""What a plan's search found out, to look at: tables of sensitivity, and two plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vqrae.benchmarks.report.figures import decibels, percent, significant, tiny_percent
from vqrae.benchmarks.report.page import save_plot, write_page
from vqrae.calibration.search import frontier
from vqrae.calibration.sensitivity import Sensitivity
from vqrae.calibration.trials import GraphName, Trial
from vqrae.export.planning import GraphPlanning

DAMAGE: dict[GraphName, str] = {
    "encode": "excess distortion",
    "decode": "squared error to the reference, of 255²",
}
KEPT_COLOR, LAYER_COLOR, FRONTIER_COLOR, BEST_COLOR = "#8a93a3", "#3b6fb6", "#c2571a", "#1b7f4b"
LEAST_DAMAGE = 1e-9
"""Where a logarithmic axis begins."""


def write_plan_pages(graphs: Sequence[GraphPlanning], folder: Path, title: str) -> tuple[Path, ...]:
    """Write `plan.md`, `sensitivity.svg` and `frontier.svg`.

    Args:
        graphs: what was found out.
        folder: where.
        title: whose plan it is.

    Returns:
        The files.
    """
    page, sensitivity, edge = (folder / name for name in ("plan.md", "sensitivity.svg", "frontier.svg"))
    parts = [f"# {title}\n", "![Damage of each layer alone at INT8](sensitivity.svg)\n"]
    parts.append("![Damage against latency of every trial](frontier.svg)\n")
    for graph in graphs:
        parts += [f"## {graph.graph}\n", _walk(graph), *_tables(graph)]
    write_page(page, "\n".join(parts))
    tallest = max(len(graph.layers) for graph in graphs)
    _plot(sensitivity, graphs, _draw_layers, height=1.4 + 0.22 * tallest)
    _plot(edge, graphs, _draw_frontier, height=3.8)
    return page, sensitivity, edge


def _plot(
    path: Path, graphs: Sequence[GraphPlanning], draw: Callable[[Axes, GraphPlanning], None], *, height: float
) -> None:
    """One plot for each graph, side by side, as an SVG."""
    figure = Figure(figsize=(5.6 * len(graphs), height), layout="constrained")
    for axes, graph in zip(figure.subplots(1, len(graphs), squeeze=False)[0], graphs, strict=True):
        draw(axes, graph)
    save_plot(figure, path)


def _walk(graph: GraphPlanning) -> str:
    """Every step from INT8 everywhere to the plan: what other budgets would have come to."""
    titles = ("the search's steps", "layers at INT8", "time of FP32's", "tokens", "damage", "decode", "PSNR lost")
    walked = graph.found.walked
    *names, last = ["INT8 everywhere", *(_step(one, other) for one, other in pairwise(walked))]
    rows = [
        (
            name,
            str(len(trial.int8)),
            f"{trial.relative_time:.2f} ({trial.relative_time_low:.2f} to {trial.relative_time_high:.2f})",
            percent(trial.token_agreement),
            tiny_percent(trial.damage),
            decibels(trial.decode_psnr_db),
            f"{trial.source_psnr_drop_db:+.4f} dB",
        )
        for name, trial in zip([*names, f"{last}: the plan"], walked, strict=True)
    ]
    return _table(titles, rows)


def _step(one: Trial, other: Trial) -> str:
    changed = {*one.int8} ^ {*other.int8}
    if len(changed) != 1:
        return "the plan to begin with, which is faster"
    (layer,) = changed
    return f"{layer} to float" if layer in one.int8 else f"{layer} to INT8 again"


def _tables(graph: GraphPlanning) -> list[str]:
    titles = (
        "in the plan",
        "arithmetic",
        f"alone at INT8: {DAMAGE[graph.graph]}",
        "ms saved",
        "alone in float: regained",
        "ms lost",
    )
    return [
        _table((kind, *titles), [_cells(row, graph.found.best) for row in rows])
        for kind, rows in (("group", graph.groups), ("layer", graph.layers))
    ]


def _cells(row: Sensitivity, best: Trial) -> tuple[str, ...]:
    return (
        row.name,
        _precision(row, best),
        f"{row.share:.1%}",
        tiny_percent(row.damage_alone),
        significant(row.ms_won_alone, 2),
        tiny_percent(row.damage_regained),
        significant(row.ms_lost, 2),
    )


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---", *["--:"] * (len(titles) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _precision(row: Sensitivity, best: Trial) -> str:
    count = sum(layer in best.int8 for layer in row.layers)
    return "int8" if count == len(row.layers) else "float" if not count else f"int8 in {count} of {len(row.layers)}"


def _draw_layers(axes: Axes, graph: GraphPlanning) -> None:
    """Bars of damage, with the milliseconds that each layer saves."""
    layers = graph.layers[::-1]
    for kept, color, label in ((True, LAYER_COLOR, "INT8 in the plan"), (False, KEPT_COLOR, "float in the plan")):
        rows = [(n, row) for n, row in enumerate(layers) if (row.name in graph.found.best.int8) == kept]
        if not rows:
            continue
        damages = [max(row.damage_alone, LEAST_DAMAGE) for _, row in rows]
        axes.barh([n for n, _ in rows], damages, color=color, label=label)
    axes.set_yticks(range(len(layers)), [row.name for row in layers], fontsize=7)
    axes.set_xscale("log")
    axes.set_title(f"{graph.graph}: each layer alone at INT8, and the time it saves", fontsize=9)
    axes.set_xlabel(DAMAGE[graph.graph], fontsize=8)
    axes.legend(fontsize=7, loc="lower right")
    place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "fontsize": 6, "va": "center"}
    for number, row in enumerate(layers):
        axes.text(1.01, number, f"{row.ms_won_alone:+.1f} ms", **place)


def _draw_frontier(axes: Axes, graph: GraphPlanning) -> None:
    best, edge = graph.found.best, frontier(graph.trials)
    axes.scatter(
        [trial.relative_time for trial in graph.trials],
        [max(trial.damage, LEAST_DAMAGE) for trial in graph.trials],
        s=10,
        color=KEPT_COLOR,
        label="trials",
    )
    axes.plot(
        [trial.relative_time for trial in edge],
        [max(trial.damage, LEAST_DAMAGE) for trial in edge],
        color=FRONTIER_COLOR,
        drawstyle="steps-post",
        label="frontier",
    )
    axes.scatter([best.relative_time], [best.damage], s=60, marker="*", color=BEST_COLOR, zorder=3, label="the plan")
    axes.set_yscale("log")
    axes.set_title(f"{graph.graph}: every trial", fontsize=9)
    axes.set_xlabel("latency, of FP32's", fontsize=8)
    axes.set_ylabel(DAMAGE[graph.graph], fontsize=8)
    axes.legend(fontsize=7)
