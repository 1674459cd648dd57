"""`vqrae generate`: prompts to images, by a trained painter and a tokenizer's decoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vqrae.cli.options import Group, Loading, Overwrite

if TYPE_CHECKING:
    from numpy.typing import NDArray

Source = Annotated[Path, typer.Argument(help="A checkpoint's or a bundle's folder.", metavar="CHECKPOINT|BUNDLE")]
Prompts = Annotated[list[str], typer.Argument(help="What to paint; '' is anything.", metavar="PROMPT...")]
PainterFolder = Annotated[Path, typer.Option(help="The painter's folder, of `vqrae teach images`.")]
Output = Annotated[
    Path,
    typer.Option("-o", "--output", help="Folder for 000.png, 001.png, …; or a .npy file for the tokens alone."),
]
Guidance = Annotated[float, typer.Option(help="Scale of classifier-free guidance; 1 is none.", min=1.0)]
Temperature = Annotated[float, typer.Option(help="Divides the logits.", min=0.01)]
TopK = Annotated[int, typer.Option(help="Draw from the likeliest so many codes; 0 is all.", min=0)]
TopP = Annotated[
    float, typer.Option(help="Draw from the likeliest codes that have this probability.", min=0.01, max=1.0)
]
NewTokens = Annotated[
    int | None, typer.Option(help="Tokens of each image, for a .npy; the grid's if not given.", min=1)
]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How tokens are drawn."""

    guidance: Guidance = 2.0
    temperature: Temperature = 1.0
    top_k: TopK = 0
    top_p: TopP = 0.95


def generate(
    source: Source,
    prompts: Prompts,
    model: PainterFolder,
    output: Output,
    *,
    images: Annotated[int, typer.Option(help="Images of each prompt.", min=1)] = 1,
    drawing: Annotated[Drawing, Group(Drawing)],
    new_tokens: NewTokens = None,
    seed: Annotated[int, typer.Option(help="Names the draws.", min=0)] = 0,
    options: Loading,
    overwrite: Overwrite = False,
) -> None:
    """Paint every PROMPT; tokens come from PyTorch, pixels from the CHECKPOINT or through the BUNDLE's runtime."""
    from vqrae.runtimes.errors import UsageError, needing

    only_tokens = _only_tokens(output, (source, model), overwrite=overwrite)
    with needing("train"):
        from vqrae.downstream.painter import Painter, Sampling
        from vqrae.subject import open_subject

    painter = Painter.open(model)
    if not only_tokens and new_tokens is not None and new_tokens < painter.tokens:
        expected = f"{painter.tokens}, the whole grid, or a .npy file as output"
        raise UsageError("--new-tokens", got=str(new_tokens), expected=expected)
    with open_subject(source, options) as subject:
        painter.check_tokenizer(subject.grid, subject.codebook_size, subject.weights_sha256)
        repeated = [prompt for prompt in prompts for _ in range(images)]
        sampling = Sampling.model_validate(asdict(drawing))
        indices = painter.paint(repeated, sampling, seed, new_tokens)
        whole = indices.shape[1] == painter.tokens
        tokens = indices.reshape(-1, *subject.grid) if whole else indices
        painted = None if only_tokens else subject.tokenizer.decode(tokens)
    _write(output, tokens if painted is None else painted, only_tokens=only_tokens, overwrite=overwrite)


def _write(output: Path, made: NDArray[Any], *, only_tokens: bool, overwrite: bool) -> None:
    """Indices as a file, or images as a folder of them."""
    import numpy as np
    from PIL import Image

    from vqrae.cli.output import console
    from vqrae.runtimes.staging import staged_file, staged_folder

    if only_tokens:
        with staged_file(output) as staging, staging.open("wb") as file:
            np.save(file, made, allow_pickle=False)
        console.print(f"{output}: {made.dtype} {made.shape}")
        return
    with staged_folder(output, overwrite=overwrite) as folder:
        for number, image in enumerate(made):
            Image.fromarray(image).save(folder / f"{number:03d}.png")
    console.print(f"{output}: {len(made)} images of {made.shape[2]}×{made.shape[1]}")


def _only_tokens(output: Path, read: tuple[Path, ...], *, overwrite: bool) -> bool:
    """Whether the output is a file of tokens; it has to be new, and apart from what is read."""
    from vqrae.images.kinds import IMAGE_SUFFIXES
    from vqrae.runtimes.errors import UsageError
    from vqrae.runtimes.outputs import ARRAYS, check_apart
    from vqrae.runtimes.staging import check_new_file, check_new_folder

    suffix = output.suffix.lower()
    check_apart({"--output": output}, read)
    if suffix in ARRAYS:
        check_new_file(output)
        return True
    if suffix in (".npz", *IMAGE_SUFFIXES):
        raise UsageError(str(output), got=f"suffix {output.suffix!r}", expected="a folder's name, or one in .npy")
    check_new_folder(output, overwrite=overwrite)
    return False
