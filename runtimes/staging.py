"""Outputs that appear whole or not at all: written under a temporary name, moved into place when done.

What was written is on the disk before the move, and the move after it, so that neither `kill -9` nor a power cut leaves
less than the old output or the new one. A lock beside each output, `.NAME.lock`, keeps a second run of ours away while
the first one lives, and whoever takes it next removes what a killed one left. A run that writes many files into one
folder holds `.lock` in there instead (`claimed_folder`).
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from vqrae.runtimes.errors import GateFailure, InvalidInput, StorageError, UsageError, VqraeError, storage_error
from vqrae.runtimes.lock import Lock
from vqrae.runtimes.renames import exchange, rename_new, sync, sync_folder

RUN_LOCK = ".lock"
"""In a folder that a run has claimed."""
_claimed: ContextVar[frozenset[Path]] = ContextVar("claimed", default=frozenset())
"""Folders that this thread has claimed."""
_LEFTOVER = re.compile(r"\.(staging|aside)-[0-9a-f]+-(.+)", re.DOTALL)
_STREAMS = (Path("/proc"), Path("/dev/fd"))
"""Where the open files of a process have names."""
_FULL = 2**16
"""Fewer free bytes than that are a full disk."""


@contextmanager
def staged_file(
    path: Path | str, *, overwrite: bool = True, lock: bool = True, size: int | None = None
) -> Iterator[Path]:
    """The same name in a temporary folder beside `path`; what the block writes there becomes `path` if it succeeds.

    A file that was there before is replaced in one step; a link is followed. After an exception, Ctrl-C too, everything
    is as it was.

    Args:
        path: the file.
        overwrite: whether a file that is there may be replaced.
        lock: take the output's lock; False where the caller has claimed the folder that the file is in.
        size: bytes that will be written, where that is known.

    Raises:
        UsageError: `path` is a folder, a device, a pipe, a socket or a stream; or it is there and may not be replaced;
            or another run is writing it.
        StorageError: the disk has no room, or the operating system refused to write.
    """
    target = _new_file(path, overwrite=overwrite)
    with _staging_beside(target, str(path), lock=lock, inside=True) as staging:
        if size is not None:
            check_room(target, size)
        yield staging
        sync(staging)
        if overwrite:
            staging.replace(target)
        else:
            _rename_new(staging, target, str(path))


def write_output(path: Path | str, content: str | bytes, *, lock: bool = True) -> None:
    """Write a text, in UTF-8 and with its line ends as they are, or bytes, as a file; see `staged_file`."""
    encoded = content.encode() if isinstance(content, str) else content
    with staged_file(path, lock=lock, size=len(encoded)) as staging:
        staging.write_bytes(encoded)


def check_new_file(path: Path | str, *, overwrite: bool = True) -> None:
    """Refuse what `staged_file` would refuse, before the work whose result it is for; errors as there."""
    _check_free(_new_file(path, overwrite=overwrite), path)


def check_new_folder(path: Path | str, *, overwrite: bool) -> None:
    """Refuse what `staged_folder` would refuse, before the work whose result it is for; errors as there."""
    _check_free(_new_folder(path, overwrite=overwrite), path)


@contextmanager
def staged_folder(path: Path | str, *, overwrite: bool = False, lock: bool = True) -> Iterator[Path]:
    """An empty temporary folder beside `path`, which becomes `path` when the block succeeds.

    After an exception, Ctrl-C too, everything is as it was, the folder that was to be overwritten included. Where two
    runs make the same folder, the second is refused.

    Raises:
        UsageError: `path` is a file or a device, the current folder or one above it, or a folder that exists and
            `overwrite` is false; or another run is writing it.
        StorageError: the operating system refused to write.
    """
    target = _new_folder(path, overwrite=overwrite)
    with _staging_beside(target, str(path), lock=lock) as staging:
        _new_folder(path, overwrite=overwrite)  # another run may have ended before the lock was taken
        staging.mkdir()
        yield staging
        sync(staging)
        _move_folder(staging, target, str(path), overwrite=overwrite)


@contextmanager
def claimed_folder(path: Path | str, *within: str) -> Iterator[Path]:
    """A run's folder, new or to be gone on with, that this run alone writes into until the block ends.

    What a killed run was writing, in it and in the folders that the patterns `within` name, is removed, and in the end
    what a killed worker of this one was. Within the block the same call does nothing, so that a function may claim what
    its caller has claimed.

    Raises:
        UsageError: another run has claimed it, or `path` is no folder.
        StorageError: the operating system refused to write.
    """
    kind, target = _kind(path), Path(path).resolve()
    if kind not in (None, "a folder"):
        raise UsageError(str(path), got=kind, expected="the name of a folder")
    if target in _claimed.get():
        yield target
        return
    with _parents_of(target / RUN_LOCK), _taken(target / RUN_LOCK, str(path)):
        _sweep_run(target, within)
        outside = _claimed.set(_claimed.get() | {target})
        try:
            yield target
        finally:
            _claimed.reset(outside)
            _sweep_run(target, within)  # a worker that died was replaced, and left what it was writing


def make_folder(path: Path) -> None:
    """Make a folder and those above it where they are missing, so that they last.

    Raises:
        StorageError: the operating system refused.
    """
    with _parents_of(path / RUN_LOCK):
        pass


def check_room(path: Path, needed: int) -> None:
    """Refuse to write what does not fit.

    Raises:
        StorageError: fewer than `needed` bytes are free where `path` is to be.
    """
    free = _free_bytes(path)
    if needed > free:
        missing = f"free {needed - free:,} more, or choose another disk"
        raise StorageError(str(path), got=f"{free:,} bytes free", expected=f"{needed:,}", remedy=missing)


def _check_free(target: Path, path: Path | str) -> None:
    """Refuse an output that another run is writing now."""
    if target.parent.is_dir():
        with _taken(_lock_of(target), str(path)):
            pass


def _new_file(path: Path | str, *, overwrite: bool) -> Path:
    """The file behind links that an output is to become."""
    kind = _kind(path)
    if kind not in (None, "a file"):
        raise UsageError(str(path), got=kind, expected="the name of a file")
    if kind and not overwrite:
        raise UsageError(str(path), got="a file that exists", expected="a new name")
    return Path(path).resolve()


def _new_folder(path: Path | str, *, overwrite: bool) -> Path:
    """The folder behind links that an output is to become."""
    kind, target = _kind(path), Path(path).resolve()
    if kind not in (None, "a folder"):
        raise UsageError(str(path), got=kind, expected="the name of a folder")
    if target in (Path.cwd(), *Path.cwd().parents):
        expected = "a folder of its own, because it would be replaced as a whole"
        raise UsageError(str(path), got="the folder that this runs in, or one above it", expected=expected)
    if kind and not overwrite:
        raise _exists(path)
    return target


@contextmanager
def _staging_beside(target: Path, shown: str, *, lock: bool, inside: bool = False) -> Iterator[Path]:
    """A free name beside `target`, which is locked; its parents exist inside the block; a failure leaves no trace.

    With `inside`, it is a name in a folder of its own, so that what a library writes beside its file is there, too.
    """
    place = _free_name("staging", target)
    staging = place / target.name if inside else place
    with _parents_of(target), ExitStack() as holding:
        try:
            if lock:
                holding.enter_context(_taken(_lock_of(target), shown))
                _sweep(target.parent, target.name)
            if inside:
                place.mkdir()
            yield staging
        except BaseException as error:
            told = _told(error, staging, target)  # before what was written is gone
            _remove(place)
            if told is not None:
                raise told from error
            raise
        if inside:
            _remove(place)
        sync_folder(target.parent)


@contextmanager
def _parents_of(target: Path) -> Iterator[None]:
    """The folders above `target`, made where they are missing; after a failure those are gone again."""
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                sync_folder(folder.parent)
        except OSError as error:
            raise storage_error(target, error) from error
        yield
    except BaseException:
        for parent in missing:
            with suppress(OSError):  # someone else put a file there meanwhile, or it was never made
                parent.rmdir()
        raise


def _lock_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


@contextmanager
def _taken(lock: Path, shown: str) -> Iterator[None]:
    """The lock of an output that is called `shown`."""
    try:
        held = Lock.take(lock, subject=shown, expected="an output that no other run is writing")
    except StorageError as error:
        raise StorageError(shown, got=error.got, remedy=error.remedy) from error
    with held:
        yield


def _sweep_run(folder: Path, within: tuple[str, ...]) -> None:
    for swept in (folder, *(found for pattern in within for found in folder.glob(pattern) if found.is_dir())):
        _sweep(swept)


def _sweep(folder: Path, output: str | None = None) -> None:
    """Remove what killed runs left of one output, whose lock is held; or of each in a folder that nobody writes.

    A folder that had stepped aside when its run was killed, before the new one was there, comes back.
    """
    with os.scandir(folder) as entries:
        found = [(match, folder / match[0]) for entry in entries if (match := _LEFTOVER.fullmatch(entry.name))]
    for match, leftover in found:
        target = folder / match[2]
        if output not in (None, match[2]):
            continue
        with ExitStack() as holding:
            if output is None:
                lock = Lock.try_to_take(_lock_of(target))
                if lock is None:
                    continue  # somebody writes it after all
                holding.enter_context(lock)
            if match[1] == "aside" and not os.path.lexists(target):
                leftover.rename(target)
            else:
                _remove(leftover)


def _move_folder(staging: Path, target: Path, shown: str, *, overwrite: bool) -> None:
    """Move `staging` to `target`, and remove what was there.

    Where the two cannot be exchanged in one step, the old folder steps aside first, and comes back if the move fails.
    """
    if not overwrite or not target.exists():
        _rename_new(staging, target, shown)
        return
    if exchange(staging, target):
        sync_folder(target.parent)
        _remove(staging)
        return
    aside = _free_name("aside", target)
    try:
        target.replace(aside)
        staging.replace(target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.replace(target)
        raise
    sync_folder(target.parent)
    _remove(aside)


def _rename_new(staging: Path, target: Path, shown: str) -> None:
    try:
        rename_new(staging, target)
    except FileExistsError as error:  # it came while we wrote, from another program
        raise _exists(shown) from error


def _exists(path: Path | str) -> UsageError:
    got = "a folder that exists" if Path(path).is_dir() else "a file that exists"
    return UsageError(str(path), got=got, expected="a new name", remedy="pass --overwrite to replace it")


def _kind(path: Path | str) -> str | None:
    """What there is behind a name, in words; None if nothing."""
    given = Path(path)
    if "\0" in str(path) or not str(path):
        raise UsageError(repr(str(path)), got="no name for a file or folder", expected="one")
    try:
        if _is_stream(given):
            return "a stream of a process"
        mode = given.stat().st_mode
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(path, error) from error
    kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def _is_stream(path: Path) -> bool:
    """Whether a name like /dev/stdout leads through the open files of a process, whatever those are."""
    for _ in range(40):  # links, as many as Linux follows
        if any(path.parent.resolve().is_relative_to(folder) for folder in _STREAMS):
            return True
        if not path.is_symlink():
            return False
        path = path.parent / path.readlink()
    return False


def _free_name(kind: str, target: Path) -> Path:
    name = target.with_name(f".{kind}-{secrets.token_hex(4)}-{target.name}")
    try:
        name.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # it is too long, and then the output's own name is told
        raise storage_error(target, error) from error
    return name


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # the first error is the one to report
            path.unlink(missing_ok=True)


def _told(error: BaseException, staging: Path, target: Path) -> VqraeError | None:
    """What to raise in place of an error: the operating system's reason, which some libraries lose."""
    if isinstance(error, StorageError):
        error.subject = error.subject.replace(str(staging), str(target))
    ours = isinstance(error, StorageError | UsageError | InvalidInput | GateFailure)
    if isinstance(error, Exception) and not ours and _free_bytes(target) < _FULL:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), getattr(error, "filename", None))
    if not isinstance(error, OSError):
        return None
    culprit = _culprit(error, staging, target)
    told = storage_error(culprit, error)
    if error.errno == errno.ENOSPC:
        ours = culprit.startswith(str(target))  # or a temporary file, on another disk
        written = f"{_size(staging):,} bytes written, " if ours else ""
        told.got = f"{told.got}: {written}{_free_bytes(target if ours else Path(culprit)):,} free"
    return told


def _culprit(error: OSError, staging: Path, target: Path) -> str:
    """The file that the error names, under the name that it would have had in the end; else the target."""
    if not isinstance(error.filename, str | os.PathLike):
        return str(target)
    return os.fspath(error.filename).replace(str(staging), str(target))


def _free_bytes(path: Path) -> int:
    folder = next(folder for folder in path.parents if folder.exists())
    return shutil.disk_usage(folder).free


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
