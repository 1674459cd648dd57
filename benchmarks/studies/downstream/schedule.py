"""Who does which step when: processes of one thread each, a step as soon as those that it needs are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path

from vqrae.benchmarks.studies.downstream.scale import UsesScale
from vqrae.benchmarks.studies.downstream.steps import Step, perform
from vqrae.benchmarks.studies.downstream.workplace import StepResult
from vqrae.training.stopping import Terminated, stop_on_sigterm

POLL_SECONDS = 0.5

Told = Callable[[Sequence[str], StepResult | None], None]
"""Called with the names of the steps that are under way and the result that is new, if there is one."""


def perform_all(
    steps: Sequence[Step], scale: UsesScale, folder: Path, executor: Executor, count: int, told: Told
) -> dict[str, StepResult]:
    """Do all steps, those first that stand first; returns their results by name.

    Args:
        steps: in any order in which none needs a later one.
        scale: of the work folder.
        folder: of the workplace.
        executor: who performs them.
        count: how many at a time.
        told: the display.

    Raises:
        Terminated: SIGTERM came.
        VqraeError: a step failed; those under way are stopped by whoever owns the executor.
    """
    waiting, results = list(steps), dict[str, StepResult]()
    under_way: dict[Future[StepResult], Step] = {}
    with stop_on_sigterm() as stop:
        while waiting or under_way:
            ready = [step for step in waiting if all(need in results for need in step.needs)]
            for step in ready[: count - len(under_way)]:
                waiting.remove(step)
                under_way[executor.submit(perform, step, scale, folder)] = step
                told([step.name for step in under_way.values()], None)
            done, _ = wait(under_way, POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                step = under_way.pop(future)
                results[step.name] = future.result()
                told([step.name for step in under_way.values()], results[step.name])
            if stop.made:
                raise Terminated("uses", got="SIGTERM", remedy="run it again to go on")
    return results
