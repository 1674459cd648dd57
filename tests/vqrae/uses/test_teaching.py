"""Readers and painters are trained, stopped and gone on with; pretrained parts come in Hugging Face's format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import random_images, tiny_model
from torch import Tensor

from vqrae.checkpoint import from_pretrained
from vqrae.cli.app import main
from vqrae.downstream.conversations import LlavaConversations, WorldConversations
from vqrae.downstream.lessons import CheckpointCodes, FrozenFeatures
from vqrae.downstream.painter import Painter, Sampling
from vqrae.downstream.reader import Reader
from vqrae.downstream.teaching import (
    PaintingRecipe,
    ReadingRecipe,
    llava_alignment,
    llava_instruction,
    paper_painting,
    teach_painter,
    teach_reader,
    world_reading,
)
from vqrae.model.encoder import Encoder
from vqrae.runtimes.errors import DataError, UsageError
from vqrae.training.config import changed

FEW = ["phase.steps=2", "phase.batch_size=2", "phase.warmup=1"]


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return module.state_dict()


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(tensor, weights(second)[name]) for name, tensor in weights(first).items())


def test_a_reader_is_reproducible_and_resumable(
    checkpoint_folder: Path,
    reading: ReadingRecipe,
    scenes: WorldConversations,
    reader: Reader,
    tmp_path: Path,
    stopped_after: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = from_pretrained(checkpoint_folder).encoder
    stopped_after(3)
    with pytest.raises(KeyboardInterrupt):
        teach_reader(tmp_path, reading, encoder, scenes)
    assert not (tmp_path / "reader").exists()
    monkeypatch.undo()
    gone_on = Reader.open(teach_reader(tmp_path, reading, encoder, scenes))
    assert equal(gone_on, reader)


def test_a_painter_is_reproducible_and_resumable(
    checkpoint_folder: Path,
    painting: PaintingRecipe,
    scenes: WorldConversations,
    painter: Painter,
    tmp_path: Path,
    stopped_after: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes = CheckpointCodes(checkpoint_folder)
    data = codes.painted(scenes, tmp_path / "codes.npy")
    stopped_after(3)
    with pytest.raises(KeyboardInterrupt):
        teach_painter(tmp_path, painting, data, codes)
    monkeypatch.undo()
    assert equal(Painter.open(teach_painter(tmp_path, painting, data, codes)), painter)


def test_features_do_not_depend_on_what_is_kept(checkpoint_folder: Path, scenes: WorldConversations) -> None:
    encoder = from_pretrained(checkpoint_folder).encoder
    kept, forgetful = (FrozenFeatures(encoder, scenes, count) for count in (100, 1))
    for numbers in ([3, 1, 3], [1, 2, 3], [0, 3, 5]):
        torch.testing.assert_close(kept.features(numbers), forgetful.features(numbers), rtol=0, atol=2e-3)
    assert kept.features([4, 4]).shape == (2, 16, 32)


def test_the_recipes_are_the_papers() -> None:
    align, instruct, paint = llava_alignment(), llava_instruction(), paper_painting()
    assert align.adapter_only
    assert (align.phase.learning_rate, align.phase.batch_size) == (1e-3, 256)
    assert not instruct.adapter_only
    assert (instruct.phase.learning_rate, instruct.phase.batch_size) == (2e-5, 128)
    assert (paint.phase.learning_rate, paint.phase.warmup, paint.phase.batch_size) == (1e-4, 4000, 512)
    assert (paint.phase.end_factor, paint.phase.weight_decay, paint.phase.clip_norm) == (1, 0, 1)


def test_settings() -> None:
    recipe = changed(world_reading(), {"phase.steps": "7", "phase.precision": "fp32", "adapter_only": "true"})
    assert (recipe.phase.steps, recipe.phase.precision, recipe.adapter_only) == (7, "fp32", True)
    with pytest.raises(UsageError, match=r"did you mean phase\.steps\?"):
        changed(world_reading(), {"phase.stps": "7"})
    with pytest.raises(UsageError, match=r"setting phase\.steps: got 0"):
        changed(world_reading(), {"phase.steps": "0"})
    with pytest.raises(UsageError, match=r"setting phase\.refit_codebook: got true; .*; stage2 reads it$"):
        changed(world_reading(), {"phase.refit_codebook": "true"})


@pytest.fixture
def llava(tmp_path: Path) -> tuple[Path, Path]:
    """Two conversations in LLaVA's format, in words of the world."""
    images = tmp_path / "images"
    images.mkdir()
    entries = []
    for number, (image, said) in enumerate(zip(random_images(2), ("one red ring", "two blue rings"), strict=True)):
        Image.fromarray(image.numpy()).resize((48, 40)).save(images / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nwhat is it ?"}, {"from": "gpt", "value": said}]
        entries.append({"id": str(number), "image": f"{number}.png", "conversations": turns})
    entries.append({"id": "text", "conversations": turns})  # LLaVA's second phase has some without an image
    path = tmp_path / "llava.json"
    path.write_text(json.dumps(entries))
    return path, images


def test_llavas_format(llava: tuple[Path, Path]) -> None:
    data = LlavaConversations(*llava, (32, 32))
    assert len(data) == 2
    assert data.image(0).shape == (32, 32, 3)
    assert data.turns(1, np.random.default_rng(0)) == [("what is it ?", "two blue rings")]
    assert data.caption(0) == "one red ring"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a JSON list in LLaVA's format"),
        ("[]", "got no conversation about an image"),
        ('[{"image": "a.png"}]', "KeyError: 'conversations'"),
        ('[{"image": "a.png", "conversations": [{"from": "gpt", "value": ""}]}]', "where human and gpt take turns"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(DataError, match=message):
        LlavaConversations(tmp_path / "data.json", tmp_path, (32, 32))


def run(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0


@pytest.mark.parametrize("network", ["siglip", "internvit"])
def test_the_commands_for_real_checkpoints(
    network: str,
    llava: tuple[Path, Path],
    language_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The documented commands, LLaVA-1.5's two phases, on small checkpoints of the same format."""
    encoder = tmp_path / "encoder"
    tiny_model(network).encoder.network.save_pretrained(encoder)
    data = ["--data", llava[0], "--images", llava[1], *(part for one in FEW for part in ("--set", one))]
    align, instruct = tmp_path / "align", tmp_path / "instruct"
    run("teach", "answers", encoder, "--recipe", "llava-align", "--language", language_folder, *data, "-o", align)
    run("teach", "answers", encoder, "--recipe", "llava-instruct", "--start", align / "reader", *data, "-o", instruct)
    aligned, instructed = Reader.open(align / "reader"), Reader.open(instruct / "reader")
    assert not equal(aligned.adapter, instructed.adapter)
    assert not equal(aligned.language, instructed.language)
    features = Encoder.from_pretrained(str(encoder))(torch.zeros(1, 3, 32, 32)).detach()
    assert len(instructed.answers(features, ["what is it ?"])) == 1


def test_alignment_leaves_the_language_model_as_it_was(
    checkpoint_folder: Path, llava: tuple[Path, Path], language_folder: Path, tmp_path: Path
) -> None:
    data = ["--data", llava[0], "--images", llava[1], *(part for one in FEW for part in ("--set", one))]
    command = ["teach", "answers", checkpoint_folder, "--recipe", "llava-align", "--language", language_folder]
    run(*command, *data, "-o", tmp_path / "run")
    from vqrae.downstream.language import open_language

    assert equal(Reader.open(tmp_path / "run" / "reader").language, open_language(str(language_folder)).model)


def test_a_pretrained_language_model_learns_to_paint(
    checkpoint_folder: Path, llava: tuple[Path, Path], language_folder: Path, tmp_path: Path
) -> None:
    data = ["--data", llava[0], "--images", llava[1], *(part for one in FEW for part in ("--set", one))]
    command = ["teach", "images", checkpoint_folder, "--recipe", "paper", "--language", language_folder]
    run(*command, *data, "-o", tmp_path / "run")
    painter = Painter.open(tmp_path / "run" / "painter")
    assert painter.paint(["one red ring"], Sampling(guidance=2.0), 0).shape == (1, 16)
