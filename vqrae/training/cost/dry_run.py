"""A training run planned and not run: what a recipe takes on a number of devices."""

from __future__ import annotations

import torch

from vqrae.config import StrictConfig
from vqrae.runtimes.errors import UsageError
from vqrae.training.config import Recipe
from vqrae.training.cost.parameters import ParameterCounts, count_parameters
from vqrae.training.cost.phase import Machine, PhaseInputs, PhasePlan, plan_phase
from vqrae.training.cost.weightless import meta_model
from vqrae.training.losses.discriminator import PatchDiscriminator

FP32_SHARE = 67 / 989
"""Float32 peak without tensor cores over dense bfloat16 peak of an NVIDIA H100 SXM, from its data sheet."""


class DryRun(StrictConfig):
    """The plan of a run."""

    model: str
    devices: int
    tflops: float
    """Assumed of one device on the networks, in 10¹² FLOPs a second."""
    fp32_tflops: float
    """Assumed of one device on float32 products: the search and the map of the codes."""
    parameters: ParameterCounts
    phases: tuple[PhasePlan, ...]
    """Stage 1 and stage 2."""
    not_counted: tuple[str, ...]
    """Parts of the recipe that the figures leave out."""


def plan(
    recipe: Recipe,
    devices: int,
    tflops: float,
    *,
    fp32_tflops: float | None = None,
) -> DryRun:
    """Plan both stages of a recipe, at full size and without memory for it.

    Args:
        recipe: what is to be trained.
        devices: how many share each batch.
        tflops: what one device achieves on the networks, in 10¹² FLOPs a second; no device achieves its peak.
        fp32_tflops: what it achieves on float32 products; if not given, `FP32_SHARE` of `tflops`.

    Raises:
        UsageError: no device, no rate, or a batch that does not divide among the devices.
    """
    if devices < 1:
        raise UsageError("devices", got=str(devices), expected="at least 1")
    rates = {"tflops": tflops, "fp32_tflops": FP32_SHARE * tflops if fp32_tflops is None else fp32_tflops}
    for name, rate in rates.items():
        if not rate > 0:
            raise UsageError(name, got=str(rate), expected="more than 0")
    parameters = count_parameters(meta_model(recipe.model), _discriminator_parameters(recipe))
    inputs = (PhaseInputs.of("stage1", recipe.stage1), PhaseInputs.of("stage2", recipe.stage2))
    machine = Machine(devices=devices, **rates)
    return DryRun(
        model=recipe.model.name,
        devices=devices,
        **rates,
        parameters=parameters,
        phases=tuple(plan_phase(recipe.model, phase, parameters, machine) for phase in inputs),
        not_counted=_not_counted(recipe),
    )


def _discriminator_parameters(recipe: Recipe) -> int:
    stage = recipe.stage2
    if stage.discriminator_start is None:
        return 0
    with torch.device("meta"):
        discriminator = PatchDiscriminator(stage.discriminator_channels)
    return sum(parameter.numel() for parameter in discriminator.parameters())


def _not_counted(recipe: Recipe) -> tuple[str, ...]:
    """Parts of a recipe that have a cost of their own."""
    left_out = [] if recipe.pretrain is None else ["the encoder's pre-training"]
    if recipe.stage2.discriminator_start is not None:
        left_out.append("the discriminator's arithmetic and activations")
    if any(phase.perceptual != "none" for phase in (recipe.stage1, recipe.stage2)):
        left_out.append("the perceptual term's networks")
    return tuple(left_out)
