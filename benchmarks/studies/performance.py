"""The page of a checkpoint's performance: exports it to every runtime that runs here, benchmarks all rows in one run.

    python -m vqrae.benchmarks.studies.performance base --calibration photographs/calibration --bundles runs/base \
        --throughput photographs/held-out -o docs/figures/performance.md

Bundles that are in the folder already are taken as they are. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console

from vqrae.benchmarks.bench import bench
from vqrae.benchmarks.options import BenchOptions
from vqrae.benchmarks.report.figures import percent, ratio, significant
from vqrae.benchmarks.report.outputs import markdown_page
from vqrae.benchmarks.report.page import save_plot
from vqrae.benchmarks.rows import BenchResult, BenchRow
from vqrae.benchmarks.studies.study import StudyParser
from vqrae.images.files import image_files
from vqrae.runtimes.errors import VqraeError, run_as_program
from vqrae.runtimes.precision import PRECISIONS
from vqrae.runtimes.staging import write_output

FORMAT_NAMES = ("onnx", "openvino")
SHOWN = ("fp32", "fp16", "int8")
REFERENCE_COLOR, OTHER_COLOR, PRECISION_COLORS = "#8a93a3", "#b9a44c", {"fp32": "#3b6fb6", "fp16": "#6a51a3"}
INT8_COLOR = "#c2571a"
LEAST_EXCESS = 1e-9
"""Where the logarithmic axis of damage begins: less is drawn here."""
INTRODUCTION = """
Everything in one run on one machine, each row in turn in every round; speed is a ratio within the run, beside PyTorch
in eager mode. What the columns mean is said in [Benchmark](../how-to/benchmark.md). A preset's name stands for that
size with random weights: they do not change the arithmetic, and say nothing of fidelity.

More than 100 % of the peak happens in two ways: a graph may hold products of constants, which the runtime computes
once when it loads it; and the INT8 peak is what one large product reached, which here is no upper limit.

RSS counts the file of weights that OpenVINO maps, which the system may drop again, beside the copies that it packs for
its products; ONNX Runtime lets go of what it has packed. In FP16 both compute in FP32 on this machine, from copies.

"""
OF_THE_NAIVE = """FP32 cannot beat the naive export by more than its arithmetic at the peak would: the runtime fuses
much of it by itself, and matrix products are nearly all of the rest (`python -m vqrae.benchmarks.studies.operators`
tells it by operator).

"""


def exported_bundles(
    checkpoint: str, folder: Path, calibration: Path, formats: Sequence[str] = FORMAT_NAMES
) -> list[Path]:
    """Export what is not in the folder yet, one precision at a time, each in a process of its own.

    INT8 is written whatever its speed, since that is what is to be measured.

    Raises:
        VqraeError: an export failed.
    """
    for precision in SHOWN:
        absent = [name for name in formats if not list(folder.glob(f"[!.]*-{name}-{precision}"))]
        if absent:
            command = [sys.executable, "-P", "-m", "vqrae", "export", checkpoint, "-o", str(folder), "--images", "8"]
            command += ["--precision", precision, *(part for name in absent for part in ("--format", name))]
            if PRECISIONS[precision].needs_images:
                command += ["--calibration", str(calibration), "--allow-gate-failure"]
            if subprocess.run(command, check=False).returncode:  # noqa: S603 - our own module
                raise VqraeError(f"export at {precision}", got="a failure", expected="a bundle")
    return [path for name in formats for precision in SHOWN for path in folder.glob(f"[!.]*-{name}-{precision}")]


def targets(result: BenchResult) -> str:
    """What the table comes to, as a list: the best rows against PyTorch, compiled PyTorch and the naive export."""
    lines = []
    for title, rows in result.groups():
        timed = [row for row in rows if row.executed]
        eager = next(row for row in timed if row.gate == "reference")
        ours = {precision: _fastest(timed, precision) for precision in ("fp32", "int8")}
        others = {row.kind: row for row in timed if row.kind in ("compiled", "naive")}
        for precision, row in ours.items():
            if row is None:
                continue
            against = [("PyTorch eager", eager), ("torch.compile", others.get("compiled"))]
            against.append(("the naive export", others.get("naive")))
            ratios = [f"{_ratio(other, row):.2f}× {name}" for name, other in against if other is not None]
            lines.append(
                f"- {title}, {precision.upper()}: {row.label} is fastest, {', '.join(ratios)}; "
                f"{percent(row.peak_share, 0)} of the machine's peak{_bound(others.get('naive'), row)}.\n"
            )
    return "".join(lines)


def _bound(naive: BenchRow | None, row: BenchRow) -> str:
    """What the naive export would be beaten by with the row's arithmetic at the peak; empty where it is beyond that."""
    if naive is None or row.peak_share is None or row.peak_share >= 1:
        return ""
    return f", at which it would be {_ratio(naive, row) / row.peak_share:.2f}× the naive export"


