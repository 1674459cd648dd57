"""The page on where the naive export's time goes, and the folded graph's, both on ONNX Runtime, and what bounds them.

    python -m vqrae.benchmarks.studies.operators base --bundle runs/vqrae-base-onnx-fp32 -o docs/figures/operators.md

Run it on a machine that does nothing else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from vqrae.benchmarks.candidates.candidate import GRAPHS, Graph, sample_input
from vqrae.benchmarks.candidates.naive import NaiveCandidate
from vqrae.benchmarks.candidates.work import counted_work
from vqrae.benchmarks.measure.conditions import BUSY, Contention
from vqrae.benchmarks.measure.limit import machine_probes, measured_limit
from vqrae.benchmarks.report.figures import percent, significant
from vqrae.benchmarks.report.page import write_page
from vqrae.benchmarks.studies.runner import Figures, Task, opened_log, run
from vqrae.benchmarks.studies.study import StudyParser, table
from vqrae.runtimes.backends.onnxruntime import ERRORS, session_options
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import UsageError, run_as_program
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.latency import interleave, latency
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.session import refused_graph

PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Conv")
"""Operators whose arithmetic the machine's peak is about."""
LEAST_SHARE = 0.001
"""Of a call: operators below it, in both graphs, are added up in one line."""
TITLE = """# Where the time goes

One call at batch 1 of the graph as it is traced (naive) and of the folded one in the bundle, both FP32 on ONNX Runtime,
in turns; milliseconds by type of operator, from the runtime's own profiler. The runtime's fusions have names of their
own: it makes some of them in the naive graph too.

"""
READING = """
## What was tried

- Folding at export: byte scaling and normalization into the patch embedding, queries, keys and values in one product,
  the attention's scale and layer scales into weights, the codes' projection and norms into one product with a bias.
- The best code by slices, `ReduceMax` and two short `ArgMax`, in place of one long `ArgMax`.
- GELU and LayerNorm as single operators, which the runtime vectorizes; it fuses those of the naive graph when it loads
  it, so that little of this shows.
- A fixed batch, which the naive graph has: with it the runtime joins a product and its bias in one `Gemm`. A bundle's
  batch is dynamic, so its biases are among the `Add`.
- Weights are packed when the graph is loaded, which is the runtime's default.

## What it would take

What is left is matrix products, near what the machine's best product reaches. Beating the naive export by 2× in FP32
needs products that are faster than the machine's peak in FP32: fewer bits, or fewer tokens. INT8 is the first of these,
and its rows on the [page of performance](performance.md) are beyond 2×.
"""


class GraphTimes(Record):
    """One graph, traced as written and folded."""

    graph: Graph
    naive_ms: float
    """Median latency of a call, with the profiler on."""
    folded_ms: float
    naive: tuple[OperatorTime, ...]
    folded: tuple[OperatorTime, ...]
    least_ms: float | None
    """The time of the folded graph's arithmetic at the machine's peak; None where it cannot be counted."""
    contention: float | None = None
    """Share of the processors' time that other programs used meanwhile."""


class OperatorTime(Record):
    """All operators of one type within one call; the runtime's own fusions have names of their own."""

    operator: str
    calls: int
    ms: float
    """The median over calls of the graph."""


class OperatorProfile(Closing):
    """A graph that is loaded as bundles are, with the profiler on. A context manager."""

    def __init__(self, path: Path, *, threads: int) -> None:
        """Load a graph with one input on ONNX Runtime's CPU provider.

        Raises:
            BundleError: the runtime refuses the file.
        """
        self._folder = TemporaryDirectory(prefix="vqrae-profile-")
        options = session_options(LoadOptions(threads=threads))
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(self._folder.name) / "profile")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except ERRORS as error:
            self.close()
            raise refused_graph(path, f"ONNX Runtime {onnxruntime.__version__}", error) from error
        self._input = self._session.get_inputs()[0].name

    def run(self, values: NDArray[Any]) -> None:
        """One call, which is profiled."""
        self._session.run(None, {self._input: np.ascontiguousarray(values)})

    def found(self, *, calls: int) -> list[OperatorTime]:
        """Of the last so many calls, the operators that take longest first; nothing can be run after it."""
        events = json.loads(Path(self._session.end_profiling()).read_text())
        spans = [(event["ts"], event["ts"] + event["dur"]) for event in events if event["name"] == "model_run"]
        return operator_times(events, spans[-calls:])

    def close(self) -> None:
        """Delete what the profiler wrote."""
        self._folder.cleanup()


def operator_times(events: list[dict[str, Any]], spans: list[tuple[int, int]]) -> list[OperatorTime]:
    """Sum a profile's kernels by type within each span of microseconds, and take the medians."""
    kernels = [event for event in events if event["cat"] == "Node" and event["name"].endswith("_kernel_time")]
    totals: list[Counter[str]] = []
    for start, end in spans:
        inside = [event for event in kernels if start <= event["ts"] < end]
        counts = Counter(event["args"]["op_name"] for event in inside)
        totals.append(Counter())
        for event in inside:
            totals[-1][event["args"]["op_name"]] += event["dur"]
    times = [
        OperatorTime(operator=name, calls=count, ms=median(total[name] for total in totals) / 1000)
        for name, count in counts.items()
    ]
    return sorted(times, key=lambda time: time.ms, reverse=True)


