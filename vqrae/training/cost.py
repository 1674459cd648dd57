"""What a training run will take, from its recipe alone: parameters, arithmetic, memory, time.

Covered: both stages of the tokenizer, at full size and without memory for it. Not covered: pre-training, and what
`DryRun.not_counted` names. Memory is what a device holds at the end of a forward pass, when it is fullest but for
temporaries of the backward pass; neither these count, nor the search's buffer, the allocator's fragments, the CUDA
context, NCCL's buffers, or DDP's buckets beyond the gradients (none with `gradient_as_bucket_view=True`).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Literal

import torch
from torch import nn

from vqrae.config import VQRAEConfig
from vqrae.model import VQRAE
from vqrae.model.quantizers import new_quantizer
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.json_text import Record
from vqrae.training.config import AUTOCAST, Recipe, StageConfig
from vqrae.training.losses.adversarial import PatchDiscriminator
from vqrae.training.phase import transformer_blocks
from vqrae.training.step_count import Precision, StageName, StepCounts, count_faked_step, flop_counter

Strategy = Literal["ddp", "fsdp2"]
FP32_SHARE = 67 / 989
"""Float32 peak without tensor cores over dense bfloat16 peak of an NVIDIA H100 SXM, from its data sheet."""
FP32_BYTES = 4
MOMENTS = 2
"""Of AdamW, for each trained parameter."""
UNSHARDED_BLOCKS = 3
"""FSDP2 holds whole: a block's parameters, those of the block fetched ahead, and in the backward pass its gradients."""


class ParameterCounts(Record):
    """Numbers of values."""

    encoder: int
    projections: int
    """Into the codes' width and out of it."""
    codes_map: int
    """SimVQ's learnable map (W, w)."""
    codebook: int
    """The frozen codes: a buffer, no parameter."""
    decoder: int
    discriminator: int
    """Of the adversarial term; 0 where the recipe has none."""
    trained_stage1: int
    """What the first stage has gradients and moments of; the discriminator is the second's alone."""
    trained_stage2: int
    largest_block: int
    """The largest transformer block, which FSDP2 puts together at a time."""
    outside_blocks: int
    """Everything that lies in no block, which FSDP2 keeps together during a step."""

    @property
    def model(self) -> int:
        """All parameters of the tokenizer."""
        return self.encoder + self.projections + self.codes_map + self.decoder


class Flops(Record):
    """Floating-point operations, for an image unless it says otherwise; a multiplication and an addition are two."""

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


class DeviceMemory(Record):
    """Bytes on one device, float32 but for the activations."""

    strategy: Strategy
    """`ddp`: every device holds everything. `fsdp2`: each holds its share of parameters, gradients, moments, average
    and teacher, and blocks are put together while they run."""
    activation_checkpointing: bool
    parameters: int
    """Of the tokenizer and the discriminator."""
    codebook: int
    """A buffer, which is not sharded."""
    gradients: int
    moments: int
    average: int
    """The exponential moving average of the trained parameters; 0 where the recipe has none."""
    teacher: int
    """Stage 2's frozen encoder."""
    unsharded: int
    """What FSDP2 puts together: the parameters outside of blocks and their gradients, and three times the largest
    block. 0 for DDP."""
    activations: int
    """Saved for the backward pass, weights cast to bfloat16 among them."""
    total: int
    """All of it."""


class PhasePlan(Record):
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


class DryRun(Record):
    """The plan of a run."""

    model: str
    devices: int
    tflops: float
    """Assumed of one device on the networks, in 10¹² FLOPs a second; no device achieves its peak."""
    fp32_tflops: float
    """Assumed of one device on float32 products without TF32: the search and the map of the codes."""
    parameters: ParameterCounts
    phases: tuple[PhasePlan, ...]
    """Stage 1 and stage 2."""
    not_counted: tuple[str, ...]
    """Parts of the recipe that the figures leave out."""


def plan(recipe: Recipe, devices: int, tflops: float) -> DryRun:
    """Plan both stages of a recipe on devices that share each batch, each with a rate on the networks.

    Raises:
        UsageError: no device, no rate, or a batch that does not divide among the devices and the passes.
    """
    if devices < 1:
        raise UsageError("devices", got=str(devices), expected="at least 1")
    if not tflops > 0:
        raise UsageError("tflops", got=str(tflops), expected="more than 0")
    parameters = count_parameters(recipe)
    stages: dict[StageName, StageConfig] = {"stage1": recipe.stage1, "stage2": recipe.stage2}
    return DryRun(
        model=recipe.model.name,
        devices=devices,
        tflops=tflops,
        fp32_tflops=FP32_SHARE * tflops,
        parameters=parameters,
        phases=tuple(_stage(recipe.model, *it, parameters, devices, tflops) for it in stages.items()),
        not_counted=_not_counted(recipe),
    )


