"""`vqrae pack` and `vqrae unpack`: a bundle as one file, and as a folder again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import BundlePath, Overwrite, PublicKey


def pack(
    bundle: BundlePath,
    output: Annotated[Path, typer.Option("-o", "--output", help="Archive to write: a plain tar.")],
) -> None:
    """Pack a BUNDLE into one file, every hash checked first; the same bundle gives the same bytes."""
    from vqrae.cli.output import console
    from vqrae.runtimes.archive import pack as packed
    from vqrae.runtimes.bundle import sha256_file

    archive = packed(bundle, output)
    size = archive.stat().st_size
    console.print(f"{archive}: {size / 1e6:.1f} MB, SHA-256 {sha256_file(archive)}", soft_wrap=True, highlight=False)


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
