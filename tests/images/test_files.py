"""One rule says what a name stands for, and names what it does not (families A and C)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_shards import encoded

from vqrae.images.files import DataFiles, data_files, image_files
from vqrae.images.kinds import Kind, key_of
from vqrae.runtimes.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(data: Path | str) -> DataFiles:
    files = data_files(str(data))
    assert files is not None
    return files


def left_out(files: DataFiles) -> dict[str, str]:
    return {it.key: it.why for it in files.left_out}


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder that is deleted by what does not recurse."""
    yield tmp_path / "deep"
    subprocess.run(["rm", "-rf", tmp_path / "deep"], check=True)  # noqa: S607


def nested(folder: Path, name: str, depth: int) -> None:
    """Folders in folders, whose path may be longer than a system takes."""
    folder.mkdir()
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


class TestSelectionIsNeverSilent:
    def test_a_banner_beside_shards_is_one_image_more(self, tmp_path: Path) -> None:
        touch(tmp_path, "assets/banner.png", "data/1.tar", "data/0.tar", "index.parquet")
        files = found(tmp_path)
        assert files.names == {
            "images": ["assets/banner.png"],
            "tar": ["data/0.tar", "data/1.tar"],
            "parquet": ["index.parquet"],
        }

    def test_every_file_is_taken_or_named(self, tmp_path: Path) -> None:
        touch(
            tmp_path, "a.jpg", "b.jfif", "c.jpe", "d.ppm", "E.PNG", "e.avif", "f.heic", "g.jp2", "notes.txt", "Makefile"
        )
        os.mkfifo(tmp_path / "pipe.png")
        files = found(tmp_path)
        assert files.names["images"] == ["E.PNG", "a.jpg", "b.jfif", "c.jpe", "d.ppm"]
        assert left_out(files) == {
            "Makefile": "other",
            "e.avif": "unread format",
            "f.heic": "unread format",
            "g.jp2": "unread format",
            "notes.txt": "other",
            "pipe.png": "special",
        }

    @pytest.mark.parametrize(
        "name",
        [
            "._a.jpg",
            "__MACOSX/._a.jpg",
            ".Trash-1000/deleted.jpg",
            ".git/a.png",
            "x/$RECYCLE.BIN/a.png",
            "@eaDir/a.png",
        ],
    )
    def test_what_systems_leave_beside_pictures_is_hidden(self, tmp_path: Path, name: str) -> None:
        touch(tmp_path, "a.jpg", name)
        files = found(tmp_path)
        assert files.names["images"] == ["a.jpg"]
        assert left_out(files) == {name: "hidden"}
        assert image_files(tmp_path) == [tmp_path / "a.jpg"]

    def test_a_data_set_may_lie_in_a_hidden_folder(self, tmp_path: Path) -> None:
        touch(tmp_path, ".cache/data/a.jpg")
        assert found(tmp_path / ".cache" / "data").names["images"] == ["a.jpg"]

    def test_linked_folders_are_read(self, tmp_path: Path) -> None:
        touch(tmp_path, "data/cat/1.jpg", "dogs/1.jpg", "dogs/deep/2.jpg")
        (tmp_path / "data" / "dog").symlink_to("../dogs")
        assert found(tmp_path / "data").names["images"] == ["cat/1.jpg", "dog/1.jpg", "dog/deep/2.jpg"]

    def test_a_folder_is_read_once_however_many_links_lead_to_it(self, tmp_path: Path) -> None:
        touch(tmp_path, "z/1.jpg", "y/2.jpg")
        for name, target in {"a": "z", "b": "z", "loop": ".", "z/up": "../y", "y/across": "../z"}.items():
            (tmp_path / name).symlink_to(target)
        files = found(tmp_path)
        assert files.names["images"] == ["y/2.jpg", "z/1.jpg"]
        assert left_out(files) == dict.fromkeys(["a", "b", "loop", "y/across", "z/up"], "link")

    def test_a_link_to_nothing_is_damage(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.jpg")
        (tmp_path / "b.jpg").symlink_to("gone.jpg")
        (tmp_path / "c.jpg").symlink_to("c.jpg")
        assert [it.key for it in found(tmp_path).damaged] == ["b.jpg", "c.jpg"]

    def test_a_path_that_is_too_long_to_be_read_is_damage(self, deep: Path) -> None:
        nested(deep, "d" * 200, 25)
        (damaged,) = found(deep).damaged
        assert damaged.reason == "File name too long"

    def test_a_folder_tree_deeper_than_recursion_goes(self, deep: Path) -> None:
        nested(deep, "d", 1500)
        deepest = os.path.join(deep, *"d" * 1500, "a.jpg")  # noqa: PTH118 - pathlib would recurse
        os.close(os.open(deepest, os.O_CREAT))
        assert found(deep).names["images"] == ["d/" * 1500 + "a.jpg"]


@pytest.mark.parametrize(
    ("kind", "suffix"), [("parquet", ".parquet"), ("tar", ".tar"), ("tar", ".tar.gz"), ("images", ".png")]
)
def test_files_by_name_folder_and_pattern(tmp_path: Path, kind: Kind, suffix: str) -> None:
    touch(tmp_path, *(f"{number:03d}{suffix}" for number in range(12)), "README.md")
    for data in (tmp_path, f"{tmp_path}/*{suffix}", f"{tmp_path}/{{000..011}}{suffix}"):
        files = found(data)
        assert files.kinds == [kind]
        assert files.names[kind] == [f"{number:03d}{suffix}" for number in range(12)]
    assert found(tmp_path / f"003{suffix}").paths(kind) == [tmp_path / f"003{suffix}"]
    assert len(found(f"{tmp_path}/{{008..010}}{suffix}").names[kind]) == 3


def test_a_pattern_across_folders_and_of_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/0.tar", "b/1.tar", "b/c/2.png", "b/notes.txt")
    assert found(f"{tmp_path}/*/*.tar").names["tar"] == ["a/0.tar", "b/1.tar"]
    files = found(f"{tmp_path}/*")
    assert (files.names["tar"], files.names["images"]) == (["a/0.tar", "b/1.tar"], ["b/c/2.png"])
    assert left_out(files) == {"b/notes.txt": "other"}
    everything = found(f"{tmp_path}/*/**")
    assert (everything.names, everything.left_out) == (files.names, files.left_out)


def test_a_range_counts_with_as_many_digits_as_it_begins_with(tmp_path: Path) -> None:
    touch(tmp_path, "8.tar", "9.tar", "10.tar")
    assert sorted(found(f"{tmp_path}/{{8..10}}.tar").names["tar"]) == ["10.tar", "8.tar", "9.tar"]


def test_a_name_that_exists_is_no_pattern(tmp_path: Path) -> None:
    touch(tmp_path, "photographs [2024]/a.png")
    assert found(tmp_path / "photographs [2024]").names["images"] == ["a.png"]


def test_what_names_nothing_here() -> None:
    assert data_files("owner/name") is None


def test_a_gap_in_a_range(tmp_path: Path) -> None:
    touch(tmp_path, "0.tar", "2.tar")
    with pytest.raises(DataError, match=r"got 1 of 3 files missing, the first: .*1\.tar; expected all of them"):
        data_files(f"{tmp_path}/{{0..2}}.tar")


def test_a_range_without_end(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at most 1000000 files"):
        data_files(f"{tmp_path}/{{0..99999999999}}.tar")
    assert data_files(f"{tmp_path}/{{0..{10**30}}}.tar") is None


@pytest.mark.parametrize("data", ["*.tar", "notes.*", "notes.txt", "empty"])
def test_nothing_to_read_is_no_success(tmp_path: Path, data: str) -> None:
    touch(tmp_path, "notes.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        DataError, match=r"got no images.*; expected images \(\.bmp.*\), tars or Parquet files"
    ) as caught:
        data_files(f"{tmp_path}/{data}")
    assert ("notes.txt" in str(caught.value).split("got")[1]) == data.startswith("notes")


class TestNamesOfAnyBytes:
    def test_a_name_in_latin_1(self, tmp_path: Path) -> None:
        path = os.fsencode(tmp_path) + b"/caf\xe9.png"
        Path(os.fsdecode(path)).write_bytes(encoded(1))
        (name,) = found(tmp_path).names["images"]
        assert (tmp_path / name).read_bytes() == encoded(1)
        assert key_of(name) == r"caf\xe9.png"

    def test_no_two_names_have_one_key(self) -> None:
        names = [os.fsdecode(b"caf\xe9"), r"caf\xe9", "café", os.fsdecode(b"caf\\\xe9")]
        assert len({key_of(name) for name in names}) == len(names)
        assert key_of("café/a b.png") == "café/a b.png"
