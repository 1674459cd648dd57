"""`vqrae plan`: find the fastest precision plan within a budget, for one format, and prove it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from vqrae.cli.int8 import AskedOfInt8
from vqrae.cli.options import AsJson

if TYPE_CHECKING:
    from vqrae.calibration.plan import PrecisionPlan
    from vqrae.export.formats import Target
    from vqrae.export.verify import VerifyRow

MEASURED = ("onnx", "openvino")
"""Formats whose runtimes load ONNX graphs as they are, which is what trials are."""
Checkpoint = Annotated[str, typer.Argument(help="A checkpoint folder, or a preset's name.", metavar="CHECKPOINT")]
Output = Annotated[
    Path,
    typer.Option("-o", "--output", help="Folder for plan, tables, plots and bundle; a stopped run goes on there."),
]
Measured = Annotated[int, typer.Option(help="Further images of them to measure trials on.", min=1)]
Photographs = Annotated[
    Path | None, typer.Option(help="Folder of photographs for the proof; the held-out ones if not given.")
]


class _Drawn(NamedTuple):
    """Images that ranges are observed on, and further ones that trials are measured on."""

    source: Path
    observed: int
    measured: int
    seed: int


class _Found(NamedTuple):
    plan: PrecisionPlan
    row: VerifyRow
    pages: tuple[Path, ...]


def plan(
    checkpoint: Checkpoint,
    output: Output,
    *,
    format_: Annotated[str, typer.Option("--format", help="onnx or openvino: what to measure on.")] = "onnx",
    asked: AskedOfInt8,
    measured: Measured = 24,
    data: Photographs = None,
    images: Annotated[int, typer.Option(help="Number of photographs for the proof.", min=1)] = 48,
    as_json: AsJson = False,
) -> None:
    """Search for a plan for CHECKPOINT on this machine, and prove it on photographs that the search never saw."""
    from vqrae.calibration.plan import PLAN_FILE, PrecisionPlan
    from vqrae.cli.output import console, print_json
    from vqrae.cli.verify import print_rows
    from vqrae.export.calls import needed_images
    from vqrae.export.formats import target
    from vqrae.runtimes.errors import unknown_name
    from vqrae.runtimes.outputs import check_apart
    from vqrae.runtimes.staging import claimed_folder

    check_apart({"--output": output}, [path for path in (checkpoint, asked.calibration, data) if path is not None])
    start = None if asked.plan is None else PrecisionPlan.read(asked.plan)
    wanted = target(format_, "int8", plan=start, budget=asked.budget)
    if wanted.format_name not in MEASURED:
        raise unknown_name("--format of a plan", format_, MEASURED)
    drawn = _Drawn(needed_images(asked.calibration), asked.calibration_images, measured, asked.calibration_seed)
    with claimed_folder(output):
        found = _searched(checkpoint, output, wanted, drawn, data, images)
    files = [output / PLAN_FILE, *found.pages]
    if as_json:
        print_json({"plan": found.plan, "verify": found.row, "files": [str(path) for path in files]})
        return
    print_rows([found.row])
    for path in (*files, Path(found.row.bundle)):
        console.print(f"  {path}", highlight=False)


def _searched(checkpoint: str, output: Path, wanted: Target, drawn: _Drawn, data: Path | None, images: int) -> _Found:
    """Search, write what was found and its pages, and build the bundle that proves it."""
    from vqrae.calibration.plan import PLAN_FILE
    from vqrae.cli.output import print_note, progress_console
    from vqrae.export.calls import calibration_of, note_coverage
    from vqrae.runtimes.errors import needing

    with needing("plan"):
        from vqrae.benchmarks.candidates.candidate import runtime_title
        from vqrae.benchmarks.report.plan_page import write_plan_pages
    with needing("export"):
        from vqrae.checkpoint import open_checkpoint
        from vqrae.export.build import BundleBuilder, check_target
        from vqrae.export.parity_images import parity_images
        from vqrae.export.planning import search_plan
        from vqrae.export.tokenizers.vqrae import VqraeTokenizer

    check_target(wanted)
    title = runtime_title(wanted.format.runtime)
    opened = VqraeTokenizer(open_checkpoint(checkpoint))
    proof = parity_images(data, opened.model.size, images)
    chosen = calibration_of(drawn.source, drawn.observed + drawn.measured, drawn.seed, proof, print_note)
    observed, others = chosen.parted(drawn.observed)
    with progress_console.status("") as status, BundleBuilder(opened, proof, status.update, observed) as builder:
        plan, graphs = search_plan(builder, wanted, others.images, output)
        plan.write(output / PLAN_FILE)
        pages = write_plan_pages(graphs, output, f"The plan of {opened.identity.name} for {title}")
        row = builder.build(replace(wanted, plan=plan), output, overwrite=True)
    note_coverage(row, print_note)
    return _Found(plan, row, pages)
