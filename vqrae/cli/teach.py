"""`vqrae teach`: a language model learns to read a tokenizer's features, or to paint with its codes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from vqrae.downstream.conversations import Conversations


def teach(
    lesson: Annotated[
        Literal["answers", "images"], typer.Argument(help="answers, from its features; or images, with its codes.")
    ],
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint's folder; for answers also a pretrained encoder, a Hugging Face name or folder.",
            metavar="CHECKPOINT|ENCODER",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder; a run that was stopped goes on in it.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="world, llava-align, llava-instruct for answers; world, paper for images. world if not given."
        ),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Pretrained Qwen3: a Hugging Face name or folder, such as Qwen/Qwen3-0.6B."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Conversations, a JSON file in LLaVA's format; the labelled world if not given.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder that --data's image paths start from.")] = None,
    start: Annotated[Path | None, typer.Option(help="For answers: the reader to go on from.")] = None,
    seed: Annotated[int, typer.Option(help="Names new weights and every batch.", min=0)] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value in the recipe, such as phase.steps=100.", metavar="KEY=VALUE"),
    ] = None,
) -> None:
    """Train what stands on a tokenizer: a reader that answers questions, or a painter that generates images."""
    from vqrae.cli.options import settings
    from vqrae.cli.output import console
    from vqrae.runtimes.errors import UsageError, needing, unknown_name
    from vqrae.runtimes.staging import claimed_folder

    if (data is None) != (images is None):
        raise UsageError("--data and --images", got="one without the other", expected="both, or none")
    with needing("train"):
        from vqrae.downstream.checkpoint_codes import CODES_FILE, CheckpointCodes
        from vqrae.downstream.language import open_language
        from vqrae.downstream.teaching import (
            PAINTING,
            READING,
            image_size,
            teach_painter,
            teach_reader,
        )
        from vqrae.training.config import changed
        from vqrae.training.evaluation.feature_space import open_encoder

    recipes = READING if lesson == "answers" else PAINTING
    if recipe is not None and recipe not in recipes:
        raise unknown_name(f"recipe of {lesson}", recipe, recipes)
    chosen: Any = changed(recipes[recipe or "world"](), settings(setting or []))
    with claimed_folder(output, "state"):
        spoken = None if language is None else open_language(language)
        if lesson == "answers":
            encoder = open_encoder(source)
            said = _conversations(data, images, image_size(encoder), chosen.images, seed)
            result = teach_reader(output, chosen, encoder, said, language=spoken, start=start, seed=seed)
        else:
            if start is not None:
                raise UsageError("--start", got=lesson, expected="answers")
            codes = CheckpointCodes(Path(source))
            said = _conversations(data, images, codes.size, chosen.images, seed)
            painted = codes.painted(said, output / CODES_FILE)
            result = teach_painter(output, chosen, painted, codes, language=spoken, seed=seed)
    console.print(f"{lesson}: {result}")


def _conversations(
    data: Path | None, images: Path | None, size: tuple[int, int], count: int, seed: int
) -> Conversations:
    """The user's, or the world's."""
    from vqrae.downstream.conversations import LlavaConversations, WorldConversations
    from vqrae.downstream.world import World
    from vqrae.runtimes.errors import UsageError

    if data is not None and images is not None:
        return LlavaConversations(data, images, size)
    if size[0] != size[1]:
        raise UsageError("the world", got="a tokenizer of {}x{} images".format(*size), expected="square ones")
    return WorldConversations(World(size=size[0], split="train"), count, seed)
