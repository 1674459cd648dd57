"""`vqrae keys`: a key pair to sign bundles with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def keys(
    output: Annotated[Path, typer.Option("-o", "--output", help="Name of both files, without an ending.")],
) -> None:
    """Make an ed25519 key pair: OUTPUT.key, to keep secret, and OUTPUT.pub, to give to those who load bundles."""
    from vqrae.cli.output import console
    from vqrae.runtimes.signature import make_keys

    private, public = make_keys(output)
    console.print(f"{private}: the private key, without a password; keep it secret", soft_wrap=True, highlight=False)
    console.print(f"{public}: the public key, for --public-key", soft_wrap=True, highlight=False)