def graph_times(graph: Graph, naive: NaiveCandidate, bundle: Bundle, *, threads: int, rounds: int) -> GraphTimes:
    """Profile one graph of both kinds in turns with the machine's probes.

    Raises:
        UsageError: the bundle is not for ONNX Runtime in FP32.
        BundleError: the runtime refuses a graph.
    """
    manifest = bundle.manifest
    if manifest.runtime.name != "onnxruntime" or manifest.precision.kind.activations != "fp32":
        got = f"{manifest.runtime.name} at {manifest.precision.name}"
        raise UsageError(str(bundle.path), got=got, expected="a bundle for onnxruntime at fp32")
    grid, codes = manifest.tokens.grid, manifest.tokens.codebook_size
    values = sample_input(graph, 1, naive.image_size, grid=grid, codebook_size=codes)
    folded_file = bundle.path / manifest.graphs[graph].file
    with ExitStack() as stack:
        profiles = {
            "naive": stack.enter_context(OperatorProfile(naive.file(graph, 1), threads=threads)),
            "folded": stack.enter_context(OperatorProfile(folded_file, threads=threads)),
        }
        probes = machine_probes(threads, stack)
        calls: dict[str, Callable[[], object]] = {
            name: lambda profile=profile: profile.run(values)  # type: ignore[misc]
            for name, profile in profiles.items()
        }
        calls |= {f"probe {number}": probe.run for number, probe in enumerate(probes)}
        seconds = interleave(calls, rounds=rounds, warmup=3)
        found = {name: profile.found(calls=2 * rounds) for name, profile in profiles.items()}
    of_probes = {probe: seconds[f"probe {number}"] for number, probe in enumerate(probes)}
    limit = measured_limit(probes, of_probes, graph=graph, batch=1, threads=threads)
    work = counted_work(folded_file, values.shape)
    return GraphTimes(
        graph=graph,
        naive_ms=latency(seconds["naive"]).p50_ms,
        folded_ms=latency(seconds["folded"]).p50_ms,
        naive=tuple(found["naive"]),
        folded=tuple(found["folded"]),
        least_ms=limit.least_ms(work) if work else None,
    )


def warning(share: float | None) -> str:
    """What to tell a reader whose machine was busy with something else; empty where it was not."""
    if share is None or share <= BUSY:
        return ""
    return (
        f"Other programs used {percent(share, 0)} of the processors meanwhile: rely on the shares of operators, not on "
        "their milliseconds.\n\n"
    )


def section(times: GraphTimes, *, claims: bool = True) -> str:
    """One graph's sentences and table; without `claims`, as on a busy machine, nothing is compared."""
    lines = [f"## {times.graph.capitalize()}\n"]
    for name, operators, ms in (
        ("naive", times.naive, times.naive_ms),
        ("folded", times.folded, times.folded_ms),
    ):
        share = sum(time.ms for time in operators if time.operator in PRODUCTS) / sum(time.ms for time in operators)
        lines.append(f"- {name}: {significant(ms)} ms, {percent(share, 0)} of it in matrix products")
    if claims:
        lines.append(f"- the folding gains {times.naive_ms / times.folded_ms:.2f}×")
    if claims and times.least_ms is not None:
        most = times.naive_ms / times.least_ms
        lines.append(
            f"- at the machine's FP32 peak the folded arithmetic alone takes {significant(times.least_ms)} ms: with "
            f"all else for nothing the naive export could be beaten {most:.2f}×"
        )
    return "\n".join(lines) + f"\n\n{_table(times)}"


def _table(times: GraphTimes) -> str:
    columns = [{time.operator: time for time in found} for found in (times.naive, times.folded)]
    least = LEAST_SHARE * times.naive_ms
    names = dict.fromkeys(time.operator for time in (*times.naive, *times.folded))
    shown = [name for name in names if any(name in column and column[name].ms >= least for column in columns)]
    rows = [[name, *_cells(*([column[name]] if name in column else [] for column in columns))] for name in shown]
    rest = [[time for name, time in column.items() if name not in shown] for column in columns]
    titles = ("operator", "naive ms", "operators", "folded ms", "operators")
    return table(titles, [*rows, ["others", *_cells(*rest)]], figures=4)


def _cells(naive: Sequence[OperatorTime], folded: Sequence[OperatorTime]) -> list[str]:
    """Milliseconds and the number of operators, of both graphs."""
    cells = []
    for times in (naive, folded):
        cells += [significant(sum(it.ms for it in times)), str(sum(it.calls for it in times))] if times else ["–", "–"]
    return cells


def profiled(checkpoint: str, graph: Graph, path: Path, *, threads: int, rounds: int) -> Figures:
    """One graph of both kinds; the figures of a `GraphTimes`; errors as of `graph_times`."""
    bundle, contention = Bundle.open(path), Contention()
    size = (bundle.manifest.preprocessing.height, bundle.manifest.preprocessing.width)
    with NaiveCandidate(checkpoint, threads=threads, size=size) as naive, contention.watch():
        times = graph_times(graph, naive, bundle, threads=threads, rounds=rounds)
    return times.model_copy(update={"contention": contention.share}).model_dump()


def main() -> None:
    """Command line; writes a Markdown page."""
    parser = StudyParser("operators", __doc__)
    parser.add_checkpoint()
    parser.add_argument("--bundle", type=Path, required=True, help="made of it, for ONNX Runtime at FP32")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_threads()
    parser.add_work()
    parser.add_output()
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in ("threads", "rounds")}
    tasks = [
        Task(graph, partial(profiled, options.checkpoint, graph, options.bundle, **settings), graph) for graph in GRAPHS
    ]
    sha256 = Bundle.open(options.bundle).sha256
    with opened_log(options.work, {"checkpoint": options.checkpoint, "bundle": sha256, **settings}) as log:
        found = [GraphTimes.model_validate(result.figures) for result in run(tasks, log).values()]
    busy = warning(max((times.contention for times in found if times.contention is not None), default=None))
    text = TITLE + busy + "\n".join(section(times, claims=not busy) for times in found) + READING
    write_page(options.output, text, options.module)


if __name__ == "__main__":
    run_as_program(main)
