from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vqrae.runtimes.errors import UsageError
from vqrae.runtimes.lock import Lock

HOLD = "import sys; from pathlib import Path; from vqrae.runtimes.lock import Lock\n\
lock = Lock.try_to_take(Path(sys.argv[1])); print(lock is not None, flush=True); sys.stdin.read()"


def holder(path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "True\n"
    return child


def test_a_second_taker_is_told_the_process_of_the_first(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as child:
        message = rf"out: got in use by another run, process {child.pid}; expected a free one; wait for it"
        with pytest.raises(UsageError, match=message):
            Lock.take(tmp_path / "lock", subject="out", expected="a free one")
        child.communicate("")
    with Lock.take(tmp_path / "lock", subject="out", expected="a free one"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path / "lock") as child:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert (tmp_path / "lock").exists()
    with Lock.take(tmp_path / "lock", subject="out", expected="a free one"):
        pass


def test_the_same_process_does_not_hold_it_twice(tmp_path: Path) -> None:
    with Lock.take(tmp_path / "lock", subject="out", expected="a free one") as first:
        assert Lock.try_to_take(tmp_path / "lock") is None
        first.close()
        second = Lock.try_to_take(tmp_path / "lock")
        assert second is not None
        first.close()  # does not let go of what it no longer holds
        assert Lock.try_to_take(tmp_path / "lock") is None
        second.close()
