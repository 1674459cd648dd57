"""`vqrae unpack`: a packed bundle as a folder again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import Overwrite, PublicKey


def unpack(
    archive: Annotated[Path, typer.Argument(help="A packed bundle.", metavar="FILE")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder to make.")],
    public_key: PublicKey = None,
    overwrite: Overwrite = False,
) -> None:
    """Unpack FILE, from anywhere: nothing but what its manifest lists is written, and all of it or nothing."""
    from vqrae.cli.output import console
    from vqrae.runtimes.archive import unpack as unpacked

    bundle = unpacked(archive, output, overwrite=overwrite, public_key=public_key)
    signed = "" if public_key is None else f", signed by {public_key}"
    console.print(f"{output}: {bundle.manifest.name}, all hashes match{signed}", soft_wrap=True, highlight=False)
