"""`vqrae train`: a preset's recipe on images, on one process or on all that were launched together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def train(
    preset: Annotated[str, typer.Argument(help="tiny, base, siglip2-so400m-256, …", metavar="PRESET")],
    data: Annotated[
        str,
        typer.Option(help="Images: a folder, Parquet files, WebDataset tars, or `owner/name`, a data set of a hub."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Run folder; a run that was stopped goes on in it.")],
    phase: Annotated[
        Literal["pretrain", "stage1", "stage2"] | None,
        typer.Option(help="Only this phase; all that are not done if not given."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Pretrained encoder: a Hugging Face name or folder, in place of pre-training.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Names the weights' start and every batch.", min=0)] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another value in the recipe, such as stage1.batch_size=256.", metavar="KEY=VALUE"),
    ] = None,
    strategy: Annotated[
        Literal["ddp", "fsdp2"], typer.Option(help="Several processes hold whole copies, or shards, of the model.")
    ] = "ddp",
) -> None:
    """Train PRESET: encoder pre-training where the recipe has it, stage 1, stage 2.

    `accelerate launch -m vqrae train …` or `torchrun -m vqrae train …` starts it on several devices.
    """
    from vqrae.cli.needs import needing
    from vqrae.cli.options import settings
    from vqrae.cli.output import console

    with needing("train"):
        from vqrae.training.config import recipe
        from vqrae.training.processes import Processes
        from vqrae.training.run import TrainingRun

    chosen = recipe(preset).changed(settings(setting or []))
    processes = Processes(strategy)
    run = TrainingRun(chosen, data, output, encoder=encoder, seed=seed, processes=processes)
    for name in run.phases() if phase is None else [phase]:
        result = run.run(name)
        if processes.first:
            console.print(f"{name}: {result}")
