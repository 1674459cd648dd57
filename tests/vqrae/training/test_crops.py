from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vqrae.images.files import image_files
from vqrae.runtimes.errors import DataError, ImageError
from vqrae.runtimes.preprocess import open_image
from vqrae.training.data.crops import ColorShift, Crop, CroppedPhotographs, _hue_rotation, shift_colors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, shape in (("b.png", (40, 60, 3)), ("a.JPG", (30, 30, 3)), ("deep/c.webp", (50, 20, 3))):
        path = tmp_path / "photographs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)
    (tmp_path / "photographs" / "notes.txt").write_text("not an image")
    return tmp_path / "photographs"


def cropped(paths: list[Path], size: int, **options: Any) -> CroppedPhotographs:
    return CroppedPhotographs(len(paths), lambda number: open_image(paths[number]), size, **options)


def random_image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)


def test_image_files_are_found_below_and_sorted(folder: Path) -> None:
    assert [path.relative_to(folder).as_posix() for path in image_files(folder)] == ["a.JPG", "b.png", "deep/c.webp"]
    assert image_files(str(folder)) == image_files(folder)


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: got no such folder; expected a folder with \.bmp, .* files"):
        image_files(tmp_path / "nowhere")


def test_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match="got no image files; expected a folder with"):
        image_files(tmp_path)


def test_a_file_in_place_of_a_folder(folder: Path) -> None:
    with pytest.raises(DataError, match=r"b\.png: got a file; expected a folder"):
        image_files(folder / "b.png")


def test_a_folder_with_an_images_name_is_no_image(folder: Path) -> None:
    (folder / "album.png").mkdir()
    assert folder / "album.png" not in image_files(folder)


def test_crops_are_a_function_of_the_seed(folder: Path) -> None:
    paths = image_files(folder)
    first = cropped(paths, 16, color_jitter=0.5).batch(6, [1, 2])
    assert (first.shape, first.dtype) == ((6, 16, 16, 3), np.uint8)
    fresh = cropped(paths, 16, color_jitter=0.5, cached=1)
    fresh.batch(3, [9, 9])  # what was drawn before does not matter
    np.testing.assert_array_equal(fresh.batch(6, [1, 2]), first)
    assert not np.array_equal(fresh.batch(6, [1, 3]), first)
    assert len({crop.tobytes() for crop in first}) == 6


def test_an_empty_batch(folder: Path) -> None:
    assert cropped(image_files(folder), 16).batch(0, [0]).shape == (0, 16, 16, 3)


def test_crops_lie_inside_and_are_flipped_half_of_the_time(tmp_path: Path) -> None:
    """On a ramp that rises to the right, a crop rises too unless it was flipped; outside there would be edges."""
    ramp = np.repeat(np.arange(100, 200, dtype=np.uint8)[None, :, None], 60, 0).repeat(3, 2)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    crops = cropped([tmp_path / "ramp.png"], 8).batch(200, [0]).astype(int)
    assert crops.min() >= 100
    assert crops.max() <= 199
    slopes = crops[:, 0, -1, 0] - crops[:, 0, 0, 0]
    assert (slopes != 0).all()
    assert 0.35 < (slopes < 0).mean() < 0.65
    assert np.abs(slopes).max() > 2 * np.abs(slopes).min(), "large and small crops"


@given(st.integers(0, 2**31), st.booleans(), st.tuples(st.integers(1, 50), st.integers(1, 50)))
@settings(max_examples=30, deadline=None)
def test_a_drawn_crop_fits_every_photograph(seed: int, colors: bool, size: tuple[int, int]) -> None:
    """So it can be drawn before the photograph is known."""
    crop = Crop.draw(np.random.default_rng(seed), colors=colors)
    assert crop.cut(Image.new("RGB", size, "gray"), 8, 0.5).shape == (8, 8, 3)
    assert (crop.colors is not None) == colors


def test_an_unreadable_photograph_is_named(folder: Path) -> None:
    (folder / "b.png").write_text("text with an image's name")
    with pytest.raises(ImageError, match=r"b\.png"):
        cropped([folder / "b.png"], 16).batch(1, [0])


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_jitter_of_strength_0_changes_nothing(seed: int) -> None:
    image = random_image(seed)
    jittered = shift_colors(image, ColorShift.draw(np.random.default_rng(seed)), 0.0)
    assert np.abs(jittered.astype(int) - image).max() <= 1


def test_jitter_changes_colors_and_is_seeded() -> None:
    image = random_image()
    first, second = (shift_colors(image, ColorShift.draw(np.random.default_rng(4)), 1.0) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (first.dtype, first.shape) == (np.uint8, image.shape)
    assert np.abs(first.astype(int) - image).mean() > 5


@given(st.floats(-np.pi, np.pi))
@settings(max_examples=30, deadline=None)
def test_hue_rotation_keeps_gray_gray_and_lengths(angle: float) -> None:
    rotation = _hue_rotation(angle)
    np.testing.assert_allclose(rotation @ np.ones(3), np.ones(3), atol=1e-6)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)


def test_a_third_of_a_turn_permutes_the_channels() -> None:
    np.testing.assert_allclose(_hue_rotation(2 * np.pi / 3) @ [1, 0, 0], [0, 1, 0], atol=1e-6)


@given(st.integers(0, 2**31), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_gray_pixels_stay_gray(seed: int, strength: float) -> None:
    gray = random_image(seed)[..., :1].repeat(3, -1)
    jittered = shift_colors(gray, ColorShift.draw(np.random.default_rng(seed)), strength).astype(int)
    assert np.ptp(jittered, axis=-1).max() <= 1
