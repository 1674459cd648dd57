"""Whether `vqrae bench` finds the latency that the runtimes' own tools find, of the very same graphs, in one run.

    python -m vqrae.benchmarks.studies.agreement bundles/base-onnx-fp32 bundles/base-openvino-fp32 -o agreement.md

Slices of our rounds and of the tool's calls take turns, so that drift of the machine hits both. Exit 3 if a median is
off by more than 5 %. Covered: ONNX Runtime on the CPU against a plain loop around it, OpenVINO on the CPU against its
`benchmark_app`. Not covered: start-up, and what a client does around the session.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqrae.benchmarks.candidates.candidate import GRAPHS, BundleCandidate, Graph, runtime_title, sample_input
from vqrae.benchmarks.measure.conditions import Contention
from vqrae.benchmarks.report.figures import percent, significant
from vqrae.benchmarks.report.page import write_page
from vqrae.benchmarks.rows import count_of
from vqrae.benchmarks.studies.runner import Figures, Task, opened_log, run
from vqrae.benchmarks.studies.study import StudyParser, check_least, table
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import GateFailure, RuntimeUnavailable, UsageError, run_as_program
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.latency import MIN_ROUNDS, interleave, latency, speedup
from vqrae.runtimes.load_options import LoadOptions

TOLERANCE = 0.05
TOOLS = {"onnxruntime": "a plain loop", "openvino": "`benchmark_app`"}
TITLE = """# Our clock against the runtimes' own

The median latency of one call at batch 1 as `vqrae bench` measures it, and as the runtime's own tool does: the same
graph file, options and {threads}, {slices} slices of each in turns. The ratio is ours over the tool's, the median over
the slices with its 95 % interval. While our slices ran, other programs used at most {contention} of the processors.

"""
TITLES = ("bundle", "graph", "tool", "`vqrae bench`, ms", "tool, ms", "ratio", "interval")
PROGRAM = "from openvino.tools.benchmark.main import main; main()"
Tool = Callable[[int], float]
"""What a runtime itself offers to time a graph, none of our own code between the clock and the runtime: the median
latency, in milliseconds, of so many calls in a row."""


class Agreement(Record):
    """One graph, measured both ways."""

    bundle: str
    graph: Graph
    tool: str
    ours_ms: float
    tool_ms: float
    """Median over slices of the slices' medians."""
    ratio: float
    """Ours / the tool's, the median over slices."""
    ratio_low: float
    ratio_high: float
    contention: float | None
    """Share of the processors' time that other programs used during our slices."""

    def cells(self) -> tuple[str, ...]:
        """As a line of the table."""
        figures = (significant(self.ours_ms), significant(self.tool_ms), f"{self.ratio:.3f}")
        return (self.bundle, self.graph, self.tool, *figures, f"{self.ratio_low:.3f} to {self.ratio_high:.3f}")


def agreement(bundle: Path, graph: Graph, *, threads: int, slices: int, seconds: float) -> Figures:
    """Measure a graph of a bundle both ways; the figures of an `Agreement`.

    Args:
        bundle: its folder.
        graph: which.
        threads: CPU threads of both.
        slices: how often each takes its turn; at least `latency.MIN_ROUNDS`.
        seconds: that a slice is to last, about.

    Raises:
        UsageError: too few slices, or a runtime whose own tool is not known here.
        BundleError: the bundle is invalid.
        RuntimeUnavailable: the runtime is not installed, or its tool failed.
    """
    contention = Contention()
    with (
        BundleCandidate(bundle, LoadOptions(threads=threads)) as candidate,
        tempfile.TemporaryDirectory(prefix="vqrae-agreement-") as scratch,
    ):
        manifest = candidate.tokenizer.manifest
        batch = manifest.graphs[graph].fitting_batch(1)
        call, tool = candidate.call(graph, batch), _tool(candidate, graph, batch, threads, Path(scratch))
        calls = _calls_of_a_slice(call, seconds)
        pairs = [(_own_slice(call, calls, contention), tool(2 * calls)) for _ in range(slices)]
    ours, theirs = zip(*pairs, strict=True)
    ratio = speedup(ours, theirs)
    return Agreement(
        bundle=manifest.name,
        graph=graph,
        tool=f"{runtime_title(manifest.runtime.name)}, {TOOLS[manifest.runtime.name]}",
        ours_ms=statistics.median(ours),
        tool_ms=statistics.median(theirs),
        ratio=ratio.speedup,
        ratio_low=ratio.speedup_low,
        ratio_high=ratio.speedup_high,
        contention=contention.share,
    ).model_dump()


