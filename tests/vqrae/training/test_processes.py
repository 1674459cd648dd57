"""Two real processes on the CPU give one process's training; killed and stopped processes go on where they were."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
import torch
from phases import same, write_photographs
from safetensors.torch import load_file
from train_small import main_in_a_fork

from vqrae.training.log import LOG_FILE
from vqrae.training.state import STATE_FILE

SUPPORT = Path(__file__).parents[2] / "support"
PROGRAM = SUPPORT / "train_small.py"
KILLS = int(os.environ.get("VQRAE_TEST_KILLS", "3"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
LAUNCH += ["--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def launched(folder: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*LAUNCH, str(PROGRAM), str(folder), str(out), *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def forks() -> ForkServerContext:
    """Of one process alone: it begins with what its parent imported, which takes longer than to train."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_small"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SUPPORT))
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return context


def errors_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.txt")


def started(forks: ForkServerContext, folder: Path, out: Path, *arguments: str) -> ForkServerProcess:
    process = forks.Process(target=main_in_a_fork, args=([str(folder), str(out), *arguments], errors_of(out)))
    process.start()
    return process


def run(forks: ForkServerContext, folder: Path, out: Path, *arguments: str) -> None:
    process = started(forks, folder, out, *arguments)
    process.join(300)
    assert process.exitcode == 0, errors_of(out).read_text()


def curve(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / LOG_FILE).read_text().splitlines()]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs"))


# With everything that a step can have, accumulation and a discriminator included.
SETTINGS = ["adversarial", "steps=8", "batch_size=8", "accumulation=2", "save_every=3", "scene_fraction=0.5"]


@pytest.fixture(scope="module")
def one(forks: ForkServerContext, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process makes of the whole batch."""
    out = tmp_path_factory.mktemp("one")
    run(forks, photographs, out, *SETTINGS)
    return out


def assert_like_one_process(two: Path, one: Path) -> None:
    assert [line["step"] for line in curve(two)] == list(range(1, 9))
    for expected, got in zip(curve(one), curve(two), strict=True):
        for name in expected.keys() - {"step", "seconds"}:
            assert got[name] == pytest.approx(expected[name], abs=1e-4, rel=1e-4), (expected["step"], name)
    expected_weights, weights = (load_file(out / "weights.safetensors") for out in (one, two))
    for name, tensor in expected_weights.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_two_processes_give_one_processs_loss_curve(photographs: Path, one: Path, tmp_path: Path) -> None:
    two = launched(photographs, tmp_path, *SETTINGS)
    assert two.returncode == 0, two.stderr
    assert_like_one_process(tmp_path, one)


@pytest.mark.slow
def test_so_do_two_that_hold_shards_and_were_stopped(photographs: Path, one: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, 'strategy="fsdp2"']
    assert launched(photographs, tmp_path, *settings, "fail_at=4").returncode != 0
    assert [line["step"] for line in curve(tmp_path)] == [1, 2, 3, 4], "the last is not saved"
    resumed = launched(photographs, tmp_path, *settings)
    assert resumed.returncode == 0, resumed.stderr
    assert_like_one_process(tmp_path, one)


LONG = ["adversarial", "steps=60", "save_every=5"]


@pytest.fixture(scope="module")
def undisturbed(forks: ForkServerContext, photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What nobody kills or stops."""
    out = tmp_path_factory.mktemp("undisturbed")
    run(forks, photographs, out, *LONG)
    return out


def wait_for_step(process: ForkServerProcess, out: Path, step: int) -> None:
    """Return once the log tells that the step is done, or the process has ended."""
    log = out / LOG_FILE
    while process.is_alive() and (not log.exists() or log.read_bytes().count(b"\n") < step):
        time.sleep(0.002)


@pytest.mark.slow
def test_kill_9_at_random_steps_and_resume(
    forks: ForkServerContext, photographs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """However often it is killed, wherever, its weights are those of the run that nothing disturbed, bit for bit."""
    rng = random.Random(0)  # noqa: S311 - where it is killed is no secret
    kills = 0
    for step in sorted(rng.sample(range(1, 59), KILLS)):
        process = started(forks, photographs, tmp_path, *LONG)
        wait_for_step(process, tmp_path, step)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills == KILLS
    run(forks, photographs, tmp_path, *LONG)
    for name in ("weights.safetensors", STATE_FILE):
        assert same(load_file(undisturbed / name), load_file(tmp_path / name)), name


@pytest.mark.slow
def test_sigterm_saves_and_exits(
    forks: ForkServerContext, photographs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    process = started(forks, photographs, tmp_path, *LONG)
    wait_for_step(process, tmp_path, 7)
    process.terminate()
    process.join()
    assert process.exitcode == 143
    assert "SIGTERM, saved after step" in errors_of(tmp_path).read_text()
    assert 7 <= curve(tmp_path)[-1]["step"] < 60
    run(forks, photographs, tmp_path, *LONG)
    assert same(*(load_file(out / "weights.safetensors") for out in (undisturbed, tmp_path)))
    assert [line["step"] for line in curve(tmp_path)] == list(range(1, 61))
