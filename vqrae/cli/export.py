"""`vqrae export`: a checkpoint becomes bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import AsJson, Overwrite


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(help="A checkpoint folder, or a preset's name for seeded random weights.", metavar="CHECKPOINT"),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder that the bundles are written into.")],
    format_: Annotated[list[str] | None, typer.Option("--format", help="What to export to; repeatable.")] = None,
    precision: Annotated[list[str] | None, typer.Option("--precision", help="fp32; repeatable.")] = None,
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
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Export CHECKPOINT: one verified bundle per format and precision, written into the output folder."""
    pairs = [(name, wanted) for name in format_ or ["onnx"] for wanted in precision or ["fp32"]]
    from vqrae.cli.needs import needing
    from vqrae.cli.output import print_json, progress_console
    from vqrae.cli.verify import print_rows

    with needing("export"):
        from vqrae.checkpoint import open_checkpoint
        from vqrae.export.build import BundleBuilder, check_format
        from vqrae.export.parity_images import parity_images

    for name, wanted in pairs:  # before any heavy work
        check_format(name, wanted)
    opened = open_checkpoint(checkpoint)
    photographs = parity_images(data, opened.model.config.image_size, images)
    with progress_console.status("") as status:
        builder = BundleBuilder(opened, photographs, status.update)
        rows = [
            builder.build(name, wanted, output, split=split, allow_gate_failure=allow_gate_failure, overwrite=overwrite)
            for name, wanted in pairs
        ]
    print_json(rows) if as_json else print_rows(rows)
