from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from vqrae.runtimes.errors import InvalidInput
from vqrae.training.evaluation.frechet import FrechetMeter, Moments, frechet_distance

SEEDS = st.integers(0, 2**32 - 1)


def moments(vectors: NDArray[np.floating]) -> Moments:
    found = Moments()
    found.add(vectors)
    return found


def correlated(seed: int, count: int, width: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, width)) @ rng.normal(size=(width, width)) + rng.normal(size=width)


def with_covariance(mean: NDArray[np.float64], root: NDArray[np.float64]) -> Moments:
    """Vectors whose mean and unbiased covariance are exactly `mean` and root·rootᵀ."""
    width = len(mean)
    steps = root * np.sqrt((2 * width - 1) / 2)
    return moments(np.concatenate([mean + steps.T, mean - steps.T]))


@given(SEEDS, st.integers(2, 40), st.integers(1, 12), st.lists(st.integers(1, 10), min_size=1, max_size=6))
def test_moments_do_not_depend_on_the_chunks(seed: int, count: int, width: int, sizes: list[int]) -> None:
    vectors = correlated(seed, count, width)
    found = Moments()
    for part in np.array_split(vectors, np.minimum(np.cumsum(sizes), count)):
        if len(part):
            found.add(part)
    assert (found.count, found.width) == (count, width)
    np.testing.assert_allclose(found.mean_C, vectors.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.covariance(), np.cov(vectors.T).reshape(width, width), rtol=1e-9, atol=1e-12)


def test_moments_stand_a_mean_that_is_large_beside_the_spread() -> None:
    vectors = 1e8 + np.random.default_rng(0).normal(size=(1000, 2))
    found = Moments()
    for part in np.array_split(vectors, 7):
        found.add(part)
    np.testing.assert_allclose(found.covariance(), np.cov((vectors - 1e8).T), rtol=1e-6)


@given(SEEDS, st.integers(2, 30), st.integers(1, 20))
def test_equal_sets_are_no_distance_apart(seed: int, count: int, width: int) -> None:
    found = moments(correlated(seed, count, width))
    assert frechet_distance(found, found) <= 1e-12 * np.trace(found.covariance())


@given(SEEDS, st.integers(2, 30), st.integers(2, 30), st.integers(1, 20))
def test_it_is_symmetric(seed: int, count: int, other: int, width: int) -> None:
    first, second = moments(correlated(seed, count, width)), moments(correlated(seed + 1, other, width))
    scale = np.trace(first.covariance()) + np.trace(second.covariance())
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), abs=1e-10 * scale)


@given(SEEDS, st.integers(2, 30), st.integers(1, 20))
def test_a_shift_adds_its_square(seed: int, count: int, width: int) -> None:
    vectors = correlated(seed, count, width)
    shift = np.random.default_rng(seed).normal(size=width)
    found = frechet_distance(moments(vectors), moments(vectors + shift))
    assert found == pytest.approx(shift @ shift, rel=1e-6, abs=1e-9 * np.square(vectors).sum())


@given(SEEDS, st.integers(1, 12))
def test_axis_aligned_gaussians_have_a_closed_form(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    means, deviations = rng.normal(size=(2, width)), rng.uniform(0, 3, size=(2, width))
    pair = [with_covariance(mean, np.diag(deviation)) for mean, deviation in zip(means, deviations, strict=True)]
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    assert frechet_distance(*pair) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(SEEDS, st.integers(2, 8))
def test_covariances_that_do_not_commute_match_the_matrix_root(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    roots = [rng.normal(size=(width, width)) + 3 * np.eye(width) for _ in range(2)]
    first, second = (root @ root.T for root in roots)
    expected = np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    pair = [with_covariance(np.zeros(width), root) for root in roots]
    assert frechet_distance(*pair) == pytest.approx(expected, abs=1e-6 * np.trace(first + second))


@given(SEEDS, st.integers(10, 40))
def test_directions_without_spread_change_nothing(seed: int, width: int) -> None:
    """Few images in many dimensions: the same vectors, turned into a larger space."""
    first, second = correlated(seed, 9, 3), correlated(seed + 1, 9, 3)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, 3)))[0].T
    plain = frechet_distance(moments(first), moments(second))
    turned = frechet_distance(moments(first @ basis), moments(second @ basis))
    assert turned == pytest.approx(plain, rel=1e-6, abs=1e-9)


def test_one_vector_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="a covariance of 1 vectors"):
        frechet_distance(moments(np.ones((1, 3))), moments(np.ones((2, 3))))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_features_are_refused(value: float) -> None:
    with pytest.raises(InvalidInput, match="features: got NaN or infinite values"):
        moments(np.array([[0.0, value], [1.0, 1.0]]))


@pytest.mark.parametrize(
    ("images", "warning"),
    [(1, "two images at least"), (4, "4 images in 4 dimensions: the covariances are singular"), (5, None)],
)
def test_the_meter_says_when_images_are_few(images: int, warning: str | None) -> None:
    meter = FrechetMeter()
    vectors = correlated(0, images, 4)
    meter.add(vectors, vectors + 1)
    assert meter.warning() is None if warning is None else warning in str(meter.warning())
    assert meter.distance() == (None if images < 2 else pytest.approx(4))
