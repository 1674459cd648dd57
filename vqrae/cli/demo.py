"""`vqrae demo`: from the shipped tokenizer to a verified, benchmarked bundle, in one command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import AsJson

SHIPPED = Path("assets/vqrae-tiny")


def demo(
    checkpoint: Annotated[
        Path, typer.Option(help="A checkpoint's folder; the shipped one lies in the repository.")
    ] = SHIPPED,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for everything; replaced if it exists.")
    ] = Path("demo"),
    as_json: AsJson = False,
    rounds: Annotated[int, typer.Option(help="Timed calls of each candidate.", min=6)] = 30,
) -> None:
    """Export the shipped tokenizer, verify it, benchmark it against PyTorch, and reconstruct photographs."""
    from vqrae.cli.output import console, print_json, progress_console
    from vqrae.runtimes.errors import CheckpointError, UsageError, needing

    if not checkpoint.is_dir():
        raise CheckpointError(
            str(checkpoint), got="no such folder", expected="a checkpoint", remedy="run it in the repository"
        )
    with needing("export"):
        from vqrae.benchmarks.demo import BENCHMARK_FILE, run_demo
        from vqrae.benchmarks.report.table import bench_table
        from vqrae.cli.verify import print_rows

    if output.is_dir() and any(output.iterdir()) and not (output / BENCHMARK_FILE).exists():
        raise UsageError(str(output), got="a folder that no demo wrote", expected="another one, which may be replaced")
    command = shlex.join(["vqrae", *sys.argv[1:]])
    with progress_console.status("") as status:
        shown = run_demo(checkpoint, output, rounds=rounds, command=command, report=status.update)
    if as_json:
        files = [str(file) for file in shown.files]
        print_json({"verify": shown.verified, "bench": shown.benchmark, "missing": shown.missing, "files": files})
        return
    print_rows(shown.verified)
    console.print(bench_table(shown.benchmark))
    for path in shown.files:
        console.print(f"  {path}", highlight=False)
    for reason in shown.missing:
        console.print(f"left out: {reason}", highlight=False, soft_wrap=True)
    console.print(f"parity: {shown.gate}", style="bold")
