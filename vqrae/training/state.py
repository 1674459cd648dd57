"""The saved state of a phase: everything that a run which was stopped needs to go on, bit for bit, in one file.

Weights, their moving average, the moments of both optimizers, the discriminator, each process's random generators and
its position in the data. Rates and batches of an indexed source are functions of the step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vqrae.runtimes.errors import CheckpointError
from vqrae.runtimes.json_text import parse_json
from vqrae.runtimes.staging import staged_file
from vqrae.tensor_file import save_tensors
from vqrae.training.config import as_read
from vqrae.training.learner import Learner
from vqrae.training.processes import copy_whole, whole

STATE_FILE = "training_state.safetensors"
_Kind = TypeVar("_Kind", dict[str, Any], list[Any])


class Position(NamedTuple):
    """How far a phase has come."""

    step: int
    """Steps done."""
    seconds: float
    """Wall time that they took, over all runs."""


def save_state(path: Path, learner: Learner, position: Position) -> None:
    """Write the state; the file appears whole or not at all. All processes call it, the first one writes.

    Raises:
        StorageError: the file cannot be written; the one before is still there.
    """
    processes = learner.processes
    tensors = {}
    for name, tensor in _tensors(learner).items():
        gathered = whole(
            tensor
        )  # by all, kept by the one that writes: the others would fill the host's memory with copies
        if processes.first:
            tensors[name] = gathered.cpu()
    for rank, generators in enumerate(processes.gathered(_generators())):
        tensors |= {f"generator/{rank}/{device}": state for device, state in generators.items()}
    data = processes.gathered(learner.phase.data_state())
    if processes.first:
        metadata = {
            "step": str(position.step),
            "seconds": str(position.seconds),
            "config": learner.phase.config.model_dump_json(),
            "data": json.dumps(data),
        }
        with staged_file(path, lock=False) as staging:  # the run's folder is claimed
            save_tensors(tensors, staging, metadata)
    processes.wait()


def load_state(path: Path, learner: Learner) -> Position:
    """Restore what `save_state` wrote and return the position to go on from; the start if there is no such file.

    Raises:
        CheckpointError: the file is damaged, or of another configuration, model or number of processes.
    """
    if not path.exists():
        return Position(0, 0.0)
    try:
        with safe_open(path, framework="pt") as saved:
            metadata = saved.metadata() or {}
            tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error
    phase, share = learner.phase, learner.processes.share
    config, data = _json_of(path, metadata, "config", dict), _json_of(path, metadata, "data", list)
    _check_same_config(path, as_read(type(phase.config), config), phase.config.model_dump(mode="json"))
    position = _position(path, metadata, phase.config.steps)
    if len(data) != share.count:
        expected = f"{len(data)} as when the state was saved"
        raise CheckpointError(f"{path} processes", got=str(share.count), expected=expected)
    if not isinstance(data[share.rank], dict):
        raise _damaged(path, "a position that is no dict")
    _check_tensors(path, tensors, learner)
    try:
        _restore_moments(learner, tensors)
        for name, tensor in _tensors(learner).items():
            if not name.startswith("moments/"):
                copy_whole(tensor, tensors[name])
        phase.load_data_state(data[share.rank])
        for device, state in _below(f"generator/{share.rank}/", tensors).items():
            _set_generator(device, state)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:  # of what it holds
        raise _damaged(path, f"{type(error).__name__} {error}") from error
    return position


def _json_of(path: Path, metadata: Mapping[str, str], name: str, kind: type[_Kind]) -> _Kind:
    try:
        value = parse_json(metadata[name])
    except (KeyError, ValueError) as error:
        raise _damaged(path, f"no {name}, or one that is no JSON") from error
    if not isinstance(value, kind):
        raise _damaged(path, f"a {name} that is no {kind.__name__}")
    return value


def _position(path: Path, metadata: Mapping[str, str], steps: int) -> Position:
    step, seconds = metadata.get("step", ""), metadata.get("seconds", "")
    try:
        position = Position(int(step), float(seconds))
    except ValueError as error:
        raise _damaged(path, f"step {step!r} after {seconds!r} seconds") from error
    if not (0 <= position.step <= steps and 0 <= position.seconds < math.inf):
        raise _damaged(path, f"step {step} of {steps} after {seconds} seconds")
    return position


def _check_tensors(path: Path, tensors: Mapping[str, Tensor], learner: Learner) -> None:
    """Refuse a state that lacks a tensor, or has one too many, or one of another shape or type."""
    wanted = {name: tensor for name, tensor in _tensors(learner).items() if not name.startswith("moments/")}
    for title, optimizer in learner.optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            if any(name.startswith(f"moments/{title}/{index}/") for name in tensors):
                made = {"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}
                wanted |= {f"moments/{title}/{index}/{name}": tensor for name, tensor in made.items()}
    found = {name for name in tensors if not name.startswith("generator/")}
    for got, names in (("no tensor", wanted.keys() - found), ("an unknown tensor", found - wanted.keys())):
        if names:
            raise _damaged(path, f"{got} {min(names)}")
    for name, tensor in wanted.items():
        given = (tensors[name].dtype, tuple(tensors[name].shape))
        if given != (tensor.dtype, tuple(tensor.shape)):
            expected = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise _damaged(path, f"{given[0]} {given[1]} for {name}", expected)
    for name, given_tensor in tensors.items():
        if given_tensor.is_floating_point() and not torch.isfinite(given_tensor).all():
            raise _damaged(path, f"values that are NaN or infinite in {name}")
    if f"generator/{learner.processes.share.rank}/cpu" not in tensors:
        raise _damaged(path, "no state of the random generators")


def _damaged(path: Path, got: str, expected: str = "a whole saved state") -> CheckpointError:
    return CheckpointError(str(path), got=got, expected=expected, remedy="delete it to begin the phase again")


def _tensors(learner: Learner) -> dict[str, Tensor]:
    """What is saved of the learner itself, by name; the tensors that it works with, not copies."""
    parts: dict[str, Mapping[str, Tensor]] = {"module": learner.phase.module.state_dict()}
    if learner.average is not None:
        parts["average"] = learner.average.tensors
    if learner.phase.adversary is not None:
        parts["adversary"] = learner.phase.adversary.state_dict()
    for title, optimizer in learner.optimizers.items():
        for index, moments in optimizer.state_dict()["state"].items():
            parts[f"moments/{title}/{index}"] = moments
    return {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}


def _restore_moments(learner: Learner, tensors: Mapping[str, Tensor]) -> None:
    for title, optimizer in learner.optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            moments = _below(f"moments/{title}/{index}/", tensors)
            if moments:  # none where no step of this optimizer was taken yet
                optimizer.state[parameter] = {name: _alike(parameter, moment) for name, moment in moments.items()}


def _alike(parameter: Tensor, moment: Tensor) -> Tensor:
    """The moment on its parameter's device, and sharded like it; AdamW's step counts are scalars, and stay."""
    if moment.shape != parameter.shape:
        return moment
    placed = torch.empty_like(parameter, requires_grad=False)
    copy_whole(placed, moment)
    return placed


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _generators() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def _set_generator(device: str, state: Tensor) -> None:
    {"cpu": torch.set_rng_state, "cuda": torch.cuda.set_rng_state}[device](state)


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
