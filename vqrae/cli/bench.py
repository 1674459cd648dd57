"""`vqrae bench`: bundles against PyTorch and each other, interleaved in one run."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import AsJson, TimedLoading


def bench(
    bundles: Annotated[list[Path], typer.Argument(help="Bundle folders.", metavar="BUNDLE...")],
    loading: TimedLoading,
    reference: Annotated[
        str | None, typer.Option(help="The checkpoint for the PyTorch row; where it lay at export if not given.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Images per call; repeatable. 1 if not given.", min=1)] = None,
    threads: Annotated[
        list[int] | None, typer.Option(help="CPU threads; repeatable. All cores if not given.", min=1)
    ] = None,
    rounds: Annotated[int, typer.Option(help="Timed calls of each candidate.", min=6)] = 30,
    limit: Annotated[
        bool, typer.Option("--limit/--no-limit", help="Measure the machine's own peak in turns with the rows.")
    ] = True,
    throughput: Annotated[
        Path | None, typer.Option(help="Folder of photographs: from disk to tokens on disk, against inference alone.")
    ] = None,
    streams: Annotated[int, typer.Option(help="With --throughput: batches that go on at once.", min=1)] = 1,
    compiled: Annotated[
        bool, typer.Option("--compile", help="A row for torch.compile too; needs a C++ compiler.")
    ] = False,
    naive: Annotated[
        bool, typer.Option("--naive", help="A row for the model traced as written, unfolded, on ONNX Runtime, too.")
    ] = False,
    foreign: Annotated[
        list[Path] | None,
        typer.Option(help="Anyone's .onnx, .xml or .engine with an image input, timed beside encode; repeatable."),
    ] = None,
    bundles_only: Annotated[bool, typer.Option("--bundles-only", help="No PyTorch row.")] = False,
    output: Annotated[
        list[Path] | None,
        typer.Option("-o", "--output", help="Also write it to this .json, .csv, .md or .html file; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure BUNDLEs and the PyTorch model: latency, throughput, start-up, memory and size, fidelity in the same row.

    Every candidate is called in turn in every round, so that a drift of the machine meets all of them.
    """
    from vqrae.benchmarks.bench import bench as measured
    from vqrae.benchmarks.lineup import checkpoint_of
    from vqrae.benchmarks.options import BenchOptions
    from vqrae.benchmarks.report.outputs import check_outputs, write_results
    from vqrae.benchmarks.report.table import bench_table
    from vqrae.cli.output import console, print_json, progress_console
    from vqrae.images.files import image_files

    check_outputs(output or (), [*bundles, *(foreign or ()), *([reference] if reference else [])])
    options = BenchOptions(
        batch_sizes=batch or (1,),
        threads=threads,
        rounds=rounds,
        limit=limit,
        photographs=image_files(throughput) if throughput else (),
        compiled=compiled,
        naive=naive,
        foreign=foreign or (),
        load=replace(loading, streams=streams),
    )
    checkpoint = None if bundles_only else checkpoint_of(bundles, reference, loading.public_key)
    with progress_console.status("") as status:
        result = measured(
            bundles,
            checkpoint,
            options,
            command=shlex.join(["vqrae", *sys.argv[1:]]),
            progress=lambda stage, done, total: status.update(f"{stage}: {done} of {total}"),
        )
    write_results(output or (), result, bundles, loading)
    print_json(result) if as_json else console.print(bench_table(result))