def count_parameters(recipe: Recipe) -> ParameterCounts:
    """Count the recipe's model at full size."""
    stage = recipe.stage2
    with torch.device("meta"):
        model = VQRAE(recipe.model)
        adversary = None if stage.discriminator_start is None else PatchDiscriminator(stage.discriminator_channels)
    encoder, everything = _size(model.encoder), _size(model)
    of_blocks = [_size(block) for block in transformer_blocks(model)]
    discriminator = 0 if adversary is None else _size(adversary)
    return ParameterCounts(
        encoder=encoder,
        projections=_size(model.in_projection) + _size(model.out_projection),
        codes_map=_size(model.quantizer),
        codebook=sum(buffer.numel() for buffer in model.quantizer.buffers()),
        decoder=_size(model.decoder),
        discriminator=discriminator,
        trained_stage1=everything - encoder,
        trained_stage2=sum(it.numel() for it in model.parameters() if it.requires_grad) + discriminator,
        largest_block=max(of_blocks),
        outside_blocks=everything - sum(of_blocks),
    )


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _not_counted(recipe: Recipe) -> tuple[str, ...]:
    """Parts of a recipe that have a cost of their own."""
    left_out = [] if recipe.pretrain is None else ["the encoder's pre-training"]
    if recipe.stage2.discriminator_start is not None:
        left_out.append("the discriminator's arithmetic and activations")
    if any(phase.perceptual != "none" for phase in (recipe.stage1, recipe.stage2)):
        left_out.append("the perceptual term's networks")
    return tuple(left_out)


def _stage(
    model: VQRAEConfig, stage: StageName, config: StageConfig, counts: ParameterCounts, devices: int, tflops: float
) -> PhasePlan:
    passes = config.accumulation
    images, left_over = divmod(config.batch_size, devices * passes)
    if left_over:
        expected = f"a divisor of {stage}'s batch of {config.batch_size} images"
        raise UsageError("devices", got=f"{devices} with {passes} passes a step", expected=expected)
    counted = count_faked_step(model, stage, config.precision, images)
    flops = flops_of(counted, images, model)
    fp32_rate = 1e12 * FP32_SHARE * tflops
    rate = 1e12 * tflops if AUTOCAST[config.precision] else fp32_rate
    networks = images * (flops.forward + flops.teacher + flops.backward)
    in_float32 = images * flops.search + flops.codes_map_per_pass
    seconds = passes * (networks / rate + in_float32 / fp32_rate)
    checkpointed = seconds + passes * images * flops.recompute / rate
    held = {False: counted.saved, True: counted.checkpointed}
    ways: Iterable[tuple[Strategy, bool]] = product(("ddp", "fsdp2"), held)
    return PhasePlan(
        stage=stage,
        steps=config.steps,
        batch_size=config.batch_size,
        accumulation=passes,
        images_per_pass=images,
        precision=config.precision,
        ema=config.ema_decay > 0,
        flops=flops,
        memory=tuple(
            device_memory(counts, stage, *way, activations=held[way[1]], devices=devices, ema=config.ema_decay > 0)
            for way in ways
        ),
        step_seconds=seconds,
        step_seconds_checkpointed=checkpointed,
        hours=seconds * config.steps / 3600,
        hours_checkpointed=checkpointed * config.steps / 3600,
        images_per_second=config.batch_size / seconds,
    )


def device_memory(
    counts: ParameterCounts,
    stage: StageName,
    strategy: Strategy,
    checkpointing: bool,
    *,
    activations: int,
    devices: int,
    ema: bool,
) -> DeviceMemory:
    """Add up what a device holds, one of some that share a stage's model; `activations` in bytes of one pass."""
    second, sharded = stage == "stage2", strategy == "fsdp2"
    trained = counts.trained_stage2 if second else counts.trained_stage1
    together = 2 * counts.outside_blocks + UNSHARDED_BLOCKS * counts.largest_block

    def held(values: int) -> int:
        """Bytes of float32 values: all, or the largest of equal shares."""
        return -(-values * FP32_BYTES // (devices if sharded else 1))

    parts = {
        "parameters": held(counts.model + (counts.discriminator if second else 0)),
        "codebook": counts.codebook * FP32_BYTES,
        "gradients": held(trained),
        "moments": held(MOMENTS * trained),
        "average": held(trained) if ema else 0,
        "teacher": held(counts.encoder) if second else 0,
        "unsharded": together * FP32_BYTES if sharded else 0,
        "activations": activations,
    }
    total = sum(parts.values())
    return DeviceMemory(strategy=strategy, activation_checkpointing=checkpointing, **parts, total=total)


def flops_of(counted: StepCounts, images: int, config: VQRAEConfig) -> Flops:
    """A step's, for each of its images: they do not meet, and share the map of the codes alone."""
    map_forward, map_backward = _codes_map_flops(config)
    search = _search_flops(config)
    return Flops(
        forward=(counted.forward - map_forward) // images - search,
        teacher=counted.teacher // images,
        backward=(counted.backward - map_backward) // images,
        recompute=counted.recompute // images,
        search=search,
        codes_map_per_pass=map_forward + map_backward,
    )


def _codes_map_flops(config: VQRAEConfig) -> tuple[int, int]:
    """Of the forward pass and of the backward pass, on the meta device; 0 where the codes are not learned."""
    with flop_counter() as counter, torch.device("meta"):
        codes = new_quantizer(config.quantizer).codes()
        forward = counter.get_total_flops()
        if codes.requires_grad:
            codes.sum().backward()
    return forward, counter.get_total_flops() - forward


def _search_flops(config: VQRAEConfig) -> int:
    """Of one image: the search itself, on the meta device."""
    with torch.device("meta"):
        quantizer = new_quantizer(config.quantizer)
        codes, projected = quantizer.codes(), torch.empty(config.grid[0] * config.grid[1], quantizer.width)
    with flop_counter() as counter:
        quantizer.indices(projected, codes)
    return counter.get_total_flops()
