from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from phases import (
    STEPS,
    adversarial,
    losses,
    phase_config,
    pretraining,
    same,
    snapshot,
    stage1,
    stage2,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vqrae.runtimes.errors import CheckpointError, VqraeError
from vqrae.training import loop
from vqrae.training.config import Stage1Config
from vqrae.training.learner import learning_rate_factor
from vqrae.training.log import LOG_FILE
from vqrae.training.loop import train
from vqrae.training.phase import Outcome, Phase
from vqrae.training.state import STATE_FILE


@pytest.mark.parametrize("make", [stage1, stage2, pretraining, adversarial])
def test_the_loss_falls(make: Callable[..., Phase], folder: Path, tmp_path: Path) -> None:
    images = {} if make is pretraining else {"scene_fraction": 0.0, "color_jitter": 0.0}
    phase = make(folder, steps=25, learning_rate=3e-3, **images)
    before = sum(term.item() for term in losses(phase, 0).values())
    train(phase, tmp_path, "test")
    after = sum(term.item() for term in losses(phase, 0).values())
    assert after < 0.9 * before


def test_learning_rate_schedule() -> None:
    config = phase_config(Stage1Config, steps=100, warmup=10, end_factor=0.2)
    factors = [learning_rate_factor(step, config, config.end_factor) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx((1 + 0.2) / 2), "half way down the cosine"
    assert factors[100] == pytest.approx(0.2)
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))


@pytest.mark.parametrize(("steps", "warmup"), [(3, 0), (3, 3), (3, 2000), (1, 0)])
def test_short_schedules_stay_in_range(steps: int, warmup: int) -> None:
    config = phase_config(Stage1Config, steps=steps, warmup=warmup)
    assert all(0 < learning_rate_factor(step, config, config.end_factor) <= 1 for step in range(steps))


def test_the_optimizer_follows_the_schedule(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    step = torch.optim.AdamW.step

    def recorded(optimizer: torch.optim.AdamW) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])
        step(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    phase = stage2(folder, learning_rate=1e-3, encoder_learning_rate=1e-4)
    train(phase, tmp_path, "test")
    factors = [learning_rate_factor(number, phase.config, phase.config.end_factor) for number in range(STEPS)]
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
    batch = phase.batch

    def stopping(step: int, rows: range) -> tuple[Tensor, ...]:
        if step == stop:
            raise StopError
        return batch(step, rows)

    phase.batch = stopping  # type: ignore[method-assign]
    with pytest.raises(StopError):
        train(phase, folder, "stopped")


@pytest.mark.parametrize("make", [stage1, stage2, pretraining, adversarial])
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


def test_a_state_of_another_number_of_processes(folder: Path, tmp_path: Path) -> None:
    train(stage1(folder, steps=2), tmp_path, "test")
    path = tmp_path / STATE_FILE
    with safe_open(path, framework="pt") as saved:
        metadata = saved.metadata()
    save_file(load_file(path), path, {**metadata, "data": "[{}, {}]"})
    with pytest.raises(
        CheckpointError, match=rf"{STATE_FILE} processes: got 1; expected 2 as when the state was saved"
    ):
        train(stage1(folder, steps=2), tmp_path, "test")


@pytest.mark.parametrize("length", [0, 100, -5])
def test_an_unreadable_state(folder: Path, tmp_path: Path, length: int) -> None:
    train(stage1(folder, steps=2), tmp_path, "test")
    path = tmp_path / STATE_FILE
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=rf"{STATE_FILE}: got .*; expected a whole saved state") as caught:
        train(stage1(folder, steps=2), tmp_path, "test")
    assert "\n" not in str(caught.value)


def break_quantizer(phase: Phase, at: int, broken: Callable[[dict[str, Tensor]], Tensor]) -> None:
    """Replace the quantizer's term at one step."""
    steps = count()

    def hook(module: nn.Module, inputs: Any, outcome: Outcome) -> Outcome:
        if next(steps) != at:
            return outcome
        return outcome._replace(terms={**outcome.terms, "quantizer": broken(outcome.terms)})

    phase.objective.register_forward_hook(hook)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(folder: Path, tmp_path: Path, value: float) -> None:
    phase = stage2(folder, save_every=2)

    def broken(terms: dict[str, Tensor]) -> Tensor:
        return terms["quantizer"] * value

    break_quantizer(phase, at=3, broken=broken)
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

    def broken(terms: dict[str, Tensor]) -> Tensor:
        root = (phase.module.in_projection.weight.sum() * 0).sqrt()  # 0, with an infinite slope
        return terms["quantizer"] + root

    break_quantizer(phase, at=2, broken=broken)
    with pytest.raises(VqraeError, match=r"^step 2: got gradient norm nan; expected finite numbers"):
        train(phase, tmp_path, "test")
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / STATE_FILE).values())
