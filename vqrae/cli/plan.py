"""`vqrae plan`: find the fastest precision plan within a budget, for one format, and prove it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.int8 import (
    Calibration,
    CalibrationCount,
    CalibrationSeed,
    MaxExcessDistortion,
    MaxPsnrDrop,
    MinAgreement,
    PlanFile,
    budget_of,
    calibration_of,
    check_asked_for,
    warn_of_coverage,
)
from vqrae.cli.options import AsJson

MEASURED = ("onnx", "openvino")
"""Formats whose runtimes load ONNX graphs as they are, which is what trials are."""


def plan(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint folder, or a preset's name.", metavar="CHECKPOINT")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Folder for plan, tables, plots and bundle; a stopped run goes on there."),
    ],
    format_: Annotated[str, typer.Option("--format", help="onnx or openvino: what to measure on.")] = "onnx",
    calibration: Calibration = None,
    calibration_images: CalibrationCount = 128,
    calibration_seed: CalibrationSeed = 0,
    measured: Annotated[int, typer.Option(help="Further images of them to measure trials on.", min=1)] = 24,
    data: Annotated[
        Path | None, typer.Option(help="Folder of photographs for the proof; the held-out ones if not given.")
    ] = None,
    images: Annotated[int, typer.Option(help="Number of photographs for the proof.", min=1)] = 48,
    start: PlanFile = None,
    max_excess_distortion: MaxExcessDistortion = None,
    min_agreement: MinAgreement = None,
    max_psnr_drop: MaxPsnrDrop = None,
    as_json: AsJson = False,
) -> None:
    """Search for a plan for CHECKPOINT on this machine, and prove it on photographs that the search never saw."""
    from vqrae.calibration.plan import PLAN_FILE, PrecisionPlan
    from vqrae.cli.output import console, print_json, progress_console
    from vqrae.cli.verify import print_rows
    from vqrae.export.formats import target
    from vqrae.runtimes.errors import needing, unknown_name
    from vqrae.runtimes.outputs import check_apart
    from vqrae.runtimes.staging import claimed_folder

    check_apart({"--output": output}, [path for path in (checkpoint, calibration, data) if path is not None])
    budget = budget_of(max_excess_distortion, min_agreement, max_psnr_drop)
    wanted = target(format_, "int8", plan=None if start is None else PrecisionPlan.read(start), budget=budget)
    if wanted.format_name not in MEASURED:
        raise unknown_name("--format of a plan", format_, MEASURED)
    check_asked_for(calibration, [wanted.precision])
    with claimed_folder(output):
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
        count = calibration_images + measured
        assert calibration is not None, "checked above"  # noqa: S101
        drawn = calibration_of(calibration, opened.model.size, count, calibration_seed, proof)
        observed, others = drawn.parted(calibration_images)
        with progress_console.status("") as status, BundleBuilder(opened, proof, status.update, observed) as builder:
            found, graphs = search_plan(builder, wanted, others.images, output)
            found.write(output / PLAN_FILE)
            written = write_plan_pages(graphs, output, f"The plan of {opened.identity.name} for {title}")
            row = builder.build(replace(wanted, plan=found), output, overwrite=True)
    warn_of_coverage(row)
    if as_json:
        print_json({"plan": found, "verify": row, "files": [str(path) for path in (output / PLAN_FILE, *written)]})
        return
    print_rows([row])
    for path in (output / PLAN_FILE, *written, Path(row.bundle)):
        console.print(f"  {path}", highlight=False)
