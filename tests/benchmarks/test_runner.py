"""The experiment runner: order, going on, seeds, what is thrown away, and its words on how far it is."""

from __future__ import annotations

import random
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from vqrae.benchmarks.studies.runner import Figures, Log, Task, opened_log, run
from vqrae.runtimes.errors import UsageError
from vqrae.training.stopping import Terminated


def noted(path: Path, name: str) -> Figures:
    """Appends its name, and draws from every generator."""
    with path.open("a") as file:
        file.write(f"{name}\n")
    return {"drawn": [random.random(), float(np.random.random()), float(torch.rand(()))]}  # noqa: S311


def failing(error: BaseException) -> Figures:
    raise error


def task(path: Path, name: str, *needs: str) -> Task:
    return Task(name, partial(noted, path, name), name, needs)


def test_each_comes_after_what_it_needs_and_is_done_once(tmp_path: Path) -> None:
    done, log = tmp_path / "done", Log(tmp_path / "work")
    first = run([task(done, "a"), task(done, "b", "a")], log)
    again = run([task(done, "a"), task(done, "c"), task(done, "d", "c", "b"), task(done, "b", "a")], log)
    assert done.read_text().split() == ["a", "b", "c", "d"]
    assert {**again, **first} == again == log.results()


def test_a_task_draws_what_its_key_says_whatever_came_before(tmp_path: Path) -> None:
    done = tmp_path / "done"
    one = run([task(done, "a"), task(done, "b")], Log(tmp_path / "one"))
    other = run([task(done, "b"), task(done, "a")], Log(tmp_path / "other"))
    assert [one[key].figures for key in "ab"] == [other[key].figures for key in "ab"]
    assert one["a"].figures != one["b"].figures


def test_what_was_finished_before_an_error_is_kept(tmp_path: Path) -> None:
    done, log = tmp_path / "done", Log(tmp_path / "work")
    broken = Task("b", partial(failing, UsageError("b", got="nothing")), "b")
    with pytest.raises(UsageError, match="b: got nothing"):
        run([task(done, "a"), broken, task(done, "c")], log)
    assert set(log.results()) == {"a"}
    run([task(done, "a"), task(done, "b"), task(done, "c")], log)
    assert done.read_text().split() == ["a", "b", "c"]


def test_after_sigterm_the_task_under_way_is_kept_and_none_is_begun(tmp_path: Path) -> None:
    done, log = tmp_path / "done", Log(tmp_path / "work")
    with pytest.raises(Terminated, match="run it again to go on"):
        run([Task("stop", stop, "stop"), task(done, "a")], log)
    assert set(log.results()) == {"stop"}
    assert not done.exists()


def stop() -> Figures:
    signal.getsignal(signal.SIGTERM)(signal.SIGTERM, None)  # the runner's own handler; no signal is sent
    return {}


def test_what_a_task_left_is_thrown_away_and_what_it_made_has_to_be_there(tmp_path: Path) -> None:
    done, log, made, scratch = tmp_path / "done", Log(tmp_path / "work"), tmp_path / "made", tmp_path / "scratch"
    made.mkdir()
    scratch.mkdir()
    one = task(done, "a")._replace(makes=made, scratch=scratch)
    run([one], log)
    assert not scratch.exists()
    run([one], log)
    assert done.read_text().split() == ["a"]
    made.rmdir()
    scratch.mkdir()
    run([one], log)
    assert done.read_text().split() == ["a", "a"]


def test_the_log_says_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(tmp_path)
    run([task(tmp_path / "done", "a")._replace(weight=3), task(tmp_path / "done", "b")], log, unit="steps")
    first, last = (tmp_path / "progress.log").read_text().splitlines()
    assert " 3 of 4 steps, " in first
    assert " 4 of 4 steps, " in last
    assert " a minute, 0.0 minutes left: b: 0 s" in last
    assert "a: 0 s" in capsys.readouterr().err


def test_a_log_without_a_folder_is_thrown_away() -> None:
    with opened_log(None, {"threads": 1}) as log:
        assert log.folder.is_dir()
    assert not log.folder.exists()
