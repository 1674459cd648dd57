"""Which images of a source are chosen, and which choices are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_models import random_images

from vqrae.calibration.images import LEAST_IMAGES, calibration_images, pixels_sha256
from vqrae.runtimes.errors import DataError, UsageError
from vqrae.runtimes.preprocess import prepare

SIZE = (32, 32)
COUNT = 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten images that need no resizing."""
    for number, image in enumerate(random_images(COUNT).numpy()):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return tmp_path


def test_the_same_seed_gives_the_same_images_in_the_same_order(folder: Path) -> None:
    first, again = (calibration_images(folder, SIZE, count=4, seed=3) for _ in range(2))
    assert (first.names, first.sha256, first.seed) == (again.names, again.sha256, 3)
    np.testing.assert_array_equal(first.images, again.images)


def test_another_seed_gives_another_choice(folder: Path) -> None:
    choices = {calibration_images(folder, SIZE, count=4, seed=seed).names for seed in range(5)}
    assert len(choices) == 5


def test_fewer_images_are_the_first_of_more(folder: Path) -> None:
    fewer, more = (calibration_images(folder, SIZE, count=count, seed=1) for count in (3, 8))
    assert fewer.names == more.names[:3]


def test_a_choice_is_not_the_first_files(folder: Path) -> None:
    assert list(calibration_images(folder, SIZE, count=COUNT).names) != sorted(path.name for path in folder.iterdir())


def test_images_are_prepared_by_the_rule(folder: Path) -> None:
    Image.fromarray(random_images(1, seed=9).numpy()[0]).resize((90, 50)).save(folder / "wide.png")
    chosen = calibration_images(folder, (16, 24), count=COUNT + 1)
    assert (chosen.images.dtype, chosen.images.shape) == (np.uint8, (COUNT + 1, 16, 24, 3))
    for name, image, digest in zip(chosen.names, chosen.images, chosen.sha256, strict=True):
        np.testing.assert_array_equal(image, prepare(folder / name, 16, 24))
        assert digest == pixels_sha256(image)
    assert "wide.png" in chosen.names


def test_a_digest_tells_pixels_apart() -> None:
    image: NDArray[np.uint8] = random_images(1).numpy()[0]
    other = image.copy()
    other[0, 0, 0] ^= 1
    assert pixels_sha256(image) == pixels_sha256(image.copy())
    assert pixels_sha256(image) != pixels_sha256(other)


def test_duplicates_are_passed_over_and_counted(folder: Path) -> None:
    """Equal pixels are equal, whatever file they came from."""
    for number in range(3):
        with Image.open(folder / f"{number}.png") as image:
            image.save(folder / f"copy {number}.bmp")
    chosen = calibration_images(folder, SIZE, count=COUNT)
    assert len(set(chosen.sha256)) == COUNT
    assert 0 < chosen.duplicates <= 3
    with pytest.raises(UsageError, match="got 10 different ones and 3 that equal one of them; expected at least 11"):
        calibration_images(folder, SIZE, count=COUNT + 1)


def test_without_duplicates_none_are_counted(folder: Path) -> None:
    assert calibration_images(folder, SIZE, count=COUNT).duplicates == 0


def test_too_few_are_refused_with_their_number(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        calibration_images(folder, SIZE)
    remedy = f"give more, or ask for fewer with --calibration-images {COUNT}"
    expected = f"got {COUNT} different ones; expected at least {LEAST_IMAGES}; {remedy}"
    assert str(caught.value) == f"calibration images in {folder}: {expected}"


def test_an_image_that_the_result_is_verified_on_is_refused(folder: Path) -> None:
    with Image.open(folder / "4.png") as image:
        kept_apart = {pixels_sha256(prepare(image, *SIZE)): "cat"}
    message = (
        r"^calibration image 4\.png: got cat, which the result is verified on; expected other images; leave it out$"
    )
    with pytest.raises(UsageError, match=message):
        calibration_images(folder, SIZE, count=COUNT, kept_apart=kept_apart)
    assert len(calibration_images(folder, SIZE, count=COUNT, kept_apart={"0" * 64: "cat"}).images) == COUNT


@pytest.mark.parametrize("count", [0, -1])
def test_a_number_of_images_that_is_none(folder: Path, count: int) -> None:
    with pytest.raises(UsageError, match=f"number of calibration images: got {count}; expected at least 1"):
        calibration_images(folder, SIZE, count=count)


def test_a_damaged_image_is_passed_over_and_named(folder: Path) -> None:
    (folder / "5.png").write_bytes(b"no image")
    (folder / "._5.png").write_bytes(b"")
    chosen = calibration_images(folder, SIZE, count=COUNT - 1)
    assert [it.key for it in chosen.damaged] == ["5.png"]
    assert [it.key for it in chosen.left_out] == ["._5.png"]
    with pytest.raises(UsageError, match=rf"got {COUNT - 1} different ones; damaged 1: 5\.png"):
        calibration_images(folder, SIZE, count=COUNT)


def test_images_without_pixels_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((2, 0, 4, 3), np.uint8))
    with pytest.raises(DataError, match="got no images"):
        calibration_images(tmp_path / "images.npy", SIZE, count=1)


def test_no_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got no such file or folder"):
        calibration_images(tmp_path / "nowhere", SIZE, count=1)


def test_a_choice_can_be_parted(folder: Path) -> None:
    whole = calibration_images(folder, SIZE, count=5, seed=2)
    first, others = whole.parted(2)
    assert (first.names, others.names) == (whole.names[:2], whole.names[2:])
    assert (first.sha256, others.sha256) == (whole.sha256[:2], whole.sha256[2:])
    np.testing.assert_array_equal(np.concatenate([first.images, others.images]), whole.images)
    assert (first.seed, others.seed) == (2, 2)
