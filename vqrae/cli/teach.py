"""`vqrae teach`: a language model learns to read a tokenizer's features, or to paint with its codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Lesson = Annotated[
    Literal["answers", "images"], typer.Argument(help="answers, from its features; or images, with its codes.")
]
Source = Annotated[
    str,
    typer.Argument(
        help="A checkpoint's folder; for answers also a pretrained encoder, a Hugging Face name or folder.",
        metavar="CHECKPOINT|ENCODER",
    ),
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Run folder; a run that was stopped goes on in it.")]
RecipeName = Annotated[
    str | None,
    typer.Option(help="world, llava-align, llava-instruct for answers; world, paper for images. world if not given."),
]
LanguageModel = Annotated[
    str | None, typer.Option(help="Pretrained Qwen3: a Hugging Face name or folder, such as Qwen/Qwen3-0.6B.")
]
Data = Annotated[
    Path | None, typer.Option(help="Conversations, a JSON file in LLaVA's format; the labelled world if not given.")
]
Images = Annotated[Path | None, typer.Option(help="Folder that --data's image paths start from.")]
Start = Annotated[Path | None, typer.Option(help="For answers: the reader to go on from.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value in the recipe, such as phase.steps=100.", metavar="KEY=VALUE"),
]


def teach(
    lesson: Lesson,
    source: Source,
    output: Output,
    recipe: RecipeName = None,
    language: LanguageModel = None,
    data: Data = None,
    images: Images = None,
    start: Start = None,
    seed: Annotated[int, typer.Option(help="Names new weights and every batch.", min=0)] = 0,
    setting: Settings = None,
) -> None:
    """Train what stands on a tokenizer: a reader that answers questions, or a painter that generates images."""
    from vqrae.cli.options import settings
    from vqrae.cli.output import console
    from vqrae.runtimes.errors import needing

    with needing("train"):
        from vqrae.downstream.teaching import LessonRequest
        from vqrae.downstream.teaching import teach as taught

    asked = LessonRequest(recipe, settings(setting or []), language, data, images, start, seed)
    console.print(f"{lesson}: {taught(lesson, source, output, asked)}")
