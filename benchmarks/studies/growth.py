"""What batch and image size cost: latency and peak memory of a checkpoint's bundles, with the fitted growth.

    python -m vqrae.benchmarks.studies.growth base --format onnx --format openvino -o docs/figures/growth.md

Covered: one graph on the CPU; the batch grows at the trained size, the image's side at batch 1, and on each of the two
axes all runtimes and all points take turns in the same rounds. Not covered: fidelity at other sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from vqrae.benchmarks.candidates.candidate import GRAPHS, BundleCandidate, Graph, runtime_title
from vqrae.benchmarks.measure.conditions import Contention
from vqrae.benchmarks.measure.footprint import measure_footprint
from vqrae.benchmarks.report.figures import percent, significant
from vqrae.benchmarks.report.page import save_plot, write_page
from vqrae.benchmarks.rows import count_of
from vqrae.benchmarks.studies.runner import Figures, Log, Task, opened_log, run
from vqrae.benchmarks.studies.study import StudyParser, check_least, table
from vqrae.checkpoint import open_checkpoint, open_config
from vqrae.export.build import BundleBuilder, bundle_name
from vqrae.export.formats import Target, target
from vqrae.export.parity_images import parity_images
from vqrae.export.tokenizers.vqrae import VqraeTokenizer, tokenizer_name
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import UsageError, run_as_program
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.latency import MIN_ROUNDS, Latency, interleave, latency
from vqrae.runtimes.load_options import LoadOptions

FORMATS = ("onnx", "openvino")
BATCHES = (1, 2, 4, 8, 16, 32)
STEPS = 4
"""From the trained size to twice as much."""
TEXT = """# What batch and image size cost

![Latency and peak memory over batch size and image size](PLOT)

TITLE. The batch grows at the trained size, the image's side at batch 1. On each axis all
runtimes and points took turns in the same ROUNDS rounds; other programs used CONTENTION of the processors meanwhile.
Memory is the peak of a fresh process after its first call, in 10⁶ bytes, weights included. The law of latency is the
power with the least squares of the logarithms over the range given; that of memory is a fixed part and one that grows
with the tokens. `off` is how far a point lies from it at most. Tokens grow as the side's square: side^2 is latency in
proportion to them.

"""
LAWS = ("runtime", "grows", "range", "latency ∝", "off", "memory, MB", "off")
POINTS = ("runtime", "batch", "side, px", "p50, ms", "p10 to p90", "images/s", "peak MB")
COLORS = ("#3b6fb6", "#c2571a", "#1b7f4b", "#8a4fb0")
CURVE_POINTS = 50

Axis = Literal["batch", "side"]
AXES: tuple[Axis, ...] = ("batch", "side")
TITLES: dict[Axis, str] = {"batch": "images per call", "side": "image side, pixels"}
POWERS: dict[Axis, int] = {"batch": 1, "side": 2}
"""Tokens grow as this power."""


class Point(Record):
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


class Law(NamedTuple):
    """A curve through points."""

    at: Callable[[float], float]
    text: str


def power_law(axis: Axis, x: Sequence[float], y: Sequence[float]) -> Law:
    """Through positive values: factor · x^exponent with the least squares of the logarithms; of two different x."""
    exponent, offset = map(float, np.polyfit(np.log(x), np.log(y), 1))
    # No minus before a zero.
    return Law(lambda at: float(np.exp(offset)) * at**exponent, f"{axis}^{round(exponent, 2) + 0.0:.2f}")


def fixed_and_growing(axis: Axis, x: Sequence[float], y: Sequence[float]) -> Law:
    """Fixed + growing · x, or of the side its square, as tokens grow; with the least squares, of two different x."""
    power = POWERS[axis]
    growing, fixed = map(float, np.polyfit(np.power(np.asarray(x, float), power), y, 1))
    unit, times = (axis, 1) if power == 1 else (f"({axis}/100)²", 100**2)
    sign = "−" if growing < 0 else "+"
    text = f"{significant(fixed)} {sign} {significant(abs(growing * times))}·{unit}"
    return Law(lambda at: fixed + growing * at**power, text)


def largest_miss(law: Law, x: Sequence[float], y: Sequence[float]) -> float:
    """The largest distance of a point from the curve, as a fraction of the curve's value."""
    return max(abs(value / law.at(at) - 1) for at, value in zip(x, y, strict=True))


