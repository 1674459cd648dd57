"""The count on faked tensors against the same step on real ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from phases import backward
from tiny_models import NETWORKS, random_images, tiny_config
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from vqrae.model import VQRAE
from vqrae.model.encoder import Encoder
from vqrae.model.layers import pixels_from_uint8
from vqrae.training.config import Stage1Config, Stage2Config
from vqrae.training.cost import flops_of
from vqrae.training.phase import transformer_blocks
from vqrae.training.processes import Processes
from vqrae.training.stages import Stage1, Stage2
from vqrae.training.step_count import (
    Precision,
    SavedTensors,
    StageName,
    count_faked_step,
    count_step,
    flop_counter,
)

STAGES: tuple[StageName, ...] = ("stage1", "stage2")
BATCH = 3


class Images:
    """The one batch of a real step."""

    def pixels(self, step: int, rows: range | None = None) -> Tensor:
        return pixels_from_uint8(random_images(BATCH))


def real_model(network: str, stage: StageName) -> tuple[VQRAE, Encoder | None]:
    config = tiny_config(network)
    model = VQRAE(config)
    if stage == "stage1":
        model.encoder.requires_grad_(False)
        return model, None
    return model, Encoder(config.encoder).requires_grad_(False)


@pytest.mark.parametrize(
    ("network", "stage", "precision"),
    [
        *((network, "stage2", "bf16") for network in NETWORKS),
        ("siglip", "stage1", "bf16"),
        ("siglip", "stage2", "fp32"),
    ],
)
def test_a_faked_step_counts_what_a_real_one_does(network: str, stage: StageName, precision: Precision) -> None:
    model, teacher = real_model(network, stage)
    real = count_step(model, teacher, Images().pixels(0), precision)
    assert count_faked_step(tiny_config(network), stage, precision, BATCH) == real
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("stage", STAGES)
def test_the_step_that_is_counted_is_the_one_that_is_trained(stage: StageName) -> None:
    model, _ = real_model("siglip", stage)
    values: dict[str, Any] = {"steps": 1, "batch_size": BATCH, "learning_rate": 1e-3, "end_factor": 1}
    arguments: Any = (Images(), Processes())
    phase = (
        Stage1(model, Stage1Config(**values), *arguments)
        if stage == "stage1"
        else Stage2(model, Stage2Config(**values), *arguments)
    )
    with flop_counter() as counter:
        backward(phase)
    counted = count_faked_step(tiny_config(), stage, phase.config.precision, BATCH)
    assert counter.get_total_flops() == counted.forward + counted.teacher + counted.backward


def test_flops_by_hand() -> None:
    """Every product of the tokenizer, at two FLOPs for each multiplication: 4×4 tokens, 64 codes."""
    tokens, width, mlp, code, codes = 16, 32, 64, 48, 64
    patches = tokens * width * 3 * 8 * 8
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * mlp
    projections = 2 * tokens * width * code
    quantizer = codes * code**2 + tokens * codes * code
    head = tokens * width * 3 * 8 * 8
    counted = count_faked_step(tiny_config(), "stage1", "fp32", 1)
    assert counted.forward == 2 * (patches + 4 * block + projections + quantizer + head)


def test_a_frozen_encoder_costs_a_forward_pass_alone() -> None:
    first, second = (count_faked_step(tiny_config(), stage, "bf16", BATCH) for stage in STAGES)
    assert first.forward == second.forward
    assert first.teacher == 0
    assert first.recompute < second.recompute, "of the decoder alone"
    assert second.backward > first.backward
    assert second.saved > first.saved


@pytest.mark.parametrize(("network", "stage"), [("siglip", "stage1"), ("dinov2", "stage2"), ("internvit", "stage2")])
def test_a_step_of_few_images_tells_the_cost_of_more(network: str, stage: StageName) -> None:
    config = tiny_config(network)
    few, many = (count_faked_step(config, stage, "bf16", images) for images in (2, 7))
    flops = flops_of(few, 2, config)
    assert flops_of(many, 7, config) == flops
    assert 7 * (flops.forward + flops.search) + flops.codes_map_per_pass // 2 == many.forward
    assert flops.search == 2 * 16 * 64 * 48
    assert flops.codes_map_per_pass == 2 * 2 * 64 * 48**2


@pytest.mark.parametrize("stage", STAGES)
def test_checkpointing_keeps_what_is_said(stage: StageName) -> None:
    """PyTorch's own, around every block of a real model that is trained."""
    plain = count_step(*real_model("siglip", stage), Images().pixels(0), "bf16")
    model, teacher = real_model("siglip", stage)
    for block in transformer_blocks(model if stage == "stage2" else model.decoder):
        recomputed: Callable[..., Any] = partial(checkpoint, block.forward, use_reentrant=False)
        block.forward = recomputed  # type: ignore[method-assign]
    lean = count_step(model, teacher, Images().pixels(0), "bf16")
    assert lean.saved == plain.checkpointed - plain.largest_block
    assert lean.saved < plain.saved
    extra = lean.backward - plain.backward
    assert 0.5 * plain.recompute < extra <= plain.recompute


def test_a_storage_counts_once_and_a_parameter_not_at_all() -> None:
    layer = torch.nn.Linear(4, 4)
    x = torch.zeros(2, 4, requires_grad=True)
    saved = SavedTensors([layer])
    with saved_tensors_hooks(saved.note, lambda tensor: tensor):
        y = layer(x) * x.view(4, 2).view(2, 4)
    assert saved.nbytes == x.nbytes + y.nbytes, "x three times, the layer's output once, its weight never"
