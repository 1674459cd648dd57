from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny_models import tiny_config

from vqrae.cli.dry_run import dry_run, render
from vqrae.model import VQRAE
from vqrae.runtimes.errors import UsageError
from vqrae.training.config import Recipe, Stage1Config, Stage2Config, recipe
from vqrae.training.cost import (
    UNSHARDED_BLOCKS,
    DeviceMemory,
    DryRun,
    ParameterCounts,
    count_parameters,
    device_memory,
    flops_of,
    plan,
)
from vqrae.training.phase import trainable
from vqrae.training.step_count import StageName, count_faked_step

PAPER = {  # parameters: encoder and decoder in 10⁶ as the model cards have the encoders; batch, steps of the stages
    "siglip2-so400m-256": (413, 1024, (100_000, 70_000)),
    "siglip2-so400m-512": (413, 1024, (100_000, 70_000)),
    "internvit-300m-448": (304, 768, (45_000, 60_000)),
}


def small_recipe(**values: Any) -> Recipe:
    values = {"steps": 10, "batch_size": 8, "learning_rate": 1e-3, "end_factor": 1, **values}
    return Recipe(model=tiny_config(), stage1=Stage1Config(**values), stage2=Stage2Config(**values))


def held(parameters: ParameterCounts, stage: StageName, strategy: Any, *, devices: int) -> DeviceMemory:
    """With an average, and activations that are known."""
    return device_memory(parameters, stage, strategy, True, activations=12345, devices=devices, ema=True)


@pytest.fixture(scope="module")
def planned() -> DryRun:
    return plan(small_recipe(), 2, 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PAPER)
