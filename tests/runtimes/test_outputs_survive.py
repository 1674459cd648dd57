"""Outputs that survive kills, power cuts, second runs and odd targets; staging's plain promises are in test_staging."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_disk import small_disk

from vqrae.runtimes import renames, staging
from vqrae.runtimes.errors import StorageError, UsageError
from vqrae.runtimes.lock import Lock
from vqrae.runtimes.staging import (
    check_new_file,
    check_new_folder,
    check_room,
    claimed_folder,
    staged_file,
    staged_folder,
    write_output,
)

HELD = "got in use by another run, process \\d+; expected an output that no other run is writing; wait for it"
ROOT = os.geteuid() == 0


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(params=["in one step", "in two"])
def moves(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """File systems that exchange two folders, and that do not."""
    if request.param == "in two":
        monkeypatch.setattr(renames, "_EXCHANGE", None)
        monkeypatch.setattr(renames, "_RENAME_NEW", None)
    return str(request.param)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "old").write_text("old")
    return folder


class Calls:
    """What was synced and renamed, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, str]] = []
        fsync, replace = os.fsync, os.replace
        opened = Path("/proc/self/fd")
        self._watch(monkeypatch, os, "fsync", lambda number: (fsync(number), str((opened / str(number)).readlink()))[1])
        self._watch(monkeypatch, os, "replace", lambda source, target: (replace(source, target), str(target))[1])

    def _watch(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: Callable[..., str]) -> None:
        monkeypatch.setattr(owner, name, lambda *arguments: self.made.append((name, call(*arguments))))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_file_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    write_output(tmp_path / "x.json", "{}")
    assert [name for name, _ in calls.made] == ["fsync", "replace", "fsync"]
    assert ".staging-" in calls.made[0][1]
    assert calls.made[1:] == [("replace", str(tmp_path / "x.json")), ("fsync", str(tmp_path))]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_folder_is_on_the_disk_from_its_leaves_up_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    with staged_folder(tmp_path / "deep" / "out") as folder:
        (folder / "golden").mkdir()
        (folder / "golden" / "a").write_text("a")
    order = [Path(path).name.partition("-")[0] for name, path in calls.made if name == "fsync"]
    assert order == [tmp_path.name.partition("-")[0], "a", "golden", ".staging", "deep"]


@pytest.mark.usefixtures("moves")
def test_an_overwritten_folder_is_the_new_one_whole_and_nothing_is_left(bundle: Path) -> None:
    with staged_folder(bundle, overwrite=True) as folder:
        (folder / "new").write_text("new")
    assert names(bundle) == {"new"}
    assert names(bundle.parent) == {"bundle"}


@pytest.mark.usefixtures("moves")
def test_of_two_writers_of_one_new_folder_the_second_is_refused_at_the_start(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "out") as first:
        (first / "who").write_text("first")
        with pytest.raises(UsageError, match=f"out: {HELD}") as caught, staged_folder(tmp_path / "out"):
            raise AssertionError("no work is done")
        assert f"process {os.getpid()};" in str(caught.value)
    assert (tmp_path / "out" / "who").read_text() == "first"


@pytest.mark.usefixtures("moves")
def test_a_folder_that_came_meanwhile_from_elsewhere_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="out: got a folder that exists"), staged_folder(tmp_path / "out") as folder:  # noqa: PT012
        (folder / "who").write_text("us")
        (tmp_path / "out").mkdir()
    assert names(tmp_path) == {"out"}
    assert names(tmp_path / "out") == set()


@pytest.mark.usefixtures("moves")
def test_a_file_that_must_be_new_does_not_replace_one_that_came_meanwhile(tmp_path: Path) -> None:
    key = tmp_path / "key"
    with pytest.raises(UsageError, match="got a file that exists"), staged_file(key, overwrite=False) as new:  # noqa: PT012
        new.write_text("ours")
        key.write_text("theirs")
    assert key.read_text() == "theirs"


