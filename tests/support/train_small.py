"""One process of a training run that tests start, stop and kill: `python train_small.py FOLDER OUT KIND [FIELD=JSON]`.

Trains a phase of `phases.py` and writes its weights to OUT/weights.safetensors.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from phases import adversarial, pretraining, stage1, stage2
from safetensors.torch import save_file

from vqrae.runtimes.errors import StorageError, run_as_program
from vqrae.training import loop
from vqrae.training.loop import train
from vqrae.training.processes import Processes

PHASES = {"stage1": stage1, "stage2": stage2, "adversarial": adversarial, "pretraining": pretraining}


Batch = Callable[[int, range], tuple[torch.Tensor, ...]]


def failing(batch: Batch, at: int) -> Batch:
    """Break at a step, as a disk or a driver does."""

    def failed(step: int, rows: range) -> tuple[torch.Tensor, ...]:
        if step == at:
            raise StorageError("disk")
        return batch(step, rows)

    return failed


def main() -> None:
    folder, out, kind, *settings = sys.argv[1:]
    fields = {name: json.loads(value) for name, _, value in (text.partition("=") for text in settings)}
    strategy = fields.pop("strategy", "ddp")
    torch.set_num_threads(1)
    loop.LOG_EVERY = 1
    processes = Processes(strategy)
    fail_at = fields.pop("fail_at", None)
    phase = PHASES[kind](Path(folder), **fields)
    if fail_at is not None:
        phase.batch = failing(phase.batch, fail_at)  # type: ignore[method-assign]
    state = train(phase, Path(out), kind, processes)
    if processes.first:
        save_file(state, Path(out) / "weights.safetensors")


def main_in_a_fork(arguments: list[str], errors: Path) -> None:
    """The same program in a process that was forked from one with all this imported."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    sys.argv[1:] = arguments
    with errors.open("w") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    run_as_program(main)


if __name__ == "__main__":
    run_as_program(main)
