from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from image_shards import encoded, write_parquet, write_shards, write_tar

from vqrae.images.parts import Part, source_of
from vqrae.images.reading import EncodedImage, encoded_image, encoded_images
from vqrae.images.tar import Member
from vqrae.runtimes.errors import DataError, RuntimeUnavailable


def read(data: Path | str, size: int) -> list[list[EncodedImage]]:
    source = source_of(str(data), size=size)
    assert [part.number for part in source.parts] == list(range(len(source.parts)))
    return [list(encoded_images(source.root, part)) for part in source.parts]


def keys(parts: list[list[EncodedImage]]) -> list[list[str]]:
    return [[image.key for image in part] for part in parts]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for gray in range(5):
        path = tmp_path / "images" / ("deep" if gray % 2 else "") / f"{gray}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(gray))
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_a_folder(folder: Path) -> None:
    parts = read(folder, 2)
    assert keys(parts) == [["0.png", "2.png"], ["4.png", "deep/1.png"], ["deep/3.png"]]
    assert parts[1][1].content == encoded(1)


def test_tars(tmp_path: Path) -> None:
    parts = read(write_shards(tmp_path / "shards", 2, 5), 2)
    assert keys(parts)[:3] == [
        ["000.tar/000.png", "000.tar/001.png"],
        ["000.tar/002.png", "000.tar/003.png"],
        ["000.tar/004.png"],
    ]
    assert len(parts) == 6
    assert parts[3][0] == EncodedImage("001.tar/005.png", encoded(5))


def test_one_tar_of_many(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", 1, 200)
    assert sum(map(len, read(tmp_path / "shards" / "000.tar", 64))) == 200


def test_parquet(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [encoded(gray) for gray in range(70)])
    parts = read(path, 50)
    assert [len(part) for part in parts] == [50, 20]
    assert parts[1][0] == EncodedImage("a.parquet/50", encoded(50))


def test_parquet_in_several_row_groups(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"jpg": [encoded(gray) for gray in range(10)]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    parts = read(tmp_path / "a.parquet", 4)
    assert keys(parts)[1] == [f"a.parquet/{row}" for row in range(4, 8)]
    assert [image.content for part in parts for image in part] == [encoded(gray) for gray in range(10)]


def test_a_row_without_an_image(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [encoded(0), None, encoded(2)])
    assert read(path, 9)[0][1] == EncodedImage("a.parquet/1", None, "no bytes")


def test_every_image_of_every_kind_can_be_had_alone(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards", 1, 5)
    write_parquet(tmp_path / "rows.parquet", [encoded(gray) for gray in range(5)])
    (tmp_path / "a.png").write_bytes(encoded(9))
    source = source_of(tmp_path, size=3)
    together = [image for part in source.parts for image in encoded_images(source.root, part)]
    alone = [encoded_image(source.root, part, number) for part in source.parts for number in range(part.images)]
    assert alone == together
    assert len(alone) == 11


class TestDamagedContainers:
    @pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.parquet"])
    def test_a_file_that_is_none_is_told_beside_others(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"no archive" * 100)
        (tmp_path / "b.png").write_bytes(encoded(1))
        source = source_of(tmp_path, size=2)
        assert [it.key for it in source.damaged] == [name]
        assert source.images == 1

    @pytest.mark.parametrize("name", ["a.tar", "a.parquet"])
    def test_a_file_that_is_none_is_no_success_alone(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"no archive" * 100)
        with pytest.raises(DataError, match=rf"got no images; damaged 1: {name} \(damaged .*; expected at least one"):
            source_of(tmp_path / name, size=2)

    def test_an_archive_that_lost_its_end_after_it_was_counted(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "a.tar", {f"{gray}.png": encoded(gray) for gray in range(3)})
        source = source_of(path, size=9)
        path.write_bytes(path.read_bytes()[:1600])
        images = list(encoded_images(source.root, source.parts[0]))
        assert [image.content for image in images] == [encoded(0), None, None]

    def test_rows_that_are_gone_after_they_were_counted(self, tmp_path: Path) -> None:
        path = write_parquet(tmp_path / "a.parquet", [encoded(gray) for gray in range(3)])
        source = source_of(path, size=9)
        write_parquet(path, [encoded(0)])
        images = list(encoded_images(source.root, source.parts[0]))
        assert [image.problem for image in images] == [None, "the row is missing", "the row is missing"]


class TestColumns:
    """Training, calibration and tokenizing choose the column by one rule (family A)."""

    @staticmethod
    def save(path: Path, **columns: object) -> Path:
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table(columns), path)
        return path

    @pytest.mark.parametrize(
        "column", ["image", "img", "jpg", "jpeg", "png", "webp", "photo", "Image", "JPEG", "picture.jpg"]
    )
    def test_the_one_column_of_bytes(self, tmp_path: Path, column: str) -> None:
        path = self.save(tmp_path / "a.parquet", label=[1], **{column: [encoded(1)]})
        assert read(path, 2) == [[EncodedImage("a.parquet/0", encoded(1))]]

    def test_a_name_decides_between_several(self, tmp_path: Path) -> None:
        path = self.save(tmp_path / "a.parquet", thumbnail=[b""], Image=[encoded(1)])
        assert read(path, 2) == [[EncodedImage("a.parquet/0", encoded(1))]]

    @pytest.mark.parametrize(
        ("columns", "got"),
        [
            ({"text": ["a"]}, "the columns text, none of bytes"),
            ({"image": ["a.png"]}, "the columns image, none of bytes"),
            ({"left": [b""], "right": [b""]}, "several columns that may hold images, left, right, none of them image"),
        ],
    )
    def test_no_column_that_is_clear(self, tmp_path: Path, columns: dict[str, object], got: str) -> None:
        with pytest.raises(DataError, match=got):
            source_of(self.save(tmp_path / "a.parquet", **columns), size=2)

    def test_a_table_beside_images_is_left_out(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(encoded(1))
        self.save(tmp_path / "metadata.parquet", file_name=["a.png"])
        source = source_of(tmp_path, size=2)
        assert source.images == 1
        assert [(it.key, it.why) for it in source.left_out] == [("metadata.parquet", "no image column")]

    def test_paths_instead_of_bytes(self, tmp_path: Path) -> None:
        path = self.save(
            tmp_path / "a.parquet", image=[{"bytes": None, "path": "x.png"}, {"bytes": encoded(1), "path": None}]
        )
        assert [image.problem for image in read(path, 2)[0]] == ["no bytes, only the path x.png", None]

    def test_without_pyarrow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = self.save(tmp_path / "a.parquet", image=[encoded(1)])
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(RuntimeUnavailable, match=r"Install it with `pip install 'vqrae\[parquet\]'`"):
            source_of(path, size=2)


def test_a_file_that_has_gone_since(folder: Path) -> None:
    source = source_of(str(folder), size=9)
    (folder / "2.png").unlink()
    images = list(encoded_images(folder, source.parts[0]))
    assert images[1] == EncodedImage("2.png", None, "No such file or directory")


def test_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        source_of(str(tmp_path / "none"), size=9)


def test_a_part_survives_its_json_whatever_bytes_its_names_have() -> None:
    files, members = (os.fsdecode(b"caf\xe9.tar"),), (Member(os.fsdecode(b"\xff.png"), 512, 9),)
    part = Part(number=7, kind="tar", files=files, members=members, images=1)
    assert Part.from_json(part.to_json()) == part
    assert part.to_json().isascii()
    assert part.name == "part-000007"
