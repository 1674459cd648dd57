from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqrae.runtimes.errors import UsageError
from vqrae.training.processes import Share


@given(count=st.integers(1, 64), each=st.integers(0, 64), start=st.integers(0, 1000))
def test_the_shares_of_a_batch_are_the_batch(count: int, each: int, start: int) -> None:
    batch = range(start, start + count * each)
    shares = [Share(rank, count).rows(batch) for rank in range(count)]
    assert [row for share in shares for row in share] == list(batch)
    assert {len(share) for share in shares} == {each}


def test_one_process_has_all_and_a_number_stands_for_its_rows() -> None:
    assert Share().rows(6) == range(6)
    assert Share(1, 3).rows(6) == range(2, 4)
    assert Share(1, 2).rows(range(4, 8)) == range(6, 8), "a part of a batch is shared out like a whole one"


def test_what_cannot_be_shared_evenly() -> None:
    with pytest.raises(UsageError, match=r"batch: got 6 images; expected a multiple of the 4 processes") as caught:
        Share(0, 4).rows(6)
    assert caught.value.exit_code == 2
