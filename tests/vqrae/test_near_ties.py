from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqrae.model.search import disagreement, nearest_codes, rounding_bound


@given(st.integers(0, 2**32), st.integers(1, 64), st.sampled_from([1e-3, 1.0, 30.0]), st.sampled_from([0.0, 100.0]))
@settings(max_examples=40, deadline=None)
def test_float32_differs_from_float64_by_explained_near_ties_only(
    seed: int, width: int, scale: float, offset: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(200, width, generator=generator) * scale + offset
    codes = torch.randn(100, width, generator=generator) * scale + offset
    found = disagreement(
        features, codes, nearest_codes(features, codes), nearest_codes(features.double(), codes.double())
    )
    assert found.explained


def test_an_offset_makes_near_ties_and_they_are_listed() -> None:
    generator = torch.Generator().manual_seed(0)
    features, codes = (torch.randn(count, 32, generator=generator) + 1000 for count in (500, 300))
    first, second = nearest_codes(features, codes), nearest_codes(features.double(), codes.double())
    found = disagreement(features, codes, first, second)
    assert len(found.rows_D) > 0
    assert torch.equal(found.rows_D, (first != second).nonzero().flatten())
    assert found.explained


def test_the_gap_is_the_difference_of_the_scores() -> None:
    features, codes = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    found = disagreement(features, codes, torch.tensor([0]), torch.tensor([1]))
    assert found.gaps_D.tolist() == pytest.approx([abs((3 - 0.5) - (8 - 2)) / (5 * 2 + 2)])
    assert not found.explained
    assert found.bound == rounding_bound(2)


def test_equal_codes_and_zeros_have_no_gap() -> None:
    codes = torch.zeros(2, 3)
    found = disagreement(torch.zeros(1, 3), codes, torch.tensor([0]), torch.tensor([1]))
    assert found.gaps_D.tolist() == [0.0]
    assert found.explained


def test_no_difference_is_explained() -> None:
    found = disagreement(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert found.rows_D.shape == found.gaps_D.shape == (0,)
    assert found.explained
