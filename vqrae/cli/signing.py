"""`vqrae keys` and `vqrae sign`: a key pair, and to vouch for a bundle with it."""

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
