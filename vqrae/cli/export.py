"""`vqrae export`: a checkpoint becomes bundles; and `vqrae formats`: what it can become."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from vqrae.cli.int8 import AskedOfInt8, WeightOnly, precisions_of
from vqrae.cli.options import AsJson, Group, Overwrite, settings

if TYPE_CHECKING:
    from vqrae.export.calls import Exported
    from vqrae.export.formats.format import Format

Checkpoint = Annotated[
    str, typer.Argument(help="A checkpoint folder, or a preset's name for seeded random weights.", metavar="CHECKPOINT")
]
FormatNames = Annotated[
    list[str] | None,
    typer.Option("--format", help="onnx, openvino, coreml, tensorrt or tensorrt-rtx; repeatable. onnx if not given."),
]
PrecisionNames = Annotated[
    list[str] | None,
    typer.Option("--precision", help="fp32, fp16, int8, int8-weights; repeatable. fp32 if not given."),
]
ImageSize = Annotated[
    str | None,
    typer.Option(help="Image size in pixels, 256 or 256x384 (height x width); the trained one if not given."),
]
BatchAxis = Annotated[
    str, typer.Option(help="dynamic, a fixed number, LEAST:BEST:MOST (engines, Core ML), or SIZE,SIZE,… (Core ML).")
]
FormatOption = Annotated[
    list[str] | None,
    typer.Option("--option", help="NAME=VALUE, an option of the format, or FORMAT.NAME=VALUE; `vqrae formats`."),
]
Photographs = Annotated[
    Path | None, typer.Option(help="Folder of photographs to verify on; the held-out ones if not given.")
]
Half = Annotated[bool, typer.Option("--half", help="The same as --precision fp16.")]
WithInt8 = Annotated[bool, typer.Option("--int8", help="The same as --precision int8.")]
Split = Annotated[bool, typer.Option("--split", help="Also write encoder, quantizer, codebook and decoder.")]
AllowGateFailure = Annotated[
    bool, typer.Option("--allow-gate-failure", help="Write a bundle that misses its gate, marked as such.")
]


class Wanted(NamedTuple):
    """What is to be built."""

    formats: list[str]
    precisions: list[str]
    size: tuple[int, int] | None
    batch: str
    options: dict[str, str]
    split: bool


def wanted_of(
    format_: FormatNames = None,
    precision: PrecisionNames = None,
    half: Half = False,
    int8: WithInt8 = False,
    weight_only: WeightOnly = False,
    imgsz: ImageSize = None,
    batch: BatchAxis = "dynamic",
    option: FormatOption = None,
    split: Split = False,
) -> Wanted:
    """What was asked for.

    Raises:
        UsageError: a size or an option that is none, or `--weight-only` without INT8.
    """
    precisions = precisions_of(precision or [], half=half, int8=int8, weight_only=weight_only)
    options = settings(option or [], "--option", "NAME=VALUE or FORMAT.NAME=VALUE")
    return Wanted(format_ or ["onnx"], precisions, None if imgsz is None else _size(imgsz), batch, options, split)


def export(
    checkpoint: Checkpoint,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder that the bundles are written into.")],
    *,
    wanted: Annotated[Wanted, Group(wanted_of)],
    data: Photographs = None,
    images: Annotated[int, typer.Option(help="Number of photographs to verify on.", min=1)] = 16,
    allow_gate_failure: AllowGateFailure = False,
    asked: AskedOfInt8,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Export CHECKPOINT: one verified bundle per format and precision, written into the output folder."""
    from vqrae.cli.output import print_json, print_note, progress_console
    from vqrae.cli.verify import print_rows
    from vqrae.export import export as exported

    with progress_console.status("") as status:
        made = exported(
            checkpoint,
            output,
            formats=wanted.formats,
            precisions=wanted.precisions,
            size=wanted.size,
            batch=wanted.batch,
            options=wanted.options,
            split=wanted.split,
            data=data,
            images=images,
            calibration=asked.calibration,
            calibration_images=asked.calibration_images,
            calibration_seed=asked.calibration_seed,
            plan=asked.plan,
            budget=asked.budget,
            allow_gate_failure=allow_gate_failure,
            overwrite=overwrite,
            report=status.update,
            note=print_note,
        )
    print_json(_for_programs(made)) if as_json else print_rows(made.rows)


def _for_programs(made: Exported) -> list[dict[str, Any]]:
    """The verdicts, and what became of the calibration images, for the bundles that were calibrated on them."""
    observed, told = made.calibration, dict[str, Any]()
    if observed is not None:
        asides = {"left_out": observed.left_out, "damaged": observed.damaged}
        named = {name: [it.model_dump() for it in found] for name, found in asides.items()}
        told = {"calibration": {"taken": len(observed.names), "duplicates": observed.duplicates, **named}}
    return [{**row.model_dump(mode="json"), **({} if row.codebook_coverage is None else told)} for row in made.rows]


def _size(text: str) -> tuple[int, int]:
    """`256` or `256x384` as (H, W)."""
    from vqrae.runtimes.errors import UsageError

    if not re.fullmatch(r"\d{1,9}(x\d{1,9})?", text):
        raise UsageError("--imgsz", got=repr(text), expected="a number, or HEIGHTxWIDTH")
    sides = [int(side) for side in text.split("x")]
    return sides[0], sides[-1]


def formats(as_json: AsJson = False) -> None:
    """Show the formats of `vqrae export`, their precisions, kinds of batch, and options; nothing heavy is loaded."""
    from vqrae.cli.output import console, print_fields, print_json
    from vqrae.export.formats import FORMATS, format_of

    rows = {name: _described(name, format_of(name)) for name in FORMATS}
    if as_json:
        print_json(rows)
        return
    for name, row in rows.items():
        shown = {key: ", ".join(row[key]) or "none" for key in ("precisions", "batch", "aliases")}
        for option, it in row["options"].items():
            shown[f"--option {option}"] = f"{it['help']} [{it['default']}]"
        print_fields(name, shown)
        console.print()


def _described(name: str, entry: Format) -> dict[str, Any]:
    from vqrae.export.formats import ALIASES

    options = {
        field.replace("_", "-"): {"default": _plain(info.default), "help": info.description}
        for field, info in entry.options.model_fields.items()
    }
    aliases = [alias for alias, meant in ALIASES.items() if meant == name]
    return {
        "runtime": entry.runtime,
        "precisions": entry.precisions,
        "batch": entry.batches,
        "aliases": aliases,
        "options": options,
    }


def _plain(value: Any) -> Any:
    """A default as it would be typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else value
