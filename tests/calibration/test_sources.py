"""Every kind of source gives the same images, and every bad one is refused in one line."""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from tiny_models import random_images

from vqrae.calibration.sources import IMAGE_COLUMNS, source_images
from vqrae.runtimes.errors import DataError, ImageError, RuntimeUnavailable, VqraeError

COUNT = 5


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = random_images(COUNT).numpy()
    return found


@pytest.fixture(scope="module")
def folder(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in two folders, with one beside them that is no image; not to be changed."""
    made = tmp_path_factory.mktemp("source")
    for number, image in enumerate(pixels):
        path = made / ("a" if number < 3 else "b") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    (made / "a" / "labels.txt").write_text("0 cat")
    return made


@pytest.fixture(scope="module")
def encoded(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.png"))]


def save_tar(path: Path, content: Path, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload] # modes are literals to mypy
        archive.add(content, arcname=content.name)
    return path


def save_parquet(path: Path, **columns: object) -> Path:
    parquet.write_table(pa.table(columns), path, row_group_size=2)
    return path


def read_all(source: Path) -> NDArray[np.uint8]:
    return np.stack([np.asarray(image.read()) for image in source_images(source)])


def refusal(source: Path, error: type[VqraeError] = DataError) -> str:
    """The one line that says why none of its images can be had; a source may only find out when it decodes."""
    with pytest.raises(error) as caught:
        read_all(source)
    message = str(caught.value)
    assert "\n" not in message
    assert str(source) in message
    return message


# --- what is read ---


def test_a_folder_gives_its_images_in_the_order_of_their_paths(folder: Path, pixels: NDArray[np.uint8]) -> None:
    assert [image.name for image in source_images(folder)] == ["a/0.png", "a/1.png", "a/2.png", "b/3.png", "b/4.png"]
    np.testing.assert_array_equal(read_all(folder), pixels)


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz"), ("bin", "w:bz2")])
def test_a_tar_gives_what_its_folder_gives(
    folder: Path, pixels: NDArray[np.uint8], tmp_path: Path, suffix: str, mode: str
) -> None:
    source = save_tar(tmp_path / f"images.{suffix}", folder, mode)
    assert [image.name for image in source_images(source)] == [
        f"{folder.name}/{image.name}" for image in source_images(folder)
    ]
    np.testing.assert_array_equal(read_all(source), pixels)


def test_the_order_in_a_tar_does_not_matter(encoded: list[bytes], folder: Path, tmp_path: Path) -> None:
    paths = sorted(folder.rglob("*.png"))
    for name, order in (("one.tar", paths), ("other.tar", paths[::-1])):
        with tarfile.open(tmp_path / name, "w") as archive:
            for path in order:
                archive.add(path, arcname=path.name)
    one, other = source_images(tmp_path / "one.tar"), source_images(tmp_path / "other.tar")
    assert [image.name for image in one] == [image.name for image in other]
    np.testing.assert_array_equal(read_all(tmp_path / "one.tar"), read_all(tmp_path / "other.tar"))


def test_a_tar_is_not_unpacked_and_its_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "images.tar"
    with tarfile.open(source, "w") as archive:
        archive.add(folder / "a" / "0.png", arcname="../outside.png")
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert [image.name for image in source_images(source)] == ["../outside.png"]
    read_all(source)
    assert list(tmp_path.iterdir()) == [source]
    assert not (tmp_path.parent / "outside.png").exists()


def test_a_name_that_a_tar_holds_twice_is_listed_once(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "images.tar"
    with tarfile.open(source, "w") as archive:
        for _ in range(2):
            archive.add(folder / "a" / "0.png", arcname="0.png")
    assert [image.name for image in source_images(source)] == ["0.png"]


@pytest.mark.parametrize("column", IMAGE_COLUMNS)
def test_a_parquet_file_gives_its_rows_across_row_groups(
    encoded: list[bytes], pixels: NDArray[np.uint8], tmp_path: Path, column: str
) -> None:
    source = save_parquet(tmp_path / "images.parquet", label=list(range(COUNT)), **{column: encoded})
    assert parquet.ParquetFile(source).num_row_groups == 3
    assert [image.name for image in source_images(source)] == ["0", "1", "2", "3", "4"]
    np.testing.assert_array_equal(read_all(source), pixels)


def test_a_parquet_file_may_hold_structs_as_datasets_writes_them(
    encoded: list[bytes], pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    rows = [{"bytes": image, "path": "0.png"} for image in encoded]
    np.testing.assert_array_equal(read_all(save_parquet(tmp_path / "images.parquet", image=rows)), pixels)


def test_the_first_known_column_of_a_parquet_file_is_taken(
    encoded: list[bytes], pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    source = save_parquet(tmp_path / "images.parquet", png=[b""] * COUNT, image=encoded)
    np.testing.assert_array_equal(read_all(source), pixels)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_gives_its_images(pixels: NDArray[np.uint8], tmp_path: Path, order: str) -> None:
    np.save(tmp_path / "images.NPY.npy", np.asarray(pixels, order=order))  # type: ignore[call-overload] # C or F
    np.testing.assert_array_equal(read_all(tmp_path / "images.NPY.npy"), pixels)


def test_nothing_is_decoded_until_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no image")
    (image,) = source_images(tmp_path)
    with pytest.raises(ImageError, match=r"0\.png: got not an image"):
        image.read()


# --- what is refused ---

HALF_A_HEADER = pytest.param(b"\x1f\x8b", id="gzip")


def test_nothing_there(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert message.endswith("got no such file or folder; expected a folder, a tar, a parquet or a .npy file")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    assert "got no image files; expected a folder with .bmp" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", HALF_A_HEADER])
def test_a_file_that_is_no_source(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.bin"
    path.write_bytes(content)
    message = refusal(path)
    assert "got no archive (" in message
    assert message.endswith("; expected a folder, a tar, a parquet or a .npy file")


def test_a_tar_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    source = save_tar(tmp_path / "images.tar", tmp_path / "notes.txt")
    assert refusal(source).endswith("got no images; expected at least one")


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [
        ("tar", "w"),
        ("tar.gz", "w:gz"),
        ("tar.xz", "w:xz"),
        ("tar.bz2", "w:bz2"),
    ],
)
def test_half_of_a_tar(folder: Path, tmp_path: Path, suffix: str, mode: str) -> None:
    source = save_tar(tmp_path / f"images.{suffix}", folder, mode)
    content = source.read_bytes()
    source.write_bytes(content[: 5000 if mode == "w" else len(content) // 2])
    assert "got no archive (" in refusal(source)


def test_a_tar_that_is_damaged_where_its_images_lie(tmp_path: Path) -> None:
    """Its list of names may be whole."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 200, 200, 3), dtype=np.uint8)
    for number, image in enumerate(noise):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    source = tmp_path / "images.tar.xz"
    with tarfile.open(source, "w:xz") as archive:
        for path in sorted(tmp_path.glob("*.png")):
            archive.add(path, arcname=path.name)
    damage(source, 3 / 4)
    refusal(source, VqraeError)


def damage(path: Path, where: float) -> None:
    content = bytearray(path.read_bytes())
    start = int(len(content) * where)
    for number in range(start, min(start + 64, len(content))):
        content[number] ^= 0x5A
    path.write_bytes(content)


def test_a_damaged_image_in_a_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no image")
    source = save_tar(tmp_path / "images.tar", tmp_path / "0.png")
    assert refusal(source, ImageError).startswith(f"{source}:0.png: got not an image")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "got EOF: reading magic string, expected 8 bytes got 0; expected a .npy file, uint8 (B, H, W, 3)"),
        (b"text", "; expected a .npy file, uint8 (B, H, W, 3)"),
        (b"\x93NUMPY\x01\x00", "; expected a .npy file, uint8 (B, H, W, 3)"),
        (b"PK\x03\x04", "; expected a .npy file, uint8 (B, H, W, 3)"),
    ],
)
def test_a_file_that_is_no_array(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "images.npy"
    path.write_bytes(content)
    assert words in refusal(path)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 4, 4, 3), np.float32), "got float32 (2, 4, 4, 3); expected uint8 (B, H, W, 3)"),
        (np.zeros((4, 4, 3), np.uint8), "got uint8 (4, 4, 3); expected uint8 (B, H, W, 3)"),
        (np.zeros((2, 3, 4, 4), np.uint8), "got uint8 (2, 3, 4, 4); expected uint8 (B, H, W, 3)"),
        (np.zeros((0, 4, 4, 3), np.uint8), "got no images; expected at least one"),
        (np.array([None]), "Python objects"),
    ],
    ids=["float", "one image", "channels first", "empty", "objects"],
)
def test_an_array_of_something_else(tmp_path: Path, array: NDArray[np.generic], words: str) -> None:
    np.save(tmp_path / "images.npy", array)
    assert words in refusal(tmp_path / "images.npy")


