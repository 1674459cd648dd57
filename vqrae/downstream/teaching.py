"""From a tokenizer to a reader of its features or a painter of its codes: recipes, and the run that can be resumed.

A run folder holds the result, `reader/` or `painter/`, the codes of the images for a painter, and below `state/` the
phase's log and the state that it resumes from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import torch
from pydantic import Field

from vqrae.downstream.conversations import Conversations, LlavaConversations, WorldConversations
from vqrae.downstream.language import Language, LanguageSize, new_language, open_language
from vqrae.downstream.lessons import (
    CODES_FILE,
    CheckpointCodes,
    FrozenFeatures,
    LessonConfig,
    PaintedData,
    PaintingLesson,
    ReadingLesson,
)
from vqrae.downstream.painter import Painter
from vqrae.downstream.reader import Reader, ReaderFields
from vqrae.downstream.world import World
from vqrae.model.encoder import Encoder
from vqrae.runtimes.errors import UsageError, unknown_name
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.staging import claimed_folder
from vqrae.training.config import changed
from vqrae.training.evaluation.feature_space import open_encoder
from vqrae.training.loop import train
from vqrae.training.processes import Processes
from vqrae.training.state import STATE_FILE

Recipe = TypeVar("Recipe", bound=Record)


class ReadingRecipe(Record):
    """How a reader is trained."""

    language: LanguageSize
    """Of a new language model, where no pretrained one is given."""
    images: int = Field(gt=0)
    """Scenes of the world, where no data is given."""
    adapter_only: bool = False
    """Whether the language model is frozen."""
    phase: LessonConfig


class PaintingRecipe(Record):
    """How a painter is trained."""

    language: LanguageSize
    """Of a new language model, where no pretrained one is given."""
    images: int = Field(gt=0)
    """Scenes of the world, where no data is given."""
    dropped: float = Field(0.1, ge=0, le=1)
    """Share of the prompts that is left out, for classifier-free guidance."""
    phase: LessonConfig


def world_reading() -> ReadingRecipe:
    """Two million parameters that learn to answer from nothing."""
    return ReadingRecipe(
        language=LanguageSize(width=192, depth=4, heads=6),
        images=8000,
        phase=LessonConfig(
            steps=1800, batch_size=16, learning_rate=1e-3, end_factor=0.02, warmup=50, weight_decay=0.01, save_every=100
        ),
    )


def world_painting() -> PaintingRecipe:
    """Two million parameters that learn to paint from nothing."""
    return PaintingRecipe(
        language=LanguageSize(width=192, depth=4, heads=6),
        images=12_000,
        phase=LessonConfig(
            steps=1000,
            batch_size=32,
            learning_rate=2e-3,
            end_factor=0.02,
            warmup=50,
            weight_decay=0.05,
            betas=(0.9, 0.98),
            save_every=100,
        ),
    )


def llava_alignment() -> ReadingRecipe:
    """LLaVA-1.5's first phase, on 558k captions: only the adapter learns (arXiv 2310.03744, its scripts)."""
    phase = LessonConfig(
        steps=2180, batch_size=256, learning_rate=1e-3, end_factor=1e-3, warmup=66, weight_decay=0, save_every=200
    )
    return ReadingRecipe(language=_QWEN3, images=558_000, adapter_only=True, phase=phase)


def llava_instruction() -> ReadingRecipe:
    """LLaVA-1.5's second phase, on 665k conversations: adapter and language model learn, the encoder is frozen."""
    phase = LessonConfig(
        steps=5198, batch_size=128, learning_rate=2e-5, end_factor=1e-3, warmup=156, weight_decay=0, save_every=200
    )
    return ReadingRecipe(language=_QWEN3, images=665_000, phase=phase)


def paper_painting(steps: int = 100_000) -> PaintingRecipe:
    """The paper's: rate 1e-4, constant after 4000 steps of warm-up, batch 512, no weight decay [P]; steps are ours."""
    phase = LessonConfig(
        steps=steps, batch_size=512, learning_rate=1e-4, end_factor=1, warmup=4000, weight_decay=0, save_every=500
    )
    return PaintingRecipe(language=_QWEN3, images=1_000_000, phase=phase)


_QWEN3 = LanguageSize(width=1024, depth=28, heads=16)

READING = {"world": world_reading, "llava-align": llava_alignment, "llava-instruct": llava_instruction}
PAINTING = {"world": world_painting, "paper": paper_painting}


class LessonRequest(NamedTuple):
    """What is asked of `teach`."""

    recipe: str | None
    """A key of `READING` or `PAINTING`; None is `world`."""
    settings: Mapping[str, str]
    """Other values in it, as typed."""
    language: str | None
    """A pretrained language model's Hugging Face name or folder; None is a new one."""
    data: Path | None
    """Conversations, a JSON file in LLaVA's format; None is the labelled world."""
    images: Path | None
    """Folder that the data's image paths start from."""
    start: Path | None
    """The reader to go on from, for answers."""
    seed: int
    """Names new weights and every batch."""


