"""Every error that the project raises on purpose: one line, and an exit code that a script can act on.

VqraeError                  1   anything below; catch this one to catch them all
 ├── StorageError           1   the machine could not finish: a full disk, a missing permission
 ├── UsageError             2   the call or the command line asks for something that does not exist
 ├── GateFailure            3   the work was done, and the result misses its gate
 ├── RuntimeUnavailable     4   a runtime is not installed, or cannot do what was asked on this machine
 │    ├── DeviceMissing     4   the device is not on this machine, or lacks its driver
 │    └── EngineMismatch    4   an engine was built for another machine than this one
 └── InvalidInput           5   what was read is invalid or corrupt
      ├── ImageError            an image
      ├── IndicesError          token indices
      ├── BundleError           a bundle or its manifest
      ├── SignatureError        a bundle's signature, or a key
      ├── CheckpointError       a checkpoint
      └── DataError             training or evaluation data
"""

from __future__ import annotations

import errno
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class VqraeError(Exception):
    """Says what was looked at, what was there, what should have been, and what to do about it.

    Attributes:
        subject: what the error is about: a file, a field, an argument.
        got: what was found.
        expected: what would have been right.
        remedy: what the reader can do now.
    """

    exit_code = 1
    """The exit code of a command that ends with this error."""

    def __init__(
        self, subject: str, *, got: str | None = None, expected: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(subject)
        self.subject = subject
        self.got = got
        self.expected = expected
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [f"got {self.got}" if self.got else "", f"expected {self.expected}" if self.expected else ""]
        details = "; ".join(part for part in (*parts, self.remedy) if part)
        text = f"{self.subject}: {details}" if details else self.subject
        return printable(" ".join(text.split()))  # one line, whatever a foreign library's message contains


def printable(text: str) -> str:
    """Text from files as a terminal may have it: what is no character to print is written as an escape."""
    return "".join(it.encode("unicode_escape").decode() if controls(it) and it != "\n" else it for it in text)


def controls(character: str) -> bool:
    """Whether it controls a terminal, turns the direction of writing, or is half of a character."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


class StorageError(VqraeError):
    """The machine could not read or write a file: a full disk, a missing permission."""


class UsageError(VqraeError):
    """The call or the command line asks for something that does not exist."""

    exit_code = 2


def unknown_name(subject: str, name: str, known: Iterable[str]) -> UsageError:
    """A name that is not in a table, with the nearest one that is."""
    choices = list(known)
    near = get_close_matches(name, choices, n=1)
    remedy = f"did you mean {near[0]}?" if near else None
    return UsageError(subject, got=repr(name), expected=f"one of {', '.join(choices)}", remedy=remedy)


class GateFailure(VqraeError):  # noqa: N818 - a verdict, not a mistake
    """A result misses its parity gate."""

    exit_code = 3


class RuntimeUnavailable(VqraeError):  # noqa: N818 - a state of the machine, not a mistake
    """A runtime is not installed, or cannot do what was asked on this machine."""

    exit_code = 4


class DeviceMissing(RuntimeUnavailable):
    """The device is not on this machine, or its driver is not."""


class EngineMismatch(RuntimeUnavailable):
    """An engine was built by another version, or for another platform or GPU; it can be rebuilt from its ONNX graph."""


class InvalidInput(VqraeError):  # noqa: N818 - the base of the errors below
    """What was read is invalid or corrupt."""

    exit_code = 5


class ImageError(InvalidInput):
    """An image cannot be read, or is not an image that the tokenizer takes."""


class IndicesError(InvalidInput):
    """Token indices of the wrong dtype, shape or range."""


class BundleError(InvalidInput):
    """A bundle or its manifest is invalid, incomplete or changed."""


class SignatureError(InvalidInput):
    """A bundle is not signed by the given key, or a file holds no such key."""


class CheckpointError(InvalidInput):
    """A checkpoint is invalid or incomplete."""


class DataError(InvalidInput):
    """Training or evaluation data is invalid or missing."""


_REMEDIES = {
    errno.ENOSPC: "free some space or choose another disk",
    errno.EDQUOT: "free some space or choose another disk",
    errno.EACCES: "choose a place that you may read and write, or change the permissions",
    errno.EPERM: "choose a place that you may read and write, or change the permissions",
    errno.EROFS: "choose a place that is not read-only",
}


def storage_error(path: Path | str, error: OSError) -> StorageError:
    """The operating system's refusal to read or write `path`, as one line with a remedy."""
    remedy = _REMEDIES.get(error.errno) if error.errno is not None else None
    return StorageError(str(path), got=error.strerror or str(error) or type(error).__name__, remedy=remedy)


def damage_of(path: Path | str, error: Exception) -> str:
    """What is wrong with a file; some readers raise OSError for that, without a number.

    Raises:
        StorageError: it is the operating system that refused.
    """
    if isinstance(error, OSError) and error.errno is not None:
        raise storage_error(path, error) from error
    return str(error) or type(error).__name__


def exit_code_of(error: Exception) -> int:
    """Print an expected error as one line and return its exit code; raise any other, which is a bug of ours."""
    if isinstance(error, OSError):
        error = storage_error(error.filename or "input or output", error)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # the latter is torch's RuntimeError
        remedy = "ask for a smaller batch or image size, or use a machine with more memory"
        error = StorageError("memory", got=str(error) or "not enough", remedy=remedy)
    if not isinstance(error, VqraeError):
        raise error
    print(f"vqrae: {error}", file=sys.stderr)
    return error.exit_code


def run_as_program(main: Callable[[], None]) -> None:
    """Run a module's `main` and exit as the `vqrae` command does: one line and a code, no traceback."""
    try:
        main()
    except Exception as error:
        sys.exit(exit_code_of(error))


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Wrap the imports that need an extra of this project: what is not installed is said with the command that adds it.

    Raises:
        RuntimeUnavailable: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("vqrae"):
            raise  # our own mistake, not a missing package
        remedy = f"install it with `pip install 'vqrae[{extra}]'`"
        raise RuntimeUnavailable(error.name, got="not installed", remedy=remedy) from error
