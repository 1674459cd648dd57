"""The options of `vqrae export` that only INT8 has, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqrae.cli.options import fraction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vqrae.calibration.images import CalibrationImages
    from vqrae.export.parity_images import ParityImages
    from vqrae.export.verify import VerifyRow
    from vqrae.runtimes.manifest import Budget

PANEL = "INT8"
_WEIGHTS_ONLY = {"int8": "int8-weights"}
"""What `--weight-only` makes of a precision."""
Calibration = Annotated[
    Path | None,
    typer.Option(help="Images to calibrate on: a folder, .tar, .parquet or .npy.", rich_help_panel=PANEL),
]
CalibrationCount = Annotated[int, typer.Option(help="How many of them.", min=1, rich_help_panel=PANEL)]
CalibrationSeed = Annotated[int, typer.Option(help="Names the choice.", min=0, rich_help_panel=PANEL)]
WeightOnly = Annotated[
    bool,
    typer.Option(
        "--weight-only",
        help="With --int8: store weights in INT8 and multiply floats, without calibration.",
        rich_help_panel=PANEL,
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", help="Precision of every layer; a safe one if not given.", rich_help_panel=PANEL),
]
MaxExcessDistortion = Annotated[
    str | None, typer.Option(help="Most that it may cost, such as 0.05%; 0.2% if not given.", rich_help_panel=PANEL)
]
MinAgreement = Annotated[
    str | None, typer.Option(help="Least share of equal tokens, such as 97%.", rich_help_panel=PANEL)
]
MaxPsnrDrop = Annotated[
    float | None, typer.Option(help="Most dB that may be lost to the photographs.", rich_help_panel=PANEL)
]


def budget_of(
    max_excess_distortion: str | None, min_agreement: str | None, max_psnr_drop: float | None
) -> Budget | None:
    """What was asked for; None where nothing was.

    Raises:
        UsageError: no share, or not a possible one.
    """
    from vqrae.runtimes.manifest import Budget

    budget = Budget(
        max_excess_distortion=_fraction("--max-excess-distortion", max_excess_distortion),
        min_token_agreement=_fraction("--min-agreement", min_agreement),
        max_source_psnr_drop_db=_decibels("--max-psnr-drop", max_psnr_drop),
    )
    return None if budget == Budget() else budget


def precisions_of(names: Sequence[str], *, half: bool, int8: bool, weight_only: bool) -> list[str]:
    """The precisions that were asked for by name and by flag; FP32 where none was.

    Raises:
        UsageError: only the weights at INT8, without INT8.
    """
    from vqrae.runtimes.errors import UsageError

    asked = [*names, *(["fp16"] if half else []), *(["int8"] if int8 else [])]
    if weight_only and not _WEIGHTS_ONLY.keys() & {*asked}:
        raise UsageError("--weight-only", got=f"precision {', '.join(asked) or 'fp32'}", expected="--int8")
    return [_WEIGHTS_ONLY.get(name, name) if weight_only else name for name in asked] or ["fp32"]


def check_asked_for(source: Path | None, precisions: Sequence[str]) -> None:
    """Refuse images without INT8, and INT8 without images, before any work.

    Raises:
        UsageError: one of the two.
    """
    from vqrae.runtimes.errors import UsageError
    from vqrae.runtimes.precision import PRECISIONS

    observed = any(PRECISIONS[name].needs_images for name in precisions if name in PRECISIONS)
    if observed and source is None:
        remedy = "pass --calibration FOLDER; `vqrae photographs FOLDER --crops 128` writes some"
        raise UsageError("--calibration", got="nothing", expected="images, because of int8", remedy=remedy)
    if not observed and source is not None:
        raise UsageError("--calibration", got=f"precision {', '.join(precisions)}", expected="--precision int8")


def warn_of_coverage(row: VerifyRow) -> None:
    """Tell on standard error if the calibration images use few of the codes."""
    from vqrae.cli.output import progress_console
    from vqrae.runtimes.precision import PRECISIONS

    coverage, least = row.codebook_coverage, PRECISIONS[row.precision].limits.min_codebook_coverage
    if coverage is not None and least is not None and coverage < least:
        name = Path(row.bundle).name
        text = f"{name}: its calibration images use {coverage:.1%} of the codes: of another domain, or too few"
        progress_console.print(text, style="yellow", soft_wrap=True)


def calibration_of(
    source: Path, size: tuple[int, int], count: int, seed: int, verified_on: ParityImages
) -> CalibrationImages:
    """The images that were asked for, none of them among those that the bundle is verified on.

    Raises:
        UsageError: they are too few, or one is among those.
        DataError: they cannot be read.
    """
    from vqrae.calibration.images import calibration_images, pixels_sha256
    from vqrae.cli.output import progress_console
    from vqrae.images.report import lines_of

    kept_apart = {pixels_sha256(image): name for image, name in zip(verified_on.images, verified_on.names, strict=True)}
    images = calibration_images(source, size, count=count, seed=seed, kept_apart=kept_apart)
    if images.duplicates:
        repeated = "a duplicate" if images.duplicates == 1 else f"{images.duplicates} duplicates"
        progress_console.print(f"calibration: passed over {repeated}", style="yellow")
    for line in lines_of(images.left_out, images.damaged):
        progress_console.print(f"calibration: {line}", style="yellow", highlight=False, soft_wrap=True)
    return images


def _decibels(option: str, value: float | None) -> float | None:
    from vqrae.runtimes.errors import UsageError

    if value is not None and not 0 <= value < float("inf"):
        raise UsageError(option, got=str(value), expected="decibels, 0 or more")
    return value


def _fraction(option: str, text: str | None) -> float | None:
    return None if text is None else fraction(option, text)