def peak(path: Path, batch: int, *, graph: Graph, threads: int) -> Figures:
    """Memory of a bundle in a fresh process.

    Raises:
        RuntimeUnavailable: the bundle does not run here.
    """
    return {"peak_mb": measure_footprint((str(path),), graph, threads=threads, starts=1, batch=batch).peak_rss_mb}


def latencies(cases: Sequence[tuple[Path, int]], *, graph: Graph, threads: int, rounds: int) -> Figures:
    """Latency of bundles, each at a batch size, all in the same rounds; and the share that other programs used.

    Raises:
        RuntimeUnavailable: a bundle does not run here.
    """
    contention = Contention()
    with ExitStack() as stack:
        paths = {path for path, _ in cases}
        options = LoadOptions(threads=threads)
        opened = {path: stack.enter_context(BundleCandidate(path, options)) for path in paths}
        calls: dict[str, Callable[[], object]] = {
            str(number): opened[path].call(graph, batch) for number, (path, batch) in enumerate(cases)
        }
        with contention.watch():
            durations = interleave(calls, rounds=rounds, warmup=1).values()
    return {"contention": contention.share, "latencies": [asdict(latency(seconds)) for seconds in durations]}


def default_sides(trained: int, patch: int) -> tuple[int, ...]:
    """From the trained size to twice as much, in pixels, in steps that patches tile."""
    step = max(round(trained / STEPS / patch), 1) * patch
    return tuple(range(trained, 2 * trained + 1, step))


def built(checkpoint: str, targets: Sequence[Target], side: int, folder: Path) -> list[Path]:
    """Export for square images what is not in the folder yet; the bundles, in the order of the targets.

    Raises:
        UsageError: patches do not tile the side.
        CheckpointError: the checkpoint is invalid.
    """
    size, config = (side, side), open_config(checkpoint)
    paths = [folder / bundle_name(tokenizer_name(config, size), wanted) for wanted in targets]
    missing = [wanted for wanted, path in zip(targets, paths, strict=True) if not path.exists()]
    if missing:
        opened = VqraeTokenizer(open_checkpoint(checkpoint, size))
        with BundleBuilder(opened, parity_images(None, size, 1), lambda step: print(step, flush=True)) as builder:
            for wanted in missing:
                builder.build(wanted, folder, allow_gate_failure=True)  # only its cost is told here
    return paths


def grown(
    cases: Mapping[Axis, Sequence[tuple[Path, int]]], log: Log, *, graph: Graph, threads: int, rounds: int
) -> tuple[list[Point], float | None]:
    """All cases of each axis, bundles and batch sizes; and the largest share of an axis that other programs used.

    Raises:
        RuntimeUnavailable: a bundle does not run here.
    """
    each = {case: f"memory of {case[0].name} at batch {case[1]}" for axis in AXES for case in cases[axis]}
    tasks = [Task(name, partial(peak, *case, graph=graph, threads=threads), name) for case, name in each.items()]
    for axis in AXES:
        name, given = f"latency by {axis}", [f"{path.name} at {batch}" for path, batch in cases[axis]]
        work = partial(latencies, cases[axis], graph=graph, threads=threads, rounds=rounds)
        tasks.append(Task(name, work, f"{name}: {', '.join(given)}", weight=len(given)))
    results, points = run(tasks, log), list[Point]()
    timed = dict(zip(AXES, [result.figures for result in results.values()][-len(AXES) :], strict=True))
    for axis in AXES:
        for (path, batch), quantiles in zip(cases[axis], timed[axis]["latencies"], strict=True):
            manifest, peak_mb = Bundle.open(path).manifest, results[each[path, batch]].figures["peak_mb"]
            label = f"{runtime_title(manifest.runtime.name)} {manifest.precision.title}"
            side = manifest.preprocessing.height
            points.append(Point(axis=axis, label=label, batch=batch, side=side, latency=quantiles, peak_mb=peak_mb))
    shares = [figures["contention"] for figures in timed.values() if figures["contention"] is not None]
    return points, max(shares, default=None)


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
    laws = [_law_cells(series) for axis in AXES for series in _series(points, axis).values()]
    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    for row, quantity in zip(figure.subplots(len(_QUANTITIES), len(AXES)), _QUANTITIES, strict=True):
        for axes, axis in zip(row, AXES, strict=True):
            _draw(axes, _series(points, axis), TITLES[axis], quantity)
    save_plot(figure, plot)
    laws_table, points_table = table(LAWS, laws), table(POINTS, list(map(_point_cells, points)), figures=6)
    write_page(path, f"{text}{laws_table}\n{points_table}", module)


