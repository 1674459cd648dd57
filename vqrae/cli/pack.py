"""`vqrae pack`: a bundle as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import BundlePath


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