def _tool(candidate: BundleCandidate, graph: Graph, batch: int, threads: int, scratch: Path) -> Tool:
    """The runtime's own way to time the graph."""
    tokenizer = candidate.tokenizer
    runtime, spec = tokenizer.manifest.runtime.name, tokenizer.manifest.graphs[graph]
    path, name = tokenizer.bundle.path / spec.file, spec.inputs[0].name
    size, grid, codes = tokenizer.image_size, tokenizer.grid, tokenizer.codebook_size
    values = sample_input(graph, batch, size, grid=grid, codebook_size=codes)
    if runtime == "onnxruntime":
        return onnxruntime_loop(path, name, values, threads=threads)
    if runtime == "openvino":
        from vqrae.runtimes.backends.openvino import native_properties

        properties = native_properties(LoadOptions(threads=threads))
        return benchmark_app(path, name, values, properties=properties, scratch=scratch)
    raise UsageError(f"{tokenizer.bundle.path} runtime", got=runtime, expected=f"one of {', '.join(TOOLS)}")


def _calls_of_a_slice(call: Callable[[], object], seconds: float) -> int:
    """Timed calls of ours, each after one that is not timed, that take so long."""
    once = statistics.median(interleave({"ours": call}, rounds=MIN_ROUNDS, warmup=1)["ours"])
    return max(round(seconds / once / 2), MIN_ROUNDS)


def _own_slice(call: Callable[[], object], calls: int, contention: Contention) -> float:
    """Our median in milliseconds, exactly as `vqrae bench` comes to it."""
    with contention.watch():
        return latency(interleave({"ours": call}, rounds=calls, warmup=1)["ours"]).p50_ms


def onnxruntime_loop(graph: Path, name: str, values: NDArray[Any], *, threads: int) -> Tool:
    """A plain loop around `InferenceSession.run`, with the options that our bundles are loaded with, written out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def loop(calls: int) -> float:
        session.run(None, {name: values})
        seconds = []
        for _ in range(calls):
            started = time.perf_counter()
            session.run(None, {name: values})
            seconds.append(time.perf_counter() - started)
        return statistics.median(seconds) * 1000

    return loop


def benchmark_app(graph: Path, name: str, values: NDArray[Any], *, properties: dict[str, Any], scratch: Path) -> Tool:
    """OpenVINO's own `benchmark_app`, a process for each slice, which loads the graph anew.

    Args:
        graph: the `.xml` file.
        name: of its input.
        values: what it is fed with; an open batch stays open, as in our sessions.
        properties: what the graph is compiled with.
        scratch: an empty folder for its input, configuration and report.

    Returns:
        The tool. It raises `RuntimeUnavailable` with the program's last words where it fails.
    """
    data, configuration = scratch / "values.npy", scratch / "properties.json"
    np.save(data, values, allow_pickle=False)
    configuration.write_text(json.dumps({"CPU": properties}), encoding="utf-8")
    arguments = [
        *("-m", str(graph), "-d", "CPU", "-load_config", str(configuration), "-api", "sync"),
        *("-i", f"{name}:{data}", "-data_shape", f"{name}[{','.join(map(str, values.shape))}]"),
        *("-report_type", "no_counters", "-json_stats", "-report_folder", str(scratch)),
    ]

    def app(calls: int) -> float:
        command = [sys.executable, "-P", "-c", PROGRAM, *arguments, "-niter", str(calls)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
        if done.returncode:
            told = (done.stdout + done.stderr).partition("[ ERROR ]")[2].partition("Traceback")[0]
            raise RuntimeUnavailable(f"benchmark_app on {graph}", got=told or f"exit code {done.returncode}")
        report = json.loads((scratch / "benchmark_report.json").read_text(encoding="utf-8"))
        return float(report["execution_results"]["latency (ms)"])

    return app


def main() -> None:
    """Command line; see the module."""
    parser = StudyParser("agreement", __doc__)
    parser.add_argument("bundle", nargs="+", type=Path, help="of ONNX Runtime or OpenVINO")
    parser.add_argument("--graph", choices=GRAPHS, action="append", help="both if not given")
    parser.add_threads()
    parser.add_argument("--slices", type=int, default=MIN_ROUNDS, help="turns of each")
    parser.add_argument("--seconds", type=float, default=5, help="of a slice, about")
    parser.add_work()
    parser.add_output()
    options = parser.parse_args()
    check_least("--slices", options.slices, MIN_ROUNDS, ", for an interval")
    settings = {name: getattr(options, name) for name in ("threads", "slices", "seconds")}
    tasks = [
        Task(f"{path.name} {graph}", partial(agreement, path, graph, **settings), f"{Bundle.open(path).sha256} {graph}")
        for path, graph in product(options.bundle, options.graph or GRAPHS)
    ]
    with opened_log(options.work, settings) as log:
        found = [Agreement.model_validate(result.figures) for result in run(tasks, log).values()]
    shares = [row.contention for row in found if row.contention is not None]
    threads, contention = count_of(options.threads, "thread"), percent(max(shares, default=None), 1)
    title = TITLE.format(threads=threads, slices=options.slices, contention=contention)
    write_page(options.output, title + table(TITLES, [row.cells() for row in found], figures=4), options.module)
    for row in found:
        if abs(row.ratio - 1) > TOLERANCE:
            got = f"{row.ratio:.3f} of the median of {row.tool}"
            raise GateFailure(f"{row.bundle} {row.graph}", got=got, expected=f"1 ± {TOLERANCE:g}")


if __name__ == "__main__":
    run_as_program(main)
