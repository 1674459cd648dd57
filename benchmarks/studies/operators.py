"""The page on where the naive export's time goes, and the folded graph's, both on ONNX Runtime, and what bounds them.

    python -m vqrae.benchmarks.studies.operators base --bundle runs/vqrae-base-onnx-fp32 -o docs/figures/operators.md

Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vqrae.benchmarks.candidates.candidate import GRAPHS, Graph, sample_input
from vqrae.benchmarks.candidates.naive import NaiveCandidate
from vqrae.benchmarks.candidates.work import counted_work
from vqrae.benchmarks.measure.conditions import BUSY, Contention
from vqrae.benchmarks.measure.limit import machine_probes, measured_limit
from vqrae.benchmarks.report.figures import percent, significant
from vqrae.benchmarks.report.page import write_page
from vqrae.benchmarks.studies.operator_profile import OperatorProfile, OperatorTime
from vqrae.runtimes.bundle import Bundle
from vqrae.runtimes.errors import UsageError, run_as_program
from vqrae.runtimes.latency import interleave, latency
from vqrae.runtimes.machine import this_machine

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


@dataclass(frozen=True, kw_only=True)
class GraphTimes:
    """One graph, traced as written and folded."""

    graph: Graph
    naive_ms: float
    """Median latency of a call, with the profiler on."""
    folded_ms: float
    naive: Sequence[OperatorTime]
    folded: Sequence[OperatorTime]
    least_ms: float | None
    """The time of the folded graph's arithmetic at the machine's peak; None where it cannot be counted."""


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
        naive=found["naive"],
        folded=found["folded"],
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
    columns = {name: {time.operator: time for time in found} for name, found in _both(times).items()}
    least = LEAST_SHARE * times.naive_ms
    names = list(dict.fromkeys(time.operator for found in _both(times).values() for time in found))
    shown = [name for name in names if any(name in column and column[name].ms >= least for column in columns.values())]
    lines = ["| operator | naive ms | operators | folded ms | operators |\n| --- | --: | --: | --: | --: |\n"]
    for name in shown:
        cells = [cell for column in columns.values() for cell in _cells([column[name]] if name in column else [])]
        lines.append(f"| {name} | {' | '.join(cells)} |\n")
    rest = [[time for name, time in column.items() if name not in shown] for column in columns.values()]
    lines.append(f"| others | {' | '.join(cell for those in rest for cell in _cells(those))} |\n")
    return "".join(lines)


def _both(times: GraphTimes) -> Mapping[str, Sequence[OperatorTime]]:
    return {"naive": times.naive, "folded": times.folded}


def _cells(times: Sequence[OperatorTime]) -> tuple[str, str]:
    if not times:
        return "–", "–"
    return significant(sum(time.ms for time in times)), str(sum(time.calls for time in times))


def main() -> None:
    """Command line; writes a Markdown page."""
    parser = argparse.ArgumentParser(
        prog="python -m vqrae.benchmarks.studies.operators", description=__doc__.splitlines()[0]
    )
    parser.add_argument("checkpoint", help="a folder, or a preset's name for random weights")
    parser.add_argument("--bundle", type=Path, required=True, help="made of it, for ONNX Runtime at FP32")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=this_machine().cores)
    parser.add_argument("-o", "--output", type=Path, required=True, help="Markdown file")
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    size = (bundle.manifest.preprocessing.height, bundle.manifest.preprocessing.width)
    contention = Contention()
    with NaiveCandidate(options.checkpoint, threads=options.threads, size=size) as naive, contention.watch():
        found = [graph_times(graph, naive, bundle, threads=options.threads, rounds=options.rounds) for graph in GRAPHS]
    busy = warning(contention.share)
    text = TITLE + busy + "\n".join(section(times, claims=not busy) for times in found) + READING
    write_page(options.output, text, "vqrae.benchmarks.studies.operators")


if __name__ == "__main__":
    run_as_program(main)
