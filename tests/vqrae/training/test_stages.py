from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from phases import (
    STEPS,
    backward,
    losses,
    phase_config,
    same,
    snapshot,
    stage1,
    stage2,
)
from torch.nn import functional as F

from vqrae.runtimes.errors import RuntimeUnavailable
from vqrae.training.config import Stage1Weights, Stage2Config, Stage2Weights
from vqrae.training.loop import train
from vqrae.training.losses.terms import distillation_loss, pixel_loss
from vqrae.training.phase import transformer_blocks
from vqrae.training.processes import Processes
from vqrae.training.stages import Stage2, place_codes


def test_losses_are_mean_squares_in_float32() -> None:
    a, b = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    for loss in (pixel_loss, distillation_loss):
        torch.testing.assert_close(loss(a, b), (a - b).square().mean())
        assert loss(a.bfloat16(), b).dtype == torch.float32


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
    plain = losses(stage1(folder))
    weighted = losses(stage1(folder, weights=Stage1Weights(pixel=3, quantizer=0.5)))
    assert list(plain) == ["pixel", "quantizer"]
    torch.testing.assert_close(weighted["pixel"], 3 * plain["pixel"])
    torch.testing.assert_close(weighted["quantizer"], 0.5 * plain["quantizer"])


def test_codes_move_to_the_features(folder: Path) -> None:
    phase = stage1(folder)
    before = losses(phase)["quantizer"].item()
    place_codes(phase.module, phase.images, STEPS, Processes(), seed=0)
    assert losses(phase)["quantizer"].item() < before / 2
    assert torch.equal(phase.module.quantizer.transform.weight, torch.eye(48))
    assert len(phase.module.quantizer.codebook.unique(dim=0)) == 64
    assert not phase.module.quantizer.codebook.requires_grad
    backward(phase)  # the codebook is no inference tensor that autograd would refuse


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
    second = Stage2(first.module, phase_config(Stage2Config), first.images, Processes())
    backward(second)
    assert all(p.grad is not None for p in second.module.encoder.parameters())


def test_pixels_alone_reach_the_encoder(folder: Path) -> None:
    """Through the quantizer, straight through: no `no_grad` and no detach on the way."""
    phase = stage2(folder)
    losses(phase, 0)["pixel"].backward()
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
    assert losses(phase, 0)["distillation"] == 0, "at the start the encoder is its own teacher"
    train(phase, tmp_path, "stage 2")
    assert same(snapshot(phase.objective.teacher), initial)
    assert not any(p.requires_grad for p in phase.objective.teacher.parameters())
    assert not same(snapshot(phase.module.encoder), initial)
    assert losses(phase, 0)["distillation"] > 0


def move_encoder(phase: Stage2) -> None:
    with torch.no_grad():
        for parameter in phase.module.encoder.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))


def test_distillation_is_the_distance_of_the_continuous_features(folder: Path) -> None:
    phase = stage2(folder, weights=Stage2Weights(distillation=2))
    move_encoder(phase)
    pixels = phase.images.pixels(0)
    with torch.no_grad():
        expected = F.mse_loss(phase.module.encoder(pixels), phase.objective.teacher(pixels))
    assert expected > 0
    torch.testing.assert_close(losses(phase, 0)["distillation"], 2 * expected)


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
        term = losses(phase, 0)["distillation"]
        term.backward()
        assert all(p.grad is None for part in (model.quantizer, model.in_projection) for p in part.parameters())
        seen.append((term.item(), {name: p.grad for name, p in model.encoder.named_parameters()}))
    assert seen[0][0] == seen[1][0] > 0
    assert same(seen[0][1], seen[1][1])


def test_bf16_keeps_quantizer_and_losses_in_float32(folder: Path) -> None:
    terms = losses(stage2(folder, precision="bf16"))
    assert {name: term.dtype for name, term in terms.items()} == dict.fromkeys(terms, torch.float32)
    exact = losses(stage2(folder))
    torch.testing.assert_close(terms["pixel"], exact["pixel"], rtol=0.05, atol=0)


# --- what both stages may have beside ---


def test_a_perceptual_term_is_weighted_and_reaches_the_decoder(folder: Path) -> None:
    plain = losses(stage1(folder, perceptual="teacher", weights=Stage1Weights(perceptual=1)))
    phase = stage1(folder, perceptual="teacher", weights=Stage1Weights(perceptual=2))
    weighted = losses(phase)
    torch.testing.assert_close(weighted["perceptual"], 2 * plain["perceptual"])
    weighted["perceptual"].backward()
    assert phase.module.decoder.head.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in phase.module.encoder.parameters()), "the teacher is a ruler: it does not learn"


def test_in_stage2_the_ruler_is_the_frozen_teacher(folder: Path) -> None:
    phase = stage2(folder, perceptual="teacher")
    losses(phase)["perceptual"].backward()
    assert all(p.grad is None for p in phase.objective.teacher.parameters())
    assert all(p.grad is not None for p in phase.module.encoder.parameters()), "through the pixels that it encoded"


def test_lpips_says_what_it_needs(folder: Path) -> None:
    if importlib.util.find_spec("lpips") is not None:
        pytest.skip("lpips is installed")
    with pytest.raises(RuntimeUnavailable, match="lpips"):
        stage1(folder, perceptual="lpips-convnext")


@pytest.mark.parametrize("network", ["siglip", "dinov2", "internvit"])
def test_blocks_are_all_transformer_blocks(folder: Path, network: str) -> None:
    assert len(transformer_blocks(stage1(folder, network).objective)) == 2 + 2
    assert len(transformer_blocks(stage2(folder, network).objective)) == 2 + 2 + 2, "the teacher's too"
