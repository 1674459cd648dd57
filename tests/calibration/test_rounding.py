"""Rounding that makes up for itself: on its grid, and closer where the activations really vary."""

from __future__ import annotations

import numpy as np
import pytest

from vqrae.calibration.rounding import BLOCK, Nearest, compensated, steps

RANDOM = np.random.default_rng(0)
CHANNELS = BLOCK + 60
SCALE = np.full(24, 1 / 8, np.float32)
WEIGHT = RANDOM.normal(size=(CHANNELS, 24)).astype(np.float32)
FEW = 12
"""Directions in which the activations vary, all channels together."""
INPUTS = (RANDOM.normal(size=(2000, FEW)) @ RANDOM.normal(size=(FEW, CHANNELS))).astype(np.float32)
INPUTS += RANDOM.normal(size=INPUTS.shape).astype(np.float32) / 10
COVARIANCE = np.cov(INPUTS.T).astype(np.float32)


def half(row_O: np.ndarray) -> np.ndarray:
    return row_O.astype(np.float16).astype(np.float64)


def error(rounded_CO: np.ndarray) -> float:
    centered = INPUTS - INPUTS.mean(0)
    return float(np.square(centered @ (rounded_CO - WEIGHT)).mean())


@pytest.mark.parametrize("nearest", [steps(SCALE, 127), half], ids=["whole numbers", "FP16"])
def test_the_product_moves_far_less_than_by_rounding_to_the_nearest(nearest: Nearest) -> None:
    plain = np.stack([nearest(row_O) for row_O in WEIGHT.astype(np.float64)])
    assert error(compensated(WEIGHT, COVARIANCE, nearest)) < error(plain) / 20


def test_what_comes_out_is_on_the_grid() -> None:
    rounded = compensated(WEIGHT, COVARIANCE, steps(SCALE, 9))
    np.testing.assert_array_equal(rounded, np.round(rounded / SCALE) * SCALE)
    assert np.abs(rounded / SCALE).max() == 9


def test_channels_that_vary_for_themselves_are_rounded_to_the_nearest() -> None:
    rounded = compensated(WEIGHT, np.eye(CHANNELS, dtype=np.float32), steps(SCALE, 127))
    np.testing.assert_array_equal(rounded, np.round(WEIGHT / SCALE) * SCALE)


def test_activations_that_never_vary_do_no_harm() -> None:
    rounded = compensated(WEIGHT, np.zeros((CHANNELS, CHANNELS), np.float32), steps(SCALE, 127))
    np.testing.assert_array_equal(rounded, np.round(WEIGHT / SCALE) * SCALE)
