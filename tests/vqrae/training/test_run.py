from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from phases import (
    same,
    snapshot,
    tiny_recipe,
)
from safetensors.torch import load_file
from tiny_models import tiny_model
from torch import Tensor

from vqrae.checkpoint import from_pretrained
from vqrae.model import VQRAE
from vqrae.model.encoder import Encoder
from vqrae.runtimes.errors import CheckpointError, DataError, UsageError
from vqrae.training.config import recipe
from vqrae.training.description import PHASE_FILE
from vqrae.training.log import LOG_FILE, TENSORBOARD_FOLDER
from vqrae.training.phase import Phase
from vqrae.training.pretrain import Pretraining
from vqrae.training.run import TrainingRun
from vqrae.training.stages import Stage1, Stage2


def test_a_run_goes_through_all_phases(folder: Path, tmp_path: Path) -> None:
    run = TrainingRun(tiny_recipe(), str(folder), tmp_path / "run")
    assert run.phases() == ["pretrain", "stage1", "stage2"]
    results = [run.run(phase) for phase in run.phases()]
    assert results == [tmp_path / "run" / name for name in ("encoder", "stage1", "stage2")]
    encoder = Encoder.from_pretrained(str(results[0]))
    first, second = (from_pretrained(result) for result in results[1:])
    assert same(snapshot(first.encoder), snapshot(encoder)), "stage 1 leaves the encoder as it was"
    assert not same(snapshot(second.encoder), snapshot(encoder))
    assert torch.equal(first.quantizer.codebook, second.quantizer.codebook)
    assert first.config.encoder == encoder.config
    state = tmp_path / "run" / "state"
    for name in run.phases():
        left = sorted(path.name for path in (state / name).iterdir())
        assert left == [LOG_FILE, PHASE_FILE, TENSORBOARD_FOLDER], "a finished phase needs no state to resume from"


def test_a_run_is_reproducible_and_resumable(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run straight through; another stopped inside every phase, each time with a fresh process's state."""
    whole = TrainingRun(tiny_recipe(), str(folder), tmp_path / "whole")
    for phase in whole.phases():
        whole.run(phase)
    stopped = tiny_recipe()
    batches = {kind: kind.batch for kind in (Pretraining, Stage1, Stage2)}
    for phase in whole.phases():
        for kind, original in batches.items():
            monkeypatch.setattr(kind, "batch", stop_at(2, original))
        with pytest.raises(KeyboardInterrupt):
            TrainingRun(stopped, str(folder), tmp_path / "stopped").run(phase)
        for kind, original in batches.items():
            monkeypatch.setattr(kind, "batch", original)
        torch.manual_seed(99)
        TrainingRun(stopped, str(folder), tmp_path / "stopped").run(phase)
    for name in ("encoder", "stage1", "stage2"):
        weights = [load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "stopped")]
        assert same(*weights), name


def stop_at(stop: int, batch: Callable[..., tuple[Tensor, ...]]) -> Callable[..., tuple[Tensor, ...]]:
    def stopping(phase: Phase, step: int, rows: range) -> tuple[Tensor, ...]:
        if step == stop:
            raise KeyboardInterrupt
        return batch(phase, step, rows)

    return stopping


def test_a_phase_that_is_done_is_not_run_again(folder: Path, tmp_path: Path) -> None:
    run = TrainingRun(tiny_recipe(), str(folder), tmp_path / "run")
    weights = run.run("pretrain") / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert run.run("pretrain") == tmp_path / "run" / "encoder"
    assert weights.stat().st_mtime_ns == before


