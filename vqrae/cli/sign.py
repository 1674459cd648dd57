"""`vqrae sign`: vouch for a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def sign(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, or a packed bundle.", metavar="BUNDLE")],
    key: Annotated[Path, typer.Option(help="Private key's file, as `vqrae keys` makes it.")],
) -> None:
    """Sign a BUNDLE: writes BUNDLE.sig beside it, over the manifest, which holds the hash of every file."""
    from vqrae.cli.output import console
    from vqrae.runtimes.archive import manifest_bytes
    from vqrae.runtimes.signature import write_signature

    signature = write_signature(bundle, manifest_bytes(bundle), key)
    console.print(f"{signature}: the signature of {bundle}", soft_wrap=True, highlight=False)