def test_the_six_columns_of_the_paper_are_planned_at_full_size(preset: str) -> None:
    millions, batch, steps = PAPER[preset]
    planned = plan(recipe(preset), 8, 400)
    assert planned.parameters.encoder == pytest.approx(millions * 1e6, rel=0.01)
    assert planned.parameters.decoder == pytest.approx(millions * 1e6, rel=0.01)
    assert planned.parameters.codebook == 16384 * 1536
    assert planned.not_counted == (
        "the discriminator's arithmetic and activations",
        "the perceptual term's networks",
    )
    assert planned.parameters.discriminator > 0
    for phase, count in zip(planned.phases, steps, strict=True):
        assert (phase.steps, phase.batch_size, phase.images_per_pass) == (count, batch, batch // 8)
        tokens = 256 if preset.endswith("-256") else 1024
        assert phase.flops.search == 2 * tokens * 16384 * 1536
        assert phase.flops.codes_map_per_pass == 2 * 2 * 16384 * 1536**2
        # A token meets every weight of encoder and decoder once, at two FLOPs; attention comes on top.
        weights = 2 * tokens * planned.parameters.model
        assert 0.9 * weights < phase.flops.forward < 1.5 * weights
        assert 5 < phase.hours < phase.hours_checkpointed < 100


@pytest.mark.slow
def test_a_whole_deep_model_takes_what_its_plan_says() -> None:
    config = recipe("siglip2-so400m-256").model
    one, two, three = (count_faked_step(config, "stage2", "bf16", images) for images in (1, 2, 3))
    flops = flops_of(one, 1, config)
    each = flops.forward + flops.search + flops.teacher + flops.backward
    assert three.forward + three.teacher + three.backward == 3 * each + flops.codes_map_per_pass
    assert (three.saved, three.checkpointed) == (2 * two.saved - one.saved, 2 * two.checkpointed - one.checkpointed)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_gradients_and_moments_are_those_of_a_real_step(stage: StageName) -> None:
    model = VQRAE(tiny_config())
    if stage == "stage1":
        model.encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW(trainable(model))
    model(torch.zeros(1, 3, 32, 32)).pixels.sum().backward()
    for parameter in trainable(model):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    state = optimizer.state_dict()["state"].values()
    found = held(count_parameters(small_recipe()), stage, "ddp", devices=2)
    assert found.moments == sum(moments[name].nbytes for moments in state for name in ("exp_avg", "exp_avg_sq"))
    assert found.gradients == found.average == sum(parameter.grad.nbytes for parameter in trainable(model))
    assert found.parameters == sum(parameter.nbytes for parameter in model.parameters())
    assert found.codebook == model.quantizer.codebook.nbytes
    assert found.teacher == (sum(p.nbytes for p in model.encoder.parameters()) if stage == "stage2" else 0)


def test_fsdp2_holds_a_share_and_what_it_puts_together() -> None:
    counted = count_parameters(small_recipe())
    trained = counted.trained_stage2 + 1000
    parameters = counted.model_copy(update={"discriminator": 1000, "trained_stage2": trained})
    ddp, fsdp2 = (held(parameters, "stage2", strategy, devices=4) for strategy in ("ddp", "fsdp2"))
    for part in ("parameters", "gradients", "moments", "average", "teacher"):
        assert getattr(fsdp2, part) == -(-getattr(ddp, part) // 4)
    assert (ddp.unsharded, ddp.codebook, ddp.activations) == (0, fsdp2.codebook, fsdp2.activations)
    assert fsdp2.unsharded == 4 * (2 * parameters.outside_blocks + UNSHARDED_BLOCKS * parameters.largest_block)
    assert ddp.parameters == 4 * (parameters.model + 1000)
    names = ("parameters", "codebook", "gradients", "moments", "average", "teacher", "unsharded", "activations")
    assert fsdp2.total == sum(getattr(fsdp2, name) for name in names)


def test_time_is_arithmetic_over_rate(planned: DryRun) -> None:
    stage1 = planned.phases[0]
    networks = 4 * (stage1.flops.forward + stage1.flops.backward)
    in_float32 = 4 * stage1.flops.search + stage1.flops.codes_map_per_pass
    seconds = networks / (planned.tflops * 1e12) + in_float32 / (planned.fp32_tflops * 1e12)
    assert stage1.step_seconds == pytest.approx(seconds)
    assert stage1.hours == pytest.approx(10 * seconds / 3600)
    assert stage1.images_per_second == pytest.approx(8 / seconds)
    added = 4 * stage1.flops.recompute / (planned.tflops * 1e12)
    assert stage1.step_seconds_checkpointed == pytest.approx(seconds + added)


def test_accumulation_takes_memory_from_a_step_and_adds_maps_of_the_codes(planned: DryRun) -> None:
    found = plan(small_recipe(accumulation=4), 2, planned.tflops).phases[0]
    whole = planned.phases[0]
    assert found.images_per_pass == 1
    assert found.memory[0].activations < whole.memory[0].activations
    added = 3 * whole.flops.codes_map_per_pass / (planned.fp32_tflops * 1e12)
    assert found.step_seconds == pytest.approx(whole.step_seconds + added)


def test_the_recipe_is_read() -> None:
    found = plan(small_recipe(steps=3, batch_size=4, precision="fp32", ema_decay=0.5), 1, 1.0).phases[1]
    assert (found.stage, found.steps, found.batch_size, found.precision) == ("stage2", 3, 4, "fp32")
    assert found.ema
    assert found.memory[0].average == found.memory[0].gradients


@pytest.mark.parametrize(
    ("devices", "tflops", "message"),
    [
        (0, 1.0, "devices: got 0; expected at least 1"),
        (1, 0.0, "tflops: got 0.0; expected more than 0"),
        (3, 1.0, "devices: got 3 with 1 passes a step; expected a divisor of stage1's batch of 8 images"),
    ],
)
def test_impossible_machines(devices: int, tflops: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(small_recipe(), devices, tflops)


def test_a_plan_is_written_for_people(planned: DryRun) -> None:
    page = Console(width=120, record=True, file=io.StringIO())
    for part in render(planned.model_copy(update={"not_counted": ("one part",)})):
        page.print(part)
    text = page.export_text()
    assert "test-siglip on 2 devices" in text
    assert "stage2: 10 steps of 8 images, 4 on a device at a time, bf16" in text
    assert "FSDP2+AC" in text
    assert "Not counted: one part." in text


def test_a_plan_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    dry_run(recipe("tiny"), 2, 0.1, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert DryRun.model_validate(printed).devices == 2
    assert printed["phases"][0]["memory"][0]["total"] > 0
    assert printed["not_counted"] == ["the encoder's pre-training"]
