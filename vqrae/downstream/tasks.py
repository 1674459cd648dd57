"""The three tasks that a tokenizer is judged by, in PyTorch and through a bundle alike: probe, vqa, generate.

What was trained, a probe, a reader or a painter, was trained on the PyTorch tokenizer and stays as it is; only where
features, tokens and pixels come from changes. So a difference between two rows is what an export cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from vqrae.downstream.painter import Painter, Sampling
from vqrae.downstream.reader import Reader
from vqrae.downstream.recognition import Pooled, Recognizer, stacked
from vqrae.downstream.world import TOPICS, Question, Split, World, caption, labels_of, questions
from vqrae.model.reference import ArrayTokenizer, ReferenceTokenizer
from vqrae.runtimes.errors import BundleError, UsageError
from vqrae.runtimes.tokenizer import Tokenizer
from vqrae.subject import Subject
from vqrae.training.data.scenes import SceneBatch
from vqrae.training.evaluation.evaluate import exp_entropy
from vqrae.training.evaluation.feature_space import FeatureSpace, Teacher, open_teacher
from vqrae.training.evaluation.frechet import FrechetMeter
from vqrae.training.evaluation.probe import CHUNK_IMAGES, LinearProbe, pooled_features, with_mean

Task = Literal["probe", "vqa", "generate"]
JUDGED: tuple[Split, ...] = ("test", "held-out")

JUDGED_SAMPLING = Sampling(guidance=2.0, temperature=0.7, top_p=0.9)
"""How images are drawn that are to be judged."""

PROBE_SEED, TEST_SEED, ASKED_SEED = 1_000_003, 1_000_004, 1_000_005


class Extent(BaseModel):
    """How much is judged."""

    model_config = ConfigDict(frozen=True)

    probe_train: int = 2000
    """Scenes that a probe is fitted on."""
    test: int = 400
    """Scenes of each split that probe and questions are judged on."""
    generated: int = 200
    """Images of each split that are generated."""


class TaskReport(BaseModel):
    """What a task says of one tokenizer."""

    model_config = ConfigDict(frozen=True)

    task: Task
    source: str
    """The tokenizer."""
    accuracy: dict[str, dict[str, float]]
    """Split -> attribute or topic -> share in [0, 1]; `mean` over them, and of generated images `all` at once."""
    token_agreement: float | None = None
    """Share of the scenes' tokens that are PyTorch's; None where the checkpoint is not at hand."""
    frechet_distance: float | None = None
    """Of generated images from scenes of the same labels; see `frechet_space`."""
    frechet_space: str | None = None
    code_perplexity: float | None = None
    """exp of the entropy of the generated codes."""
    code_distance: float | None = None
    """Total variation between the histograms of the generated codes and the data's, in [0, 1]."""


def test_scenes(size: int, split: Split, extent: Extent) -> SceneBatch:
    """What probes and readers are judged on."""
    return World(size=size, split=split).batch(extent.test, [TEST_SEED])


test_scenes.__test__ = False  # type: ignore[attr-defined]  # no test, whatever pytest thinks of its name


def probe_task(
    tokenizer: ArrayTokenizer, size: int, source: str, extent: Extent, *, probe: LinearProbe | None = None
) -> TaskReport:
    """Linear probe on the mean of the continuous features; fitted on the tokenizer's own, if none is given."""
    fitted = probe or fit_probe(tokenizer, size, extent)
    accuracy = {}
    for split in JUDGED:
        scenes = test_scenes(size, split, extent)
        accuracy[split] = fitted.accuracy(pooled_features(tokenizer, scenes.images), scenes.labels)
    return TaskReport(task="probe", source=source, accuracy=accuracy)


def probe_scenes(size: int, extent: Extent) -> SceneBatch:
    """What probes are fitted on."""
    return World(size=size, split="any").batch(extent.probe_train, [PROBE_SEED])


def fit_probe(tokenizer: ArrayTokenizer, size: int, extent: Extent) -> LinearProbe:
    """The probe of a tokenizer's features."""
    scenes = probe_scenes(size, extent)
    return LinearProbe(pooled_features(tokenizer, scenes.images), scenes.labels)


def vqa_task(tokenizer: ArrayTokenizer, size: int, source: str, extent: Extent, *, reader: Reader) -> TaskReport:
    """Share of questions whose answer is exactly the right one."""
    accuracy = {split: read_scenes(tokenizer, test_scenes(size, split, extent), reader) for split in JUDGED}
    return TaskReport(task="vqa", source=source, accuracy=accuracy)


