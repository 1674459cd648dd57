"""`vqrae decode`: a file of tokens to images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import BundlePath, Loading, Overwrite, Rebuild


def decode(
    bundle: BundlePath,
    tokens: Annotated[Path, typer.Argument(help=".npy with indices (B, h, w), any integer dtype.", metavar="TOKENS")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for 000.png, 001.png, …")],
    *,
    options: Loading,
    rebuild: Rebuild = False,
    overwrite: Overwrite = False,
) -> None:
    """Turn TOKENS back into images with a BUNDLE."""
    from PIL import Image

    from vqrae.cli.output import console
    from vqrae.runtimes.errors import IndicesError
    from vqrae.runtimes.golden import load_npy
    from vqrae.runtimes.outputs import check_apart
    from vqrae.runtimes.staging import staged_folder
    from vqrae.runtimes.tokenizer import Tokenizer

    try:
        indices = load_npy(tokens)
    except (ValueError, EOFError, FileNotFoundError, IsADirectoryError) as error:
        raise IndicesError(str(tokens), got=str(error), expected="a .npy file of integers") from error
    check_apart({"--output": output}, (bundle, tokens))
    with staged_folder(output, overwrite=overwrite) as staging:
        with Tokenizer.open(bundle, options, rebuild=rebuild) as tokenizer:
            images = tokenizer.decode(indices)
        for number, image in enumerate(images):
            Image.fromarray(image).save(staging / f"{number:03d}.png")
    console.print(f"{output}: {len(images)} images of {images.shape[2]}×{images.shape[1]}")
