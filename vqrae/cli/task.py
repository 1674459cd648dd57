"""`vqrae eval --task`: what a tokenizer is worth to those who use it, in PyTorch or through a bundle."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vqrae.cli.judged import Judged
    from vqrae.downstream.tasks import Extent, Task, TaskReport
    from vqrae.model.reference import ReferenceTokenizer
    from vqrae.runtimes.load_options import LoadOptions


class TaskRequest(NamedTuple):
    """What is asked of `judge_task`."""

    task: Task
    model: Path | None
    """The reader's or the painter's folder."""
    teacher: str | None
    """Whose features recognize generated images; None is the checkpoint's, or the tokenizer's own."""
    scenes: int
    seed: int


def judge_task(source: Path, options: LoadOptions, checkpoint: Path | None, request: TaskRequest) -> TaskReport:
    """Judge a checkpoint or a bundle.

    Raises:
        UsageError: the task needs a model, or the model does not fit the tokenizer.
        BundleError: the bundle gives no features.
    """
    from vqrae.cli.judged import open_judged
    from vqrae.cli.needs import needing
    from vqrae.model.reference import ReferenceTokenizer
    from vqrae.runtimes.errors import UsageError
    from vqrae.runtimes.manifest import MANIFEST_FILE, read_manifest

    wanted = {
        "probe": None,
        "vqa": "a reader's folder, of `vqrae teach answers`",
        "generate": "a painter's folder, of `vqrae teach images`",
    }
    expected = wanted[request.task]
    if (request.model is None) != (expected is None):
        got = "none" if request.model is None else str(request.model)
        raise UsageError(f"--model of --task {request.task}", got=got, expected=expected or "none")
    if (source / MANIFEST_FILE).exists():
        _check_features(source, read_manifest(source / MANIFEST_FILE).graphs.keys())
    with needing("train"):
        from vqrae.downstream.tasks import Extent, token_agreement

    with ExitStack() as closing:
        judged = open_judged(source, options, checkpoint, closing)
        if judged.size[0] != judged.size[1]:
            raise UsageError("--task", got="a tokenizer of {}x{} images".format(*judged.size), expected="square ones")
        extent = Extent(probe_train=5 * request.scenes, test=request.scenes, generated=request.scenes)
        reference = None if checkpoint is None or judged.model is None else ReferenceTokenizer(judged.model)
        report = _report(judged, str(source), reference, extent, request)
        if reference is None:
            return report
        agreement = token_agreement(judged.tokenizer, reference, judged.size[0], extent)
        return report.model_copy(update={"token_agreement": agreement})


def _check_features(source: Path, graphs: object) -> None:
    from vqrae.runtimes.errors import BundleError

    names = list(graphs)  # type: ignore[call-overload]
    if "encode" not in names:
        remedy = "export it with `vqrae export CHECKPOINT --format FORMAT -o FOLDER`"
        expected = "the graph encode, whose output `features` the tasks read"
        raise BundleError(str(source), got=f"graphs {', '.join(names)}", expected=expected, remedy=remedy)


def _report(
    judged: Judged, source: str, reference: ReferenceTokenizer | None, extent: Extent, request: TaskRequest
) -> TaskReport:
    from vqrae.downstream.painter import Painter
    from vqrae.downstream.reader import Reader
    from vqrae.downstream.tasks import (
        JUDGED_SAMPLING,
        OwnFeatures,
        fit_probe,
        generate_task,
        judge_of,
        paintings,
        probe_scenes,
        probe_task,
        vqa_task,
    )
    from vqrae.training.evaluation.feature_space import Teacher, open_teacher

    size, fitted_on = judged.size[0], reference or judged.tokenizer
    if request.task == "probe":
        return probe_task(judged.tokenizer, size, source, extent, probe=fit_probe(fitted_on, size, extent))
    if request.model is None:
        raise AssertionError("checked by judge_task")
    if request.task == "vqa":
        return vqa_task(judged.tokenizer, size, source, extent, reader=Reader.open(request.model))
    painter = Painter.open(request.model)
    painter.check_tokenizer(judged.grid, judged.codebook_size, judged.weights_sha256)
    space: Teacher | OwnFeatures = OwnFeatures(fitted_on)
    if request.teacher is not None:
        space = open_teacher(request.teacher, judged.size)
    painted = paintings(painter, size, extent, JUDGED_SAMPLING, request.seed)
    scenes = probe_scenes(size, extent)
    judge = judge_of(space.pooled, scenes, fitted_on.decode(fitted_on.encode(scenes.images)[0]))
    return generate_task(judged.tokenizer, judged.grid, judged.codebook_size, source, painted, judge, space)


def print_task(report: TaskReport) -> None:
    """A line for each split, and one for each other figure."""
    from vqrae.cli.output import print_fields

    fields: dict[str, object] = {
        split: ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        for split, shares in report.accuracy.items()
    }
    others = report.model_dump(exclude={"task", "source", "accuracy"})
    fields |= {
        name: f"{value:.5g}" if isinstance(value, float) else value
        for name, value in others.items()
        if value is not None
    }
    print_fields(f"{report.task} of {report.source}", fields)
