"""`vqrae verify`: run bundles against the PyTorch reference again, here and now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vqrae.cli.options import AsJson, Loading

if TYPE_CHECKING:
    from vqrae.export.verify import VerifyRow


def verify(
    bundles: Annotated[list[Path], typer.Argument(help="Bundle folders.", metavar="BUNDLE...")],
    *,
    reference: Annotated[
        str | None, typer.Option(help="The checkpoint; where it lay at export if not given. Its hash must match.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder of photographs to verify on; the held-out ones if not given.")
    ] = None,
    images: Annotated[int, typer.Option(help="Number of photographs.", min=1)] = 16,
    options: Loading,
    as_json: AsJson = False,
) -> None:
    """Run each BUNDLE and the PyTorch model on the same photographs, and judge by the gate of its precision."""
    from vqrae.cli.output import print_json, print_note, progress_console
    from vqrae.export.calls import verify as verified
    from vqrae.runtimes.errors import GateFailure, RuntimeUnavailable

    with progress_console.status("") as status:
        to = status.update
        rows = verified(bundles, options, reference=reference, data=data, images=images, report=to, note=print_note)
    print_json(rows) if as_json else print_rows(rows)
    for row in rows:
        if row.misses:
            raise GateFailure(row.bundle, got="; ".join(row.misses))
    for row in rows:
        if not row.executed:
            raise RuntimeUnavailable(row.bundle, got=f"not executed ({row.reason})")


def print_rows(rows: Sequence[VerifyRow]) -> None:
    """The verdicts as a table; below it, for two bundles or more, what each loses with the tokens of each other."""
    from vqrae.cli.output import print_table

    columns = ("bundle", "gate", "excess %", "tokens %", "unexpl.", "decode dB", "ΔPSNR dB")
    title = "Parity against PyTorch FP32 (excess distortion; token agreement; mismatches that noise does not explain)"
    print_table(title, columns, [_cells(row) for row in rows])
    _print_notes(rows)
    able = [row for row in rows if row.interchange]
    if able:
        _print_interchange(able)


def _print_notes(rows: Sequence[VerifyRow]) -> None:
    """How a bundle was executed where not by its runtime, and why one was not."""
    from vqrae.cli.output import console
    from vqrae.runtimes.precision import PRECISIONS

    notes = []
    for row in rows:
        name = Path(row.bundle).name
        if row.means == "evaluator":
            notes.append(f"{name}: by an evaluator, operation by operation, not by its runtime")
        if row.int8_share is not None:
            notes.append(f"{name}: INT8 does {row.int8_share:.0%} of the multiplications")
        if PRECISIONS[row.precision].quantized:
            faster = [f"{graph} {times:.2f}×" for graph, times in (row.speedup or {}).items()]
            notes.append(f"{name}: speed against float: {', '.join(faster) or 'not measured'}")
        if not row.executed:
            source = f"; its source graphs on ONNX Runtime: {row.source_gate}" if row.source_gate else ""
            notes.append(f"{name}: not executed, {row.reason}{source}")
    for note in notes:
        console.print(note, style="dim", highlight=False, markup=False, soft_wrap=True)


def _print_interchange(rows: Sequence[VerifyRow]) -> None:
    """The matrix: a line for each encoder, a column for each decoder."""
    from vqrae.cli.output import print_table

    letters = [chr(ord("A") + number % 26) * (number // 26 + 1) for number in range(len(rows))]
    names = [f"{letter} {Path(row.bundle).name}" for letter, row in zip(letters, rows, strict=True)]
    lines = [
        (name, *(f"{decoder.interchange[encoder.bundle]:+.4f}" for decoder in rows if decoder.interchange))
        for name, encoder in zip(names, rows, strict=True)
        if all(decoder.interchange and encoder.bundle in decoder.interchange for decoder in rows)
    ]
    title = "Interchange: dB of PSNR lost to the photographs, where the line encodes and the column decodes"
    print_table(title, ("encoded by", *letters), lines)


def _cells(row: VerifyRow) -> tuple[str, ...]:
    name = Path(row.bundle).name
    figures = row.figures
    if figures is None:
        return (name, "–", "–", "–", "–", "–", "–")  # the note below says why

    def cell(figure: float | None, text: str) -> str:
        return "–" if figure is None else text.format(figure)

    return (
        name,
        row.gate,
        cell(figures.excess_distortion and figures.excess_distortion * 100, "{:.5f}"),
        cell(figures.token_agreement and figures.token_agreement * 100, "{:.2f}"),
        cell(figures.unexplained_mismatches, "{}"),
        cell(figures.decode_psnr_db, "{:.1f}"),
        cell(figures.source_psnr_drop_db, "{:+.4f}"),
    )
