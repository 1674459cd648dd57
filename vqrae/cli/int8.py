"""The options of `vqrae export` that only INT8 has, and what they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from vqrae.cli.options import Group, fraction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vqrae.runtimes.precision import Budget

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


class Int8(NamedTuple):
    """What was asked of INT8."""

    calibration: Path | None
    calibration_images: int
    calibration_seed: int
    plan: Path | None
    budget: Budget | None
    """None where there are no limits beside the gate's."""


def int8_options(
    calibration: Calibration = None,
    calibration_images: CalibrationCount = 128,
    calibration_seed: CalibrationSeed = 0,
    plan: PlanFile = None,
    max_excess_distortion: MaxExcessDistortion = None,
    min_agreement: MinAgreement = None,
    max_psnr_drop: MaxPsnrDrop = None,
) -> Int8:
    """What was asked for.

    Raises:
        UsageError: a limit that is no share, or not a possible one.
    """
    from vqrae.runtimes.precision import Budget

    budget = Budget(
        max_excess_distortion=_fraction("--max-excess-distortion", max_excess_distortion),
        min_token_agreement=_fraction("--min-agreement", min_agreement),
        max_source_psnr_drop_db=_decibels("--max-psnr-drop", max_psnr_drop),
    )
    limits = None if budget == Budget() else budget
    return Int8(calibration, calibration_images, calibration_seed, plan, limits)


AskedOfInt8 = Annotated[Int8, Group(int8_options)]


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


def _decibels(option: str, value: float | None) -> float | None:
    from vqrae.runtimes.errors import UsageError

    if value is not None and not 0 <= value < float("inf"):
        raise UsageError(option, got=str(value), expected="decibels, 0 or more")
    return value


def _fraction(option: str, text: str | None) -> float | None:
    return None if text is None else fraction(option, text)
