from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from tiny_models import SIZE, tiny_config, tiny_model
from torch import Tensor, nn
from torch.nn import functional as F

from vqrae.checkpoint import from_pretrained
from vqrae.config import VQRAEConfig
from vqrae.encoder import Encoder
from vqrae.model import VQRAE
from vqrae.runtimes.errors import CheckpointError, DataError, UsageError, VqraeError
from vqrae.training import loop
from vqrae.training.config import LossWeights, PhaseConfig, Recipe, recipe
from vqrae.training.data.crops import CroppedPhotographs
from vqrae.training.loop import LOG_FILE, STATE_FILE, Phase, learning_rate_factor, train
from vqrae.training.losses.terms import distillation_loss, pixel_loss
from vqrae.training.pretrain import Pretraining
from vqrae.training.run import TrainingRun
from vqrae.training.stages import Stage1, Stage2, TrainingImages

STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs of smooth noise."""
    path = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name in "abc":
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((40, 40), Image.Resampling.BICUBIC).save(path / f"{name}.png")
    return path


def phase_config(**fields: Any) -> PhaseConfig:
    defaults: dict[str, Any] = {
        "steps": STEPS,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "encoder_learning_rate": 1e-3,
        "end_factor": 0.1,
        "warmup": 2,
        "precision": "fp32",
        "scene_fraction": 0.25,
        "color_jitter": 0.5,
    }
    return PhaseConfig(**{**defaults, **fields})


def training_images(folder: Path, config: PhaseConfig, seed: int = 0) -> TrainingImages:
    paths = sorted(folder.glob("*.png"))
    photographs = [Image.open(path).convert("RGB") for path in paths]
    return TrainingImages(CroppedPhotographs(paths, SIZE, config.color_jitter), photographs, config, seed)


def fresh_model(network: str = "siglip", **quantizer: Any) -> VQRAE:
    """As training starts: the weights that the constructors give."""
    torch.manual_seed(0)
    return VQRAE(tiny_config(network, **quantizer))


def stage1(folder: Path, network: str = "siglip", **fields: Any) -> Stage1:
    config = phase_config(**fields)
    return Stage1(fresh_model(network), config, training_images(folder, config))


def stage2(folder: Path, network: str = "siglip", **fields: Any) -> Stage2:
    config = phase_config(**fields)
    return Stage2(fresh_model(network), config, training_images(folder, config))


def pretraining(folder: Path, **fields: Any) -> Pretraining:
    photographs = [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]
    return Pretraining(tiny_config(), phase_config(**fields), photographs, seed=0)


def backward(phase: Phase, step: int = 0) -> dict[str, Tensor]:
    terms = phase.losses(step)
    torch.stack(list(terms.values())).sum().backward()
    return terms


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- the losses ---


def test_losses_are_mean_squares_in_float32() -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    for loss in (pixel_loss, distillation_loss):
        torch.testing.assert_close(loss(a, b), (a - b).square().mean())
        assert loss(a.bfloat16(), b).dtype == torch.float32


# --- stage 1 ---


@pytest.mark.parametrize("network", ["siglip", "dinov2", "internvit"])
def test_stage1_reaches_everything_but_the_encoder(folder: Path, network: str) -> None:
    phase = stage1(folder, network)
    backward(phase)
    for name, parameter in phase.module.named_parameters():
        if name.startswith("encoder."):
            assert parameter.grad is None, name
            assert not parameter.requires_grad, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0 or "key.bias" in name, name  # softmax does not see a key's bias


def test_stage1_does_not_move_the_encoder(folder: Path, tmp_path: Path) -> None:
    phase = stage1(folder, weight_decay=0.1)
    encoder, rest = snapshot(phase.module.encoder), snapshot(phase.module)
    train(phase, tmp_path, "stage 1")
    assert same(snapshot(phase.module.encoder), encoder)
    moved = {name for name, tensor in phase.module.state_dict().items() if not torch.equal(tensor, rest[name])}
    learned = {name for name, _ in phase.module.named_parameters() if not name.startswith("encoder.")}
    assert moved == learned, "the codebook is frozen too"


def test_stage1_optimizes_only_what_it_trains(folder: Path) -> None:
    phase = stage1(folder)
    (group,) = phase.parameter_groups()
    named = {id(p): name for name, p in phase.module.named_parameters()}
    names = {named[id(parameter)] for parameter in group["params"]}
    assert names == {name for name in named.values() if not name.startswith("encoder.")}
    assert group["lr"] == phase.config.learning_rate


def test_stage1_terms_are_weighted(folder: Path) -> None:
    plain = stage1(folder).losses(0)
    weighted = stage1(folder, weights=LossWeights(pixel=3, quantizer=0.5)).losses(0)
    assert list(plain) == ["pixel", "quantizer"]
    torch.testing.assert_close(weighted["pixel"], 3 * plain["pixel"])
    torch.testing.assert_close(weighted["quantizer"], 0.5 * plain["quantizer"])


def test_codes_move_to_the_features_where_asked_for(folder: Path) -> None:
    config = phase_config()
    before = fresh_model().quantizer.codebook
    for init in ("normal", "features"):
        phase = Stage1(fresh_model(init=init), config, training_images(folder, config))
        losses = [phase.losses(0)["quantizer"].item()]
        phase.init_codebook(0)
        losses.append(phase.losses(0)["quantizer"].item())
        moved = not torch.equal(phase.module.quantizer.codebook, before)
        assert moved == (init == "features")
        assert (losses[1] < losses[0] / 2) == moved
    assert torch.equal(phase.module.quantizer.transform.weight, torch.eye(48))
    assert len(phase.module.quantizer.codebook.unique(dim=0)) == 64
    assert not phase.module.quantizer.codebook.requires_grad
    backward(phase)  # the codebook is no inference tensor that autograd would refuse


# --- stage 2 ---


@pytest.mark.parametrize("network", ["siglip", "dinov2", "dinov2-swiglu", "internvit", "internvit-qk-norm"])
def test_stage2_gradient_reaches_every_trainable_parameter(folder: Path, network: str) -> None:
    phase = stage2(folder, network)
    backward(phase)
    for name, parameter in phase.module.named_parameters():
        if name.endswith("mask_token"):
            assert not parameter.requires_grad
            continue
        assert parameter.requires_grad, name
        assert parameter.grad is not None, name
        bias_of_keys = name.endswith(("key.bias", "k_proj.bias"))  # softmax does not see it
        assert parameter.grad.abs().sum() > 0 or bias_of_keys, name


def test_stage2_after_stage1_trains_the_encoder_again(folder: Path) -> None:
    first = stage1(folder)
    second = Stage2(first.module, first.config, first.images)
    backward(second)
    assert all(p.grad is not None for p in second.module.encoder.parameters())


def test_pixels_alone_reach_the_encoder(folder: Path) -> None:
    """Through the quantizer, straight through: no `no_grad` and no detach on the way."""
    phase = stage2(folder)
    phase.losses(0)["pixel"].backward()
    assert all(p.grad is not None for p in phase.module.encoder.parameters())
    assert phase.module.encoder.network.embeddings.patch_embedding.weight.grad.abs().sum() > 0


def test_stage2_rates(folder: Path) -> None:
    phase = stage2(folder, learning_rate=2e-3, encoder_learning_rate=1e-4)
    encoder, rest = phase.parameter_groups()
    assert (encoder["lr"], rest["lr"]) == (1e-4, 2e-3)
    assert {id(p) for p in encoder["params"]} == {id(p) for p in phase.module.encoder.parameters()}
    everything = {id(p) for p in phase.module.parameters()}
    assert {id(p) for group in (encoder, rest) for p in group["params"]} == everything


def test_the_teacher_is_the_initial_encoder_and_stays(folder: Path, tmp_path: Path) -> None:
    phase = stage2(folder)
    initial = snapshot(phase.module.encoder)
    assert phase.losses(0)["distillation"] == 0, "at the start the encoder is its own teacher"
    train(phase, tmp_path, "stage 2")
    assert same(snapshot(phase.teacher), initial)
    assert not any(p.requires_grad for p in phase.teacher.parameters())
    assert not same(snapshot(phase.module.encoder), initial)
    assert phase.losses(0)["distillation"] > 0


def move_encoder(phase: Stage2) -> None:
    with torch.no_grad():
        for parameter in phase.module.encoder.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))


def test_distillation_is_the_distance_of_the_continuous_features(folder: Path) -> None:
    phase = stage2(folder, weights=LossWeights(distillation=2))
    move_encoder(phase)
    pixels = phase.images.pixels(0)
    with torch.no_grad():
        expected = F.mse_loss(phase.module.encoder(pixels), phase.teacher(pixels))
    assert expected > 0
    torch.testing.assert_close(phase.losses(0)["distillation"], 2 * expected)


def test_distillation_does_not_know_the_quantizer(folder: Path) -> None:
    """Another codebook, other projections, another decoder: value and gradient of the term stay the same bits."""
    seen = []
    for seed in (1, 2):
        phase = stage2(folder)
        move_encoder(phase)
        torch.manual_seed(seed)
        model = phase.module
        for part in (model.in_projection, model.quantizer, model.out_projection, model.decoder):
            for tensor in part.state_dict().values():
                tensor.normal_()
        phase.module.zero_grad()
        term = phase.losses(0)["distillation"]
        term.backward()
        assert all(p.grad is None for part in (model.quantizer, model.in_projection) for p in part.parameters())
        seen.append((term.item(), {name: p.grad for name, p in model.encoder.named_parameters()}))
    assert seen[0][0] == seen[1][0] > 0
    assert same(seen[0][1], seen[1][1])


def test_bf16_keeps_quantizer_and_losses_in_float32(folder: Path) -> None:
    terms = stage2(folder, precision="bf16").losses(0)
    assert {name: term.dtype for name, term in terms.items()} == dict.fromkeys(terms, torch.float32)
    exact = stage2(folder).losses(0)
    torch.testing.assert_close(terms["pixel"], exact["pixel"], rtol=0.05, atol=0)


# --- batches ---


def test_batches_are_a_function_of_seed_and_step(folder: Path) -> None:
    config = phase_config(batch_size=8)
    images = training_images(folder, config)
    first = images.pixels(5)
    assert (first.shape, first.dtype) == ((8, 3, SIZE, SIZE), torch.float32)
    assert first.min() >= -1
    assert first.max() <= 1
    images.pixels(9)
    assert torch.equal(images.pixels(5), first)
    assert not torch.equal(images.pixels(6), first)
    assert not torch.equal(training_images(folder, config, seed=1).pixels(5), first)


@pytest.mark.parametrize(("fraction", "scenes"), [(0.0, 0), (0.25, 2), (1.0, 8)])
def test_the_share_of_scenes(folder: Path, fraction: float, scenes: int) -> None:
    images = training_images(folder, phase_config(batch_size=8, scene_fraction=fraction))
    assert (images.crop_count, images.scene_count) == (8 - scenes, scenes)
    assert len(images.pixels(0)) == 8


# --- pre-training ---


def test_pretraining_reaches_every_parameter(folder: Path) -> None:
    phase = pretraining(folder)
    terms = backward(phase)
    assert list(terms) == ["attributes", "dense", "pixel"]
    assert all(p.grad is not None for p in phase.module.parameters())
    grouped = {id(p) for group in phase.parameter_groups() for p in group["params"]}
    assert grouped == {id(p) for p in phase.module.parameters()}


def test_pretraining_writes_a_hugging_face_encoder(folder: Path, tmp_path: Path) -> None:
    phase = pretraining(folder)
    phase.finish(tmp_path / "encoder")
    encoder = Encoder.from_pretrained(str(tmp_path / "encoder"))
    assert same(snapshot(encoder), snapshot(phase.module.encoder))
    assert encoder.config.image_mean == phase.module.encoder.config.image_mean


# --- the loop ---


@pytest.mark.parametrize("make", [stage1, stage2, pretraining])
def test_the_loss_falls(make: Callable[..., Phase], folder: Path, tmp_path: Path) -> None:
    phase = make(folder, steps=25, learning_rate=3e-3, encoder_learning_rate=1e-3, scene_fraction=0.0, color_jitter=0.0)
    before = sum(term.item() for term in phase.losses(0).values())
    train(phase, tmp_path, "test")
    after = sum(term.item() for term in phase.losses(0).values())
    assert after < 0.9 * before


def test_learning_rate_schedule() -> None:
    config = phase_config(steps=100, warmup=10, end_factor=0.2)
    factors = [learning_rate_factor(step, config) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx((1 + 0.2) / 2), "half way down the cosine"
    assert factors[100] == pytest.approx(0.2)
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))


@pytest.mark.parametrize(("steps", "warmup"), [(3, 0), (3, 3), (3, 2000), (1, 0)])
def test_short_schedules_stay_in_range(steps: int, warmup: int) -> None:
    config = phase_config(steps=steps, warmup=warmup)
    assert all(0 < learning_rate_factor(step, config) <= 1 for step in range(steps))


def test_the_optimizer_follows_the_schedule(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    step = torch.optim.AdamW.step

    def recorded(optimizer: torch.optim.AdamW) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    phase = stage2(folder, learning_rate=1e-3, encoder_learning_rate=1e-4)
    train(phase, tmp_path, "test")
    factors = [learning_rate_factor(number, phase.config) for number in range(STEPS)]
    np.testing.assert_allclose(rates, np.outer(factors, [1e-4, 1e-3]))


def test_the_gradient_is_clipped(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    step = torch.optim.AdamW.step

    def recorded(optimizer: torch.optim.AdamW) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(torch.stack([gradient.norm() for gradient in gradients]).norm().item())
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    train(stage2(folder, steps=2, clip_norm=0.01), tmp_path, "test")
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)


def test_the_log_is_json_lines(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    train(stage2(folder), tmp_path, "test")
    lines = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert list(lines[0]) == ["step", "seconds", "pixel", "quantizer", "distillation", "gradient_norm"]


class StopError(Exception):
    """Stands in for whatever ends a run: it is raised where the next step would begin."""


def run_until(phase: Phase, folder: Path, stop: int) -> None:
    losses = phase.losses

    def stopping(step: int) -> dict[str, Tensor]:
        if step == stop:
            raise StopError
        return losses(step)

    phase.losses = stopping
    with pytest.raises(StopError):
        train(phase, folder, "stopped")


@pytest.mark.parametrize("make", [stage1, stage2, pretraining])
@given(stop=st.integers(0, STEPS - 1), save_every=st.integers(1, STEPS))
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_resumed_run_is_bit_identical(
    make: Callable[..., Phase], folder: Path, tmp_path: Path, stop: int, save_every: int
) -> None:
    shutil.rmtree(tmp_path)
    whole = make(folder, save_every=save_every)
    train(whole, tmp_path / "whole", "whole")
    run_until(make(folder, save_every=save_every), tmp_path / "stopped", stop)
    torch.manual_seed(stop)  # whatever the process did in between
    resumed = make(folder, save_every=save_every)
    train(resumed, tmp_path / "stopped", "resumed")
    assert same(snapshot(resumed.module), snapshot(whole.module))
    states = [load_file(tmp_path / name / STATE_FILE) for name in ("whole", "stopped")]
    assert same(*states), "and so are both moments of every parameter"


def test_a_finished_phase_is_not_trained_on(folder: Path, tmp_path: Path) -> None:
    train(stage1(folder), tmp_path, "test")
    before = (tmp_path / STATE_FILE).read_bytes()
    again = stage1(folder)
    train(again, tmp_path, "test")
    assert (tmp_path / STATE_FILE).read_bytes() == before
    assert same(
        snapshot(again.module),
        {
            name.removeprefix("module/"): tensor
            for name, tensor in load_file(tmp_path / STATE_FILE).items()
            if name.startswith("module/")
        },
    )


def test_resuming_with_another_configuration_names_the_field(folder: Path, tmp_path: Path) -> None:
    train(stage1(folder), tmp_path, "test")
    with pytest.raises(CheckpointError) as caught:
        train(stage1(folder, batch_size=8), tmp_path, "test")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / STATE_FILE} field batch_size: got batch_size 8; expected 4 as when the run")
    assert "another output folder" in text


def test_several_differing_fields_are_all_named(folder: Path, tmp_path: Path) -> None:
    train(stage1(folder), tmp_path, "test")
    with pytest.raises(CheckpointError, match="field learning_rate, betas: got learning_rate"):
        train(stage1(folder, learning_rate=1e-4, betas=(0.9, 0.95)), tmp_path, "test")


@pytest.mark.parametrize("length", [0, 100, -5])
def test_an_unreadable_state(folder: Path, tmp_path: Path, length: int) -> None:
    train(stage1(folder, steps=2), tmp_path, "test")
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=rf"{STATE_FILE}: got .*; expected a whole saved state") as caught:
        train(stage1(folder, steps=2), tmp_path, "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(folder: Path, tmp_path: Path, value: float) -> None:
    phase = stage2(folder, save_every=2)
    losses = phase.losses

    def broken(step: int) -> dict[str, Tensor]:
        terms = losses(step)
        return terms | ({"quantizer": terms["quantizer"] * value} if step == 3 else {})

    phase.losses = broken
    with pytest.raises(VqraeError, match=rf"^step 3: got quantizer loss {value}; expected finite numbers; .*kept$"):
        train(phase, tmp_path, "test")
    state = load_file(tmp_path / STATE_FILE)
    assert all(tensor.isfinite().all() for tensor in state.values())
    resumed = stage2(folder, save_every=2)
    train(resumed, tmp_path, "test")
    whole = stage2(folder, save_every=2)
    train(whole, tmp_path / "whole", "test")
    assert same(snapshot(resumed.module), snapshot(whole.module)), "it had stopped at step 2, unharmed"


def test_a_gradient_that_is_not_finite_stops_the_run(folder: Path, tmp_path: Path) -> None:
    """A finite loss may have a gradient that is not: it must not reach a weight, nor the saved state."""
    phase = stage2(folder, save_every=1)
    losses = phase.losses

    def broken(step: int) -> dict[str, Tensor]:
        terms = losses(step)
        root = (phase.module.in_projection.weight.sum() * 0).sqrt()  # 0, with an infinite slope
        return terms | ({"quantizer": terms["quantizer"] + root} if step == 2 else {})

    phase.losses = broken
    with pytest.raises(VqraeError, match=r"^step 2: got gradient norm nan; expected finite numbers"):
        train(phase, tmp_path, "test")
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / STATE_FILE).values())


# --- a whole run ---


def tiny_recipe(**model: Any) -> Recipe:
    phase = phase_config(steps=3, batch_size=2, warmup=1)
    config = VQRAEConfig.model_validate({**tiny_config(init="features", codebook_size=16).model_dump(), **model})
    return Recipe(model=config, pretrain=phase, stage1=phase, stage2=phase)


def test_a_run_goes_through_all_phases(folder: Path, tmp_path: Path) -> None:
    run = TrainingRun(tiny_recipe(), folder, tmp_path / "run")
    assert run.phases() == ["pretrain", "stage1", "stage2"]
    results = [run.run(phase) for phase in run.phases()]
    assert results == [tmp_path / "run" / name for name in ("encoder", "stage1", "stage2")]
    encoder = Encoder.from_pretrained(str(results[0]))
    first, second = (from_pretrained(result) for result in results[1:])
    assert same(snapshot(first.encoder), snapshot(encoder)), "stage 1 leaves the encoder as it was"
    assert not same(snapshot(second.encoder), snapshot(encoder))
    assert torch.equal(first.quantizer.codebook, second.quantizer.codebook)
    assert first.config.encoder == encoder.config
    logs = sorted(path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run" / "state").rglob("*.*"))
    assert logs == [f"state/{name}/{LOG_FILE}" for name in ("pretrain", "stage1", "stage2")]


def test_a_run_is_reproducible_and_resumable(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run straight through; another stopped inside every phase, each time with a fresh process's state."""
    whole = TrainingRun(tiny_recipe(), folder, tmp_path / "whole")
    for phase in whole.phases():
        whole.run(phase)
    stopped = tiny_recipe()
    losses = {kind: kind.losses for kind in (Pretraining, Stage1, Stage2)}
    for phase in whole.phases():
        for kind, original in losses.items():
            monkeypatch.setattr(kind, "losses", stop_at(2, original))
        with pytest.raises(KeyboardInterrupt):
            TrainingRun(stopped, folder, tmp_path / "stopped").run(phase)
        for kind, original in losses.items():
            monkeypatch.setattr(kind, "losses", original)
        torch.manual_seed(99)
        TrainingRun(stopped, folder, tmp_path / "stopped").run(phase)
    for name in ("encoder", "stage1", "stage2"):
        weights = [load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "stopped")]
        assert same(*weights), name


