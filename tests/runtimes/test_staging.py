from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from vqrae.runtimes.errors import StorageError, UsageError
from vqrae.runtimes.staging import staged_file, staged_folder


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    return folder


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.html"
    with staged_file(target) as staging:
        staging.write_text("done")
        assert staging.suffix == ".html"
        assert not target.exists()
    assert tree(tmp_path) == {"new/report.html": "done"}


def test_a_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    with staged_file(target) as staging:
        staging.write_text("new")
    assert tree(tmp_path) == {"report.html": "new"}


def test_a_linked_file_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    with staged_file(tmp_path / "link.txt") as staging:
        staging.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ValueError, UsageError("x")])
def test_an_interrupted_file_leaves_nothing(tmp_path: Path, interruption: type[BaseException]) -> None:
    with pytest.raises(BaseException) as caught, staged_file(tmp_path / "a" / "b" / "x") as staging:  # noqa: PT011, PT012
        staging.write_text("half")
        raise interruption
    assert not isinstance(caught.value, StorageError)
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_writes_nothing_is_an_error_not_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="x: got No such file or directory"), staged_file(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_place_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got a folder; expected the name of a file"), staged_file(tmp_path):
        pass


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "deep" / "out") as staging:
        (staging / "a.txt").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert tree(tmp_path) == {"deep/out/a.txt": "a"}


def test_an_existing_folder_is_refused(old_folder: Path) -> None:
    message = r"out: got a folder that exists; expected a new name; pass --overwrite to replace it$"
    with pytest.raises(UsageError, match=message), staged_folder(old_folder):
        pass
    assert tree(old_folder) == {"old.txt": "old"}


def test_a_file_is_no_place_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    message = "got a file; expected the name of a folder"
    with pytest.raises(UsageError, match=message), staged_folder(tmp_path / "out", overwrite=True):
        pass


def test_an_overwritten_folder_is_replaced_whole(old_folder: Path) -> None:
    with staged_folder(old_folder, overwrite=True) as staging:
        (staging / "new.txt").write_text("new")
        assert tree(old_folder) == {"old.txt": "old"}
    assert tree(old_folder.parent) == {"out/new.txt": "new"}


def test_an_interrupted_overwrite_keeps_the_old_folder(old_folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), staged_folder(old_folder, overwrite=True) as staging:  # noqa: PT012
        (staging / "new.txt").write_text("half")
        raise KeyboardInterrupt
    assert tree(old_folder.parent) == {"out/old.txt": "old"}


def test_a_failed_move_brings_the_old_folder_back(old_folder: Path) -> None:
    with (
        pytest.raises(StorageError, match="out: got No such file"),
        staged_folder(old_folder, overwrite=True) as staging,
    ):
        staging.rmdir()  # so that there is nothing to move
    assert tree(old_folder.parent) == {"out/old.txt": "old"}


def test_a_full_disk_is_a_storage_error_with_a_remedy(tmp_path: Path) -> None:
    message = r"out/model.onnx: got No space left on device: 4 bytes written, [\d,]+ free; free some space or choose"
    with pytest.raises(StorageError, match=message) as caught, staged_folder(tmp_path / "out") as staging:  # noqa: PT012
        (staging / "model.onnx").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(staging / "model.onnx"))
    assert caught.value.exit_code == 1
    assert ".staging-" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_really_full_device_is_a_storage_error(tmp_path: Path) -> None:
    message = "out: got No space left on device"
    with (
        pytest.raises(StorageError, match=message),
        staged_folder(tmp_path / "out"),
        Path("/dev/full").open("w") as full,
    ):
        full.write("x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_a_parent_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"got (Not a directory|File exists)"), staged_file(tmp_path / "file" / "x"):
        pass


def test_the_current_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    for target in (inner, tmp_path, Path()):
        with pytest.raises(UsageError, match="or one above it"), staged_folder(target, overwrite=True):
            pass
    assert inner.is_dir()
