"""A small language model as a Hugging Face checkpoint, and a reader and a painter that were taught a little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import tiny_config

from vqrae.checkpoint import from_pretrained
from vqrae.downstream.conversations import WorldConversations
from vqrae.downstream.language import LanguageSize, new_language, write_language
from vqrae.downstream.lessons import CheckpointCodes
from vqrae.downstream.painter import Painter
from vqrae.downstream.reader import Reader
from vqrae.downstream.teaching import (
    PaintingRecipe,
    ReadingRecipe,
    teach_painter,
    teach_reader,
    world_painting,
    world_reading,
)
from vqrae.downstream.world import World
from vqrae.training.config import changed

SIZE = tiny_config().image_size
SMALL = LanguageSize(width=32, depth=2, heads=4)
FAST = {"phase.steps": "4", "phase.batch_size": "4", "phase.warmup": "1", "phase.save_every": "2", "images": "16"}
LANGUAGE = {"language.width": "32", "language.depth": "2", "language.heads": "4"}


@pytest.fixture(scope="session")
def reading() -> ReadingRecipe:
    return changed(world_reading(), FAST | LANGUAGE)


@pytest.fixture(scope="session")
def painting() -> PaintingRecipe:
    return changed(world_painting(), FAST | LANGUAGE)


@pytest.fixture(scope="session")
def scenes() -> WorldConversations:
    return WorldConversations(World(size=SIZE, split="train"), 16, 0)


@pytest.fixture(scope="session")
def language_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Qwen3's own checkpoints are laid out."""
    folder = tmp_path_factory.mktemp("language") / "qwen3"
    write_language(new_language(SMALL, 1), folder)
    return folder


@pytest.fixture(scope="session")
def reader_folder(
    checkpoint_folder: Path,
    reading: ReadingRecipe,
    scenes: WorldConversations,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    encoder = from_pretrained(checkpoint_folder).encoder
    return teach_reader(tmp_path_factory.mktemp("reader"), reading, encoder, scenes)


@pytest.fixture(scope="session")
def painter_folder(
    checkpoint_folder: Path,
    painting: PaintingRecipe,
    scenes: WorldConversations,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder, codes = tmp_path_factory.mktemp("painter"), CheckpointCodes(checkpoint_folder)
    return teach_painter(folder, painting, codes.painted(scenes, folder / "codes.npy"), codes)


@pytest.fixture
def reader(reader_folder: Path) -> Reader:
    return Reader.open(reader_folder)


@pytest.fixture
def painter(painter_folder: Path) -> Painter:
    return Painter.open(painter_folder)


@pytest.fixture
def stopped_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let training end with Ctrl-C before a step."""

    def stop(step: int) -> None:
        from vqrae.training.learner import Learner

        steps = Learner.step

        def limited(learner: Learner, number: int) -> dict[str, float]:
            if number == step:
                raise KeyboardInterrupt
            return steps(learner, number)

        monkeypatch.setattr(Learner, "step", limited)

    return stop
