from __future__ import annotations

from pathlib import Path

import pytest

from vqrae.runtimes.errors import DataError
from vqrae.training.data.data_files import PARQUET, TARS, data_files


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(data: Path | str) -> list[str]:
    found = data_files(str(data))
    assert found is not None
    return [path.name for path in found.paths]


def test_a_folder_of_images_comes_before_what_else_it_holds(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "deep/a.jpg", "c.tar", "d.parquet")
    assert names(tmp_path) == ["b.png", "a.jpg"]


@pytest.mark.parametrize(("suffixes", "suffix"), [(PARQUET, ".parquet"), (TARS, ".tar"), (TARS, ".tar.gz")])
def test_files_by_name_folder_and_pattern(tmp_path: Path, suffixes: tuple[str, ...], suffix: str) -> None:
    touch(tmp_path, *(f"{number:03d}{suffix}" for number in range(12)), "README.md")
    for data in (tmp_path, f"{tmp_path}/*{suffix}", f"{tmp_path}/{{000..011}}{suffix}"):
        found = data_files(str(data))
        assert found is not None
        assert found.suffixes == suffixes
        assert names(data) == [f"{number:03d}{suffix}" for number in range(12)]
    assert names(tmp_path / f"003{suffix}") == [f"003{suffix}"]
    assert names(f"{tmp_path}/{{008..010}}{suffix}") == [f"008{suffix}", f"009{suffix}", f"010{suffix}"]


def test_a_range_counts_with_as_many_digits_as_it_begins_with(tmp_path: Path) -> None:
    touch(tmp_path, "8.tar", "9.tar", "10.tar")
    assert names(f"{tmp_path}/{{8..10}}.tar") == ["8.tar", "9.tar", "10.tar"]


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "photographs [2024]/a.png")
    assert names(tmp_path / "photographs [2024]") == ["a.png"]


def test_what_names_nothing_here() -> None:
    assert data_files("owner/name") is None


def test_a_gap_in_a_range(tmp_path: Path) -> None:
    touch(tmp_path, "0.tar", "2.tar")
    with pytest.raises(DataError, match=r"got 1 of 3 files missing, the first: .*1\.tar; expected all of them"):
        data_files(f"{tmp_path}/{{0..2}}.tar")


@pytest.mark.parametrize(
    ("data", "got"),
    [("*.tar", "no such file"), ("notes.*", "a file"), ("notes.txt", "a file"), ("*.*", "2 files of other kinds")],
)
def test_files_of_no_kind_or_of_several(tmp_path: Path, data: str, got: str) -> None:
    touch(tmp_path, "notes.txt", "a.parquet")
    with pytest.raises(DataError, match=rf"got {got}; expected a folder of images, or only \.parquet or only \.tar"):
        data_files(f"{tmp_path}/{data}")


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no image files"):
        data_files(str(tmp_path))
