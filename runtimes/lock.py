"""A lock that a process holds on a file, and that ends with the process, however that ends (kill -9 too).

Advisory: it keeps our own processes apart, nobody else's. On Linux and macOS it is `flock`, on Windows (written, not
executed) a locked byte far behind the file's end. The file holds the holder's process id, and is gone after `close`.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Self

from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import UsageError, storage_error

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_LOCKED_BYTE = 2**30
_MOST_DIGITS = 20


class Lock(Closing):
    """A lock that is held. Take one with `Lock.take` or `Lock.try_to_take`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, path: Path, *, subject: str, expected: str) -> Self:
        """Take the lock at `path`, for work on `subject`.

        Raises:
            UsageError: another run holds it; its process id is named, and `expected` says what it would have to be.
            StorageError: the operating system refused.
        """
        lock = cls.try_to_take(path)
        if lock is None:
            holder = _holder(path)
            got = "in use by another run" + (f", process {holder}" if holder else "")
            raise UsageError(subject, got=got, expected=expected, remedy="wait for it, or end it first")
        return lock

    @classmethod
    def try_to_take(cls, path: Path) -> Self | None:
        """Take the lock at `path`; None where another holds it, be it in another process or in this one.

        Raises:
            StorageError: the operating system refused.
        """
        try:
            while True:
                descriptor = os.open(path, _FLAGS, 0o600)
                if not _locked(descriptor):
                    os.close(descriptor)
                    return None
                if _is_at(path, descriptor):
                    break
                os.close(descriptor)  # its last holder deleted it in between
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
        except OSError as error:
            raise storage_error(path, error) from error
        return cls(path, descriptor)

    def close(self) -> None:
        """Let go, and delete the file; a second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if sys.platform != "win32":
            with suppress(OSError):  # the folder may be gone; what counts is the lock
                self._path.unlink()
        os.close(descriptor)
        if sys.platform == "win32":
            with suppress(OSError):  # the next holder has opened it
                self._path.unlink()


def _holder(path: Path) -> int | None:
    """The process id that a lock's file names."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_DIGITS)
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _locked(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _locked(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
