"""`vqrae generate`: prompts to images, by a trained painter and a tokenizer's decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vqrae.cli.options import Loading, Overwrite


def generate(
    source: Annotated[Path, typer.Argument(help="A checkpoint's or a bundle's folder.", metavar="CHECKPOINT|BUNDLE")],
    prompts: Annotated[list[str], typer.Argument(help="What to paint; '' is anything.", metavar="PROMPT...")],
    model: Annotated[Path, typer.Option(help="The painter's folder, of `vqrae teach images`.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="Folder for 000.png, 001.png, …; or a .npy file for the tokens alone."),
    ],
    *,
    images: Annotated[int, typer.Option(help="Images of each prompt.", min=1)] = 1,
    guidance: Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 is none.", min=1.0)] = 2.0,
    temperature: Annotated[float, typer.Option(help="Divides the logits.", min=0.01)] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from the likeliest so many codes; 0 is all.", min=0)] = 0,
    top_p: Annotated[
        float, typer.Option(help="Draw from the likeliest codes that have this probability.", min=0.01, max=1.0)
    ] = 0.95,
    new_tokens: Annotated[
        int | None, typer.Option(help="Tokens of each image, for a .npy; the grid's if not given.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Names the draws.", min=0)] = 0,
    options: Loading,
    overwrite: Overwrite = False,
) -> None:
    """Paint every PROMPT; tokens come from PyTorch, pixels from the CHECKPOINT or through the BUNDLE's runtime."""
    import numpy as np
    from PIL import Image

    from vqrae.cli.output import console
    from vqrae.images.kinds import IMAGE_SUFFIXES
    from vqrae.runtimes.errors import UsageError, needing
    from vqrae.runtimes.outputs import ARRAYS, check_apart
    from vqrae.runtimes.staging import check_new_file, check_new_folder, staged_file, staged_folder

    only_tokens = output.suffix.lower() in ARRAYS
    check_apart({"--output": output}, (source, model))
    if only_tokens:
        check_new_file(output)
    elif output.suffix.lower() in (".npz", *IMAGE_SUFFIXES):
        raise UsageError(str(output), got=f"suffix {output.suffix!r}", expected="a folder's name, or one in .npy")
    else:
        check_new_folder(output, overwrite=overwrite)
    with needing("train"):
        from vqrae.downstream.painter import Painter, Sampling
        from vqrae.subject import open_subject

    painter = Painter.open(model)
    if new_tokens is not None and new_tokens < painter.tokens and not only_tokens:
        expected = f"{painter.tokens}, the whole grid, or a .npy file as output"
        raise UsageError("--new-tokens", got=str(new_tokens), expected=expected)
    sampling = Sampling(guidance=guidance, temperature=temperature, top_k=top_k, top_p=top_p)
    with open_subject(source, options) as subject:
        painter.check_tokenizer(subject.grid, subject.codebook_size, subject.weights_sha256)
        repeated = [prompt for prompt in prompts for _ in range(images)]
        indices = painter.paint(repeated, sampling, seed, new_tokens)
        if only_tokens:
            whole = indices.shape[1] == painter.tokens
            tokens = indices.reshape(-1, *subject.grid) if whole else indices
            with staged_file(output) as staging, staging.open("wb") as file:
                np.save(file, tokens, allow_pickle=False)
            console.print(f"{output}: {tokens.dtype} {tokens.shape}")
            return
        painted = subject.tokenizer.decode(indices.reshape(-1, *subject.grid))
    with staged_folder(output, overwrite=overwrite) as folder:
        for number, image in enumerate(painted):
            Image.fromarray(image).save(folder / f"{number:03d}.png")
    console.print(f"{output}: {len(painted)} images of {painted.shape[2]}×{painted.shape[1]}")
