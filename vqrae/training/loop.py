"""The training loop that all phases share: progress, logging, saving, stopping, and resuming where a run stopped."""

from __future__ import annotations

import time
from collections import ChainMap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from vqrae.runtimes.staging import make_folder
from vqrae.training.learner import Learner
from vqrae.training.log import RunLog
from vqrae.training.phase import Phase
from vqrae.training.processes import Processes
from vqrae.training.state import STATE_FILE, Position, load_state, save_state
from vqrae.training.stopping import Terminated, stop_on_sigterm

LOG_EVERY = 50


def train(phase: Phase, folder: Path, title: str, processes: Processes | None = None) -> dict[str, Tensor]:
    """Run a phase to its last step, from the state saved in `folder` if there is one.

    Returns:
        The phase's weights, whole, on the CPU; their moving average where the phase asks for it.

    Raises:
        VqraeError: a term of the loss is not finite; the last saved state stays.
        CheckpointError: the saved state is of another configuration, or damaged.
        Terminated: SIGTERM came, and the state is saved.
    """
    processes = processes or Processes()
    make_folder(folder)
    learner = Learner(phase, processes)
    start = load_state(folder / STATE_FILE, learner)
    began = time.monotonic() - start.seconds
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_sigterm())
        report = stack.enter_context(_progress(title, start.step, phase.config.steps, shown=processes.first))
        log = stack.enter_context(RunLog(folder, start.step)) if processes.first else None
        for step in range(start.step, phase.config.steps):
            terms = learner.step(step)
            position = Position(step + 1, round(time.monotonic() - began, 1))
            if position.step % LOG_EVERY == 0 or position.step == phase.config.steps:
                skipped = processes.gathered(dict(phase.skipped))
                if log is not None:
                    log.write(position.step, position.seconds, terms)
                    log.skip(ChainMap(*skipped))
            report(terms)
            stopping = processes.any(stop.made)
            if stopping or position.step % phase.config.save_every == 0 or position.step == phase.config.steps:
                if log is not None:
                    log.keep()  # before the state that says how far it is
                save_state(folder / STATE_FILE, learner, position)
            if stopping:
                raise Terminated(
                    title, got=f"SIGTERM, saved after step {position.step}", remedy="run it again to go on"
                )
    return learner.result()


@contextmanager
def _progress(title: str, start: int, total: int, *, shown: bool) -> Iterator[Callable[[dict[str, float]], None]]:
    """A progress bar that shows the terms of the loss."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[terms]}"),
    )
    with Progress(*columns, disable=not shown) as progress:
        task = progress.add_task(title, total=total, completed=start, terms="")

        def report(terms: dict[str, float]) -> None:
            progress.update(task, advance=1, terms="  ".join(f"{k} {v:.4f}" for k, v in terms.items()))

        yield report
