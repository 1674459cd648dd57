"""Processes that share the ablations' runs, one thread each, and can be stopped at any time without losing much."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import active_children, connection, get_context, parent_process
from pathlib import Path

import rich
import torch
from transformers.utils.logging import disable_progress_bar

from vqrae.benchmarks.studies.ablations.grid import AblationRun
from vqrae.benchmarks.studies.ablations.runs import RunResult, Workplace, perform
from vqrae.training.stopping import Terminated, stop_on_sigterm

POLL_SECONDS = 0.5
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Told = Callable[[Sequence[AblationRun], RunResult | None], None]
"""Called with the runs that are under way and the result that is new, if there is one."""


@contextmanager
def worker_processes(count: int) -> Iterator[Executor]:
    """So many processes; they are asked to save and to end when the block is left by an exception."""
    # Read by the libraries when they load, so before the first process starts.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_begin_worker)
    try:
        yield pool
    except BaseException:
        for process in active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """One thread, no display of its own, deaf to Ctrl-C, which the parent answers; not left behind by the parent."""
    torch.set_num_threads(1)
    rich.reconfigure(quiet=True)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is None:
        return
    connection.wait([parent.sentinel])
    while True:  # the first saves a phase that is training, and the next ends the process
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(POLL_SECONDS)


def perform_all(
    runs: Sequence[AblationRun], folder: Path, executor: Executor, count: int, told: Told
) -> dict[str, RunResult]:
    """Do all runs, each when its encoder is there; returns their results by key.

    Args:
        runs: an encoder's run before those that start from it; finished ones are not done again.
        folder: of the workplace, prepared.
        executor: who performs them.
        count: how many at a time.
        told: the display.

    Raises:
        Terminated: SIGTERM came.
        VqraeError: a run failed; those under way are stopped by whoever owns the executor.
    """
    known = {run.key: Workplace(folder).result(run) for run in runs}
    results = {key: result for key, result in known.items() if result is not None}
    waiting = [run for run in runs if run.key not in results]
    under_way: dict[Future[RunResult], AblationRun] = {}
    with stop_on_sigterm() as stop:
        while waiting or under_way:
            for run in [run for run in waiting if _ready(run, results)][: count - len(under_way)]:
                waiting.remove(run)
                under_way[executor.submit(perform, run, folder)] = run
                told(list(under_way.values()), None)
            done, _ = wait(under_way, POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                run = under_way.pop(future)
                results[run.key] = future.result()
                told(list(under_way.values()), results[run.key])
            if stop.made:
                raise Terminated("ablations", got="SIGTERM", remedy="run it again to go on")
    return results


def _ready(run: AblationRun, results: dict[str, RunResult]) -> bool:
    return run.encoder_run is None or run.encoder_run.key in results