def test_a_given_encoder_takes_the_place_of_pretraining(folder: Path, tmp_path: Path) -> None:
    encoder = tiny_model().encoder
    encoder.network.save_pretrained(tmp_path / "given")
    run = TrainingRun(tiny_recipe(), str(folder), tmp_path / "run", encoder=str(tmp_path / "given"))
    assert run.phases() == ["stage1", "stage2"]
    assert same(snapshot(from_pretrained(run.run("stage1")).encoder), snapshot(encoder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"decoder": {"width": 16, "depth": 1, "heads": 2, "mlp_width": 8, "patch_size": 8}},
            "width: got 32; expected 16",
        ),
        (
            {"decoder": {"width": 32, "depth": 1, "heads": 2, "mlp_width": 8, "patch_size": 4}},
            "patch size: got 8; expected 4",
        ),
        ({"image_size": 64}, "image size: got 32; expected 64"),
    ],
)
def test_an_encoder_that_does_not_fit(folder: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    tiny_model().encoder.network.save_pretrained(tmp_path / "given")
    run = TrainingRun(tiny_recipe(**change), str(folder), tmp_path / "run", encoder=str(tmp_path / "given"))
    with pytest.raises(UsageError, match=f"^encoder {message}, as the decoder of"):
        run.run("stage1")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.encoder.network.num_attention_heads", "5", r"setting model.encoder.network: got .*divisible.*5"),
        ("model.encoder.network.hidden_size", '"wide"', r"setting model.encoder.network: got .*hidden_size"),
        ("model.image_size", "64", "encoder image size: got 32; expected 64"),
    ],
)
def test_a_model_that_cannot_be(folder: Path, tmp_path: Path, key: str, value: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        TrainingRun(tiny_recipe().changed({key: value}), str(folder), tmp_path / "run").run("pretrain")
    assert "\n" not in str(caught.value)


def test_stage2_without_stage1(folder: Path, tmp_path: Path) -> None:
    run = TrainingRun(tiny_recipe(), str(folder), tmp_path / "run")
    with pytest.raises(UsageError, match=r"stage1: got no stage-1 checkpoint; expected one; run stage 1 first"):
        run.run("stage2")


def test_stage1_without_an_encoder(folder: Path, tmp_path: Path) -> None:
    run = TrainingRun(tiny_recipe(), str(folder), tmp_path / "run")
    with pytest.raises(UsageError, match=r"encoder: got no pretrained encoder; .*`--encoder`"):
        run.run("stage1")


def test_pretraining_where_the_recipe_has_none(folder: Path, tmp_path: Path) -> None:
    run = TrainingRun(recipe("siglip2-so400m-256"), str(folder), tmp_path / "run")
    assert run.phases() == ["stage1", "stage2"]
    with pytest.raises(UsageError, match=r"^pretrain: got a recipe without it; expected `--encoder`"):
        run.run("pretrain")


def test_a_run_needs_photographs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        TrainingRun(tiny_recipe(), str(tmp_path / "nowhere"), tmp_path / "run")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 1}, "got seed 1; expected seed 0"),
        ({"recipe": tiny_recipe(name="other")}, r"got model\.name other; expected model\.name .*"),
        ({"encoder": "elsewhere"}, r"got encoder elsewhere; expected encoder \(none\)"),
    ],
)
def test_a_run_folder_belongs_to_one_run(folder: Path, tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = {"recipe": tiny_recipe(), "data": str(folder), "folder": tmp_path / "run"}
    TrainingRun(**arguments).run("pretrain")
    with pytest.raises(UsageError, match=f"{named}; give what the run began with"):
        TrainingRun(**{**arguments, **changed}).run("pretrain")


def test_another_spelling_of_a_path_is_no_other_encoder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Family E."""
    TrainingRun(tiny_recipe(), str(folder), tmp_path / "first").run("pretrain")
    encoder, run = tmp_path / "first" / "encoder", tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("first")
    for spelled in (str(encoder), f"{encoder}/", "first/encoder", "./first//encoder/", "first/../link/encoder"):
        TrainingRun(tiny_recipe(), str(folder), run, encoder=spelled).run("stage1")
    shutil.copytree(encoder, tmp_path / "other")
    with pytest.raises(UsageError, match=rf"got encoder {tmp_path}/other; expected encoder {encoder}; give what"):
        TrainingRun(tiny_recipe(), str(folder), run, encoder="other").run("stage1")


def test_other_settings_for_a_finished_phase_do_not_pass_for_training(folder: Path, tmp_path: Path) -> None:
    TrainingRun(tiny_recipe(), str(folder), tmp_path / "run").run("pretrain")
    steps = tiny_recipe().pretrain.steps  # type: ignore[union-attr] # the recipe has it
    more = tiny_recipe().changed({"pretrain.steps": str(steps + 4), "pretrain.save_every": "3"})
    with pytest.raises(
        UsageError, match=rf"finished: got pretrain\.steps {steps + 4}; expected pretrain\.steps {steps}; "
    ):
        TrainingRun(more, str(folder), tmp_path / "run").run("pretrain")
    TrainingRun(tiny_recipe().changed({"pretrain.save_every": "3"}), str(folder), tmp_path / "run").run("pretrain")
    (tmp_path / "run" / "state" / "pretrain" / "phase.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"phase\.json: got .*; expected a phase's settings"):
        TrainingRun(tiny_recipe(), str(folder), tmp_path / "run").run("pretrain")


@pytest.mark.parametrize("init", ["normal", "features"])
def test_codes_are_placed_where_the_configuration_asks_for_it(folder: Path, tmp_path: Path, init: str) -> None:
    run = TrainingRun(
        tiny_recipe(quantizer={"codebook_size": 16, "code_width": 48, "init": init}), str(folder), tmp_path
    )
    for phase in ("pretrain", "stage1"):
        run.run(phase)
    torch.manual_seed(0)
    model = VQRAE(run.recipe.model, Encoder.from_pretrained(str(tmp_path / "encoder")))
    trained = from_pretrained(tmp_path / "stage1").quantizer.codebook
    assert torch.equal(trained, model.quantizer.codebook) == (init == "normal")


@pytest.mark.parametrize("asked", [False, True])
def test_stage2_refits_the_codebook_where_asked_for(folder: Path, tmp_path: Path, asked: bool) -> None:
    run = TrainingRun(tiny_recipe().changed({"stage2.refit_codebook": str(asked).lower()}), str(folder), tmp_path)
    for phase in run.phases():
        run.run(phase)
    first, second = (from_pretrained(tmp_path / name).quantizer.codebook for name in ("stage1", "stage2"))
    assert torch.equal(first, second) != asked
