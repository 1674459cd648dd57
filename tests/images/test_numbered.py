"""Every kind of source gives the same images, and every bad one is refused in one line."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from tiny_models import random_images

from vqrae.images.numbered import source_images
from vqrae.runtimes.errors import DataError, ImageError, VqraeError

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
    images = source_images(source)
    return np.stack([np.asarray(images.read(number)) for number in range(len(images))])


def names(source: Path) -> list[str]:
    images = source_images(source)
    return [images.name(number) for number in range(len(images))]


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
    assert names(folder) == ["a/0.png", "a/1.png", "a/2.png", "b/3.png", "b/4.png"]
    np.testing.assert_array_equal(read_all(folder), pixels)


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz"), ("tbz2", "w:bz2")])
def test_a_tar_gives_what_its_folder_gives(
    folder: Path, pixels: NDArray[np.uint8], tmp_path: Path, suffix: str, mode: str
) -> None:
    source = save_tar(tmp_path / f"images.{suffix}", folder, mode)
    assert names(source) == [f"{source.name}/{folder.name}/{name}" for name in names(folder)]
    np.testing.assert_array_equal(read_all(source), pixels)


def test_a_tar_is_not_unpacked(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "images.tar"
    with tarfile.open(source, "w") as archive:
        archive.add(folder / "a" / "0.png", arcname="../outside.png")
    assert names(source) == ["images.tar/../outside.png"]
    read_all(source)
    assert list(tmp_path.iterdir()) == [source]
    assert not (tmp_path.parent / "outside.png").exists()


def test_a_parquet_file_gives_its_rows_across_row_groups(
    encoded: list[bytes], pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    source = save_parquet(tmp_path / "images.parquet", label=list(range(COUNT)), photo=encoded)
    assert parquet.ParquetFile(source).num_row_groups == 3
    assert names(source) == [f"images.parquet/{row}" for row in range(COUNT)]
    np.testing.assert_array_equal(read_all(source), pixels)


def test_shards_beside_a_picture(folder: Path, pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    """All of them are candidates: family A."""
    save_tar(tmp_path / "images.tar", folder)
    Image.fromarray(pixels[0]).save(tmp_path / "banner.png")
    assert len(names(tmp_path)) == COUNT + 1


def test_what_is_left_out_and_damaged_is_told(folder: Path, tmp_path: Path) -> None:
    source = save_tar(tmp_path / "images.tar", folder)
    (tmp_path / "broken.tar").write_bytes(source.read_bytes()[:700])
    (tmp_path / "._a.png").write_bytes(b"")
    images = source_images(tmp_path)
    told = {(it.key.split("/")[-1], it.why) for it in images.left_out}
    assert told == {("._a.png", "hidden"), ("labels.txt", "other")}
    assert [it.key for it in images.damaged] == ["broken.tar"]


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_gives_its_images(pixels: NDArray[np.uint8], tmp_path: Path, order: str) -> None:
    np.save(tmp_path / "images.NPY.npy", np.asarray(pixels, order=order))  # type: ignore[call-overload] # C or F
    np.testing.assert_array_equal(read_all(tmp_path / "images.NPY.npy"), pixels)


def test_nothing_is_decoded_until_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"no image")
    images = source_images(tmp_path)
    with pytest.raises(ImageError, match=r"0\.png: got not an image"):
        images.read(0)


# --- what is refused ---


def test_nothing_there(tmp_path: Path) -> None:
    assert "got no such file or folder; expected a folder" in refusal(tmp_path / "nowhere")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    message = refusal(tmp_path)
    assert "got no images; left out 1: 1 of other kinds (notes.txt); expected images (.bmp, " in message


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
    assert refusal(source, ImageError).startswith(f"{source}/0.png: got not an image")


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


def test_a_parquet_file_without_rows(tmp_path: Path) -> None:
    source = save_parquet(tmp_path / "images.parquet", image=pa.array([], pa.binary()))
    assert refusal(source).endswith("got no images; expected at least one")


def test_a_damaged_image_in_a_parquet_file_is_named_by_its_row(encoded: list[bytes], tmp_path: Path) -> None:
    source = save_parquet(tmp_path / "images.parquet", image=[encoded[0], b"no image"])
    assert refusal(source, ImageError).startswith(f"{source}/1: got not an image")


@pytest.mark.parametrize("part", [slice(0), slice(4), slice(-20)])
def test_part_of_a_parquet_file(encoded: list[bytes], tmp_path: Path, part: slice) -> None:
    source = save_parquet(tmp_path / "images.parquet", image=encoded)
    source.write_bytes(source.read_bytes()[part])
    assert "got no images; damaged 1: images.parquet (damaged Parquet file (" in refusal(source)


@pytest.mark.parametrize("start", [4, -100], ids=["pages", "footer"])
def test_a_damaged_parquet_file(encoded: list[bytes], tmp_path: Path, start: int) -> None:
    source = save_parquet(tmp_path / "images.parquet", image=encoded)
    content = bytearray(source.read_bytes())
    start %= len(content)
    for number in range(start, start + 80):
        content[number] ^= 0x5A
    source.write_bytes(content)
    refusal(source, VqraeError)
