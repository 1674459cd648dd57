"""From a tokenizer to a reader of its features or a painter of its codes: recipes, and the run that can be resumed.

A run folder holds the result, `reader/` or `painter/`, the codes of the images for a painter, and below `state/` the
phase's log and the state that it resumes from.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field

from vqrae.downstream.checkpoint_codes import CheckpointCodes
from vqrae.downstream.conversations import Conversations
from vqrae.downstream.language import Language, LanguageSize, new_language
from vqrae.downstream.lessons import FrozenFeatures, LessonConfig, PaintedData, PaintingLesson, ReadingLesson
from vqrae.downstream.painter import Painter
from vqrae.downstream.reader import Reader, ReaderFields
from vqrae.model.encoder import Encoder
from vqrae.runtimes.json_text import Record
from vqrae.runtimes.staging import claimed_folder
from vqrae.training.loop import train
from vqrae.training.processes import Processes
from vqrae.training.state import STATE_FILE


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
