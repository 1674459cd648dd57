"""`vqrae train --dry-run`: the plan of a run, printed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType

if TYPE_CHECKING:
    from vqrae.training.config import Recipe
    from vqrae.training.cost import DeviceMemory, DryRun, PhasePlan


def dry_run(chosen: Recipe, devices: int, tflops: float, *, as_json: bool) -> None:
    """Plan a recipe and print it, as tables or as JSON.

    Raises:
        UsageError: its batches do not divide among the devices.
    """
    from vqrae.cli.output import console, print_json
    from vqrae.training.cost import plan

    planned = plan(chosen, devices, tflops)
    if as_json:
        print_json(planned)
        return
    for part in render(planned):
        console.print(part, highlight=False, soft_wrap=isinstance(part, str))


def render(planned: DryRun) -> Iterator[RenderableType]:
    """A plan as lines and tables for people."""
    from vqrae.cli.output import table

    devices = "1 device" if planned.devices == 1 else f"{planned.devices} devices"
    yield (
        f"{planned.model} on {devices}, assumed to reach {planned.tflops:g} TFLOP/s each, and "
        f"{planned.fp32_tflops:.3g} in float32 (search, map of the codes)"
    )
    counts = planned.parameters
    parts = ("encoder", "projections", "codes_map", "codebook", "decoder", "discriminator")
    yield table(("values, 10⁶", *_words(parts)), [("", *(f"{getattr(counts, part) / 1e6:,.1f}" for part in parts))])
    for phase in planned.phases:
        yield ""
        yield from _phase(phase)
    yield ""
    yield "GB are 10⁹ bytes, at the end of a forward pass; temporaries and what the libraries take come on top."
    yield "AC: activation checkpointing. Recompute is what it adds at most."
    yield "Times are of the arithmetic alone: no communication, no reading of images, no optimizer."
    for part in planned.not_counted:
        yield f"Not counted: {part}."


def _phase(phase: PhasePlan) -> Iterator[RenderableType]:
    from vqrae.cli.output import table

    passes = "" if phase.accumulation == 1 else f" in {phase.accumulation} passes"
    yield (
        f"{phase.stage}: {phase.steps:,} steps of {phase.batch_size:,} images{passes}, {phase.images_per_pass} on a "
        f"device at a time, {phase.precision}{', with an average' if phase.ema else ''}"
    )
    parts = ("forward", "teacher", "backward", "recompute", "search")
    flops = phase.flops
    yield table(
        ("GFLOP an image", *parts, "codes map, a pass"),
        [("", *(f"{getattr(flops, part) / 1e9:,.1f}" for part in parts), f"{flops.codes_map_per_pass / 1e9:,.1f}")],
    )
    yield table(("GB a device", *map(_strategy, phase.memory)), _columns(phase))


def _strategy(memory: DeviceMemory) -> str:
    return f"{memory.strategy.upper()}{'+AC' if memory.activation_checkpointing else ''}"


def _columns(phase: PhasePlan) -> Iterator[tuple[str, ...]]:
    """Memory by what holds it, where anything does, then time: a column for each way to train."""
    held = ("parameters", "codebook", "gradients", "moments", "average", "teacher", "unsharded", "activations", "total")
    for part in held:
        sizes = [getattr(memory, part) for memory in phase.memory]
        if any(sizes):
            yield (part, *(f"{size / 1e9:,.2f}" for size in sizes))
    checkpointing = [memory.activation_checkpointing for memory in phase.memory]
    yield (
        "seconds/step",
        *(f"{phase.step_seconds_checkpointed if on else phase.step_seconds:.3g}" for on in checkpointing),
    )
    yield ("hours", *(f"{phase.hours_checkpointed if on else phase.hours:,.1f}" for on in checkpointing))


def _words(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.replace("_", " ") for name in names)
