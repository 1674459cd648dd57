"""Renames that outlive a power cut, and that never replace what they were not told of.

A rename makes what was written count, so its bytes are on the disk before it (`sync`), and its folder after it
(`sync_folder`). Linux and macOS exchange two folders in one step and can refuse to replace; a file system that cannot
(some network ones), and Windows, say so here, and the caller takes the longer way.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_LACKING = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_AT_FDCWD = -100
_AT_ONCE = 16


def sync(path: Path) -> None:
    """Have the disk hold a file, or a folder with all that is in it, its files first; links are not followed."""
    if not path.is_dir():
        _sync_file(path)
        return
    folders: list[Path] = []
    files: list[Path] = []
    for folder, _, names in os.walk(path, topdown=False):
        folders.append(Path(folder))
        files += [file for name in names if not (file := Path(folder, name)).is_symlink()]
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # file systems write many at once in hardly more time than one
        list(pool.map(_sync_file, files))
    for made in folders:
        sync_folder(made)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Have the disk hold the names in a folder."""
    if sys.platform == "win32":
        return  # which has no such call
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _LACKING:  # a file system that keeps names in order by itself, or not at all
            raise
    finally:
        os.close(descriptor)


def exchange(first: Path, second: Path) -> bool:
    """Give each of two paths what the other named, in one step; False where the file system cannot.

    Raises:
        OSError: one of them is not there, or the operating system refused.
    """
    return _EXCHANGE is not None and _EXCHANGE(first, second)


def rename_new(source: Path, target: Path) -> None:
    """Rename to a name that nothing has.

    Raises:
        FileExistsError: something has it.
        OSError: the operating system refused.
    """
    if _RENAME_NEW is not None and _RENAME_NEW(source, target):
        return
    if os.path.lexists(target):  # not in one step: the output's lock keeps our own processes apart
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def _flagged(function: str, before: tuple[int, ...], flag: int) -> Callable[[Path, Path], bool] | None:
    """A rename with a flag, which says whether the file system knows it; None where the C library does not."""
    call = getattr(ctypes.CDLL(None, use_errno=True), function, None)
    if call is None:
        return None

    def rename(source: Path, target: Path) -> bool:
        paths = [(*before, os.fsencode(path)) for path in (source, target)]
        if call(*paths[0], *paths[1], flag) == 0:
            return True
        number = ctypes.get_errno()
        if number in _LACKING:
            return False
        raise OSError(number, os.strerror(number), str(source), None, str(target))

    return rename


_EXCHANGE: Callable[[Path, Path], bool] | None = None
_RENAME_NEW: Callable[[Path, Path], bool] | None = None
if sys.platform == "linux":  # RENAME_NOREPLACE is 1, RENAME_EXCHANGE 2
    _RENAME_NEW, _EXCHANGE = (_flagged("renameat2", (_AT_FDCWD,), flag) for flag in (1, 2))
elif sys.platform == "darwin":  # RENAME_SWAP is 2, RENAME_EXCL 4; written, not executed
    _EXCHANGE, _RENAME_NEW = (_flagged("renamex_np", (), flag) for flag in (2, 4))
