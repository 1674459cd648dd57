"""The experiment runner: tasks in child processes, each as soon as those that it needs are done.

Resumable: a result is a line of `results.jsonl` in the work folder, written when its task ends; what stands there is
not done again. Seeded: a task begins from a seed that its key gives, whatever its process did before. Stopped by
Ctrl-C, SIGTERM or an error, it asks the tasks that are under way to save themselves, and waits for them. How far it
is stands on the terminal and in `progress.log`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import active_children, connection, get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
import rich
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers.utils.logging import disable_progress_bar

from vqrae import __version__
from vqrae.runtimes.errors import DataError, UsageError
from vqrae.runtimes.machine import this_machine
from vqrae.runtimes.staging import write_output
from vqrae.training.stopping import Terminated, stop_on_sigterm

P = ParamSpec("P")
T = TypeVar("T")
POLL_SECONDS = 0.5
SPEED_SECONDS = 1800
"""Of finished tasks that the remaining time is told from."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

Figures = dict[str, Any]
"""What a task gives: values that JSON has."""


class Task(NamedTuple):
    """One thing to do."""

    name: str
    """For people."""
    work: Callable[[], Figures]
    """A partial of a module's function, since it goes to another process. It may be stopped at any time, and begins
    again or goes on from what it saved."""
    key: str
    """Names all that the result depends on, as far as the log's settings do not."""
    needs: tuple[str, ...] = ()
    """Keys of the tasks whose results it uses."""
    weight: int = 1
    """Share of the whole, for the time that is left."""
    makes: Path | None = None
    """What it leaves for others: if that is gone, the task is done again."""
    scratch: Path | None = None
    """A folder of its own, which is deleted when the result is kept."""


class Result(BaseModel):
    """What is kept of a task that is finished."""

    model_config = ConfigDict(frozen=True)

    key: str
    name: str
    figures: Figures
    seconds: float
    """Wall time of the process that finished it; of a task that was stopped, since it went on."""
    cpu_seconds: float
    """Of all its threads, in the same time."""
    made_on: str
    """Machine and versions."""
    date: str
    """UTC, when it was finished."""


class Log:
    """The results in a work folder, by key."""

    def __init__(self, folder: Path) -> None:
        """Nothing is written yet."""
        self.folder, self.path = folder, folder / "results.jsonl"

    def claim(self, settings: Mapping[str, object]) -> None:
        """Write down as JSON what all results depend on, or compare with what is written there.

        Raises:
            UsageError: it is other settings' work.
        """
        path, text = self.folder / "settings.json", json.dumps(settings, indent=2) + "\n"
        if not path.exists():
            write_output(path, text)
        elif path.read_text() != text:
            got, expected = "the work of other settings", f"that of {path.name}"
            raise UsageError(str(self.folder), got=got, expected=expected, remedy="give another --work folder")

    def results(self) -> dict[str, Result]:
        """Of all finished tasks.

        Raises:
            DataError: a line is damaged.
        """
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        results = (self._parsed(number, line) for number, line in enumerate(lines, start=1))
        return {result.key: result for result in results}

    def finished(self, key: str) -> Result:
        """Of one task.

        Raises:
            DataError: it is not finished, or a line is damaged.
        """
        results = self.results()
        if key not in results:
            raise DataError(str(self.path), got=f"no result of {key}", expected="a finished task")
        return results[key]

    def keep(self, result: Result) -> None:
        """Add a result; the file appears whole, whatever ends this process."""
        results = self.results() | {result.key: result}
        write_output(self.path, "".join(f"{each.model_dump_json()}\n" for each in results.values()))

    def _parsed(self, number: int, line: str) -> Result:
        try:
            return Result.model_validate_json(line)
        except ValidationError as error:
            got, remedy = error.errors()[0]["msg"], "delete the line to do the task again"
            raise DataError(f"{self.path}:{number}", got=got, expected="a task's result", remedy=remedy) from error


@contextmanager
def opened_log(folder: Path | None, settings: Mapping[str, object]) -> Iterator[Log]:
    """The log of a work folder that is claimed for the settings, or without a folder one that is thrown away.

    Raises:
        UsageError: the folder is other settings'.
    """
    with TemporaryDirectory(prefix="vqrae-study-") as temporary:
        log = Log(folder or Path(temporary))
        log.claim(settings)
        yield log


Told = Callable[[Sequence[Task], Result | None], None]
"""Called with the tasks that are under way and the result that is new, if there is one."""


def machine_and_versions() -> str:
    """What a result may depend on besides its task."""
    return f"{this_machine()}, vqrae {__version__}, torch {version('torch')}"


