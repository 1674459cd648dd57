"""Parity's figures against brute force on random tokenizers, and the gates' verdicts at their edges."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from vqrae.runtimes.code_space import TableSpace
from vqrae.runtimes.evidence import ParityFigures
from vqrae.runtimes.parity import (
    IDENTICAL_PSNR_DB,
    Reference,
    Sample,
    judge,
    judge_parity,
    mean_ssim,
    measure,
    misses,
    psnr_db,
)
from vqrae.runtimes.precision import PRECISIONS, Budget, Precision, PrecisionName

K, C, E, GRID, BATCH = 50, 12, 20, (4, 5), 3


def reference(seed: int = 0) -> Reference:
    """A random reference whose indices are truly the nearest codes, in float64."""
    rng = np.random.default_rng(seed)
    space = TableSpace(
        weight_EC=rng.normal(size=(E, C)).astype(np.float32),
        bias_E=rng.normal(size=E).astype(np.float32),
        codes_KE=rng.normal(size=(K, E)).astype(np.float32),
        nearest_two=lambda features: np.zeros((len(features), 2), np.int32),  # of one level nobody asks
    )
    features = rng.normal(size=(BATCH, GRID[0] * GRID[1], C)).astype(np.float32)
    distances = brute_force_distances(space, features)
    order = distances.argsort(1)
    images, decoded = (rng.integers(0, 256, (BATCH, 16, 20, 3), dtype=np.uint8) for _ in range(2))
    return Reference(
        images=images,
        indices=order[:, 0].reshape(BATCH, *GRID).astype(np.int32),
        runners_up=order[:, 1].reshape(BATCH, *GRID).astype(np.int32),
        features=features,
        decoded=decoded,
        reconstructed=decoded,
        space=space,
    )


def brute_force_distances(space: TableSpace, features: np.ndarray) -> np.ndarray:
    projected = features.reshape(-1, C).astype(np.float64) @ space.weight_EC.T + space.bias_E
    return np.square(projected[:, None] - space.codes_KE[None]).sum(-1)


def same(source: Reference, **changed: np.ndarray) -> Sample:
    fields = {field.name: getattr(source, field.name) for field in dataclasses.fields(Sample)}
    return Sample(**{**fields, **changed})


def test_a_perfect_copy_passes_every_gate() -> None:
    source = reference()
    figures = measure(source, same(source))
    assert (figures.excess_distortion, figures.token_agreement, figures.mismatches) == (0, 1, 0)
    assert figures.decode_psnr_db == IDENTICAL_PSNR_DB
    assert figures.feature_cosine == pytest.approx(1)
    assert all(not misses(judge_parity(figures, kind.limits)) for kind in PRECISIONS.values())


@given(seed=st.integers(0, 1000), flips=st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_excess_distortion_is_what_the_flips_cost(seed: int, flips: int) -> None:
    source = reference(seed)
    rng = np.random.default_rng(seed)
    indices = source.indices.copy().ravel()
    where = rng.choice(indices.size, flips, replace=False)
    indices[where] = rng.integers(0, K, flips)
    figures = measure(source, same(source, indices=indices.reshape(source.indices.shape)))
    distances = brute_force_distances(source.space, source.features)
    rows = np.arange(indices.size)
    expected = distances[rows, indices].sum() / distances[rows, source.indices.ravel()].sum() - 1
    assert figures.excess_distortion == pytest.approx(expected, rel=1e-9)
    assert figures.excess_distortion >= 0
    assert figures.mismatches == (indices != source.indices.ravel()).sum()


def test_a_flip_beyond_the_token_s_own_noise_is_unexplained() -> None:
    """Noise of one token excuses no other: the features of all but the flipped one are far off."""
    source = reference()
    token = int(source.margins().argmax())
    indices, features = source.indices.copy().ravel(), source.features.copy().reshape(-1, C)
    indices[token] = source.runners_up.ravel()[token]
    features[np.arange(len(features)) != token] += 1
    changed = {"indices": indices.reshape(source.indices.shape), "features": features.reshape(source.features.shape)}
    figures = measure(source, same(source, **changed))
    assert (figures.mismatches, figures.unexplained_mismatches) == (1, 1)
    assert figures.noise > source.margins().max(), "the largest noise would have excused it"


def test_feature_noise_explains_the_flips_that_it_causes() -> None:
    source = reference()
    rng = np.random.default_rng(5)
    moved = source.features + rng.normal(scale=0.05, size=source.features.shape).astype(np.float32)
    runners_up_only = brute_force_distances(source.space, moved).argmin(1)
    best, second = source.indices.ravel(), source.runners_up.ravel()
    indices = np.where(runners_up_only == second, second, best).astype(np.int32)
    figures = measure(source, same(source, indices=indices.reshape(source.indices.shape), features=moved))
    assert figures.mismatches > 0, "the noise was chosen to flip some"
    assert figures.unexplained_mismatches == 0


def test_margins_are_half_the_gap_between_the_two_nearest() -> None:
    source = reference()
    distances = np.sort(brute_force_distances(source.space, source.features), axis=1)
    np.testing.assert_allclose(source.margins().ravel(), (distances[:, 1] - distances[:, 0]) / 2, rtol=1e-6)


def test_histogram_counts_every_token_and_mismatch_once() -> None:
    source = reference()
    indices = source.runners_up.copy()
    indices[0] = source.indices[0]
    histogram = measure(source, same(source, indices=indices)).margin_histogram
    assert histogram is not None
    assert sum(histogram.tokens) == indices.size
    assert sum(histogram.mismatches) == (indices != source.indices).sum()


def test_decode_is_judged_apart_from_the_indices() -> None:
    source = reference()
    decoded = source.decoded.copy()
    decoded[0, 0, 0, 0] ^= 255
    figures = measure(source, same(source, decoded=decoded))
    assert figures.token_agreement == 1
    assert figures.decode_psnr_db == pytest.approx(psnr_db(source.decoded, decoded))
    assert figures.source_psnr_drop_db == 0


@pytest.mark.parametrize(
    ("field", "edge", "beyond", "words"),
    [
        ("excess_distortion", 1e-6, 1.01e-6, "excess distortion 0.000101%, gate <= 0.0001%"),
        ("token_agreement", 0.999, 0.9989, "token agreement 99.89%, gate >= 99.9%"),
        ("unexplained_mismatches", 0, 1, "unexplained mismatches 1, gate <= 0"),
        ("decode_psnr_db", 60.0, 59.9, "decode PSNR 59.9 dB, gate >= 60 dB"),
        ("source_psnr_drop_db", 0.01, 0.011, "PSNR drop to source 0.011 dB, gate <= 0.01 dB"),
        ("excess_distortion", 0.0, float("nan"), "excess distortion nan%, gate <= 0.0001%"),
    ],
)
def test_gate_edges(field: str, edge: float, beyond: float, words: str) -> None:
    source = reference()
    figures: ParityFigures = measure(source, same(source))
    assert misses(judge_parity(figures.model_copy(update={field: edge}), PRECISIONS["fp32"].limits)) == ()
    assert misses(judge_parity(figures.model_copy(update={field: beyond}), PRECISIONS["fp32"].limits)) == (words,)


def test_psnr_of_a_known_error() -> None:
    black = np.zeros((2, 2, 3), np.uint8)
    assert psnr_db(black, black + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)
    assert psnr_db(black, black + np.uint8(255)) == 0


def test_ssim_equals_scikit_image() -> None:
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (40, 52, 3), dtype=np.uint8)
    b = np.clip(a + rng.normal(0, 25, a.shape), 0, 255).astype(np.uint8)
    expected = structural_similarity(
        a, b, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert mean_ssim(a[None], b[None]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", sorted(PRECISIONS))
def test_without_a_budget_a_bundle_has_the_gate_of_its_precision(name: PrecisionName) -> None:
    assert Precision(name=name).limits == PRECISIONS[name].limits
    assert Precision(name=name, budget=Budget()).limits == PRECISIONS[name].limits


def test_a_budget_takes_the_place_of_the_limits_that_it_names() -> None:
    whole = Budget(max_excess_distortion=0.0005, min_token_agreement=0.97, max_source_psnr_drop_db=0.3)
    gate = Precision(name="int8", budget=whole).limits
    assert gate == dataclasses.replace(PRECISIONS["int8"].limits, **whole.model_dump())
    strict = Precision(name="int8", budget=Budget(max_excess_distortion=0.0)).limits
    assert strict == dataclasses.replace(PRECISIONS["int8"].limits, max_excess_distortion=0.0), "zero is a limit"


def test_a_budget_is_judged_like_a_gate() -> None:
    source = reference()
    figures = measure(source, same(source)).model_copy(update={"excess_distortion": 0.003, "token_agreement": 0.9})
    assert misses(judge_parity(figures, Precision(name="int8").limits)) == ("excess distortion 0.3%, gate <= 0.2%",)
    lax = Budget(max_excess_distortion=0.003, min_token_agreement=0.9)
    assert misses(judge_parity(figures, Precision(name="int8", budget=lax).limits)) == ()
    strict = Budget(max_excess_distortion=0.003, min_token_agreement=0.95)
    assert misses(judge_parity(figures, Precision(name="int8", budget=strict).limits)) == (
        "token agreement 90%, gate >= 95%",
    )


@pytest.mark.parametrize("side", [1, 2, 10, 11])
def test_ssim_of_images_smaller_than_its_window(side: int) -> None:
    """`--imgsz 2` ended with a traceback (family F)."""
    image = np.random.default_rng(0).integers(0, 256, (1, side, side + 3, 3), dtype=np.uint8)
    assert mean_ssim(image, image) == pytest.approx(1)
    assert mean_ssim(image, 255 - image) < 1


def test_what_is_absent_misses_where_it_is_required_and_is_not_judged_elsewhere() -> None:
    limits = PRECISIONS["fp16"].limits
    given = {"decode_psnr_db": 50.0}
    (check,) = judge(given, limits, ("decode_psnr_db",))
    assert (check.name, check.value, check.limit, check.kept) == ("decode PSNR", 50.0, 45, True)
    absent = judge(given, limits, ("decode_psnr_db", "token_agreement"))
    assert misses(absent) == ("token agreement not measured, gate >= 98%",)


def test_a_speed_must_be_beaten_and_a_limit_of_none_is_only_reported() -> None:
    (slow,) = judge({"speedup": 1.0}, PRECISIONS["int8"].limits, ())
    (told,) = judge({"speedup": 0.5}, PRECISIONS["int8-weights"].limits, ())
    assert (slow.kept, told.kept, told.limit_text) == (False, None, "")
    assert judge({"speedup": float("nan")}, PRECISIONS["int8"].limits, ())[0].kept is False
