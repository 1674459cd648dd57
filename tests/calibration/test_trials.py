from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pytest
from trial_model import Model

from vqrae.calibration.trials import Trial, TrialLog
from vqrae.runtimes.errors import DataError

MADE_WITH = {"checkpoint": "a", "runtime": "onnxruntime 1.32.0"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "trials.jsonl"


def never(layers: Collection[str]) -> Trial:
    raise AssertionError(f"{sorted(layers)} was tried before")


def test_what_was_tried_is_not_tried_again(path: Path) -> None:
    model = Model()
    make = TrialLog(path, MADE_WITH).keeping("encode", model.make)
    first = [make(layers) for layers in (["a"], ["b", "a"], ["a", "b"])]
    assert (first[1], model.made) == (first[2], 2)
    again = TrialLog(path, MADE_WITH)
    make = again.keeping("encode", never)
    assert [make(layers) for layers in (["a"], ["a", "b"])] == first[:2]
    assert list(again) == first[:2]


def test_the_graphs_are_told_apart(path: Path) -> None:
    log = TrialLog(path, MADE_WITH)
    log.keeping("encode", Model().make)(["a"])
    with pytest.raises(AssertionError, match="was tried before"):
        log.keeping("decode", never)(["a"])


def test_a_line_that_a_killed_search_left_unfinished_is_dropped(path: Path) -> None:
    make = TrialLog(path, MADE_WITH).keeping("encode", Model().make)
    whole = make(["a"])
    make(["b"])
    path.write_text(path.read_text()[:-20])
    assert list(TrialLog(path, MADE_WITH)) == [whole]


@pytest.mark.parametrize("cut", [20, 1])
def test_a_search_that_was_killed_twice_goes_on_after_an_unfinished_line(path: Path, cut: int) -> None:
    make = TrialLog(path, MADE_WITH).keeping("encode", Model().make)
    made = [make([name]) for name in "ab"]
    path.write_text(path.read_text()[:-cut])
    made.append(TrialLog(path, MADE_WITH).keeping("encode", Model().make)(["c"]))
    kept = made if cut == 1 else [made[0], made[2]]
    assert list(TrialLog(path, MADE_WITH)) == kept


def test_a_damaged_line_is_named(path: Path) -> None:
    make = TrialLog(path, MADE_WITH).keeping("encode", Model().make)
    make(["a"])
    make(["b"])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:30], lines[2]]) + "\n")
    with pytest.raises(DataError, match=r"trials\.jsonl line 2: got no trial; expected one line of JSON each"):
        TrialLog(path, MADE_WITH)


@pytest.mark.parametrize(
    ("made_with", "words"),
    [
        (MADE_WITH | {"runtime": "openvino 1"}, r"runtime: got onnxruntime 1\.32\.0; expected openvino 1; ask for"),
        (MADE_WITH | {"more": "x"}, "more: got None; expected x"),
    ],
)
def test_another_search_is_refused_and_what_differs_is_named(path: Path, made_with: dict[str, str], words: str) -> None:
    TrialLog(path, MADE_WITH)
    with pytest.raises(DataError, match=words):
        TrialLog(path, made_with)


def test_a_file_that_is_no_log(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("no log\n")
    with pytest.raises(DataError, match="got no heading; expected a log of trials"):
        TrialLog(path, MADE_WITH)
