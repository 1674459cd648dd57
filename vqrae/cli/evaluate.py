"""`vqrae eval`: reconstruction, codebook health and semantics of a checkpoint or a bundle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vqrae.cli.options import AsJson, Loading

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.progress import Progress

    from vqrae.cli.judged import Judged
    from vqrae.model.reference import ArrayTokenizer
    from vqrae.training.evaluation.evaluate import EvalReport
    from vqrae.training.evaluation.feature_space import FeatureSpace
    from vqrae.training.evaluation.image_stream import ImageStream

SHOWN = 12
"""Images in the picture, at most."""


def evaluate(
    source: Annotated[Path, typer.Argument(help="A checkpoint's or a bundle's folder.", metavar="CHECKPOINT|BUNDLE")],
    *,
    data: Annotated[Path | None, typer.Option(help="Folder of photographs; without --task.")] = None,
    task: Annotated[
        Literal["probe", "vqa", "generate"] | None,
        typer.Option(help="Judge by a task on the labelled world instead of by reconstruction."),
    ] = None,
    task_model: Annotated[
        Path | None,
        typer.Option("--model", help="For vqa the reader's folder, for generate the painter's; of `vqrae teach`."),
    ] = None,
    scenes: Annotated[int, typer.Option(help="For --task: scenes, or generated images, of each split.", min=2)] = 400,
    images: Annotated[
        int | None,
        typer.Option(help="Take so many of the photographs at most, spread evenly over the folder's order.", min=1),
    ] = None,
    crops: Annotated[
        int,
        typer.Option(help="Evaluate on this many random crops, as in training, instead of whole photographs.", min=0),
    ] = 0,
    color_jitter: Annotated[float, typer.Option(help="Strength of color jitter on the crops.", min=0, max=1)] = 0.0,
    seed: Annotated[int, typer.Option(help="Names the crops.", min=0)] = 0,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Encoder whose features the Fréchet distance is taken in: a Hugging Face name or folder, or a vqrae "
            "checkpoint's folder; the evaluated one's own if not given."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="The checkpoint that a BUNDLE was made of, for rank and norms. Its hash must match."),
    ] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Also train a linear probe on labelled scenes.")] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Picture to write: the first images above their reconstructions, with PSNR.")
    ] = None,
    options: Loading,
    as_json: AsJson = False,
) -> None:
    """Evaluate a CHECKPOINT in PyTorch, or a BUNDLE through its runtime, on the same images."""
    from vqrae.cli.judged import open_judged
    from vqrae.cli.needs import needing
    from vqrae.cli.output import print_json
    from vqrae.cli.task import TaskRequest, judge_task, print_task
    from vqrae.runtimes.errors import UsageError

    if task is not None:
        request = TaskRequest(task, task_model, teacher, scenes, seed)
        judged_by_task = judge_task(source, options, checkpoint, request)
        print_json(judged_by_task) if as_json else print_task(judged_by_task)
        return
    if data is None:
        raise UsageError("--data", got="none", expected="a folder of photographs, or --task")
    if picture is not None:
        from vqrae.benchmarks.report.picture import check_picture_name
        from vqrae.runtimes.outputs import check_apart
        from vqrae.runtimes.staging import check_new_file

        check_picture_name(picture)
        check_new_file(picture)
        check_apart({"--picture": picture}, (source, data))
    with needing("train"):
        from vqrae.training.evaluation.feature_space import open_teacher
        from vqrae.training.evaluation.image_stream import ImageStream

    with ExitStack() as closing:
        judged = open_judged(source, options, checkpoint, closing)
        for option in (["--crops"] if crops else []) + (["--probe"] if probe else []):
            _check_square(judged.size, option)
        stream = ImageStream(data, judged.size, images=images, crops=crops, color_jitter=color_jitter, seed=seed)
        space = None if teacher is None else open_teacher(teacher, judged.size)
        report = _measured(judged, stream, str(source), space, probe=probe)
        if picture is not None:
            _draw(judged.tokenizer, stream, picture)
    print_json(report) if as_json else _print(report)


def _measured(
    judged: Judged, stream: ImageStream, source: str, space: FeatureSpace | None, *, probe: bool
) -> EvalReport:
    """All figures, and beside them what is missing and why."""
    from rich.progress import Progress

    from vqrae.cli.output import progress_console
    from vqrae.runtimes.errors import RuntimeUnavailable
    from vqrae.training.evaluation.evaluate import evaluate
    from vqrae.training.evaluation.feature_space import open_inception

    inception, notes = None, []
    try:
        inception = open_inception()
    except RuntimeUnavailable as error:
        notes.append(f"rfid: {error}")
    if judged.model is None:
        notes.append(
            "effective_rank, feature_norm, code_norm: a bundle's graphs, its parts too, hold no code as it is, only "
            "scores and ready features made of it; pass --checkpoint, the one that it was made of"
        )
    with Progress(console=progress_console, transient=True) as bar:
        chunks = _shown(stream, bar)
        report = evaluate(
            judged.tokenizer,
            judged.codebook_size,
            chunks,
            source,
            model=judged.model,
            space=space,
            inception=inception,
        )
        accuracy = _probe(judged.tokenizer, judged.size[0], bar) if probe else None
    found = {"probe": accuracy, "skipped": tuple(stream.skipped.values()), "notes": (*report.notes, *notes)}
    return report.model_copy(update=found)


def _shown(stream: ImageStream, bar: Progress) -> Iterator[NDArray[np.uint8]]:
    """The images of a stream, while a bar tells how many are done."""
    task = bar.add_task("images", total=len(stream))
    for chunk in stream:
        yield chunk.images
        bar.advance(task, len(chunk.images))


def _probe(tokenizer: ArrayTokenizer, size: int, bar: Progress) -> dict[str, float]:
    from vqrae.training.data.photographs import HELD_OUT, TRAIN, photographs
    from vqrae.training.evaluation.probe import probe_accuracy

    bar.add_task("linear probe", total=None)
    return probe_accuracy(tokenizer, list(photographs(TRAIN).values()), list(photographs(HELD_OUT).values()), size)


def _check_square(size: tuple[int, int], option: str) -> None:
    """What is made of training's images has no other shape."""
    from vqrae.runtimes.errors import UsageError

    height, width = size
    if height != width:
        raise UsageError(option, got=f"a tokenizer of {height}x{width} images", expected="square ones")


def _draw(tokenizer: ArrayTokenizer, stream: ImageStream, picture: Path) -> None:
    from vqrae.benchmarks.report.picture import reconstruction_picture
    from vqrae.runtimes.staging import staged_file

    first = next(iter(stream))
    originals = first.images[:SHOWN]
    drawn = reconstruction_picture(originals, tokenizer.decode(tokenizer.encode(originals)[0]), first.names[:SHOWN])
    with staged_file(picture) as staging:
        drawn.save(staging)


def _print(report: EvalReport) -> None:
    """Figures one to a line, then what was skipped and what is missing."""
    from vqrae.cli.output import console, print_fields

    fields = report.model_dump(exclude={"source", "skipped", "notes"})
    print_fields(report.source, {name: _written(value) for name, value in fields.items()})
    for note in (*(f"skipped: {image}" for image in report.skipped), *report.notes):
        console.print(note, style="dim", highlight=False, markup=False, soft_wrap=True)


def _written(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_written(part)}" for name, part in value.items())
    if isinstance(value, float):
        return f"{value:.5g}"
    return "–" if value is None else str(value)
