"""Folders that only this user may change: where private copies lie, and the key of what a runtime compiled.

A folder counts as such if neither it nor any folder above it can be written to by somebody else, unless the sticky bit
keeps others from renaming what is not theirs. The first that can be had is taken: the user's cache, /var/tmp, the
folder for temporary files. A private folder is deleted by whoever made it; what a killed process leaves is deleted by
the next one, which knows from its lock that nobody uses it any more.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vqrae.runtimes.closing import Closing
from vqrae.runtimes.errors import StorageError, storage_error
from vqrae.runtimes.lock import Lock

_PREFIX = "vqrae-sealed-"
_LOCK_SUFFIX = ".lock"
_SHARED = (Path("/var/tmp"),)  # noqa: S108 - the names below it are random, and nobody else may rename them


class PrivateFolder(Closing):
    """An empty folder of mode 0700 when it is made; `close` deletes it with all that is in it."""

    def __init__(self) -> None:
        """Make one, and delete those that killed processes of this user have left beside it.

        Raises:
            StorageError: there is no place that only this user may change, or the operating system refused.
        """
        root = _private_root()
        _sweep(root)
        # The lock comes first, for a folder whose lock can be taken is nobody's. One that sweeps may take it before us.
        lock = None
        while lock is None:
            self.path = root / f"{_PREFIX}{secrets.token_hex(8)}"
            lock = Lock.try_to_take(_lock_of(self.path))
        self._lock = lock
        try:
            self.path.mkdir(mode=0o700)
        except OSError as error:
            self._lock.close()
            raise storage_error(self.path, error) from error

    def close(self) -> None:  # noqa: D102 - documented by Closing
        shutil.rmtree(self.path, ignore_errors=True)  # what cannot be deleted now is swept by the next process
        self._lock.close()


def user_cache() -> Path:
    """The folder of this user's cache that is ours, made if it is not there.

    Raises:
        StorageError: there is none, or somebody else may change it.
    """
    folder = _cache_home()
    if folder is None:
        got, remedy = "no home folder", "set HOME or XDG_CACHE_HOME to a folder of this user's own"
        raise StorageError("the user's cache", got=got, expected="a folder for it", remedy=remedy)
    refusal = _made_private(folder / "vqrae")
    if refusal is not None:
        raise StorageError(str(folder / "vqrae"), got=refusal, expected="a folder that only this user may change")
    return folder / "vqrae"


def _private_root() -> Path:
    home = _cache_home()
    caches = [] if home is None else [home / "vqrae"]
    refusals = []
    for root in caches:
        refusal = _made_private(root)
        if refusal is None:
            return root
        refusals.append(f"{root} {refusal}")
    shared = list(_SHARED)
    with suppress(FileNotFoundError):  # not one of the places for temporary files can be written to
        shared.append(Path(tempfile.gettempdir()))
    for root in dict.fromkeys(shared):
        refusal = _refusal(root)
        if refusal is None:
            return root
        refusals.append(f"{root} {refusal}")
    remedy = "make one and set XDG_CACHE_HOME to it, or load with sealing='memory' (--sealing memory)"
    raise StorageError(
        "private copies", got="; ".join(refusals), expected="a folder that only this user may change", remedy=remedy
    )


def _cache_home() -> Path | None:
    """Where the system keeps what a user's programs can make again; None for a user without a home."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", "")
        return Path(local) if Path(local).is_absolute() else None
    given = os.environ.get("XDG_CACHE_HOME", "")
    if Path(given).is_absolute():
        return Path(given)
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry in the system's list of users
        return None
    if not home.is_absolute() or home == Path("/"):
        return None
    return home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache"


def _made_private(folder: Path) -> str | None:
    """Make a folder of our own, if it is not there; why it will not do, or None."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        return f"cannot be made ({error.strerror})"
    return _refusal(folder)


def _refusal(folder: Path) -> str | None:
    """Why somebody else may change what lies in a folder, or nobody can write there; None if it will do."""
    try:
        whole = folder.resolve(strict=True)
        if not os.access(whole, os.W_OK | os.X_OK):
            return "cannot be written to"
        if sys.platform == "win32":
            return None  # a user's own profile is closed to others
        steps = [(step, step.stat()) for step in (whole, *whole.parents)]
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    for step, found in steps:
        if found.st_uid not in (0, os.geteuid()):
            return f"belongs to another user at {step}"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
            return f"can be written to by others at {step}"
    return None


def _sweep(root: Path) -> None:
    """Delete the private folders of processes that are gone."""
    for folder in _left(root):
        lock = Lock.try_to_take(_lock_of(folder))
        if lock is not None:
            with lock:
                shutil.rmtree(folder, ignore_errors=True)


def _left(root: Path) -> Iterator[Path]:
    """Private folders of this user, each once, also where only its lock is left."""
    names = {path.name.removesuffix(_LOCK_SUFFIX): path for path in root.glob(f"{_PREFIX}*")}
    for name, path in names.items():
        with suppress(OSError):  # another process has swept it meanwhile
            if sys.platform == "win32" or path.lstat().st_uid == os.geteuid():
                yield root / name


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + _LOCK_SUFFIX)