def read_scenes(tokenizer: ArrayTokenizer, scenes: SceneBatch, reader: Reader) -> dict[str, float]:
    """Topic -> share of right answers, and their `mean`."""
    asked = asked_of(scenes)
    right: dict[str, list[bool]] = {topic: [] for topic in TOPICS}
    for start in range(0, len(asked), CHUNK_IMAGES):
        rows = slice(start, start + CHUNK_IMAGES)
        features = torch.from_numpy(tokenizer.encode(scenes.images[rows])[1])
        for place, topic in enumerate(TOPICS):
            chosen = [questions_of_one[place] for questions_of_one in asked[rows]]
            answers = reader.answers(features, [one.question for one in chosen])
            right[topic] += [answer == one.answer for answer, one in zip(answers, chosen, strict=True)]
    return with_mean({topic: float(np.mean(hits)) for topic, hits in right.items()})


def asked_of(scenes: SceneBatch) -> list[list[Question]]:
    """The questions about each scene, in the order of `TOPICS`."""
    return [
        questions(labels, np.random.default_rng([ASKED_SEED, number]))
        for number, labels in enumerate(labels_of(scenes))
    ]


class OwnFeatures:
    """The mean over tokens of a tokenizer's own features, as `FeatureSpace`."""

    def __init__(self, tokenizer: ArrayTokenizer) -> None:
        self._tokenizer = tokenizer
        self.name = "the tokenizer's own features, mean over tokens"

    def pooled(self, images: NDArray[np.uint8], /) -> NDArray[np.floating[Any]]:
        """See `FeatureSpace`."""
        return pooled_features(self._tokenizer, images)


class Paintings:
    """Codes that a painter made of the captions of scenes, and the scenes: the same for every tokenizer."""

    def __init__(self, split: Split, scenes: SceneBatch, indices_BN: NDArray[np.int32]) -> None:
        """One row of indices (B, N) for each scene."""
        self.split, self.scenes, self.indices_BN = split, scenes, indices_BN
        self.labels = labels_of(scenes)


def asked_scenes(size: int, split: Split, extent: Extent) -> SceneBatch:
    """Whose captions are painted."""
    return World(size=size, split=split).batch(extent.generated, [TEST_SEED])


def paint_scenes(painter: Painter, scenes: SceneBatch, sampling: Sampling, seed: int = 0) -> NDArray[np.int32]:
    """Indices (B, N) of an image of each scene's caption."""
    prompts = [caption(labels) for labels in labels_of(scenes)]
    starts = range(0, len(prompts), CHUNK_IMAGES)
    return np.concatenate(
        [painter.paint(prompts[start : start + CHUNK_IMAGES], sampling, seed + start) for start in starts]
    )


def paintings(painter: Painter, size: int, extent: Extent, sampling: Sampling, seed: int = 0) -> list[Paintings]:
    """What is judged, of each split."""
    asked = {split: asked_scenes(size, split, extent) for split in JUDGED}
    return [Paintings(split, scenes, paint_scenes(painter, scenes, sampling, seed)) for split, scenes in asked.items()]


def judge_of(pooled: Pooled, scenes: SceneBatch, rebuilt: NDArray[np.uint8]) -> Recognizer:
    """Who recognizes what was painted.

    It is fitted on scenes and on what a tokenizer keeps of them: no painter can paint what the tokenizer cannot decode.

    Args:
        pooled: one vector of an image.
        scenes: with their labels.
        rebuilt: their reconstructions.
    """
    labels = {name: np.tile(classes, 2) for name, classes in scenes.labels.items()}
    both = SceneBatch(np.concatenate([scenes.images, rebuilt]), labels, np.tile(scenes.masks, (2, 1, 1)))
    return Recognizer(pooled, both)


def generate_task(
    tokenizer: ArrayTokenizer,
    grid: tuple[int, int],
    codebook_size: int,
    source: str,
    painted: Sequence[Paintings],
    judge: Recognizer,
    space: FeatureSpace,
) -> TaskReport:
    """Decode what was painted, and judge the images and the codes.

    Args:
        tokenizer: decodes, and encodes the scenes for the histogram.
        grid: its token grid.
        codebook_size: its number of codes.
        source: what the report calls it.
        painted: of each split.
        judge: recognizes.
        space: where the Fréchet distance is taken, over all splits.
    """
    accuracy = {}
    frechet = FrechetMeter()
    made, drawn = np.zeros(codebook_size, np.int64), np.zeros(codebook_size, np.int64)
    for part in painted:
        images = tokenizer.decode(part.indices_BN.reshape(-1, *grid))
        accuracy[part.split] = judge.recognized(images, stacked(part.labels))
        frechet.add(space.pooled(part.scenes.images), space.pooled(images))
        made += _histogram(part.indices_BN, codebook_size)
        drawn += _histogram(tokenizer.encode(part.scenes.images)[0], codebook_size)
    return TaskReport(
        task="generate",
        source=source,
        accuracy=accuracy,
        frechet_distance=frechet.distance(),
        frechet_space=space.name,
        code_perplexity=exp_entropy(made),
        code_distance=float(np.abs(made / made.sum() - drawn / drawn.sum()).sum() / 2),
    )


