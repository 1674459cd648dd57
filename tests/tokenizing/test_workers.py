from __future__ import annotations

import pytest

from vqrae.runtimes.errors import BundleError, StorageError, VqraeError
from vqrae.tokenizing.workers import _Calls, _error_of


class Fails:
    def __init__(self, error: Exception, *, at_start: bool) -> None:
        self._error = error
        if at_start:
            raise error

    def part(self, text: str) -> int:
        raise self._error


@pytest.mark.parametrize("at_start", [True, False])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            StorageError("x", got="a full disk", remedy="free some"),
            StorageError("x", got="a full disk", remedy="free some"),
        ),
        (BundleError("b", expected="whole"), BundleError("b", expected="whole")),
        (OSError(28, "No space left on device", "x"), StorageError("x", got="No space left on device")),
    ],
)
def test_a_worker_s_error_comes_back_as_it_was(error: Exception, told: VqraeError, *, at_start: bool) -> None:
    row = _Calls(Fails, {"error": error, "at_start": at_start})({"part": ["{}"]})
    found = _error_of(row["error"][0])
    assert type(found) is type(told)
    assert str(found).startswith(str(told).partition(";")[0])
    assert found.exit_code == told.exit_code


def test_a_bug_is_no_error_of_ours_and_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        _Calls(Fails, {"error": ZeroDivisionError(), "at_start": False})({"part": ["{}"]})
