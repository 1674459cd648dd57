"""Training states that are damaged, or not of this phase; and run folders, which are one run's at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from phases import same, snapshot, stage1, tiny_recipe
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_disk import small_disk
from torch import Tensor

from vqrae.runtimes.errors import CheckpointError, StorageError, UsageError
from vqrae.runtimes.staging import claimed_folder
from vqrae.training.log import LOG_FILE, SKIPPED_FILE
from vqrae.training.loop import train
from vqrae.training.run import RUN_FILE, TrainingRun
from vqrae.training.state import STATE_FILE

State = dict[str, Tensor]


def first(tensors: State, prefix: str) -> str:
    return next(name for name in sorted(tensors) if name.startswith(prefix))


TENSORS: dict[str, tuple[Callable[[State], object], str]] = {
    "no weight": (lambda state: state.pop(first(state, "module/")), "got no tensor module/"),
    "no moment": (
        lambda state: state.pop(next(name for name in state if name.endswith("/exp_avg"))),
        "got no tensor moments/generator/0/exp_avg",
    ),
    "no step of a moment": (
        lambda state: state.pop(next(name for name in sorted(state) if name.endswith("/step"))),
        "got no tensor moments/generator/.*/step",
    ),
    "an unknown one": (lambda state: state.update({"module/x": torch.zeros(1)}), "got an unknown tensor module/x"),
    "an unknown moment": (
        lambda state: state.update({"moments/generator/99/exp_avg": torch.zeros(1)}),
        "got an unknown tensor moments/generator/99/exp_avg",
    ),
    "another shape": (
        lambda state: state.update({first(state, "module/"): torch.zeros(3)}),
        r"got torch\.float32 \(3,\) for module/.*; expected torch\.float32 \(",
    ),
    "another type": (
        lambda state: state.update({name: state[name].double() for name in [first(state, "module/")]}),
        r"got torch\.float64 .* for module/",
    ),
    "a moment of another shape": (
        lambda state: state.update({name: torch.zeros(7) for name in state if name.endswith("/exp_avg_sq")}),
        r"got torch\.float32 \(7,\) for moments/",
    ),
    "no generator": (lambda state: state.pop("generator/0/cpu"), "got no state of the random generators"),
    "a generator of another kind": (
        lambda state: state.update({"generator/0/cpu": torch.zeros(3)}),
        "got (TypeError|RuntimeError) ",
    ),
    "nothing": (lambda state: state.clear(), "got no tensor"),
}
METADATA: dict[str, tuple[dict[str, str | None], str]] = {
    "no step": ({"step": None}, "got step '' after"),
    "step NaN": ({"step": "nan"}, "got step 'nan' after"),
    "a negative step": ({"step": "-1"}, "got step -1 of"),
    "a step beyond the last": ({"step": "999"}, "got step 999 of"),
    "seconds NaN": ({"seconds": "nan"}, "got step 2 of 2 after nan seconds"),
    "seconds without end": ({"seconds": "inf"}, "got step 2 of 2 after inf seconds"),
    "no seconds": ({"seconds": None}, "got step '2' after '' seconds"),
    "no configuration": ({"config": None}, "got no config, or one that is no JSON"),
    "half a configuration": ({"config": '{"steps": 2'}, "got no config, or one that is no JSON"),
    "a list for a configuration": ({"config": "[]"}, "got a config that is no dict"),
    "nested without end": ({"config": "[" * 100_000}, "got no config, or one that is no JSON"),
    "no position": ({"data": None}, "got no data, or one that is no JSON"),
    "a number for a position": ({"data": "3"}, "got a data that is no list"),
    "a position that the data has not": ({"data": "[3]"}, "got a position that is no dict"),
    "none at all": (dict.fromkeys(("step", "seconds", "config", "data")), "got no config"),
}


@pytest.fixture(scope="module")
def saved(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[State, dict[str, str]]:
    place = tmp_path_factory.mktemp("state")
    train(stage1(folder, steps=2), place, "test")
    with safe_open(place / STATE_FILE, framework="pt") as state:
        return load_file(place / STATE_FILE), state.metadata()


def check_refused(folder: Path, place: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{STATE_FILE}: {message}") as caught:
        train(stage1(folder, steps=2), place, "test")
    assert "delete it to begin the phase again" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", TENSORS)
def test_a_state_with_other_tensors_is_one_line(
    folder: Path, saved: tuple[State, dict[str, str]], tmp_path: Path, damage: str
) -> None:
    change, message = TENSORS[damage]
    tensors = dict(saved[0])
    change(tensors)
    save_file(tensors, tmp_path / STATE_FILE, saved[1])
    check_refused(folder, tmp_path, message)


@pytest.mark.parametrize("damage", METADATA)
def test_a_state_with_other_notes_is_one_line(
    folder: Path, saved: tuple[State, dict[str, str]], tmp_path: Path, damage: str
) -> None:
    changes, message = METADATA[damage]
    notes = {name: value for name, value in (saved[1] | changes).items() if value is not None}
    save_file(saved[0], tmp_path / STATE_FILE, notes)
    check_refused(folder, tmp_path, message)


def test_a_log_that_a_kill_or_a_disk_damaged_is_cut_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_bytes(b'{"step": 0}\n[1]\nnull\n{"x": 1}\n\xff\xfe\n{"step": 0')
    (tmp_path / SKIPPED_FILE).write_bytes(b"a.png: \xff\n")
    train(stage1(folder, steps=2), tmp_path, "test")
    steps = [json.loads(line)["step"] for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert steps == [0, 2]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_description_of_a_run_is_one_line(folder: Path, tmp_path: Path, content: bytes) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / RUN_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{RUN_FILE}: got .*; expected what the run began with; put it back"):
        TrainingRun(tiny_recipe(), str(folder), run).run("pretrain")


def test_a_second_trainer_is_refused_with_the_first_s_process(folder: Path, tmp_path: Path) -> None:
    code = "import sys, time; from vqrae.runtimes.staging import claimed_folder\n"
    code += "with claimed_folder(sys.argv[1]): print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "run"], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UsageError, match=f"run: got in use by another run, process {other.pid};"):
            TrainingRun(tiny_recipe(), str(folder), tmp_path / "run").run("pretrain")
        other.kill()
    with claimed_folder(tmp_path / "run"), claimed_folder(tmp_path / "run"):  # freed, and one run may ask twice
        assert (tmp_path / "run" / ".lock").read_text() == str(os.getpid())


def test_what_a_killed_trainer_left_is_swept_and_a_finished_phase_s_state_is_gone(folder: Path, tmp_path: Path) -> None:
    run = TrainingRun(tiny_recipe(), str(folder), tmp_path / "run")
    run.run("pretrain")
    state = tmp_path / "run" / "state" / "pretrain"
    (state / STATE_FILE).write_bytes(b"of a run that was killed after its result was there")
    (state / f".staging-0123abcd-{STATE_FILE}").write_bytes(b"half")
    (tmp_path / "run" / ".staging-0123abcd-encoder").mkdir()
    run.run("pretrain")
    assert not [path for path in (tmp_path / "run").rglob("*") if path.name.startswith(".")]
    assert not (state / STATE_FILE).exists()


def test_a_disk_too_small_for_the_state_says_what_is_missing_and_keeps_the_last_one(
    folder: Path, saved: tuple[State, dict[str, str]], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", megabytes=2) as disk:
        run = disk / "run"
        run.mkdir()
        (disk / "filling").write_bytes(bytes(2**21 - 200_000))
        message = rf"run/{STATE_FILE}: got [\d,]+ bytes free; expected [\d,]+; free [\d,]+ more, or choose another disk"
        with pytest.raises(StorageError, match=message) as caught:
            train(stage1(folder, steps=2), run, "test")
        assert caught.value.exit_code == 1
        (disk / "filling").unlink()
        phase = stage1(folder, steps=2)
        train(phase, run, "test")
    modules = {name.removeprefix("module/"): tensor for name, tensor in saved[0].items() if "module/" in name}
    assert same(snapshot(phase.module), modules)


def test_a_full_disk_under_the_log_is_one_line(folder: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        run = disk / "run"
        run.mkdir()
        (disk / "filling").write_bytes(bytes(2**20 - 3 * 4096))
        with pytest.raises(StorageError, match=r"got (No space left on device|[\d,]+ bytes free)"):
            train(stage1(folder, steps=2), run, "test")
