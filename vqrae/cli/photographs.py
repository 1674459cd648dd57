"""`vqrae photographs`: the photographs that the shipped tokenizer was trained and judged on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import Overwrite


def photographs(
    folder: Annotated[Path, typer.Argument(help="Folder to write train/ and held-out/ into.")],
    crops: Annotated[
        int, typer.Option(help="Also write so many crops of the training photographs into calibration/.", min=0)
    ] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write the photographs inside scikit-image and scikit-learn as PNG files, in two splits."""
    from vqrae.cli.output import console
    from vqrae.runtimes.errors import needing

    with needing("train"):
        from vqrae.images.photographs import HELD_OUT, TRAIN, write_photographs

    write_photographs(folder, cropped=crops, overwrite=overwrite)
    cropped = f", {crops} crops to calibrate on" if crops else ""
    console.print(f"{folder}: {len(TRAIN)} photographs to train on, {len(HELD_OUT)} held out{cropped}")