def teach(lesson: Literal["answers", "images"], source: str, folder: Path, asked: LessonRequest) -> Path:
    """Train a reader that answers, or a painter of images, or go on; returns its folder.

    Args:
        lesson: which of the two.
        source: a checkpoint's folder; for answers also a pretrained encoder's name or folder.
        folder: the run's.
        asked: how.

    Raises:
        UsageError: no such recipe or setting, data without images or images without data, or a start of a painter.
        CheckpointError, DataError: what was read is damaged.
    """
    if (asked.data is None) != (asked.images is None):
        raise UsageError("--data and --images", got="one without the other", expected="both, or none")
    if lesson == "images" and asked.start is not None:
        raise UsageError("--start", got=lesson, expected="answers")
    if lesson == "answers":
        reading = changed(_recipe(lesson, READING, asked.recipe), asked.settings)
        with claimed_folder(folder, "state"):
            encoder = open_encoder(source)
            said = _conversations(asked, image_size(encoder), reading.images)
            spoken = _language(asked)
            return teach_reader(folder, reading, encoder, said, language=spoken, start=asked.start, seed=asked.seed)
    painting = changed(_recipe(lesson, PAINTING, asked.recipe), asked.settings)
    with claimed_folder(folder, "state"):
        codes = CheckpointCodes(Path(source))
        painted = codes.painted(_conversations(asked, codes.size, painting.images), folder / CODES_FILE)
        return teach_painter(folder, painting, painted, codes, language=_language(asked), seed=asked.seed)


def _recipe(lesson: str, recipes: Mapping[str, Callable[[], Recipe]], name: str | None) -> Recipe:
    if name is not None and name not in recipes:
        raise unknown_name(f"recipe of {lesson}", name, recipes)
    return recipes[name or "world"]()


def _language(asked: LessonRequest) -> Language | None:
    return None if asked.language is None else open_language(asked.language)


def _conversations(asked: LessonRequest, size: tuple[int, int], count: int) -> Conversations:
    """The user's, or the world's."""
    if asked.data is not None and asked.images is not None:
        return LlavaConversations(asked.data, asked.images, size)
    if size[0] != size[1]:
        raise UsageError("the world", got="a tokenizer of {}x{} images".format(*size), expected="square ones")
    return WorldConversations(World(size=size[0], split="train"), count, asked.seed)


def teach_reader(
    folder: Path,
    recipe: ReadingRecipe,
    encoder: Encoder,
    data: Conversations,
    *,
    language: Language | None = None,
    start: Path | None = None,
    seed: int = 0,
) -> Path:
    """Train a reader of an encoder's features, or go on; returns its folder, at once if it is there already.

    Args:
        folder: the run's.
        recipe: how.
        encoder: frozen.
        data: what it learns from.
        language: a pretrained language model; None is a new one.
        start: a reader to go on from, with its language model unless another one is given.
        seed: names new weights and every batch.
    """
    with claimed_folder(folder, "state"):
        result = folder / "reader"
        if not result.exists():
            if start is not None:
                reader = Reader.open(start, language)
            else:
                spoken = language or new_language(recipe.language, seed)
                torch.manual_seed(seed)
                reader = Reader(ReaderFields(tokens=_tokens(encoder, data), feature_width=_width(encoder)), spoken)
            lesson = ReadingLesson(
                reader, recipe.phase, FrozenFeatures(encoder, data), seed, adapter_only=recipe.adapter_only
            )
            reader.load_state_dict(train(lesson, folder / "state", "reader", Processes()))
            reader.save(result)
        (folder / "state" / STATE_FILE).unlink(missing_ok=True)  # that of a run killed right here, too
        return result


def teach_painter(
    folder: Path,
    recipe: PaintingRecipe,
    data: PaintedData,
    codes: CheckpointCodes,
    *,
    language: Language | None = None,
    seed: int = 0,
) -> Path:
    """Train a painter of a tokenizer's codes, or go on; arguments as for `teach_reader`."""
    with claimed_folder(folder, "state"):
        result = folder / "painter"
        if not result.exists():
            spoken = language or new_language(recipe.language, seed)
            painter = Painter.extend(spoken, codes.grid, codes.codes_KE, codes.weights_sha256, seed)
            lesson = PaintingLesson(painter, recipe.phase, data, seed, recipe.dropped)
            painter.load_state_dict(train(lesson, folder / "state", "painter", Processes()))
            painter.save(result)
        (folder / "state" / STATE_FILE).unlink(missing_ok=True)  # that of a run killed right here, too
        return result


def image_size(encoder: Encoder) -> tuple[int, int]:
    """(H, W) in pixels that an encoder was trained at."""
    return encoder.shape.image_size


@torch.inference_mode()
def _tokens(encoder: Encoder, data: Conversations) -> int:
    """N, as the encoder really gives them."""
    height, width, _ = data.image(0).shape
    return encoder(torch.zeros(1, 3, height, width)).shape[1]


def _width(encoder: Encoder) -> int:
    return encoder.shape.width
