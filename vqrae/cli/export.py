"""`vqrae export`: a checkpoint becomes bundles."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqrae.cli.int8 import (
    Calibration,
    CalibrationCount,
    CalibrationSeed,
    MaxExcessDistortion,
    MaxPsnrDrop,
    MinAgreement,
    PlanFile,
    WeightOnly,
    budget_of,
    calibration_of,
    check_asked_for,
    precisions_of,
    warn_of_coverage,
)
from vqrae.cli.options import AsJson, Overwrite

if TYPE_CHECKING:
    from vqrae.calibration.images import CalibrationImages
    from vqrae.calibration.plan import PrecisionPlan
    from vqrae.export.formats import Target
    from vqrae.export.verify import VerifyRow
    from vqrae.runtimes.manifest import Budget


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(help="A checkpoint folder, or a preset's name for seeded random weights.", metavar="CHECKPOINT"),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder that the bundles are written into.")],
    format_: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="onnx, openvino, coreml, tensorrt or tensorrt-rtx; repeatable. onnx if not given."
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option("--precision", help="fp32, fp16, int8, int8-weights; repeatable. fp32 if not given."),
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="The same as --precision fp16.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="The same as --precision int8.")] = False,
    imgsz: Annotated[
        str | None,
        typer.Option(help="Image size in pixels, 256 or 256x384 (height x width); the trained one if not given."),
    ] = None,
    batch: Annotated[
        str,
        typer.Option(help="dynamic, a fixed number, LEAST:BEST:MOST (engines, Core ML), or SIZE,SIZE,… (Core ML)."),
    ] = "dynamic",
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="NAME=VALUE, an option of the format, or FORMAT.NAME=VALUE; `vqrae formats`."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of photographs to verify on; the held-out ones if not given.")
    ] = None,
    images: Annotated[int, typer.Option(help="Number of photographs to verify on.", min=1)] = 16,
    split: Annotated[
        bool, typer.Option("--split", help="Also write encoder, quantizer, codebook and decoder.")
    ] = False,
    allow_gate_failure: Annotated[
        bool, typer.Option("--allow-gate-failure", help="Write a bundle that misses its gate, marked as such.")
    ] = False,
    weight_only: WeightOnly = False,
    calibration: Calibration = None,
    calibration_images: CalibrationCount = 128,
    calibration_seed: CalibrationSeed = 0,
    plan: PlanFile = None,
    max_excess_distortion: MaxExcessDistortion = None,
    min_agreement: MinAgreement = None,
    max_psnr_drop: MaxPsnrDrop = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Export CHECKPOINT: one verified bundle per format and precision, written into the output folder."""
    from vqrae.calibration.plan import PrecisionPlan
    from vqrae.cli.output import print_json, progress_console
    from vqrae.cli.verify import print_rows
    from vqrae.runtimes.errors import needing
    from vqrae.runtimes.outputs import check_apart
    from vqrae.runtimes.staging import check_new_folder

    # Everything that can be refused without a model is refused first.
    precisions = precisions_of(precision or [], half=half, int8=int8, weight_only=weight_only)
    budget = budget_of(max_excess_distortion, min_agreement, max_psnr_drop)
    chosen = None if plan is None else PrecisionPlan.read(plan)
    targets = _targets(format_ or ["onnx"], precisions, batch, option or [], split=split, plan=chosen, budget=budget)
    check_asked_for(calibration, precisions)
    size = None if imgsz is None else _size(imgsz)
    with needing("export"):
        from vqrae.checkpoint import open_checkpoint, open_config
        from vqrae.export.build import BundleBuilder, bundle_name, check_target
        from vqrae.export.parity_images import parity_images
        from vqrae.export.tokenizers.vqrae import VqraeTokenizer, tokenizer_name

    config = open_config(checkpoint)
    paths = [output / bundle_name(tokenizer_name(config, size), target) for target in targets]
    read = [path for path in (checkpoint, data, calibration, plan) if path is not None]
    check_apart({f"bundle {path.name}": path for path in paths}, read)
    for target, path in zip(targets, paths, strict=True):
        check_target(target)
        check_new_folder(path, overwrite=overwrite)
    opened = VqraeTokenizer(open_checkpoint(checkpoint, size))
    photographs = parity_images(data, opened.model.size, images)
    observed = None
    if calibration is not None:
        observed = calibration_of(calibration, opened.model.size, calibration_images, calibration_seed, photographs)
    with progress_console.status("") as status, BundleBuilder(opened, photographs, status.update, observed) as builder:
        rows = [
            builder.build(target, output, allow_gate_failure=allow_gate_failure, overwrite=overwrite)
            for target in targets
        ]
    for row in rows:
        warn_of_coverage(row)
    if as_json:
        print_json([{**row.model_dump(mode="json"), **_told_of_images(row, observed)} for row in rows])
    else:
        print_rows(rows)


def _told_of_images(row: VerifyRow, observed: CalibrationImages | None) -> dict[str, object]:
    """What became of the calibration images, for the bundles that were calibrated on them."""
    if observed is None or row.codebook_coverage is None:
        return {}
    asides = {"left_out": observed.left_out, "damaged": observed.damaged}
    named = {name: [it.model_dump() for it in found] for name, found in asides.items()}
    return {"calibration": {"taken": len(observed.names), "duplicates": observed.duplicates, **named}}


def _targets(
    names: list[str],
    precisions: list[str],
    batch: str,
    options: list[str],
    *,
    split: bool,
    plan: PrecisionPlan | None,
    budget: Budget | None,
) -> list[Target]:
    """What to build: every precision of every format, duplicates once."""
    from vqrae.export.batch import Batch
    from vqrae.export.formats import ALIASES, format_key, target
    from vqrae.runtimes.errors import UsageError, unknown_name
    from vqrae.runtimes.precision import quantized_names

    formats = list(dict.fromkeys(format_key(name) for name in names))
    chosen: dict[str, dict[str, str]] = {name: {} for name in formats}
    for text in options:
        typed, separator, value = text.partition("=")
        if not separator or not typed:
            raise UsageError("--option", got=repr(text), expected="NAME=VALUE or FORMAT.NAME=VALUE")
        owner, dot, name = typed.rpartition(".")
        if dot and ALIASES.get(owner, owner) not in formats:
            raise unknown_name(f"format of --option {typed}", owner, formats)
        for format_name in [ALIASES.get(owner, owner)] if dot else formats:
            chosen[format_name][name] = value
    axis = Batch.parse(batch)
    quantized = {*quantized_names()}  # what is no precision at all, its format refuses
    wanted = [(name, precision) for name in formats for precision in dict.fromkeys(precisions)]
    if quantized.isdisjoint(precisions) and (plan or budget):
        raise UsageError("--plan and limits", got=f"precision {', '.join(precisions)}", expected="--precision int8")
    return [
        target(
            name,
            precision,
            batch=axis,
            options=chosen[name],
            split=split,
            plan=plan if precision in quantized else None,
            budget=budget if precision in quantized else None,
        )
        for name, precision in wanted
    ]


def _size(text: str) -> tuple[int, int]:
    """`256` or `256x384` as (H, W)."""
    from vqrae.runtimes.errors import UsageError

    if not re.fullmatch(r"\d{1,9}(x\d{1,9})?", text):
        raise UsageError("--imgsz", got=repr(text), expected="a number, or HEIGHTxWIDTH")
    sides = [int(side) for side in text.split("x")]
    return sides[0], sides[-1]
