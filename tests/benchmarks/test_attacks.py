from __future__ import annotations

import os
import random
import shutil
import signal
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from vqrae.benchmarks.studies.attack_stage import (
    ON_A_FILE,
    ON_ALL,
    RIGHT,
    THERE_AND_BACK,
    TIME,
    WRONG,
    Outcomes,
    Stage,
    attacking,
    files_below,
)
from vqrae.benchmarks.studies.attack_trials import MOMENTS, Trials, Worker, WorkerDied
from vqrae.benchmarks.studies.attacks import main, make_twins
from vqrae.benchmarks.studies.tokenize_kills import content_hash
from vqrae.runtimes.bundle import listed_files, write_manifest
from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.manifest import MANIFEST_FILE, read_manifest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def twins(bundle, tmp_path_factory) -> tuple[Path, Path]:
    """A bundle and a copy of it with other weights, valid as well: as `make_twins` exports them, only sooner."""
    evil = tmp_path_factory.mktemp("twins") / "evil"
    shutil.copytree(bundle, evil)
    for path in evil.glob("*.onnx.data"):
        (np.fromfile(path, np.float32) * np.float32(1.25)).tofile(path)
    write_manifest(evil, read_manifest(evil / MANIFEST_FILE).model_copy(update={"files": listed_files(evil)}))
    return bundle, evil


@pytest.fixture
def stage(twins, tmp_path) -> Stage:
    return Stage(*twins, tmp_path, random.Random(0))  # noqa: S311


def test_what_cannot_be_made_is_refused_with_what_can(tmp_path):
    with pytest.raises(UsageError, match="--make: got 'onx'; expected one of onnx, openvino"):
        make_twins("onx", tmp_path, print)


@pytest.mark.parametrize("kind", [*ON_A_FILE, *ON_ALL, *THERE_AND_BACK])
def test_each_attack_changes_the_bundle_and_reset_puts_it_back(stage, kind):
    before, file = content_hash(stage.bundle), stage.files_of(stage.manifest.graphs["encode"])[-1]
    if kind in THERE_AND_BACK:
        with attacking(stage, kind, file):
            pass
    else:
        with attacking(stage, kind, file):
            assert content_hash(stage.bundle) != before
    stage.reset()
    assert content_hash(stage.bundle) == before
    assert content_hash(stage.evil) == content_hash(stage.pristine[1])
    assert {path.stat().st_mtime for path in files_below(stage.bundle)} == {TIME}


def test_a_worker_that_dies_is_seen_with_its_signal(stage):
    worker = Worker({})
    worker.send(do="load", path=str(stage.bundle), options={})
    assert worker.answer(60) == "loaded"
    worker._process.send_signal(signal.SIGBUS)
    with pytest.raises(WorkerDied, match="SIGBUS"):
        worker.answer(60)


def test_a_worker_that_says_nothing_is_killed():
    worker = Worker({})
    with pytest.raises(WorkerDied, match="hang"):
        worker.answer(0.01)
    with pytest.raises(ChildProcessError):
        os.waitpid(worker._process.pid, 0)


def test_outcomes_are_fine_only_if_right_answers_are_among_them_and_nothing_bad():
    outcomes = Outcomes()
    outcomes.add("link", "before load", "error")
    assert not outcomes.fine
    outcomes.add("link", "before load", RIGHT)
    assert outcomes.fine
    outcomes.add("link", "before load", "SIGBUS")
    assert not outcomes.fine
    assert outcomes.table(["before load", "during load"]).splitlines()[-1] == "| link | 1 SIGBUS, 2 ok |  |"


def test_answers_are_judged_bit_for_bit(stage, tmp_path):
    before = MOMENTS[0]
    with closing(Trials(stage, None, tmp_path / "private")) as trials:
        assert trials.run("folder", before, False)[0] == RIGHT  # without a key, it is another bundle
        assert trials.run("folder", before, True) == ("error", ["SignatureError"])
        trials.right[1:] = ["0" * 64] * 4
        assert trials.run("manifest", MOMENTS[-1], False)[0] == WRONG
        assert len({*islice(trials.plan([True, False]), 1000)}) == 2 * 8 * len([*ON_A_FILE, *ON_ALL, *THERE_AND_BACK])


def test_no_attack_gets_a_wrong_answer_or_a_crash(twins):
    good, evil = map(str, twins)
    main([good, "--evil", evil, "--trials", "40"])