def _series(points: Sequence[Point], axis: Axis) -> dict[str, list[Point]]:
    """The points of an axis by label, in the order of the axis."""
    series: dict[str, list[Point]] = {}
    for point in sorted((point for point in points if point.axis == axis), key=lambda point: point.x):
        series.setdefault(point.label, []).append(point)
    return dict(sorted(series.items()))


def _law_cells(series: Sequence[Point]) -> list[str]:
    x = [point.x for point in series]
    cells = [series[0].label, TITLES[series[0].axis], f"{x[0]} to {x[-1]}"]
    for quantity in _QUANTITIES:
        y = [quantity.of(point) for point in series]
        law = quantity.law(series[0].axis, x, y)
        cells += [law.text, percent(largest_miss(law, x, y), 1)]
    return cells


def _point_cells(point: Point) -> tuple[str, ...]:
    quantiles = point.latency
    return (
        point.label,
        str(point.batch),
        str(point.side),
        significant(quantiles.p50_ms),
        f"{significant(quantiles.p10_ms)} to {significant(quantiles.p90_ms)}",
        significant(point.batch / quantiles.p50_ms * 1000),
        significant(point.peak_mb),
    )


def _draw(axes: Axes, series: dict[str, list[Point]], title: str, quantity: _Quantity) -> None:
    """Points with the law through them, on logarithmic axes."""
    for number, (label, line) in enumerate(series.items()):
        color, x = COLORS[number % len(COLORS)], [point.x for point in line]
        y = [quantity.of(point) for point in line]
        law = quantity.law(line[0].axis, x, y)
        curve = np.geomspace(x[0], x[-1], CURVE_POINTS)
        axes.scatter(x, y, s=16, color=color, label=f"{label}: {law.text}")
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


def main() -> None:
    """Command line; writes the page and its plot."""
    options = _parser().parse_args()
    check_least("--rounds", options.rounds, MIN_ROUNDS)
    config = open_config(options.checkpoint)
    trained, batches = config.image_size, sorted({*(options.batch or BATCHES)})
    sides = sorted({*(options.imgsz or default_sides(trained, config.decoder.patch_size))})
    for name, values in (("batch sizes", batches), ("image sizes", sides)):
        if len(values) < 2:
            raise UsageError(name, got=", ".join(map(str, values)), expected="two different ones, for a growth")
    targets = [target(name, options.precision) for name in options.format or FORMATS]
    settings = {name: getattr(options, name) for name in ("graph", "threads", "rounds")}
    with opened_log(options.work, {"checkpoint": options.checkpoint, **settings}) as log:
        folder = options.bundles or log.folder
        bundles = {side: built(options.checkpoint, targets, side, folder) for side in sorted({trained, *sides})}
        by_batch = [(path, batch) for batch in batches for path in bundles[trained]]
        by_side = [(path, 1) for side in sides for path in bundles[side]]
        found, contention = grown({"batch": by_batch, "side": by_side}, log, **settings)
    title = f"`{options.graph}` of {config.name} on {count_of(options.threads, 'thread')}"
    write_growth(
        options.output, found, title=title, rounds=options.rounds, contention=contention, module=options.module
    )


def _parser() -> StudyParser:
    parser = StudyParser("growth", __doc__)
    parser.add_checkpoint()
    parser.add_argument("--format", choices=FORMATS, action="append", help="both if not given")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument("--graph", choices=GRAPHS, default="encode")
    parser.add_argument("--batch", type=int, action="append", help="1, 2, 4, 8, 16 and 32 if not given")
    parser.add_argument("--imgsz", type=int, action="append", help="pixels; the trained size to twice it if not given")
    parser.add_threads()
    parser.add_argument("--rounds", type=int, default=10, help="timed calls of each point")
    parser.add_argument("--bundles", type=Path, help="folder that keeps the bundles; those in it are not built again")
    parser.add_work()
    parser.add_output("Markdown file; the plot lies beside it")
    return parser


if __name__ == "__main__":
    run_as_program(main)
