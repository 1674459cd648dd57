from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vqrae.model import search
from vqrae.model.search import nearest_codes, top2

SIZES = st.tuples(st.integers(1, 40), st.integers(2, 30), st.integers(1, 16))


def vectors(rows: int, width: int, seed: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * scale + offset


def squared_distances(features: Tensor, codes: Tensor) -> np.ndarray:
    """float64 (M, K), written without the expansion that the search uses."""
    return np.square(features.double().numpy()[:, None] - codes.double().numpy()[None]).sum(-1)


@given(SIZES, st.integers(0, 2**32), st.sampled_from([1e-3, 1.0, 30.0]), st.sampled_from([0.0, 3.0]))
@settings(max_examples=60, deadline=None)
def test_equals_brute_force_up_to_near_ties(
    sizes: tuple[int, int, int], seed: int, scale: float, offset: float
) -> None:
    rows, count, width = sizes
    features, codes = vectors(rows, width, seed, scale, offset), vectors(count, width, seed + 1, scale, offset)
    distances = squared_distances(features, codes)
    found = nearest_codes(features, codes).numpy()
    magnitude = features.square().sum(1).numpy() + codes.square().sum(1).max().item()
    excess = distances[np.arange(rows), found] - distances.min(1)
    assert (excess <= 1e-5 * magnitude).all(), "a chosen code is farther than rounding explains"


def test_float64_search_is_exactly_brute_force() -> None:
    features, codes = vectors(200, 8, 0).double(), vectors(64, 8, 1).double()
    np.testing.assert_array_equal(nearest_codes(features, codes), squared_distances(features, codes).argmin(1))


def test_codes_find_themselves() -> None:
    codes = vectors(50, 24, 2)
    assert torch.equal(nearest_codes(codes, codes), torch.arange(50))


def test_a_long_code_does_not_win_by_its_length() -> None:
    codes = torch.tensor([[1.0, 0.0], [100.0, 0.0]])
    assert nearest_codes(torch.tensor([[2.0, 0.0], [90.0, 0.0]]), codes).tolist() == [0, 1]


def test_the_lowest_index_among_equals() -> None:
    codes = vectors(4, 6, 3).repeat(3, 1)
    assert nearest_codes(codes[:4], codes).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("limit_bytes", [1, 100, 1000, 10**4, 10**9])
def test_the_answer_does_not_depend_on_the_limit(limit_bytes: int) -> None:
    features, codes = vectors(77, 16, 4), vectors(40, 16, 5)
    assert torch.equal(nearest_codes(features, codes, limit_bytes=limit_bytes), nearest_codes(features, codes))
    assert torch.equal(top2(features, codes, limit_bytes=limit_bytes), top2(features, codes))


@given(SIZES, st.integers(1, 5000))
@settings(max_examples=40, deadline=None)
def test_no_chunk_exceeds_the_limit(sizes: tuple[int, int, int], limit_bytes: int) -> None:
    rows, count, width = sizes
    chunks = list(search._scores(vectors(rows, width, 6), vectors(count, width, 7), limit_bytes))
    row_bytes = 4 * count  # one row is the least that can be scored at a time
    assert all(chunk.nbytes <= max(limit_bytes, row_bytes) for _, chunk in chunks)
    assert [row for chosen, _ in chunks for row in range(rows)[chosen]] == list(range(rows))
    assert len({chunk.untyped_storage().data_ptr() for _, chunk in chunks}) == 1, "one buffer for all"


@pytest.mark.parametrize("limit_bytes", [1, 1000, 10**9])
def test_the_buffer_changes_no_bit_of_a_score(limit_bytes: int) -> None:
    features, codes = vectors(77, 16, 4), vectors(40, 16, 5)
    for rows, chunk in search._scores(features, codes, limit_bytes):
        assert torch.equal(chunk, torch.addmm(-codes.square().sum(1) / 2, features[rows], codes.T))


def test_no_feature_has_no_code() -> None:
    assert nearest_codes(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0,)


def test_the_search_allocates_no_matrix_beyond_the_limit() -> None:
    """As the allocator sees it, so that no other tensor of that size is made on the way either."""
    features, codes, limit = vectors(4000, 8, 8), vectors(512, 8, 9), 64 * 1024
    nearest_codes(features, codes, limit_bytes=limit)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        nearest_codes(features, codes, limit_bytes=limit)
    largest = max(event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")
    assert 0 < largest <= limit


def test_top2_orders_the_two_nearest() -> None:
    features, codes = vectors(60, 8, 10).double(), vectors(20, 8, 11).double()
    expected = np.argsort(squared_distances(features, codes), axis=1)[:, :2]
    np.testing.assert_array_equal(top2(features, codes), expected)


def test_no_gradient_is_recorded() -> None:
    features, codes = vectors(5, 4, 12).requires_grad_(), vectors(6, 4, 13).requires_grad_()
    assert not nearest_codes(features, codes).requires_grad
    assert nearest_codes(features, codes).dtype == torch.int64
