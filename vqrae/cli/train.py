"""`vqrae train`: a preset's recipe on a folder of photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def train(
    preset: Annotated[str, typer.Argument(help="tiny, base, siglip2-so400m-256, …", metavar="PRESET")],
    data: Annotated[Path, typer.Option(help="Folder of photographs to train on.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder; a run that was stopped goes on in it.")],
    phase: Annotated[
        Literal["pretrain", "stage1", "stage2"] | None,
        typer.Option(help="Only this phase; all that are not done if not given."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Pretrained encoder: a Hugging Face name or folder, in place of pre-training.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Names the weights' start and every batch.", min=0)] = 0,
) -> None:
    """Train PRESET: encoder pre-training where the recipe has it, stage 1, stage 2."""
    from vqrae.cli.needs import needing
    from vqrae.cli.output import console

    with needing("train"):
        from vqrae.training.config import recipe
        from vqrae.training.run import TrainingRun

    run = TrainingRun(recipe(preset), data, output, encoder=encoder, seed=seed)
    for name in run.phases() if phase is None else [phase]:
        console.print(f"{name}: {run.run(name)}")
