"""Outputs that appear whole or not at all: written under a temporary name, moved into place when done."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vqrae.runtimes.errors import UsageError, storage_error


@contextmanager
def staged_file(path: Path | str) -> Iterator[Path]:
    """A temporary file name beside `path`; what the block writes there becomes `path` when the block succeeds.

    The temporary name ends like `path` does, so that writers who look at the suffix do the same. A file that was there
    before is replaced in one step. After an exception, Ctrl-C too, everything is as it was.

    Raises:
        UsageError: `path` is a folder.
        StorageError: the operating system refused to write.
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise UsageError(str(path), got="a folder", expected="the name of a file")
    with _staging_beside(target) as staging:
        yield staging
        staging.replace(target)


def check_new_folder(path: Path | str, *, overwrite: bool) -> None:
    """Refuse what `staged_folder` would refuse, before the work whose result it is for.

    Raises:
        UsageError: `path` is a file, the current folder or one above it, or a folder that exists and `overwrite` is
            false.
    """
    target = Path(path).resolve()
    if target.exists() and not target.is_dir():
        raise UsageError(str(path), got="a file", expected="the name of a folder")
    if target in (Path.cwd(), *Path.cwd().parents):
        expected = "a folder of its own, because it would be replaced as a whole"
        raise UsageError(str(path), got="the folder that this runs in, or one above it", expected=expected)
    if target.exists() and not overwrite:
        raise UsageError(
            str(path), got="a folder that exists", expected="a new name", remedy="pass --overwrite to replace it"
        )


@contextmanager
def staged_folder(path: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """An empty temporary folder beside `path`, which becomes `path` when the block succeeds.

    After an exception, Ctrl-C too, everything is as it was, the folder that was to be overwritten included.

    Raises:
        UsageError: as for `check_new_folder`.
        StorageError: the operating system refused to write.
    """
    check_new_folder(path, overwrite=overwrite)
    target = Path(path).resolve()
    with _staging_beside(target) as staging:
        staging.mkdir()
        yield staging
        _move_folder(staging, target)


@contextmanager
def _staging_beside(target: Path) -> Iterator[Path]:
    """A free name beside `target`; its parents exist inside the block, and a failure leaves no trace of either."""
    missing_parents = [parent for parent in target.parents if not parent.exists()]
    staging = _free_name(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield staging
    except BaseException as error:
        _remove(staging)
        for parent in missing_parents:
            with suppress(OSError):  # someone else put a file there meanwhile, or it was never made
                parent.rmdir()
        if isinstance(error, OSError):
            raise storage_error(_culprit(error, staging, target), error) from error
        raise


def _move_folder(staging: Path, target: Path) -> None:
    """Move `staging` to `target`; a folder that is there steps aside first, and comes back if the move fails."""
    aside = _free_name(target)
    try:
        if target.exists():
            target.replace(aside)
        staging.replace(target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.replace(target)
        raise
    _remove(aside)


def _free_name(target: Path) -> Path:
    return target.with_name(f".staging-{secrets.token_hex(4)}-{target.name}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # the first error is the one to report
            path.unlink(missing_ok=True)


def _culprit(error: OSError, staging: Path, target: Path) -> str:
    """The file that the error names, under the name that it would have had in the end; else the target."""
    if not isinstance(error.filename, str | os.PathLike):
        return str(target)
    return os.fspath(error.filename).replace(str(staging), str(target))