def test_threads_that_write_one_folder_leave_one_whole_output(tmp_path: Path) -> None:
    done: list[str] = []
    start = threading.Barrier(8)

    def write(who: str) -> None:
        start.wait()
        try:
            with staged_folder(tmp_path / "out") as folder:
                (folder / "who").write_text(who)
        except UsageError:
            return
        done.append(who)

    threads = [threading.Thread(target=write, args=[str(number)]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [(tmp_path / "out" / "who").read_text()]
    assert names(tmp_path) == {"out"}


WRITER = """
import sys
from pathlib import Path
from vqrae.runtimes import renames, staging
if sys.argv[2] == "in two":
    renames._EXCHANGE = renames._RENAME_NEW = None
number = 0
print("started", flush=True)
while True:
    number += 1
    with staging.staged_folder(Path(sys.argv[1]), overwrite=True) as folder:
        for name in "abcdefgh":
            (folder / name).write_text(str(number))
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_the_old_folder_or_the_new_one_whole(tmp_path: Path, moves: str) -> None:
    for delay in range(30):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "out", moves], stdout=subprocess.PIPE, text=True
        )
        with writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(0.05 + delay * 0.0037)
            writer.kill()
        if moves == "in one step" and delay:
            assert len({path.read_text() for path in (tmp_path / "out").iterdir()}) == 1
            assert len(names(tmp_path / "out")) == 8
    with staged_folder(tmp_path / "out", overwrite=True) as folder:
        assert len(names(tmp_path / "out")) == 8, "a folder that had stepped aside is back"
        (folder / "last").write_text("")
    assert names(tmp_path) == {"out"}


def test_what_a_killed_run_left_is_removed_by_the_next_of_that_output_alone(tmp_path: Path) -> None:
    for name in (".staging-0123abcd-out", ".staging-0123abcd-other", ".staging-mine-out"):
        (tmp_path / name).mkdir()
    with staged_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == {"out", ".staging-0123abcd-other", ".staging-mine-out"}


def test_what_a_library_writes_beside_its_file_goes_with_it(tmp_path: Path) -> None:
    with staged_file(tmp_path / "x") as new:
        new.with_name(".tmp1234").write_text("half")
        new.write_text("whole")
    assert names(tmp_path) == {"x"}


def test_an_old_folder_that_had_stepped_aside_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".aside-0123abcd-out").mkdir()
    with pytest.raises(UsageError, match="got a folder that exists"), staged_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == {"out"}


def test_a_claimed_folder_is_refused_to_a_second_run_and_swept_but_for_what_lives(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "state" / "stage1").mkdir(parents=True)
    (run / ".staging-0123abcd-x").write_text("half")
    (run / "state" / "stage1" / ".staging-0123abcd-y").write_text("half")
    (run / ".staging-0123abcd-alive").write_text("half")
    with Lock.take(run / ".alive.lock", subject="", expected=""), claimed_folder(run, "state/*"):
        assert names(run) == {".lock", "state", ".staging-0123abcd-alive", ".alive.lock"}
        assert names(run / "state" / "stage1") == set()
        with claimed_folder(run), ThreadPoolExecutor(1) as other:  # this thread may ask again, another may not
            second = other.submit(lambda: claimed_folder(run).__enter__())
            with pytest.raises(UsageError, match=f"run: {HELD}"):
                second.result()
        (run / ".staging-0123abcd-of-a-worker-that-died").write_text("half")
    assert names(run) == {"state", ".staging-0123abcd-alive"}, "the other's lock went with it"
    with claimed_folder(run):
        pass
    assert names(run) == {"state"}


def test_a_claimed_folder_that_was_refused_or_failed_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), claimed_folder(tmp_path / "a" / "run"):
        raise KeyboardInterrupt
    assert names(tmp_path) == set()


@pytest.fixture(params=["pipe", "socket", "device", "link to a device", "link to a pipe"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "odd"
    kind = request.param.removeprefix("link to a ")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        if not ROOT:
            pytest.skip("only root makes devices")
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
            yield path
        return
    if kind != request.param:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    yield path


@pytest.mark.parametrize("refuse", [check_new_file, lambda path: check_new_folder(path, overwrite=True)])
def test_a_target_that_is_no_file_or_folder_is_refused_and_stays(odd: Path, refuse: Callable[[Path], None]) -> None:
    before = odd.stat().st_mode
    with pytest.raises(UsageError, match=r"got a (pipe|socket|device); expected the name of a f"):
        refuse(odd)
    assert odd.stat().st_mode == before


@pytest.mark.parametrize("name", ["/dev/null", "/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/1"])
def test_a_stream_of_this_process_is_no_output(name: str, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:  # a plain file behind it, which a rename would detach
        code = f"from vqrae.runtimes.staging import check_new_file; check_new_file({name!r})"
        ended = subprocess.run([sys.executable, "-c", code], stdout=log, stderr=subprocess.PIPE, text=True, check=False)
    assert "UsageError" in ended.stderr
    assert "expected the name of a file" in ended.stderr


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_no_name_at_all_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="got no name for a file"):
        check_new_file(name)


def test_a_name_too_long_for_the_file_system_is_one_line_about_it(tmp_path: Path) -> None:
    for name in ("n" * 245, "n" * 300):
        with pytest.raises(StorageError, match=f"/{name}: got File name too long$"), staged_file(tmp_path / name):
            pass
    assert names(tmp_path) == set()


def test_a_link_that_leads_nowhere_or_to_itself(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(StorageError, match="loop: got Too many levels of symbolic links"), staged_file(loop):
        pass
    (tmp_path / "link").symlink_to("real")
    write_output(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"x"


@pytest.mark.skipif(ROOT, reason="nothing is read-only to root")
def test_a_read_only_parent_is_one_line_about_the_output(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="x: got Permission denied; choose a place"), staged_file(tmp_path / "x"):
        pass


@pytest.fixture
def full_soon(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def test_a_full_disk_says_how_much_was_written_and_what_is_missing(full_soon: Path) -> None:
    message = r"x: got No space left on device: 1,[\d,]+ bytes written, 0 free; free some space or choose another disk$"
    with pytest.raises(StorageError, match=message), staged_file(full_soon / "x") as new:
        new.write_bytes(bytes(2**21))
    message = r"x: got 1,04[\d,]+ bytes free; expected 2,097,152; free 1,0[\d,]+ more, or choose another disk$"
    with pytest.raises(StorageError, match=message):
        write_output(full_soon / "x", bytes(2**21))
    with pytest.raises(StorageError, match="expected 1,048,577"):
        check_room(full_soon / "deep" / "x", 2**20 + 1)
    assert names(full_soon) == set()


def test_a_library_that_loses_the_reason_is_told_by_the_full_disk(full_soon: Path) -> None:
    with pytest.raises(StorageError, match="No space left on device") as caught, staged_file(full_soon / "x") as new:  # noqa: PT012
        with pytest.raises(OSError, match="No space"):
            new.write_bytes(bytes(2**21))
        raise RuntimeError("the model could not be saved")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_ctrl_c_on_a_full_disk_stays_ctrl_c(full_soon: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_free_bytes", lambda _: 0)
    with pytest.raises(KeyboardInterrupt), staged_file(full_soon / "x"):
        raise KeyboardInterrupt


HOLDER = """
import sys, time
from vqrae.runtimes.staging import staged_folder
with staged_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_names_its_process_and_ends_with_it_however_that_ends(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "out"], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        run.stdout.readline()
        with pytest.raises(UsageError, match=f"process {run.pid};"), staged_folder(tmp_path / "out"):
            pass
        run.kill()
    assert names(tmp_path) > {".out.lock"}
    with staged_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == {"out"}