def stop_at(stop: int, losses: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    def stopping(phase: Phase, step: int) -> dict[str, Tensor]:
        if step == stop:
            raise KeyboardInterrupt
        return losses(phase, step)

    return stopping


def test_a_phase_that_is_done_is_not_run_again(folder: Path, tmp_path: Path) -> None:
    run = TrainingRun(tiny_recipe(), folder, tmp_path / "run")
    weights = run.run("pretrain") / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert run.run("pretrain") == tmp_path / "run" / "encoder"
    assert weights.stat().st_mtime_ns == before


def test_a_given_encoder_takes_the_place_of_pretraining(folder: Path, tmp_path: Path) -> None:
    encoder = tiny_model().encoder
    encoder.network.save_pretrained(tmp_path / "given")
    run = TrainingRun(tiny_recipe(), folder, tmp_path / "run", encoder=str(tmp_path / "given"))
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
    run = TrainingRun(tiny_recipe(**change), folder, tmp_path / "run", encoder=str(tmp_path / "given"))
    with pytest.raises(UsageError, match=f"^encoder {message}, as the decoder of"):
        run.run("stage1")


def test_stage2_without_stage1(folder: Path, tmp_path: Path) -> None:
    run = TrainingRun(tiny_recipe(), folder, tmp_path / "run")
    with pytest.raises(UsageError, match=r"stage1: got no stage-1 checkpoint; expected one; run stage 1 first"):
        run.run("stage2")


def test_stage1_without_an_encoder(folder: Path, tmp_path: Path) -> None:
    run = TrainingRun(tiny_recipe(), folder, tmp_path / "run")
    with pytest.raises(UsageError, match=r"encoder: got no pretrained encoder; .*`--encoder`"):
        run.run("stage1")


def test_pretraining_where_the_recipe_has_none(folder: Path, tmp_path: Path) -> None:
    run = TrainingRun(recipe("siglip2-so400m-256"), folder, tmp_path / "run")
    assert run.phases() == ["stage1", "stage2"]
    with pytest.raises(UsageError, match=r"^pretrain: got a recipe without it; expected `--encoder`"):
        run.run("pretrain")


def test_a_run_needs_photographs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        TrainingRun(tiny_recipe(), tmp_path / "nowhere", tmp_path / "run")


# --- the recipes ---


# Preset -> batch, steps and rates of stage 1, of stage 2: the paper's table.
PAPER = {
    "siglip2-so400m-256": (1024, 100_000, 70_000),
    "siglip2-so400m-512": (1024, 100_000, 70_000),
    "internvit-300m-448": (768, 45_000, 60_000),
}


@pytest.mark.parametrize("name", sorted(PAPER))
def test_the_papers_recipes(name: str) -> None:
    found = recipe(name)
    batch, *steps = PAPER[name]
    assert found.pretrain is None
    for phase, count, peak, end in ((found.stage1, steps[0], 4e-4, 1e-4), (found.stage2, steps[1], 1e-4, 1e-5)):
        assert (phase.batch_size, phase.steps, phase.learning_rate) == (batch, count, peak)
        assert phase.learning_rate * phase.end_factor == pytest.approx(end)
        assert (phase.betas, phase.weight_decay, phase.warmup) == ((0.9, 0.999), 1e-4, 2000)
        assert (phase.clip_norm, phase.precision) == (1.0, "bf16")
    assert (found.stage1.encoder_learning_rate, found.stage2.encoder_learning_rate) == (0, 1e-5)
    assert found.stage2.weights.distillation == 1


def test_an_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"got 'tiney'; .*did you mean tiny\?"):
        recipe("tiney")


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"seed": 1}, "seed"), ({"recipe": tiny_recipe(name="other")}, "model"), ({"encoder": "elsewhere"}, "encoder")],
)
def test_a_run_folder_belongs_to_one_run(folder: Path, tmp_path: Path, changed: dict[str, Any], named: str) -> None:
    arguments: dict[str, Any] = {"recipe": tiny_recipe(), "data": folder, "folder": tmp_path / "run"}
    TrainingRun(**arguments).run("pretrain")
    with pytest.raises(UsageError, match=f"got another {named}; expected those of run.json"):
        TrainingRun(**{**arguments, **changed}).run("pretrain")


def test_stage2_refits_the_codebook_where_asked_for(folder: Path) -> None:
    for asked in (False, True):
        phase = stage2(folder, refit_codebook=asked)
        before = phase.module.quantizer.codes().detach().clone()
        phase.refit_codebook(0)
        assert torch.equal(phase.module.quantizer.codes().detach(), before) != asked
