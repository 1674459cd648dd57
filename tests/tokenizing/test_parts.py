from __future__ import annotations

from pathlib import Path

import pytest
from image_shards import encoded, write_parquet, write_shards, write_tar

from vqrae.runtimes.errors import DataError
from vqrae.tokenizing.parts import Part, source_of
from vqrae.tokenizing.reading import EncodedImage, encoded_images


def read(data: Path | str, size: int) -> list[list[EncodedImage]]:
    source = source_of(str(data), size=size)
    assert [part.number for part in source.parts] == list(range(len(source.parts)))
    return [list(encoded_images(Path(source.root), part)) for part in source.parts]


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


def test_a_truncated_tar_keeps_what_is_before_the_damage(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{gray}.png": encoded(gray) for gray in range(6)})
    path.write_bytes(path.read_bytes()[: 4 * 1024 + 520])
    images = [image for part in read(path, 2) for image in part]
    assert [image.key for image in images] == ["a.tar/0.png", "a.tar/1.png", "a.tar/2.png", "a.tar/3.png", "a.tar"]
    assert images[-1].content is None
    assert "damaged archive, what follows is missing" in str(images[-1].problem)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.parquet"])
def test_a_file_that_is_none_is_one_dead_image(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive" * 100)
    ((image,),) = read(tmp_path / name, 2)
    assert (image.key, image.content) == (name, None)
    assert "what follows is missing" in str(image.problem)


def test_a_parquet_file_without_images(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    ((image,),) = read(tmp_path / "a.parquet", 2)
    assert image.problem == "the columns text, none of image, img, jpg, png, webp"


def test_a_file_that_has_gone_since(folder: Path) -> None:
    source = source_of(str(folder), size=9)
    (folder / "2.png").unlink()
    images = list(encoded_images(folder, source.parts[0]))
    assert images[1] == EncodedImage("2.png", None, "No such file or directory")


def test_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        source_of(str(tmp_path / "none"), size=9)


def test_a_part_survives_its_json() -> None:
    part = Part(number=7, kind="tar", files=("a.tar",), first=8, images=4, last=False)
    assert Part.model_validate_json(part.model_dump_json()) == part
    assert part.name == "part-000007"