def starts(result: BenchResult) -> str:
    """What fresh processes pay, as a list: the bundle of each precision that starts first, against PyTorch."""
    lines = []
    for title, rows in result.footprint_groups():
        eager = next(row for row in rows if row.gate == "reference")
        naive = next((row for row in rows if row.kind == "naive" and row.start_ms), None)
        beside = f", the naive export after {significant(naive.start_ms)} ms" if naive else ""
        for precision in SHOWN:
            bundles = [row for row in rows if row.kind == "bundle" and row.precision == precision and row.start_ms]
            if not bundles or eager.start_ms is None:
                continue
            first = min(bundles, key=lambda row: row.start_ms or float("inf"))
            least = min(bundles, key=lambda row: row.peak_rss_mb or float("inf"))
            lines.append(
                f"- {title}, {precision.upper()}: {first.label} has its first result {significant(first.start_ms)} ms "
                f"after its process was launched, PyTorch after {significant(eager.start_ms)} ms, "
                f"{ratio(first.start_speedup)}{beside}; {least.label} takes the least memory, "
                f"{significant(least.peak_rss_mb)} MB, {ratio(least.memory_ratio)} its weights, "
                f"PyTorch {significant(eager.peak_rss_mb)} MB.\n"
            )
    return "".join(lines)


def _fastest(rows: Sequence[BenchRow], precision: str) -> BenchRow | None:
    candidates = [
        row for row in rows if row.kind == "bundle" and row.precision == precision and row.gate != "reference"
    ]
    return min(candidates, key=lambda row: row.p50_ms or float("inf"), default=None)


def _ratio(slow: BenchRow, fast: BenchRow) -> float:
    """Of median latencies; each row's speed was taken against the first row, round by round."""
    return (fast.speedup or 1.0) / (slow.speedup or 1.0)


def write_performance(path: Path, result: BenchResult) -> None:
    """Write the page, its plots, and the result itself as `<name>/result.json` beside it.

    Raises:
        StorageError: the operating system refused to write.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    plots = {
        "Latency: median, and p10 to p90": plot_latencies(result, folder / "latency.svg"),
        "Speed against excess distortion": plot_frontier(result, folder / "frontier.svg"),
    }
    images = "".join(f"![{title}]({folder.name}/{plot.name})\n\n" for title, plot in plots.items() if plot is not None)
    introduction = INTRODUCTION + (OF_THE_NAIVE if any(row.kind == "naive" for row in result.rows) else "")
    heading = f"# Performance of {result.rows[0].bundle}\n{introduction}"
    page = f"{heading}{targets(result)}{starts(result)}\n{images}{markdown_page(result)}"
    for name, text in ((folder / "result.json", result.to_json()), (path, page)):
        write_output(name, text)


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


def benchmark_parser(name: str, doc: str | None) -> StudyParser:
    """Of a page of a benchmark of all formats."""
    parser = StudyParser(name, doc)
    parser.add_checkpoint()
    parser.add_argument("--calibration", type=Path, required=True, help="images to calibrate INT8 on")
    parser.add_argument("--bundles", type=Path, required=True, help="folder for the bundles")
    parser.add_argument("--batch", type=int, action="append", help="images per call; repeatable; 1 if not given")
    parser.add_argument("--rounds", type=int, default=30, help="timed calls of each row")
    parser.add_output()
    return parser


def benchmarked(options: argparse.Namespace, bundles: Sequence[Path], how: BenchOptions) -> BenchResult:
    """A benchmark by what `benchmark_parser` parsed, and by `how`, with its progress shown; errors as of `bench`."""
    how = replace(how, batch_sizes=options.batch or [1], rounds=options.rounds)
    command = shlex.join(["python", "-m", options.module, *sys.argv[1:]])
    with Console(stderr=True).status("") as status:

        def progress(stage: str, done: int, total: int) -> None:
            status.update(f"{stage}: {done} of {total}")

        return bench(bundles, options.checkpoint, how, command=command, progress=progress)


def main() -> None:
    """Command line; writes a Markdown page, and the plots in a folder of its name beside it."""
    parser = benchmark_parser("performance", __doc__)
    parser.add_argument("--throughput", type=Path, help="photographs, from disk to tokens on disk")
    parser.add_argument("--starts", type=int, default=3, help="fresh processes of each row, for start-up and memory")
    parser.add_argument(
        "--plain", action="store_true", help="neither torch.compile nor the naive export, where memory is short"
    )
    options = parser.parse_args()
    bundles = exported_bundles(options.checkpoint, options.bundles, options.calibration)
    photographs = image_files(options.throughput) if options.throughput else ()
    full = not options.plain
    how = BenchOptions(starts=options.starts, limit=True, photographs=photographs, compiled=full, naive=full)
    write_performance(options.output, benchmarked(options, bundles, how))


if __name__ == "__main__":
    run_as_program(main)