def perform(task: Task) -> Result:
    """Do a task in this process, from its seed."""
    seed = int(hashlib.sha256(task.key.encode()).hexdigest()[:8], 16)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    began, cpu_began = time.monotonic(), time.process_time()
    figures = task.work()
    return Result(
        key=task.key,
        name=task.name,
        figures=figures,
        seconds=round(time.monotonic() - began, 1),
        cpu_seconds=round(time.process_time() - cpu_began, 1),
        made_on=machine_and_versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def unfinished(tasks: Sequence[Task], results: Mapping[str, Result]) -> list[Task]:
    """Those without a result, or whose product is gone."""
    return [task for task in tasks if task.key not in results or (task.makes and not task.makes.exists())]


def perform_all(tasks: Sequence[Task], log: Log, executor: Executor, count: int, told: Told) -> dict[str, Result]:
    """Do what is not done, those first that stand first, and keep the results; returns those of all tasks, by key.

    Args:
        tasks: in any order in which none needs a later one.
        log: where results are kept.
        executor: who performs them.
        count: how many at a time.
        told: the display.

    Raises:
        Terminated: SIGTERM came.
        VqraeError: a task failed; those under way are stopped by whoever owns the executor.
    """
    results = log.results()
    waiting, under_way = unfinished(tasks, results), dict[Future[Result], Task]()
    missing = {task.key for task in waiting}
    with stop_on_sigterm() as stop:
        while waiting or under_way:
            ready = [task for task in waiting if not missing & {*task.needs}]
            for task in ready[: count - len(under_way)]:
                waiting.remove(task)
                under_way[executor.submit(perform, task)] = task
                told(list(under_way.values()), None)
            done, _ = wait(under_way, POLL_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                task, result = under_way.pop(future), future.result()
                log.keep(result)
                results[task.key] = result
                missing.discard(task.key)
                if task.scratch:
                    shutil.rmtree(task.scratch)
                told(list(under_way.values()), result)
            if stop.made:
                raise Terminated("the study", got="SIGTERM", remedy="run it again to go on")
    return {task.key: results[task.key] for task in tasks}


def run(
    tasks: Sequence[Task], log: Log, *, workers: int = 0, fresh: bool = False, unit: str = "tasks"
) -> dict[str, Result]:
    """Do all tasks, with a display; returns their results by key.

    Args:
        tasks: see `perform_all`, errors too.
        log: where results are kept.
        workers: child processes of one thread each; with none, tasks are done in this process, as it is.
        fresh: whether a process does one task only, where it is measured what that takes.
        unit: what weights count.
    """
    processes = _processes(workers, fresh=fresh) if workers else nullcontext(Here())
    with processes as executor, _display(tasks, log, unit) as tell:
        return perform_all(tasks, log, executor, max(workers, 1), tell)


class Here(Executor):
    """Does what is submitted at once, in this process."""

    def submit(self, work: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> Future[T]:
        """The work's result; what it raises is raised here."""
        future = Future[T]()
        future.set_result(work(*args, **options))
        return future


@contextmanager
def _display(tasks: Sequence[Task], log: Log, unit: str) -> Iterator[Told]:
    """A bar, what is under way, and a line for each task that is finished, which goes to `progress.log` too."""
    missing = unfinished(tasks, log.results())
    weights, began = {task.key: task.weight for task in missing}, time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    log.folder.mkdir(parents=True, exist_ok=True)
    with (
        Progress(*columns, *times, console=Console(stderr=True), speed_estimate_period=SPEED_SECONDS) as progress,
        (log.folder / "progress.log").open("a", encoding="utf-8", buffering=1) as file,
    ):
        bar, whole, done = progress.add_task("", total=sum(weights.values())), sum(weights.values()), 0

        def tell(under_way: Sequence[Task], new: Result | None) -> None:
            nonlocal done
            progress.update(bar, description=" | ".join(task.name for task in under_way))
            if new is None:
                return
            done += weights[new.key]
            progress.advance(bar, weights[new.key])
            rate = done / max(time.monotonic() - began, 1e-9)
            left = f"{done} of {whole} {unit}, {rate * 60:.3g} a minute, {(whole - done) / rate / 60:.1f} minutes left"
            file.write(f"{new.date} {left}: {_line(new)}\n")
            progress.console.print(_line(new), highlight=False)

        yield tell


def _line(result: Result) -> str:
    """One result, with those of its figures that are numbers."""
    numbers = {name: value for name, value in result.figures.items() if isinstance(value, int | float)}
    figures = [f"{name} {value:.4g}" for name, value in numbers.items()][:4]
    return f"{result.name}: {', '.join([*figures, f'{result.seconds:.0f} s'])}"


@contextmanager
def _processes(count: int, *, fresh: bool) -> Iterator[Executor]:
    """So many processes; they are asked to save and to end when the block is left by an exception."""
    # Read by the libraries when they load, so before the first process starts.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    lives = 1 if fresh else None
    pool = ProcessPoolExecutor(count, get_context("spawn"), _begin_worker, max_tasks_per_child=lives)
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
