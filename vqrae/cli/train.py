"""`vqrae train`: a preset's recipe on images, on one process or on all that were launched together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vqrae.cli.options import AsJson

if TYPE_CHECKING:
    from vqrae.training.config import Recipe


Preset = Annotated[str, typer.Argument(help="tiny, base, siglip2-so400m-256, …", metavar="PRESET")]
Data = Annotated[
    str | None,
    typer.Option(help="Images: a folder, Parquet files, WebDataset tars, or `owner/name`, a data set of a hub."),
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Run folder; a run that was stopped goes on in it.")
]
Phase = Annotated[
    Literal["pretrain", "stage1", "stage2"] | None,
    typer.Option(help="Only this phase; all that are not done if not given."),
]
Encoder = Annotated[
    str | None, typer.Option(help="Pretrained encoder: a Hugging Face name or folder, in place of pre-training.")
]
Seed = Annotated[int, typer.Option(help="Names the weights' start and every batch.", min=0)]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another value in the recipe, such as stage1.batch_size=256.", metavar="KEY=VALUE"),
]
Strategy = Annotated[
    Literal["ddp", "fsdp2"], typer.Option(help="Several processes hold whole copies, or shards, of the model.")
]
Plan = Annotated[
    bool, typer.Option("--dry-run", help="Only say what the run would take: parameters, FLOPs, memory, time.")
]
Devices = Annotated[int, typer.Option(help="For --dry-run: devices that share each batch.", min=1)]
Tflops = Annotated[float, typer.Option(help="For --dry-run: TFLOP/s that one device achieves.", min=1e-3)]


def train(
    preset: Preset,
    data: Data = None,
    output: Output = None,
    phase: Phase = None,
    encoder: Encoder = None,
    seed: Seed = 0,
    setting: Setting = None,
    strategy: Strategy = "ddp",
    plan: Plan = False,
    devices: Devices = 1,
    tflops: Tflops = 400.0,
    as_json: AsJson = False,
) -> None:
    """Train PRESET: encoder pre-training where the recipe has it, stage 1, stage 2.

    `accelerate launch -m vqrae train …` or `torchrun -m vqrae train …` starts it on several devices.
    """
    from vqrae.cli.dry_run import dry_run
    from vqrae.cli.options import settings
    from vqrae.runtimes.errors import UsageError, needing

    with needing("train"):
        from vqrae.training.config import recipe

    chosen = recipe(preset).changed(settings(setting or []))
    if plan:
        dry_run(chosen, devices, tflops, as_json=as_json)
        return
    if data is None or output is None:
        expected = "--data and --output, or --dry-run"
        raise UsageError("train", got=f"no {'--data' if data is None else '--output'}", expected=expected)
    _train(chosen, data, output, phase, encoder, seed, strategy)


def _train(
    recipe: Recipe, data: str, output: Path, phase: Phase, encoder: str | None, seed: int, strategy: Strategy
) -> None:
    from vqrae.cli.output import console
    from vqrae.runtimes.errors import needing

    with needing("train"):
        from transformers.utils.logging import disable_progress_bar

        from vqrae.training.processes import Processes
        from vqrae.training.run import TrainingRun, claimed_run

    if encoder is None:
        disable_progress_bar()  # type: ignore[no-untyped-call]  # nothing to download: bars of small local files
    processes = Processes(strategy)
    with claimed_run(output, processes):
        run = TrainingRun(recipe, data, output, encoder=encoder, seed=seed, processes=processes)
        for name in run.phases() if phase is None else [phase]:
            before = run.finished(name)
            result = run.run(name)
            if processes.first:
                console.print(f"{name}: {result}{' (it was finished already)' if before else ''}")
