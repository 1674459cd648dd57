"""`vqrae eval`: reconstruction, codebook health and semantics of a checkpoint or a bundle, or a task's worth of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vqrae.cli.options import AsJson, Group, Loading

if TYPE_CHECKING:
    from vqrae.downstream.tasks import TaskReport
    from vqrae.model.reference import ArrayTokenizer
    from vqrae.training.evaluation.evaluate import EvalReport
    from vqrae.training.evaluation.image_stream import ImageStream

SHOWN = 12
"""Images in the picture, at most."""
Data = Annotated[
    Path | None, typer.Option(help="Photographs: a folder, tars, Parquet files, a .npy array; without --task.")
]
Teacher = Annotated[
    str | None,
    typer.Option(
        help="Encoder whose features the Fréchet distance is taken in: a Hugging Face name or folder, or a vqrae "
        "checkpoint's folder; the evaluated one's own if not given."
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="The checkpoint that a BUNDLE was made of, for rank and norms. Its hash must match."),
]
Probe = Annotated[bool, typer.Option("--probe", help="Also train a linear probe on labelled scenes.")]
PictureFile = Annotated[
    Path | None, typer.Option(help="Picture to write: the first images above their reconstructions, with PSNR.")
]


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What the tokenizer is judged by, instead of by reconstruction."""

    task: Annotated[
        Literal["probe", "vqa", "generate"] | None,
        typer.Option(help="Judge by a task on the labelled world instead of by reconstruction."),
    ] = None
    task_model: Annotated[
        Path | None,
        typer.Option("--model", help="For vqa the reader's folder, for generate the painter's; of `vqrae teach`."),
    ] = None
    scenes: Annotated[int, typer.Option(help="For --task: scenes, or generated images, of each split.", min=2)] = 400


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """Which images are made of the photographs."""

    images: Annotated[
        int | None,
        typer.Option(help="Take so many of the photographs at most, spread evenly over the folder's order.", min=1),
    ] = None
    crops: Annotated[
        int,
        typer.Option(help="Evaluate on this many random crops, as in training, instead of whole photographs.", min=0),
    ] = 0
    color_jitter: Annotated[float, typer.Option(help="Strength of color jitter on the crops.", min=0, max=1)] = 0.0
    seed: Annotated[int, typer.Option(help="Names the crops.", min=0)] = 0


def evaluate(
    source: Annotated[Path, typer.Argument(help="A checkpoint's or a bundle's folder.", metavar="CHECKPOINT|BUNDLE")],
    *,
    data: Data = None,
    judged_by: Annotated[TaskOptions, Group(TaskOptions)],
    taken: Annotated[StreamOptions, Group(StreamOptions)],
    teacher: Teacher = None,
    checkpoint: Checkpoint = None,
    probe: Probe = False,
    picture: PictureFile = None,
    options: Loading,
    as_json: AsJson = False,
) -> None:
    """Evaluate a CHECKPOINT in PyTorch, or a BUNDLE through its runtime, on the same images."""
    from vqrae.cli.output import print_json
    from vqrae.runtimes.errors import UsageError, needing

    if data is None and judged_by.task is None:
        raise UsageError("--data", got="none", expected="a folder of photographs, or --task")
    if picture is not None and data is not None:
        _check_picture(picture, source, data)
    with needing("train"):
        from vqrae.subject import open_subject
        from vqrae.training.evaluation.evaluate import evaluate_subject
        from vqrae.training.evaluation.feature_space import open_teacher

    if data is None or judged_by.task is not None:
        report = _by_task(source, options, checkpoint, judged_by, teacher, taken.seed)
        print_json(report) if as_json else _print_task(report)
        return
    with open_subject(source, options, checkpoint) as subject, _counting() as progress:
        stream = _stream(data, subject.size, taken, probe=probe)
        space = None if teacher is None else open_teacher(teacher, subject.size)
        figures = evaluate_subject(subject, stream, space=space, probe=probe, progress=progress)
        if picture is not None:
            _draw(subject.tokenizer, stream, picture)
    print_json(figures) if as_json else _print(figures)


def _by_task(
    source: Path, options: Loading, checkpoint: Path | None, asked: TaskOptions, teacher: str | None, seed: int
) -> TaskReport:
    from vqrae.downstream.tasks import TaskRequest, check_task, judge_task
    from vqrae.subject import open_subject

    request = TaskRequest(asked.task or "probe", asked.task_model, teacher, asked.scenes, seed)
    check_task(request)
    with open_subject(source, options, checkpoint) as subject:
        return judge_task(subject, request)


def _stream(data: Path, size: tuple[int, int], taken: StreamOptions, *, probe: bool) -> ImageStream:
    from vqrae.runtimes.errors import UsageError
    from vqrae.training.evaluation.image_stream import ImageStream

    height, width = size
    if height != width and (taken.crops or probe):  # what is made of training's images has no other shape
        option = "--crops" if taken.crops else "--probe"
        raise UsageError(option, got=f"a tokenizer of {height}x{width} images", expected="square ones")
    jitter, seed = taken.color_jitter, taken.seed
    return ImageStream(data, size, images=taken.images, crops=taken.crops, color_jitter=jitter, seed=seed)


@contextmanager
def _counting() -> Iterator[Callable[[int, int], None]]:
    """A bar that is gone afterwards; gives what is to be called with how many images are done."""
    from rich.progress import Progress

    from vqrae.cli.output import progress_console

    with Progress(console=progress_console, transient=True) as bar:
        task = bar.add_task("images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _check_picture(picture: Path, source: Path, data: Path) -> None:
    from vqrae.benchmarks.report.picture import check_picture_name
    from vqrae.runtimes.outputs import check_apart
    from vqrae.runtimes.staging import check_new_file

    check_picture_name(picture)
    check_new_file(picture)
    check_apart({"--picture": picture}, (source, data))


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


def _print_task(report: TaskReport) -> None:
    """A line for each split, and one for each other figure."""
    from vqrae.cli.output import print_fields

    fields: dict[str, object] = {
        split: ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        for split, shares in report.accuracy.items()
    }
    others = report.model_dump(exclude={"task", "source", "accuracy"})
    fields |= {name: _written(value) for name, value in others.items() if value is not None}
    print_fields(f"{report.task} of {report.source}", fields)


def _written(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_written(part)}" for name, part in value.items())
    if isinstance(value, float):
        return f"{value:.5g}"
    return "–" if value is None else str(value)
