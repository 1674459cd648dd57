from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqrae.runtimes.errors import DataError
from vqrae.runtimes.preprocess import prepare
from vqrae.training.evaluation.image_stream import CHUNK_IMAGES, ImageStream

SIZE = (8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred photographs of one gray each, in two subfolders."""
    made = tmp_path_factory.mktemp("grays")
    for number in range(200):
        path = made / f"{number // 100}" / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (12, 9), (number, number, number)).save(path)
    return made


def grays(stream: ImageStream) -> list[int]:
    return [int(image[0, 0, 0]) for chunk in stream for image in chunk.images]


def test_every_photograph_comes_once_prepared_and_in_chunks(folder: Path) -> None:
    stream = ImageStream(folder, (8, 16))
    chunks = list(stream)
    assert len(stream) == 200
    assert [len(chunk.images) for chunk in chunks] == [CHUNK_IMAGES] * 6 + [8]
    assert chunks[0].names[:2] == ("000", "001")
    np.testing.assert_array_equal(chunks[0].images[7], prepare(folder / "0" / "007.png", 8, 16))
    assert grays(stream) == list(range(200)), "the same again"


def test_fewer_are_spread_over_the_folder(folder: Path) -> None:
    assert grays(ImageStream(folder, SIZE, images=4)) == [0, 50, 100, 150]
    assert len(ImageStream(folder, SIZE, images=1000)) == 200


def test_a_crop_is_a_function_of_seed_and_number(folder: Path) -> None:
    few, many, others = (
        np.concatenate([chunk.images for chunk in ImageStream(folder, SIZE, crops=count, seed=seed)])
        for count, seed in ((5, 1), (CHUNK_IMAGES + 3, 1), (5, 2))
    )
    assert many.shape == (CHUNK_IMAGES + 3, *SIZE, 3)
    np.testing.assert_array_equal(few, many[:5])
    assert (few != others).any()
    assert next(iter(ImageStream(folder, SIZE, crops=2))).names == ("crop 0", "crop 1")


def damaged(folder: Path, *numbers: int) -> None:
    for number in numbers:
        path = folder / f"{number:03d}.png"
        path.write_bytes(path.read_bytes()[:40])


@pytest.fixture
def hundred(folder: Path, tmp_path: Path) -> Path:
    for path in (folder / "0").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_one_percent_may_be_unreadable_and_is_named(hundred: Path) -> None:
    damaged(hundred, 40)
    stream = ImageStream(hundred, SIZE)
    assert grays(stream) == [*range(40), *range(41, 100)]
    assert list(stream.skipped) == [str(hundred / "040.png")]
    assert "040.png: got not an image" in stream.skipped[str(hundred / "040.png")]


def test_more_stops(hundred: Path) -> None:
    damaged(hundred, 40, 50)
    with pytest.raises(DataError, match=r"got 2 of 100 images that cannot be read, the last: .*050.png.*at most 1%"):
        list(ImageStream(hundred, SIZE))


def test_a_crop_of_an_unreadable_photograph_is_left_out(hundred: Path) -> None:
    damaged(hundred, 40)
    stream = ImageStream(hundred, SIZE, crops=300)
    assert 280 < len(grays(stream)) < 300
    assert list(stream.skipped) == [str(hundred / "040.png")]


def test_one_unreadable_photograph_of_few_stops(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"no photograph")
    with pytest.raises(DataError, match="got 1 of 1 images"):
        list(ImageStream(tmp_path, SIZE))


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no images; expected images"):
        ImageStream(tmp_path, SIZE)


def test_whatever_holds_images_is_read_and_what_is_left_out_is_told(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "grays.tar", "w") as tar:
        for number in range(3):
            tar.add(folder / "0" / f"{number:03d}.png", f"deep/{number:03d}.png")
    (tmp_path / "notes.txt").write_text("read by nobody")
    stream = ImageStream(tmp_path, SIZE)
    (chunk,) = stream
    assert (chunk.names, grays(stream)) == (("000", "001", "002"), [0, 1, 2])
    assert stream.notes == ["left out 1: 1 of other kinds (notes.txt)"]
    np.save(tmp_path / "grays.npy", chunk.images)
    assert grays(ImageStream(tmp_path / "grays.npy", SIZE)) == [0, 1, 2]
