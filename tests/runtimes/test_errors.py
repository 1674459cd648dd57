from __future__ import annotations

import errno
import pickle

import pytest

from vqrae.runtimes import errors
from vqrae.runtimes.errors import ImageError, VqraeError, exit_code_of, storage_error


def test_an_error_says_subject_got_expected_and_remedy_on_one_line() -> None:
    error = VqraeError("a.png", got="two\nlines", expected="an image", remedy="convert it")
    assert str(error) == "a.png: got two lines; expected an image; convert it"


def test_what_is_not_known_is_left_out() -> None:
    assert str(VqraeError("a.png")) == "a.png"
    assert str(VqraeError("a.png", remedy="convert it")) == "a.png: convert it"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("VqraeError", 1),
        ("StorageError", 1),
        ("UsageError", 2),
        ("GateFailure", 3),
        ("RuntimeUnavailable", 4),
        ("InvalidInput", 5),
        ("ImageError", 5),
        ("IndicesError", 5),
        ("BundleError", 5),
        ("SignatureError", 5),
        ("CheckpointError", 5),
        ("DataError", 5),
    ],
)
def test_exit_codes_are_those_of_the_documented_tree(name: str, code: int) -> None:
    error = getattr(errors, name)
    assert issubclass(error, VqraeError)
    assert error.exit_code == code
    assert f"{name} " in (errors.__doc__ or "")


def test_an_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(ImageError("a.png", got="text", expected="an image")))  # noqa: S301
    assert str(error) == "a.png: got text; expected an image"


def test_a_full_disk_has_a_remedy() -> None:
    error = storage_error("out", OSError(errno.ENOSPC, "No space left on device"))
    assert str(error) == "out: got No space left on device; free some space or choose another disk"
    assert error.exit_code == 1


def test_an_operating_system_error_without_a_number_still_says_something() -> None:
    assert str(storage_error("out", OSError("odd"))) == "out: got odd"
    assert str(storage_error("out", OSError())) == "out: got OSError"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory: you tried 9 TB")])
def test_too_little_memory_has_a_remedy(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    """`--batch 1000000` ended with a traceback (family F)."""
    assert exit_code_of(error) == 1
    said = capsys.readouterr().err
    assert said.startswith("vqrae: memory: got ")
    assert said.endswith("; ask for a smaller batch or image size, or use a machine with more memory\n")
