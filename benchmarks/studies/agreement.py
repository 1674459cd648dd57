"""Whether `vqrae bench` finds the latency that the runtimes' own tools find, of the very same graphs, in one run.

    python -m vqrae.benchmarks.studies.agreement bundles/base-onnx-fp32 bundles/base-openvino-fp32 -o agreement.md

Slices of our rounds and of the tool's calls take turns, so that drift of the machine hits both. Exit 3 if a median is
off by more than 5 %. Covered: ONNX Runtime on the CPU against a plain loop around it, OpenVINO on the CPU against its
`benchmark_app`. Not covered: start-up, and what a client does around the session.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from vqrae.benchmarks.candidates import GRAPHS, BundleCandidate, Graph, sample_input
from vqrae.benchmarks.contention import Contention
from vqrae.benchmarks.figures import percent, significant
from vqrae.benchmarks.page import write_page
from vqrae.benchmarks.rows import count_of
from vqrae.benchmarks.studies.runtime_tools import Tool, benchmark_app, onnxruntime_loop
from vqrae.benchmarks.titles import runtime_title
from vqrae.runtimes.errors import GateFailure, UsageError, run_as_program
from vqrae.runtimes.latency import MIN_ROUNDS, interleave, latency, speedup
from vqrae.runtimes.load_options import LoadOptions
from vqrae.runtimes.machine import this_machine

TOLERANCE = 0.05
TOOLS = {"onnxruntime": "a plain loop", "openvino": "`benchmark_app`"}
TITLE = """# Our clock against the runtimes' own

The median latency of one call at batch 1 as `vqrae bench` measures it, and as the runtime's own tool does: the same
graph file, options and {threads}, {slices} slices of each in turns. The ratio is ours over the tool's, the median over
the slices with its 95 % interval. Other programs used {contention} of the processors during our slices.

"""
HEADER = "| bundle | graph | tool | `vqrae bench`, ms | tool, ms | ratio | interval |\n|---|---|---|--:|--:|--:|--:|\n"


@dataclass(frozen=True, kw_only=True)
class Agreement:
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

    @property
    def kept(self) -> bool:
        """Whether the two agree within `TOLERANCE`."""
        return abs(self.ratio - 1) <= TOLERANCE

    def line(self) -> str:
        """As a line of the table."""
        figures = (significant(self.ours_ms), significant(self.tool_ms), f"{self.ratio:.3f}")
        cells = (self.bundle, self.graph, self.tool, *figures, f"{self.ratio_low:.3f} to {self.ratio_high:.3f}")
        return f"| {' | '.join(cells)} |\n"


def agreements(
    bundle: Path, *, graphs: Sequence[Graph], threads: int, slices: int, seconds: float, contention: Contention
) -> Iterator[Agreement]:
    """Measure the graphs of a bundle both ways.

    Args:
        bundle: its folder.
        graphs: which.
        threads: CPU threads of both.
        slices: how often each takes its turn; at least `latency.MIN_ROUNDS`.
        seconds: that a slice is to last, about.
        contention: what watches the machine during our slices.

    Raises:
        UsageError: too few slices, or a runtime whose own tool is not known here.
        BundleError: the bundle is invalid.
        RuntimeUnavailable: the runtime is not installed, or its tool failed.
    """
    with ExitStack() as stack:
        candidate = stack.enter_context(BundleCandidate(bundle, threads=threads))
        manifest = candidate.tokenizer.manifest
        for graph in graphs:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vqrae-agreement-")))
            batch = manifest.graphs[graph].fitting_batch(1)
            call, tool = candidate.call(graph, batch), _tool(candidate, graph, batch, scratch)
            calls = _calls_of_a_slice(call, seconds)
            pairs = [(_own_slice(call, calls, contention), tool(2 * calls)) for _ in range(slices)]
            ours, theirs = zip(*pairs, strict=True)
            ratio = speedup(ours, theirs)
            yield Agreement(
                bundle=manifest.name,
                graph=graph,
                tool=f"{runtime_title(manifest.runtime.name)}, {TOOLS[manifest.runtime.name]}",
                ours_ms=statistics.median(ours),
                tool_ms=statistics.median(theirs),
                ratio=ratio.speedup,
                ratio_low=ratio.speedup_low,
                ratio_high=ratio.speedup_high,
            )


def _tool(candidate: BundleCandidate, graph: Graph, batch: int, scratch: Path) -> Tool:
    """The runtime's own way to time the graph."""
    tokenizer = candidate.tokenizer
    runtime, spec = tokenizer.manifest.runtime.name, tokenizer.manifest.graphs[graph]
    path, name = tokenizer.bundle.path / spec.file, spec.inputs[0].name
    size, grid, codes = tokenizer.image_size, tokenizer.grid, tokenizer.codebook_size
    values = sample_input(graph, batch, size, grid=grid, codebook_size=codes)
    if runtime == "onnxruntime":
        return onnxruntime_loop(path, name, values, threads=candidate.threads)
    if runtime == "openvino":
        from vqrae.runtimes.backends.openvino import native_properties

        properties = native_properties(LoadOptions(threads=candidate.threads))
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


def main() -> None:
    """Command line; writes the page after every graph."""
    parser = argparse.ArgumentParser(
        prog="python -m vqrae.benchmarks.studies.agreement", description=__doc__.splitlines()[0]
    )
    parser.add_argument("bundle", nargs="+", type=Path, help="of ONNX Runtime or OpenVINO")
    parser.add_argument("--graph", choices=GRAPHS, action="append", help="both if not given")
    parser.add_argument("--threads", type=int, default=this_machine().cores)
    parser.add_argument("--slices", type=int, default=MIN_ROUNDS, help="turns of each")
    parser.add_argument("--seconds", type=float, default=5, help="of a slice, about")
    parser.add_argument("-o", "--output", type=Path, required=True, help="Markdown file")
    options = parser.parse_args()
    if options.slices < MIN_ROUNDS:
        raise UsageError("--slices", got=str(options.slices), expected=f"at least {MIN_ROUNDS}, for an interval")
    found: list[Agreement] = []
    contention = Contention()
    for bundle in options.bundle:
        for agreement in agreements(
            bundle,
            graphs=options.graph or GRAPHS,
            threads=options.threads,
            slices=options.slices,
            seconds=options.seconds,
            contention=contention,
        ):
            found.append(agreement)
            print(agreement.line(), end="", flush=True)
            title = TITLE.format(
                threads=count_of(options.threads, "thread"),
                slices=options.slices,
                contention=percent(contention.share, 1),
            )
            lines = "".join(row.line() for row in found)
            write_page(options.output, title + HEADER + lines, "vqrae.benchmarks.studies.agreement")
    for row in found:
        if not row.kept:
            got = f"{row.ratio:.3f} of the median of {row.tool}"
            raise GateFailure(f"{row.bundle} {row.graph}", got=got, expected=f"1 ± {TOLERANCE:g}")


if __name__ == "__main__":
    run_as_program(main)