def test_part_of_an_array(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "images.npy"
    np.save(path, pixels)
    path.write_bytes(path.read_bytes()[:-1])
    assert "expected a .npy file, uint8 (B, H, W, 3)" in refusal(path)


def test_an_archive_of_arrays_under_an_array_s_name(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", pixels)
    source = (tmp_path / "images.npz").rename(tmp_path / "images.npy")
    assert "expected a .npy file, uint8 (B, H, W, 3)" in refusal(source)


def test_a_parquet_file_without_a_known_column(tmp_path: Path) -> None:
    source = save_parquet(tmp_path / "images.parquet", label=[1], photo=[b""])
    assert refusal(source).endswith("got the columns label, photo; expected one of image, img, jpg, png, webp")


def test_a_parquet_file_without_rows(tmp_path: Path) -> None:
    source = save_parquet(tmp_path / "images.parquet", image=pa.array([], pa.binary()))
    assert refusal(source).endswith("got no images; expected at least one")


@pytest.mark.parametrize(
    ("value", "got"),
    [(3, "int"), ("0.png", "str"), (None, "NoneType"), ({"path": "0.png"}, "NoneType"), ({"bytes": 1}, "int")],
)
def test_a_parquet_column_without_encoded_images(tmp_path: Path, value: object, got: str) -> None:
    source = save_parquet(tmp_path / "images.parquet", image=[value])
    expected = "encoded images: bytes, or a struct with a field `bytes`"
    assert refusal(source).endswith(f"column image: got {got}; expected {expected}")


def test_a_damaged_image_in_a_parquet_file_is_named_by_its_row(encoded: list[bytes], tmp_path: Path) -> None:
    source = save_parquet(tmp_path / "images.parquet", image=[encoded[0], b"no image"])
    assert refusal(source, ImageError).startswith(f"{source} row 1: got not an image")


@pytest.mark.parametrize("part", [slice(0), slice(4), slice(-20)])
def test_part_of_a_parquet_file(encoded: list[bytes], tmp_path: Path, part: slice) -> None:
    source = save_parquet(tmp_path / "images.parquet", image=encoded)
    source.write_bytes(source.read_bytes()[part])
    assert "expected a whole Parquet file" in refusal(source)


@pytest.mark.parametrize("start", [4, -100], ids=["pages", "footer"])
def test_a_damaged_parquet_file(encoded: list[bytes], tmp_path: Path, start: int) -> None:
    source = save_parquet(tmp_path / "images.parquet", image=encoded)
    content = bytearray(source.read_bytes())
    start %= len(content)
    for number in range(start, start + 80):
        content[number] ^= 0x5A
    source.write_bytes(content)
    refusal(source)


def test_parquet_without_pyarrow(encoded: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_parquet(tmp_path / "images.parquet", image=encoded)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refusal(source, RuntimeUnavailable).endswith("Install it with `pip install 'vqrae[parquet]'`")
