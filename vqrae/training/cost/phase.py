"""What one stage of a recipe takes on a number of devices."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from vqrae.config import StrictConfig, VQRAEConfig
from vqrae.runtimes.errors import UsageError
from vqrae.training.config import AUTOCAST, PhaseConfig
from vqrae.training.cost.memory import DeviceMemory, Strategy, device_memory
from vqrae.training.cost.parameters import ParameterCounts
from vqrae.training.cost.step import Precision, StageName
from vqrae.training.cost.step_cost import StepCost, step_cost

STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp2")


@dataclass(frozen=True, kw_only=True)
class PhaseInputs:
    """All that the cost of a phase depends on, beside the model."""

    stage: StageName
    steps: int
    batch_size: int
    """Images of one optimizer step, over all devices."""
    precision: Precision
    accumulation: int = 1
    """Passes that one optimizer step is made of."""
    ema: bool = False
    """Whether an average of the trained parameters is kept."""

    @classmethod
    def of(cls, stage: StageName, phase: PhaseConfig) -> PhaseInputs:
        """From a recipe."""
        return cls(
            stage=stage,
            steps=phase.steps,
            batch_size=phase.batch_size,
            precision=phase.precision,
            accumulation=phase.accumulation,
            ema=phase.ema_decay > 0,
        )


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run is planned for."""

    devices: int
    tflops: float
    """Achieved by one device on the networks, in 10¹² FLOPs a second."""
    fp32_tflops: float
    """Achieved by one device on float32 products without TF32: the search and the map of the codes."""


class Flops(StrictConfig):
    """Floating-point operations, for an image unless it says otherwise."""

    forward: int
    """Of the tokenizer, without the search."""
    teacher: int
    """Stage 2's frozen encoder, forward."""
    backward: int
    recompute: int
    """What activation checkpointing adds, at most."""
    search: int
    """Tokens × codes products, in float32."""
    codes_map_per_pass: int
    """Mapping all codes, forward and backward, in float32: once for each pass of each device, whatever the images."""


class PhasePlan(StrictConfig):
    """One stage."""

    stage: StageName
    steps: int
    batch_size: int
    accumulation: int
    images_per_pass: int
    """On one device."""
    precision: Precision
    ema: bool
    flops: Flops
    memory: tuple[DeviceMemory, ...]
    """DDP and FSDP2, each without activation checkpointing and with it."""
    step_seconds: float
    """Arithmetic alone: no communication, no reading of images, no optimizer."""
    step_seconds_checkpointed: float
    """The same with activation checkpointing."""
    hours: float
    """All steps, without activation checkpointing."""
    hours_checkpointed: float
    images_per_second: float
    """Over all devices, without activation checkpointing."""


def plan_phase(config: VQRAEConfig, inputs: PhaseInputs, parameters: ParameterCounts, machine: Machine) -> PhasePlan:
    """Count one stage.

    Raises:
        UsageError: the batch does not divide among the devices and the passes.
    """
    shares = machine.devices * inputs.accumulation
    if inputs.batch_size % shares:
        raise UsageError(
            "devices",
            got=f"{machine.devices} with {inputs.accumulation} passes a step",
            expected=f"a divisor of {inputs.stage}'s batch of {inputs.batch_size} images",
        )
    images = inputs.batch_size // shares
    cost = step_cost(config, inputs.stage, inputs.precision)
    seconds = inputs.accumulation * _pass_seconds(cost, images, inputs.precision, machine)
    seconds_checkpointed = seconds + inputs.accumulation * cost.recompute.at(images) / _rate(inputs.precision, machine)
    return PhasePlan(
        stage=inputs.stage,
        steps=inputs.steps,
        batch_size=inputs.batch_size,
        accumulation=inputs.accumulation,
        images_per_pass=images,
        precision=inputs.precision,
        ema=inputs.ema,
        flops=_flops(cost),
        memory=_memory(cost, images, inputs, parameters, machine),
        step_seconds=seconds,
        step_seconds_checkpointed=seconds_checkpointed,
        hours=seconds * inputs.steps / 3600,
        hours_checkpointed=seconds_checkpointed * inputs.steps / 3600,
        images_per_second=inputs.batch_size / seconds,
    )


def _flops(cost: StepCost) -> Flops:
    return Flops(
        forward=cost.forward.per_image,
        teacher=cost.teacher.per_image,
        backward=cost.backward.per_image,
        recompute=cost.recompute.per_image,
        search=cost.search,
        codes_map_per_pass=cost.forward.per_step + cost.backward.per_step,
    )


def _memory(
    cost: StepCost, images: int, inputs: PhaseInputs, parameters: ParameterCounts, machine: Machine
) -> tuple[DeviceMemory, ...]:
    return tuple(
        device_memory(
            parameters,
            inputs.stage,
            strategy,
            devices=machine.devices,
            ema=inputs.ema,
            activations=(cost.checkpointed if checkpointing else cost.saved).at(images),
            activation_checkpointing=checkpointing,
        )
        for strategy, checkpointing in product(STRATEGIES, (False, True))
    )


def _rate(precision: Precision, machine: Machine) -> float:
    """FLOPs a second of the networks."""
    return 1e12 * (machine.tflops if AUTOCAST[precision] else machine.fp32_tflops)


def _pass_seconds(cost: StepCost, images: int, precision: Precision, machine: Machine) -> float:
    """One forward and backward pass of one device."""
    networks = images * (cost.forward.per_image + cost.teacher.per_image + cost.backward.per_image)
    in_float32 = images * cost.search + cost.forward.per_step + cost.backward.per_step
    return networks / _rate(precision, machine) + in_float32 / (1e12 * machine.fp32_tflops)
