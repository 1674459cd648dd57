from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from vqrae.training.data.scenes import ATTRIBUTES, COLORS, GRID, SHAPES, Scenes

SIZE = 48


def noise(seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(values)


def gray() -> Image.Image:
    return Image.new("RGB", (40, 40), (128, 128, 128))


SCENES = Scenes(photographs=[noise(0), noise(1)], size=SIZE)
PLAIN = Scenes(photographs=[gray()], size=SIZE)
"""Without texture, every object is one flat color."""


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = SCENES.batch(5, [3, 7]), SCENES.batch(5, [3, 7])
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.masks, second.masks)
    for name in ATTRIBUTES:
        np.testing.assert_array_equal(first.labels[name], second.labels[name])


@pytest.mark.parametrize("seed", [[3, 8], [4, 7], [7, 3]])
def test_another_seed_gives_other_scenes(seed: list[int]) -> None:
    assert not np.array_equal(SCENES.batch(2, [3, 7]).images, SCENES.batch(2, seed).images)


def test_scenes_of_a_batch_differ() -> None:
    images = SCENES.batch(6, [0]).images
    assert len({image.tobytes() for image in images}) == 6


@given(st.integers(0, 2**31), st.integers(0, 6), st.integers(0, 6))
@settings(max_examples=20, deadline=None)
def test_rows_of_a_batch_are_the_batchs(seed: int, start: int, length: int) -> None:
    batch, rows = SCENES.batch(12, [seed, 1]), slice(start, start + length)
    part = SCENES.rows(range(start, start + length), [seed, 1])
    np.testing.assert_array_equal(part.images, batch.images[rows])
    np.testing.assert_array_equal(part.masks, batch.masks[rows])
    assert all((part.labels[name] == batch.labels[name][rows]).all() for name in ATTRIBUTES)


def test_shapes_and_dtypes() -> None:
    batch = SCENES.batch(3, [0])
    assert (batch.images.shape, batch.images.dtype) == ((3, SIZE, SIZE, 3), np.uint8)
    assert (batch.masks.shape, batch.masks.dtype) == ((3, SIZE, SIZE), np.int64)
    assert list(batch.labels) == list(ATTRIBUTES)
    assert all((labels.shape, labels.dtype) == ((3,), np.int64) for labels in batch.labels.values())


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_labels_are_in_range_and_the_mask_is_of_the_shape(seed: int) -> None:
    batch = SCENES.batch(2, [seed])
    for name, classes in ATTRIBUTES.items():
        assert (batch.labels[name] >= 0).all()
        assert (batch.labels[name] < classes).all()
    for shape, mask in zip(batch.labels["shape"], batch.masks, strict=True):
        assert set(np.unique(mask)) == {0, 1 + shape}


def test_every_class_is_drawn() -> None:
    batch = PLAIN.batch(150, [0])
    for name, classes in ATTRIBUTES.items():
        assert set(batch.labels[name]) == set(range(classes))


def components(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Connected parts of a mask, 8-connected."""
    from skimage.measure import label

    numbered = label(mask, connectivity=2)
    return [numbered == number for number in range(1, numbered.max() + 1)]


def test_the_mask_shows_position_and_count() -> None:
    """The largest part of the mask lies in the labelled cell, and there are as many parts as objects."""
    batch = Scenes(photographs=[gray()], size=96).batch(60, [1])
    for index, mask in enumerate(batch.masks):
        if SHAPES[batch.labels["shape"][index]] == "crescent":
            continue  # its thin horns may come apart at this size
        parts = components(mask > 0)
        assert len(parts) == batch.labels["count"][index] + 1
        rows, columns = np.nonzero(max(parts, key=np.sum))
        cell = 96 / GRID
        center = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
        assert divmod(batch.labels["position"][index], GRID) == (center[0] // cell, center[1] // cell)


def test_objects_are_visible_in_their_color() -> None:
    batch = PLAIN.batch(40, [2])
    colors = list(COLORS.values())
    for index, (image, mask) in enumerate(zip(batch.images, batch.masks, strict=True)):
        assert (mask > 0).mean() > 0.005, "the object covers some of the image"
        mean = image[mask > 0].mean(0)
        distances = [np.abs(mean - color).sum() for color in colors]
        assert int(np.argmin(distances)) == batch.labels["color"][index]
        assert np.abs(image[mask == 0].astype(int) - 128).mean() < 5, "the background is the photograph"


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_fills_its_own_share_of_its_circle(shape: str) -> None:
    """A square is no circle and a ring has a hole: masks of different shapes really differ."""
    shares = {"circle": 1.0, "square": 0.64, "triangle": 0.41, "star": 0.39, "ring": 0.70, "cross": 0.64}
    shares |= {"diamond": 0.35, "crescent": 0.55}
    batch = Scenes(photographs=[gray()], size=96).batch(120, [4])
    found = []
    for index in np.flatnonzero(batch.labels["shape"] == SHAPES.index(shape)):
        main = max(components(batch.masks[index] > 0), key=np.sum)
        radius = 0.47 * 96 / GRID  # the mean of the main object's
        found.append(main.sum() / (np.pi * radius**2))
    assert np.mean(found) == pytest.approx(shares[shape], abs=0.1)


def test_texture_reaches_the_picture() -> None:
    textured, plain = SCENES.batch(1, [5]).images, PLAIN.batch(1, [5]).images
    assert textured.std() > 1.5 * plain.std()
