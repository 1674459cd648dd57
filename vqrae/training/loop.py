"""The training loop that all phases share: schedule, clipping, progress, saving, and resuming where a run stopped."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vqrae.runtimes.errors import CheckpointError, VqraeError
from vqrae.runtimes.staging import staged_file
from vqrae.tensor_file import save_tensors
from vqrae.training.config import PhaseConfig

STATE_FILE, LOG_FILE = "training_state.safetensors", "log.jsonl"
LOG_EVERY = 50


class Position(NamedTuple):
    """How far a phase has come."""

    step: int
    """Steps done."""
    seconds: float
    """Wall time that they took, over all runs."""


class Phase(ABC):
    """One phase of training: what is trained, at which rates, and the loss of one step."""

    config: PhaseConfig
    module: nn.Module
    """Everything that is trained or saved in this phase."""

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for AdamW, each with its peak `lr`."""

    @abstractmethod
    def losses(self, step: int) -> dict[str, Tensor]:
        """The weighted terms of the loss at this step, by name; a pure function of weights and step."""


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """The parameters of a module that are not frozen, in definition order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def learning_rate_factor(step: int, config: PhaseConfig) -> float:
    """Linear warm-up to 1, then cosine towards `end_factor`, which the step after the last one would have."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.end_factor + (1 - config.end_factor) * (1 + math.cos(math.pi * progress)) / 2


def train(phase: Phase, folder: Path, title: str) -> None:
    """Run a phase to its last step, from the state saved in `folder` if there is one.

    Raises:
        VqraeError: a term of the loss is not finite; the last saved state stays.
        CheckpointError: the saved state is of another configuration, or unreadable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        phase.parameter_groups(), betas=phase.config.betas, weight_decay=phase.config.weight_decay
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    start, seconds_before = load_state(folder / STATE_FILE, phase, optimizer)
    began = time.monotonic() - seconds_before
    with _progress(title, start, phase.config.steps) as report, (folder / LOG_FILE).open("a") as log:
        for step in range(start, phase.config.steps):
            factor = learning_rate_factor(step, phase.config)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            terms = _step(phase, optimizer, step)
            position = Position(step + 1, round(time.monotonic() - began, 1))
            if position.step % LOG_EVERY == 0:
                log.write(json.dumps({**position._asdict(), **terms}) + "\n")
                log.flush()
            report(terms)
            if position.step % phase.config.save_every == 0 or position.step == phase.config.steps:
                save_state(folder / STATE_FILE, phase, optimizer, position)


def _step(phase: Phase, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
    """One optimizer step; a loss or a gradient that is not finite stops the run before it reaches a weight."""
    optimizer.zero_grad(set_to_none=True)
    terms = phase.losses(step)
    values = {name: term.item() for name, term in terms.items()}
    _check_finite(step, {f"{name} loss": value for name, value in values.items()})
    torch.stack(list(terms.values())).sum().backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, phase.config.clip_norm).item()
    _check_finite(step, {"gradient norm": norm})
    optimizer.step()
    values["gradient_norm"] = norm
    return values


def _check_finite(step: int, values: dict[str, float]) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            remedy = "lower the learning rate; the last saved state is kept"
            raise VqraeError(f"step {step}", got=f"{name} {value}", expected="finite numbers", remedy=remedy)


def save_state(path: Path, phase: Phase, optimizer: torch.optim.Optimizer, position: Position) -> None:
    """Write weights, both AdamW moments and the position; the file appears whole or not at all."""
    tensors = {f"module/{name}": tensor for name, tensor in phase.module.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": tensor for name, tensor in moments.items()}
    metadata = {"step": str(position.step), "seconds": str(position.seconds), "config": phase.config.model_dump_json()}
    with staged_file(path) as staging:
        save_tensors(tensors, staging, metadata)


def load_state(path: Path, phase: Phase, optimizer: torch.optim.Optimizer) -> Position:
    """Restore what `save_state` wrote and return the position to go on from; the start if there is no such file."""
    if not path.exists():
        return Position(0, 0.0)
    try:
        with safe_open(path, framework="pt") as saved:
            metadata = saved.metadata()
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        remedy = "delete it to begin the phase again"
        raise CheckpointError(str(path), got=str(error), expected="a whole saved state", remedy=remedy) from error
    _check_same_config(path, json.loads(metadata["config"]), phase.config.model_dump(mode="json"))
    phase.module.load_state_dict({k.removeprefix("module/"): v for k, v in tensors.items() if k.startswith("module/")})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, moment = name.split("/")
            moments.setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return Position(int(metadata["step"]), float(metadata["seconds"]))


def _check_same_config(path: Path, saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = [name for name in wanted if saved.get(name) != wanted[name]]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{path} field {', '.join(differing)}",
            got=f"{name} {wanted[name]}",
            expected=f"{saved.get(name)} as when the run began",
            remedy="give the same options, or another output folder",
        )


@contextmanager
def _progress(title: str, start: int, total: int) -> Iterator[Callable[[dict[str, float]], None]]:
    """A progress bar that shows the terms of the loss."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[terms]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=total, completed=start, terms="")

        def report(terms: dict[str, float]) -> None:
            progress.update(task, advance=1, terms="  ".join(f"{k} {v:.4f}" for k, v in terms.items()))

        yield report