def token_agreement(tokenizer: ArrayTokenizer, reference: ArrayTokenizer, size: int, extent: Extent) -> float:
    """Share of tokens that two tokenizers agree on, over the scenes of the tasks."""
    scenes = [test_scenes(size, split, extent).images for split in JUDGED]
    same = [tokenizer.encode(images)[0] == reference.encode(images)[0] for images in scenes]
    return float(np.mean(same))


def _histogram(indices: NDArray[np.integer[Any]], codebook_size: int) -> NDArray[np.int64]:
    return np.bincount(indices.ravel(), minlength=codebook_size)


class TaskRequest(NamedTuple):
    """What is asked of `judge_task`."""

    task: Task
    model: Path | None
    """The reader's or the painter's folder."""
    teacher: str | None
    """Whose features recognize generated images; None is the checkpoint's, or the tokenizer's own."""
    scenes: int
    seed: int


def judge_task(subject: Subject, request: TaskRequest) -> TaskReport:
    """Judge a checkpoint or a bundle by a task; of a bundle whose checkpoint is at hand, also how many tokens are its.

    Raises:
        UsageError: its images are not square, or the model does not fit the tokenizer.
        BundleError: the bundle gives no features.
    """
    height, width = subject.size
    if height != width:
        raise UsageError("--task", got=f"a tokenizer of {height}x{width} images", expected="square ones")
    deployed = subject.tokenizer if isinstance(subject.tokenizer, Tokenizer) else None
    if deployed is not None and "encode" not in deployed.manifest.graphs:
        remedy = "export it with `vqrae export CHECKPOINT --format FORMAT -o FOLDER`"
        expected = "the graph encode, whose output `features` the tasks read"
        got = f"graphs {', '.join(deployed.manifest.graphs)}"
        raise BundleError(str(subject.source), got=got, expected=expected, remedy=remedy)
    extent = Extent(probe_train=5 * request.scenes, test=request.scenes, generated=request.scenes)
    reference = None if deployed is None or subject.model is None else ReferenceTokenizer(subject.model)
    report = _report(subject, reference or subject.tokenizer, extent, request)
    if reference is None:
        return report
    agreement = token_agreement(subject.tokenizer, reference, height, extent)
    return report.model_copy(update={"token_agreement": agreement})


def check_task(request: TaskRequest) -> None:
    """Compare what a task needs with what is given, before anything is opened.

    Raises:
        UsageError: a model is missing, or there is nothing to do for it.
    """
    reader, painter = "a reader's folder, of `vqrae teach answers`", "a painter's folder, of `vqrae teach images`"
    task, model = request.task, request.model
    expected = {"probe": None, "vqa": reader, "generate": painter}[task]
    if (model is None) != (expected is None):
        got = "none" if model is None else str(model)
        raise UsageError(f"--model of --task {task}", got=got, expected=expected or "none")


def _report(subject: Subject, fitted_on: ArrayTokenizer, extent: Extent, request: TaskRequest) -> TaskReport:
    size, source = subject.size[0], str(subject.source)
    if request.model is None:
        return probe_task(subject.tokenizer, size, source, extent, probe=fit_probe(fitted_on, size, extent))
    if request.task == "vqa":
        return vqa_task(subject.tokenizer, size, source, extent, reader=Reader.open(request.model))
    painter = Painter.open(request.model)
    painter.check_tokenizer(subject.grid, subject.codebook_size, subject.weights_sha256)
    space: Teacher | OwnFeatures = OwnFeatures(fitted_on)
    if request.teacher is not None:
        space = open_teacher(request.teacher, subject.size)
    painted = paintings(painter, size, extent, JUDGED_SAMPLING, request.seed)
    scenes = probe_scenes(size, extent)
    judge = judge_of(space.pooled, scenes, fitted_on.decode(fitted_on.encode(scenes.images)[0]))
    return generate_task(subject.tokenizer, subject.grid, subject.codebook_size, source, painted, judge, space)
